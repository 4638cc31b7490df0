//! The three conditions that every kind has, written together so that kstatus reads one story.
//!
//! Ready is always there. Reconciling and Stalled are there only while they are true.

use crds::condition::{self, Condition, ConditionStatus, Conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::error::{Class, Error};
use crate::reason::Reason;

/// Whether something is still to happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Nothing: the object is what its spec asks for (or suspended).
    Settled,
    /// The operator works or waits: `Reconciling`.
    Reconciling,
    /// Nothing will happen until something changes: `Stalled`.
    Stalled,
}

/// What Ready, Reconciling and Stalled say together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Status of Ready.
    pub ready: ConditionStatus,
    /// Whether something is still to happen.
    pub progress: Progress,
    /// The reason of all of them.
    pub reason: Reason,
    /// The message of all of them; the remedy of the reason included.
    pub message: String,
}

impl Summary {
    /// The object is what its spec asks for.
    pub fn ready(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            ready: ConditionStatus::True,
            progress: Progress::Settled,
            reason,
            message: message.into(),
        }
    }

    /// The operator works or waits; the remedy of `reason` is added to `message`.
    pub fn waiting(reason: Reason, message: &str) -> Self {
        Self {
            ready: ConditionStatus::False,
            progress: Progress::Reconciling,
            reason,
            message: reason.explain(message),
        }
    }

    /// Nothing will happen until something changes; the remedy of `reason` is added to `message`.
    pub fn stalled(reason: Reason, message: &str) -> Self {
        Self {
            ready: ConditionStatus::False,
            progress: Progress::Stalled,
            reason,
            message: reason.explain(message),
        }
    }

    /// What an error says: a terminal one stalls, a transient one is tried again.
    pub fn of_error(error: &Error) -> Self {
        Self {
            ready: ConditionStatus::False,
            progress: match error.class() {
                Class::Terminal => Progress::Stalled,
                Class::Transient => Progress::Reconciling,
            },
            reason: error.reason(),
            message: error.message(),
        }
    }

    /// Writes the three conditions into `list`, for an object at `generation`.
    pub fn write(&self, list: &mut Vec<Condition>, generation: i64, now: &Time) {
        let mut conditions = Conditions::new(list, generation, now);
        let reason = self.reason.as_str();
        conditions.set(condition::READY, self.ready, reason, &self.message);
        let abnormal = match self.progress {
            Progress::Settled => None,
            Progress::Reconciling => Some(condition::RECONCILING),
            Progress::Stalled => Some(condition::STALLED),
        };
        for type_ in [condition::RECONCILING, condition::STALLED] {
            if abnormal == Some(type_) {
                conditions.set(type_, ConditionStatus::True, reason, &self.message);
            } else {
                conditions.remove(type_);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(list: &[Condition]) -> Vec<String> {
        list.iter()
            .map(|c| format!("{}={} {}", c.type_, c.status, c.reason))
            .collect()
    }

    #[test]
    fn abnormal_conditions_come_and_go() {
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let mut list = Vec::new();
        Summary::waiting(Reason::Deploying, "starting").write(&mut list, 1, &now);
        assert_eq!(
            types(&list),
            ["Ready=False Deploying", "Reconciling=True Deploying"]
        );
        Summary::stalled(Reason::NameConflict, "taken").write(&mut list, 1, &now);
        assert_eq!(
            types(&list),
            ["Ready=False NameConflict", "Stalled=True NameConflict"]
        );
        Summary::ready(Reason::Available, "serving").write(&mut list, 2, &now);
        assert_eq!(types(&list), ["Ready=True Available"]);
        assert_eq!(list[0].observed_generation, Some(2));
    }

    #[test]
    fn errors_stall_only_when_terminal() {
        let terminal = Summary::of_error(&Error::terminal(Reason::InvalidSpec, "x"));
        assert_eq!(terminal.progress, Progress::Stalled);
        let transient = Summary::of_error(&Error::transient(Reason::ApiUnavailable, "x"));
        assert_eq!(transient.progress, Progress::Reconciling);
    }
}
