//! What the conditions Succeeded and UpToDate of an ImageBuild say. Pure.

use crds::condition::ConditionStatus;

use super::account::Fate;
use super::key::Key;
use super::need::Blocked;
use super::plan::Case;
use super::start::Start;
use crate::condition::Summary;
use crate::reason::Reason;

/// Value, reason and message of a condition.
pub(super) type Told = (ConditionStatus, Reason, String);

impl Case<'_> {
    pub(super) fn succeeded(&self, starting: Option<&Start>) -> Option<Told> {
        if let Some(start) = starting {
            let message = format!("pod {} is being started", start.name);
            return Some((ConditionStatus::Unknown, Reason::Building, message));
        }
        match &self.fate {
            Fate::Succeeded => Some((
                ConditionStatus::True,
                Reason::Succeeded,
                self.status.image.clone().unwrap_or_default(),
            )),
            Fate::Failed(failure) => Some((
                ConditionStatus::False,
                failure.reason,
                failure.message.clone(),
            )),
            Fate::Cancelled { reason } => {
                Some((ConditionStatus::False, *reason, reason.meaning().to_owned()))
            }
            _ => None,
        }
    }

    pub(super) fn up_to_date(&self, wanted: &Result<Key, Blocked>, summary: &Summary) -> Told {
        let succeeded = self.fate == Fate::Succeeded;
        match (wanted, self.attempt()) {
            (Ok(wanted), Some(attempt)) if succeeded && attempt.key == wanted.to_string() => {
                self.outdated(wanted).unwrap_or_else(|| {
                    let message = "the image is of the present spec, source and inputs";
                    (ConditionStatus::True, Reason::Succeeded, message.to_owned())
                })
            }
            (Err(blocked), _) if succeeded => (
                ConditionStatus::Unknown,
                blocked.reason,
                blocked.message.clone(),
            ),
            _ => (
                ConditionStatus::False,
                summary.reason,
                "the image of the present spec, source and inputs is not there".to_owned(),
            ),
        }
    }

    /// What an image that stays good is not made from, because `rebuild.triggers` does not name it.
    fn outdated(&self, wanted: &Key) -> Option<Told> {
        let present = self.present().ok()?;
        let reason = if present.source != wanted.source {
            Reason::SourceChanged
        } else if present.inputs != wanted.inputs {
            Reason::InputChanged
        } else {
            return None;
        };
        let message = reason.explain(reason.meaning());
        Some((ConditionStatus::False, reason, message))
    }
}
