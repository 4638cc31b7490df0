//! What a mirror does besides copying: it keeps a report of what it wrote, deletes what is not selected any more, and has
//! everything looked at from time to time. Here is decided when; pods do it. Pure.

use std::time::Duration;

use crds::condition::truncate;
use crds::image_mirror::{LastCheck, LastPrune};
use crds::{ImageMirror, ImageMirrorStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use mirror::{Place, Selection, refusal};
use oci::{Digest, Reference, RegistryHost, Repository};
use protocol::{MAX_PLAN, MirrorImage, MirrorOutcome, MirrorRequest, PruneRequest, ReportRequest};

use super::observed::{Found, Observed, current_pod};
use crate::builder_pod::identity::hash_hex;
use crate::condition::Summary;
use crate::image_build::observed::RegistryState;
use crate::reason::Reason;

/// Name of the repository, below the namespace's, that keeps the ledger of copies.
const LEDGER: &str = "coopery-ledger";
/// Name of the repository, below the namespace's, that keeps the reports of its mirrors.
const REPORT: &str = "coopery-report";
/// Room for images and selected tags together in a request.
const MAX_REQUEST_BYTES: usize = 180 * 1024;
/// The longest message, and the longest tag that is planned to go.
const MAX_MESSAGE_BYTES: usize = 256;
const MAX_PLANNED_BYTES: usize = 400;

/// A repository for what is kept beside images: in a Registry that of the namespace of `mirror`, which nobody else reads or
/// writes; elsewhere one below its prefix, where it may write.
fn own(mirror: &ImageMirror, host: &RegistryHost, name: &str) -> Option<Repository> {
    let destination = &mirror.spec.destination;
    let path = match &destination.registry {
        Some(_) => format!("{}/{name}", mirror.namespace()?),
        None => format!("{}/{name}", destination.prefix.as_deref()?),
    };
    Repository::new(host.clone(), &path).ok()
}

/// The repository that keeps what is known of the destination's blobs: one for all mirrors of a namespace, which may
/// read each other's repositories, and for nobody else. Elsewhere than in a Registry others may write it: there is none.
pub fn ledger(mirror: &ImageMirror, observed: &Observed) -> Option<Repository> {
    mirror.spec.destination.registry.as_ref()?;
    own(mirror, host(observed)?, LEDGER)
}

const fn host(observed: &Observed) -> Option<&RegistryHost> {
    match &observed.registry {
        RegistryState::Ready { host } => Some(host),
        _ => None,
    }
}

/// The report that the present pod says it wrote, where the status does not name it yet.
pub fn told_report(mirror: &ImageMirror, observed: &Observed) -> Option<Reference> {
    let status = mirror.status.clone().unwrap_or_default();
    let told = current_pod(&status, &observed.pods)?.mirrored()?.report?;
    let digest: Digest = told.parse().ok()?;
    let report = own(mirror, host(observed)?, REPORT)?.at(digest);
    (status.report != Some(report.to_string())).then_some(report)
}

/// Names the report of the present pod in `status`, where it is there.
pub fn record(status: &mut ImageMirrorStatus, observed: &Observed) {
    if let Some((report, Found::Digest(_))) = &observed.report {
        status.report = Some(report.to_string());
    }
}

/// Whether the next pod must wait for an answer to whether the report of this one is there: it would go on from an older one.
pub fn waits_for_report(observed: &Observed) -> bool {
    matches!(
        &observed.report,
        Some((_, Found::Failed { .. } | Found::NotLookedAt))
    )
}

/// Where the next pod keeps its account, and from where it goes on. A report that the status does not name is not read:
/// anybody may have written it.
pub fn report(
    mirror: &ImageMirror,
    observed: &Observed,
    status: &ImageMirrorStatus,
) -> Option<ReportRequest> {
    let repository = own(mirror, host(observed)?, REPORT)?;
    let named = status.report.as_deref();
    let named = named.and_then(|name| name.parse::<Reference>().ok());
    // A destination never changes its repository, but names of hosts do.
    let previous = named.filter(|name| name.repository().path() == repository.path());
    Some(ReportRequest {
        repository: repository.to_string(),
        owner: mirror.uid()?,
        previous: previous.and_then(|name| name.digest().map(Digest::to_string)),
    })
}

/// What a pod is to do besides copying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// What is deleted.
    pub prune: Option<PruneRequest>,
    /// Whether everything is looked at.
    pub check: bool,
}

impl Due {
    /// Whether that is nothing.
    pub const fn is_nothing(&self) -> bool {
        self.prune.is_none() && !self.check
    }

    /// What tells it from other work, for the key of an attempt.
    pub fn key(&self, status: &ImageMirrorStatus) -> Vec<String> {
        let prune = self.prune.as_ref().map(prune_key);
        let last = status
            .last_check
            .as_ref()
            .and_then(|last| last.time.clone());
        let check = self
            .check
            .then(|| format!("check {:?}", last.map(|time| time.0)));
        prune.into_iter().chain(check).collect()
    }
}

/// What is due besides copying `images`.
pub fn due(
    mirror: &ImageMirror,
    observed: &Observed,
    status: &ImageMirrorStatus,
    images: &[MirrorImage],
) -> Due {
    if status.report.is_none() || observed.look.is_none() {
        return Due::default();
    }
    let check =
        images.is_empty() && check_in(mirror, status, observed).is_some_and(|wait| wait.is_zero());
    let prune = prune(mirror, observed, status, images);
    Due { prune, check }
}

/// What is to be deleted, where that is not known yet. Nothing is while some tag cannot be listed, looked at or copied: then
/// it is not known what is selected, and the new may not be there yet for which the old goes.
fn prune(
    mirror: &ImageMirror,
    observed: &Observed,
    status: &ImageMirrorStatus,
    images: &[MirrorImage],
) -> Option<PruneRequest> {
    let request = wanted_prune(mirror, observed)?;
    let last = status
        .last_prune
        .as_ref()
        .and_then(|last| last.key.as_ref());
    let is_known = last == Some(&prune_key(&request));
    let pending = observed
        .looked()
        .filter(|(_, look)| look.pending().is_some());
    let is_complete = observed.problems().is_empty()
        && pending.count() <= images.len()
        && observed
            .looked()
            .all(|(_, look)| look.current && (look.synced().is_some() || look.pending().is_some()));
    let size = |image: &MirrorImage| serde_json::to_string(image).map_or(0, |json| json.len());
    let room = MAX_REQUEST_BYTES.saturating_sub(images.iter().map(size).sum());
    (!is_known && is_complete && request.selected.len() <= room).then_some(request)
}

/// What the spec says of deleting, with all that is selected.
fn wanted_prune(mirror: &ImageMirror, observed: &Observed) -> Option<PruneRequest> {
    let policy = mirror.spec.prune.as_ref()?;
    let delete = match policy.mode.as_deref() {
        Some("Plan") => false,
        Some("Delete") => true,
        _ => return None,
    };
    let places: Vec<Place> = observed
        .looked()
        .map(|(tag, _)| Place::new(&tag.path, tag.tag.clone()))
        .collect();
    (!places.is_empty()).then(|| PruneRequest {
        delete,
        prefix: mirror.spec.destination.prefix.clone(),
        max_percent: policy.max_percent(),
        selected: Selection::of(&places).to_text(),
    })
}

fn prune_key(request: &PruneRequest) -> String {
    let percent = request.max_percent.to_string();
    let mode = if request.delete { "delete" } else { "plan" };
    let prefix = request.prefix.as_deref().unwrap_or_default();
    hash_hex(&[mode, &percent, prefix, &request.selected], 16)
}

/// How long it is to the next deep check; none without one.
pub fn check_in(
    mirror: &ImageMirror,
    status: &ImageMirrorStatus,
    observed: &Observed,
) -> Option<Duration> {
    let interval = mirror.spec.check.as_ref()?.interval().ok()?;
    let sync = status
        .last_sync
        .as_ref()
        .and_then(|sync| sync.completion_time.as_ref());
    let check = status.last_check.as_ref();
    let time = check.and_then(|check| check.time.as_ref());
    // What was copied since may have brought what a check found missing.
    if check.is_some_and(|check| check.failed > 0) && sync > time {
        return Some(Duration::ZERO);
    }
    let last = time.or(sync)?.0;
    let passed = Duration::try_from(observed.now.duration_since(last)).unwrap_or_default();
    Some(interval.saturating_sub(passed))
}

/// Writes what a pod did, that was asked for `request`, into `status`; gives why that failed.
pub fn conclude(
    status: &mut ImageMirrorStatus,
    request: &MirrorRequest,
    outcome: &MirrorOutcome,
    ended: Timestamp,
) -> Option<Reason> {
    let message = |text: &Option<String>| {
        let text = text.as_deref()?;
        Some(truncate(text, MAX_MESSAGE_BYTES))
    };
    let mut failure = None;
    if let (Some(asked), Some(prune)) = (&request.prune, &outcome.prune) {
        if prune.failed > 0 {
            failure = Some(Reason::PruneFailed);
        }
        let is_open = !asked.delete || prune.deleted + prune.kept < prune.planned;
        let plan = prune.plan.iter().filter(|_| is_open).take(MAX_PLAN);
        status.prune_plan = plan.map(|tag| truncate(tag, MAX_PLANNED_BYTES)).collect();
        status.last_prune = Some(LastPrune {
            time: Some(Time(ended)),
            key: (prune.failed == 0).then(|| prune_key(asked)),
            written: count(prune.written),
            planned: count(prune.planned),
            deleted: count(prune.deleted),
            kept: count(prune.kept),
            failed: count(prune.failed),
            message: message(&prune.failure),
        });
    }
    if let Some(check) = outcome.check.as_ref().filter(|_| request.check) {
        status.last_check = Some(LastCheck {
            time: Some(Time(ended)),
            tags: count(check.tags),
            missing: count(check.missing),
            repaired: count(check.repaired),
            failed: count(check.failed),
            message: message(&check.failure),
        });
    }
    failure
}

/// What somebody must know although all tags are equal.
pub fn complaint(
    mirror: &ImageMirror,
    observed: &Observed,
    status: &ImageMirrorStatus,
) -> Option<Summary> {
    if let Some(check) = status.last_check.as_ref().filter(|last| last.failed > 0)
        && mirror.spec.check.is_some()
    {
        let told = check.message.as_deref().unwrap_or("see the pod's log");
        let message = format!("{} of {} tags: {told}", check.failed, check.tags);
        return Some(Summary::stalled(Reason::CheckFailed, &message));
    }
    let last = status.last_prune.as_ref()?;
    let request = wanted_prune(mirror, observed)?;
    if !request.delete || last.key.as_ref() != Some(&prune_key(&request)) {
        return None;
    }
    let number = |count: i32| usize::try_from(count).unwrap_or(0);
    let (planned, written) = (number(last.planned), number(last.written));
    let message = refusal(planned, written, request.max_percent)?;
    Some(Summary::stalled(Reason::PruneRefused, &message))
}

/// Takes out of `status` what the spec does not ask for any more.
pub fn tidy(status: &mut ImageMirrorStatus, mirror: &ImageMirror) {
    let mode = mirror
        .spec
        .prune
        .as_ref()
        .and_then(|prune| prune.mode.as_deref());
    if matches!(mode, None | Some("None")) {
        status.prune_plan.clear();
        if let Some(last) = &mut status.last_prune {
            last.key = None;
        }
    }
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
