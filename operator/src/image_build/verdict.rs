//! What the conditions Succeeded and UpToDate of an ImageBuild say. Pure.

use crds::condition::ConditionStatus;

use super::account::Fate;
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

    pub(super) fn up_to_date(&self, wanted: &Result<String, Blocked>, summary: &Summary) -> Told {
        let succeeded = self.fate == Fate::Succeeded;
        match (wanted, self.attempt()) {
            (Ok(wanted), Some(attempt)) if succeeded && attempt.key == *wanted => (
                ConditionStatus::True,
                Reason::Succeeded,
                "the image is of the present spec and source".to_owned(),
            ),
            (Err(blocked), _) if succeeded => (
                ConditionStatus::Unknown,
                blocked.reason,
                blocked.message.clone(),
            ),
            _ => (
                ConditionStatus::False,
                summary.reason,
                "the image of the present spec and source is not there".to_owned(),
            ),
        }
    }
}
