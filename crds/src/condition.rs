//! Conditions as kstatus reads them: the type, and the only way to change a list of them.
//!
//! Which conditions a kind has and what they say is decided by the operator.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Summary: the object is what its spec asks for.
pub const READY: &str = "Ready";
/// Abnormal-true: the operator is working on the object or waits for something. Absent when it is not.
pub const RECONCILING: &str = "Reconciling";
/// Abnormal-true: nothing will change until the object or what it refers to changes. Absent when it is not.
pub const STALLED: &str = "Stalled";
/// Of a bounded piece of work (a build): True when it succeeded, Unknown while it runs.
pub const SUCCEEDED: &str = "Succeeded";
/// The image in status was made from the present spec and source.
pub const UP_TO_DATE: &str = "UpToDate";
/// What the builder pod said was read back from every destination.
pub const VERIFIED: &str = "Verified";

/// Messages are cut to this many bytes, so that no status grows by its errors.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// One aspect of the state of an object.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition, CamelCase.
    #[serde(rename = "type")]
    #[schemars(length(max = 64))]
    pub type_: String,
    /// Status of the condition: True, False or Unknown.
    #[schemars(length(max = 16))]
    pub status: String,
    /// Generation of the object that the condition was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Time of the last change of status. Format: RFC 3339.
    pub last_transition_time: Time,
    /// One CamelCase word for programs; the table of reasons is in docs/reasons.md.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// A sentence for people: what is the case, and what to do about it.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// The three values that a condition's status can have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConditionStatus {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// It is not known (yet).
    Unknown,
}

impl ConditionStatus {
    /// The word written into a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Changes a list of conditions so that `lastTransitionTime` moves only when a status flips.
pub struct Conditions<'a> {
    list: &'a mut Vec<Condition>,
    generation: i64,
    now: &'a Time,
}

impl<'a> Conditions<'a> {
    /// Wraps `list` of an object at `generation`; `now` is written where a status flips.
    pub fn new(list: &'a mut Vec<Condition>, generation: i64, now: &'a Time) -> Self {
        Self {
            list,
            generation,
            now,
        }
    }

    /// Adds or changes the condition `type_`. The message is cut to [`MAX_MESSAGE_BYTES`].
    pub fn set(&mut self, type_: &str, status: ConditionStatus, reason: &str, message: &str) {
        let message = truncate(message, MAX_MESSAGE_BYTES);
        if let Some(old) = self.list.iter_mut().find(|c| c.type_ == type_) {
            if old.status != status.as_str() {
                status.as_str().clone_into(&mut old.status);
                old.last_transition_time = self.now.clone();
            }
            old.observed_generation = Some(self.generation);
            reason.clone_into(&mut old.reason);
            old.message = message;
            return;
        }
        self.list.push(Condition {
            type_: type_.to_owned(),
            status: status.as_str().to_owned(),
            observed_generation: Some(self.generation),
            last_transition_time: self.now.clone(),
            reason: reason.to_owned(),
            message,
        });
    }

    /// Removes the condition `type_`; abnormal-true conditions are absent when all is well.
    pub fn remove(&mut self, type_: &str) {
        self.list.retain(|c| c.type_ != type_);
    }
}

/// The condition `type_` of `list`.
pub fn find<'a>(list: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    list.iter().find(|c| c.type_ == type_)
}

/// Whether the condition `type_` of `list` is True.
pub fn is_true(list: &[Condition], type_: &str) -> bool {
    find(list, type_).is_some_and(|c| c.status == "True")
}

/// Cuts `text` to at most `max` bytes at a character's border; a cut text ends in an ellipsis.
pub fn truncate(text: &str, max: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub(ELLIPSIS.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{ELLIPSIS}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    #[test]
    fn transition_time_moves_only_when_the_status_flips() {
        let mut list = Vec::new();
        Conditions::new(&mut list, 1, &at(10)).set(READY, ConditionStatus::False, "Waiting", "a");
        Conditions::new(&mut list, 2, &at(20)).set(READY, ConditionStatus::False, "Pulling", "b");
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].last_transition_time, at(10));
        assert_eq!(list[0].observed_generation, Some(2));
        assert_eq!(
            (list[0].reason.as_str(), list[0].message.as_str()),
            ("Pulling", "b")
        );
        Conditions::new(&mut list, 2, &at(30)).set(READY, ConditionStatus::True, "Ready", "c");
        assert_eq!(list[0].last_transition_time, at(30));
        assert!(is_true(&list, READY));
    }

    #[test]
    fn abnormal_conditions_are_absent_when_removed() {
        let mut list = Vec::new();
        let now = at(1);
        let mut conditions = Conditions::new(&mut list, 1, &now);
        conditions.set(STALLED, ConditionStatus::True, "Invalid", "x");
        conditions.remove(STALLED);
        assert_eq!(find(&list, STALLED), None);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let cut = truncate(&"ä".repeat(600), MAX_MESSAGE_BYTES);
        assert!(cut.len() <= MAX_MESSAGE_BYTES);
        assert!(cut.ends_with('…'));
        assert_eq!(truncate("short", 10), "short");
    }
}
