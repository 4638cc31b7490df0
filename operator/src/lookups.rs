//! Remembers what git servers answered, so that a reconcile for another cause (a pod changed) asks nobody. It is a
//! memory only: losing it costs one question.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::git::GitError;

/// How long an answer that is no commit is remembered.
const FAILURE_AGE: Duration = Duration::from_secs(5);
/// Answers that nobody asked for in this time are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

type Answer = Result<String, GitError>;

struct Remembered {
    question: String,
    answer: Answer,
    at: Instant,
}

/// Answers by the uid of the object that asked.
#[derive(Default)]
pub struct Lookups {
    answers: Mutex<HashMap<String, Remembered>>,
}

impl Lookups {
    /// The answer to `question` (all that it depends on, as text), at most `interval` old, and how long it is still good.
    /// `ask` is called when there is none.
    pub async fn answer<F: Future<Output = Answer>>(
        &self,
        uid: &str,
        question: &str,
        interval: Duration,
        ask: impl FnOnce() -> F,
    ) -> (Answer, Duration) {
        let lock = || self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(uid)
            && known.question == question
        {
            let good = good_for(&known.answer, interval).saturating_sub(known.at.elapsed());
            if !good.is_zero() {
                return (known.answer.clone(), good);
            }
        }
        let answer = ask().await;
        let remembered = Remembered {
            question: question.to_owned(),
            answer: answer.clone(),
            at: Instant::now(),
        };
        let mut answers = lock();
        if !answers.contains_key(uid) {
            answers.retain(|_, known| known.at.elapsed() < FORGET_AFTER);
        }
        answers.insert(uid.to_owned(), remembered);
        let good = good_for(&answer, interval);
        (answer, good)
    }
}

fn good_for(answer: &Answer, interval: Duration) -> Duration {
    match answer {
        Ok(_) => interval,
        Err(_) => interval.min(FAILURE_AGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn one_question_is_asked_once_in_an_interval() {
        let lookups = Lookups::default();
        let asked = Cell::new(0);
        let interval = Duration::from_secs(3600);
        for (uid, question, times) in [
            ("a", "main", 1),
            ("a", "main", 1),
            ("a", "dev", 2),
            ("b", "dev", 3),
        ] {
            let (answer, good) = lookups
                .answer(uid, question, interval, || async {
                    asked.set(asked.get() + 1);
                    Ok("c".to_owned())
                })
                .await;
            assert_eq!(answer.as_deref(), Ok("c"));
            assert!(good <= interval && !good.is_zero());
            assert_eq!(asked.get(), times, "{uid} {question}");
        }
    }

    #[tokio::test]
    async fn failures_are_asked_again_soon() {
        let lookups = Lookups::default();
        let error = GitError::RepositoryNotFound;
        let (_, good) = lookups
            .answer("a", "q", Duration::from_secs(3600), || async {
                Err(error.clone())
            })
            .await;
        assert!(good <= FAILURE_AGE);
    }
}
