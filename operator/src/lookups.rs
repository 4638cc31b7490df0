//! Remembers what servers answered, so that a reconcile for another cause (a pod changed) asks nobody. It is a memory
//! only: losing it costs one question.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Answers that nobody asked for in this time are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

struct Remembered<A> {
    question: String,
    answer: A,
    at: Instant,
    good_for: Duration,
}

/// Answers by the uid of the object that asked.
pub struct Lookups<A> {
    answers: Mutex<HashMap<String, Remembered<A>>>,
}

impl<A> Default for Lookups<A> {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
        }
    }
}

impl<A: Clone> Lookups<A> {
    /// The answer to `question` (all that it depends on, as text) and how long it is still good. `ask` is called when
    /// there is none; it says how long its answer is good for.
    pub async fn answer<F: Future<Output = (A, Duration)>>(
        &self,
        uid: &str,
        question: &str,
        ask: impl FnOnce() -> F,
    ) -> (A, Duration) {
        if let Some(known) = self.remembered(uid, question) {
            return known;
        }
        let (answer, good_for) = ask().await;
        let remembered = Remembered {
            question: question.to_owned(),
            answer: answer.clone(),
            at: Instant::now(),
            good_for,
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if !answers.contains_key(uid) {
            answers.retain(|_, known| known.at.elapsed() < FORGET_AFTER);
        }
        answers.insert(uid.to_owned(), remembered);
        (answer, good_for)
    }

    /// The last answer to whoever has this uid, good or not.
    pub fn last(&self, uid: &str) -> Option<A> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(uid).map(|known| known.answer.clone())
    }

    fn remembered(&self, uid: &str, question: &str) -> Option<(A, Duration)> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = answers.get(uid)?;
        let good_for = known.good_for.saturating_sub(known.at.elapsed());
        (known.question == question && !good_for.is_zero())
            .then(|| (known.answer.clone(), good_for))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn one_question_is_asked_once_while_its_answer_is_good() {
        let lookups = Lookups::default();
        let asked = Cell::new(0);
        for (uid, question, seconds, times) in [
            ("a", "main", 3600, 1),
            ("a", "main", 3600, 1),
            ("a", "dev", 0, 2),
            ("a", "dev", 3600, 3),
            ("b", "dev", 3600, 4),
        ] {
            let good_for = Duration::from_secs(seconds);
            let (answer, good) = lookups
                .answer(uid, question, || async {
                    asked.set(asked.get() + 1);
                    ("c", good_for)
                })
                .await;
            assert_eq!(answer, "c");
            assert!(good <= good_for);
            assert_eq!(asked.get(), times, "{uid} {question}");
        }
    }
}
