//! Decides what an ImageMirror does next: start a sync, wait (for what?), stop one, or rest. What is to be copied follows
//! from looking at both sides. Pure.

use std::fmt::Write;
use std::time::Duration;

use crds::condition::ConditionStatus;
use crds::image_build::PodOptions;
use crds::image_mirror::SyncAttempt;
use crds::{ImageMirror, ImageMirrorSpec, ImageMirrorStatus};
use distribution::copy::Platforms;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use protocol::{Isolation, MirrorImage, MirrorPlatforms, MirrorRequest, Request, Task};
use serde_json::Value;

use super::account::{Fate, RETRY_LIMIT, TIMEOUT, account, is_due, request_of};
use super::chosen::Problem;
use super::observed::{Found, Observed, current_pod};
use super::record;
use super::upkeep::{self, Due};
use super::validate::{Side, ValidatedMirror};
use crate::builder_pod::identity::hash_hex;
use crate::builder_pod::shape::credential_paths;
use crate::builder_pod::{Attempt, Ended, Owner, PodSpecInput, PodState, PodView, build_pod};
use crate::condition::{Progress, Summary};
use crate::image_build::account::{FAILED, RUNNING, reason_named};
use crate::image_build::observed::{RegistryState, SecretState};
use crate::image_build::plan::POLL;
use crate::plan::{Plan, Prepared, child_meta};
use crate::reason::Reason;
use crate::request::{force_at, requested_at};

/// How often a running pod is looked at, besides at each of its changes.
const POLL_RUNNING: Duration = Duration::from_secs(30);
/// Room for the images in a request: annotations hold 256 KiB together. What does not fit is copied by the next sync.
const MAX_IMAGES_BYTES: usize = 180 * 1024;

/// What was decided: the status as it is to be when everything was carried out.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The status without its conditions, as of before the start of a pod.
    pub status: ImageMirrorStatus,
    /// Ready, Reconciling and Stalled.
    pub summary: Summary,
    /// The sync that is started.
    pub start: Option<Start>,
}

/// A sync that is to be started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Name of its pod.
    pub name: String,
    /// The attempt as it stands in the status when the pod is there, but for the pod's uid.
    pub attempt: SyncAttempt,
    /// The pod.
    pub pod: Pod,
}

/// The hash of all that decides what is copied from where to where.
pub fn spec_hash(spec: &ImageMirrorSpec) -> String {
    // A spec has only string keys, so it is always JSON.
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.remove("suspend");
        fields.remove("interval");
        fields.remove("schedule");
        fields.remove("check");
    }
    hash_hex(&[&value.to_string()], 16)
}

/// The wish to sync everything again, while it was not acted on.
pub fn force_wish(mirror: &ImageMirror) -> Option<String> {
    let handled = mirror
        .status
        .as_ref()
        .and_then(|status| status.last_handled_force_at.clone());
    force_at(mirror).filter(|wish| Some(wish) != handled.as_ref())
}

/// Decides.
pub fn plan(mirror: &ImageMirror, observed: &Observed) -> Plan<Prepared, Decision> {
    let mut status = mirror.status.clone().unwrap_or_default();
    let spec_hash = spec_hash(&mirror.spec);
    let fate = account(&mut status, observed, &spec_hash);
    record::record(&mut status, observed, &fate);
    upkeep::record(&mut status, observed);
    if let Ok(spec) = &observed.spec {
        record::next_sync(&mut status, &spec.cadence, observed.now);
    }
    upkeep::tidy(&mut status, mirror);
    let (summary, requeue, start, stop) = Case {
        mirror,
        observed,
        status: &status,
        spec_hash: &spec_hash,
    }
    .decide(&fate);
    let held_up = start.is_none() && !matches!(summary.progress, Progress::Settled);
    let failed_before = status
        .attempt
        .as_ref()
        .is_some_and(|attempt| attempt.result.as_deref() == Some(FAILED));
    // A wish to look again after a failure is acted on by a start.
    if !(held_up && failed_before && !matches!(fate, Fate::Active { .. })) || start.is_some() {
        status.last_handled_requested_at = requested_at(mirror);
    }
    if start.is_some() {
        status.last_handled_force_at = force_at(mirror).or(status.last_handled_force_at);
    }
    let superfluous: Vec<&Pod> = {
        let current = current_pod(&status, &observed.pods).map(|pod| &pod.pod.identity.uid);
        let others = observed
            .pods
            .iter()
            .filter(|pod| !pod.pod.deleting && Some(&pod.pod.identity.uid) != current);
        others.map(|pod| &pod.pod.pod).collect()
    };
    let pod = start.as_ref().map(|start| start.pod.clone());
    let mut plan = Plan::new(Decision {
        status,
        summary,
        start,
    });
    if let Some(pod) = pod {
        plan.create(&pod, &mirror.uid().unwrap_or_default());
    }
    for pod in stop.into_iter().chain(superfluous) {
        plan.delete(pod, None);
    }
    let check = upkeep::check_in(mirror, &plan.decision.status, observed);
    let check = check.filter(|wait| !wait.is_zero());
    for after in requeue.into_iter().chain(observed.look_again).chain(check) {
        plan.requeue_after(after);
    }
    plan
}

type Decided<'a> = (Summary, Option<Duration>, Option<Start>, Option<&'a Pod>);

struct Case<'a, 's> {
    mirror: &'a ImageMirror,
    observed: &'a Observed,
    status: &'s ImageMirrorStatus,
    spec_hash: &'s str,
}

impl<'a> Case<'a, '_> {
    fn decide(&self, fate: &Fate) -> Decided<'a> {
        let rest = |summary: Summary| (summary, None, None, None);
        if let Some(decided) = self.watch(fate) {
            return decided;
        }
        let spec = match &self.observed.spec {
            Ok(spec) => spec,
            Err(violation) => {
                return rest(Summary::stalled(violation.reason, &violation.message));
            }
        };
        if self.mirror.spec.suspended() {
            return rest(self.suspended());
        }
        if let Some(summary) = self.missing(spec) {
            return (summary, Some(POLL), None, None);
        }
        let forced = force_wish(self.mirror).is_some();
        let images = self.images(forced);
        let due = upkeep::due(self.mirror, self.observed, self.status, &images);
        if images.is_empty() && due.is_nothing() {
            return rest(self.settled());
        }
        if upkeep::waits_for_report(self.observed) {
            return (
                syncing("the report is being read back"),
                Some(POLL),
                None,
                None,
            );
        }
        match self.next(&images, &due) {
            Ok((key, number, retries)) => {
                let is_upkeep = images.is_empty();
                let start = self.start(spec, (key, number, retries), images, due);
                if self.observed.taken.as_deref() == Some(start.name.as_str()) {
                    let message = format!("Pod {} exists and belongs to somebody else", start.name);
                    let summary = Summary::stalled(Reason::NameConflict, &message);
                    return (summary, Some(POLL), None, None);
                }
                let message = format!("pod {} is being started", start.name);
                let summary = if is_upkeep {
                    Self::at_upkeep(self.settled().ready, &message)
                } else {
                    syncing(&message)
                };
                (summary, Some(POLL), Some(start), None)
            }
            Err((summary, after)) => (summary, Some(after), None, None),
        }
    }

    fn watch(&self, fate: &Fate) -> Option<Decided<'a>> {
        let attempt = self.status.attempt.as_ref();
        let name = attempt.and_then(|a| a.pod.as_deref()).unwrap_or_default();
        let uid = attempt.and_then(|a| a.pod_uid.as_deref());
        Some(match fate {
            Fate::None | Fate::Ended { .. } => return None,
            Fate::Active { waiting } if self.is_upkeep() => {
                let told = waiting.as_ref().map(|(_, message)| message.as_str());
                let told = told.unwrap_or("looks after what was mirrored");
                let message = format!("pod {name}: {told}");
                let summary = Self::at_upkeep(self.ready_before(), &message);
                (summary, Some(POLL_RUNNING), None, None)
            }
            // That a pod takes a moment to start is no news.
            Fate::Active {
                waiting: Some((Reason::Pending, _)),
            } => (
                syncing(&format!("pod {name} is being started")),
                Some(POLL),
                None,
                None,
            ),
            Fate::Active {
                waiting: Some((reason, message)),
            } => {
                let message = format!("pod {name}: {message}");
                (Summary::waiting(*reason, &message), Some(POLL), None, None)
            }
            Fate::Active { waiting: None } => (
                syncing(&format!("pod {name} copies images")),
                Some(POLL_RUNNING),
                None,
                None,
            ),
            Fate::Stop { reason } | Fate::Stopping { reason } => {
                let pod = self.observed.pods.iter().find(|pod| {
                    matches!(fate, Fate::Stop { .. }) && uid == Some(pod.pod.identity.uid.as_str())
                });
                let message = format!("pod {name} is being stopped");
                let summary = Summary::waiting(*reason, &message);
                (summary, Some(POLL), None, pod.map(|pod| &pod.pod.pod))
            }
        })
    }

    /// Whether the present pod copies nothing.
    fn is_upkeep(&self) -> bool {
        let pod = current_pod(self.status, &self.observed.pods);
        let request = pod.and_then(request_of);
        request.is_some_and(|request| request.images.is_empty())
    }

    /// What was known to be equal stays so while a pod looks after it.
    fn at_upkeep(ready: ConditionStatus, message: &str) -> Summary {
        Summary {
            ready,
            ..Summary::waiting(Reason::Syncing, message)
        }
    }

    fn ready_before(&self) -> ConditionStatus {
        let old = self.mirror.status.as_ref();
        let ready = old.is_some_and(|status| {
            crds::condition::is_true(&status.conditions, crds::condition::READY)
        });
        if ready {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        }
    }

    /// Suspended: what was known to be equal stays so.
    fn suspended(&self) -> Summary {
        Summary {
            ready: self.ready_before(),
            progress: Progress::Settled,
            reason: Reason::Suspended,
            message: Reason::Suspended.explain("tags are not looked at"),
        }
    }

    fn missing(&self, spec: &ValidatedMirror) -> Option<Summary> {
        let sides = [
            (&spec.destination, &self.observed.registry),
            (&spec.source, &self.observed.source),
        ];
        for (side, state) in sides {
            let Side::Registry(name) = side else { continue };
            match state {
                RegistryState::Ready { .. } => {}
                RegistryState::NotReady { message } => {
                    let message = format!("Registry {name} is not ready: {message}");
                    return Some(Summary::waiting(Reason::RegistryNotReady, &message));
                }
                RegistryState::Missing => {
                    let message = format!("Registry {name} does not exist");
                    return Some(Summary::waiting(Reason::RegistryNotFound, &message));
                }
            }
        }
        let keys = spec.verify.iter().flatten().map(|(name, _)| name.clone());
        spec.secrets().into_iter().chain(keys).find_map(|name| {
            let (reason, message) = match self.observed.secrets.get(&name) {
                Some(SecretState::Present { .. }) => return None,
                Some(SecretState::Lacks(key)) => (
                    Reason::SecretInvalid,
                    format!("Secret {name} has no usable key {key}"),
                ),
                _ => (
                    Reason::SecretNotFound,
                    format!("Secret {name} does not exist"),
                ),
            };
            Some(Summary::waiting(reason, &message))
        })
    }

    /// What is to be copied: tags that differ, or all when that is wished.
    fn images(&self, forced: bool) -> Vec<MirrorImage> {
        let RegistryState::Ready { host } = &self.observed.registry else {
            return Vec::new();
        };
        let mut room = MAX_IMAGES_BYTES;
        let mut images = Vec::new();
        for (tag, look) in self.observed.looked() {
            let again = look.synced().filter(|_| forced);
            let wanted = look.pending().or(again.map(|(source, _)| source));
            let (Some(digest), Some(destination)) = (wanted, tag.destination(host)) else {
                continue;
            };
            let image = MirrorImage {
                source: tag.source.to_string(),
                digest: Some(digest.to_string()),
                destination: destination.to_string(),
                replaces: match look.destination {
                    Found::Nothing => Some(false),
                    Found::Digest(_) => Some(true),
                    Found::Failed { .. } | Found::NotLookedAt => None,
                },
                platforms: platforms(&tag.platforms),
            };
            let size = serde_json::to_string(&image).map_or(0, |json| json.len() * 2);
            if size > room {
                break;
            }
            room -= size;
            images.push(image);
        }
        images
    }

    /// Key, number and retries of the attempt to start, or why none is started yet.
    fn next(
        &self,
        images: &[MirrorImage],
        due: &Due,
    ) -> Result<(String, u32, u32), (Summary, Duration)> {
        let mut parts: Vec<&str> = Vec::new();
        for image in images {
            parts.push(&image.destination);
            parts.push(image.digest.as_deref().unwrap_or_default());
        }
        let wish = force_wish(self.mirror).unwrap_or_default();
        parts.push(&wish);
        let due = due.key(self.status);
        parts.extend(due.iter().map(String::as_str));
        let key = format!("{}-{}", self.spec_hash, hash_hex(&parts, 16));
        let Some(attempt) = self.status.attempt.as_ref().filter(|a| a.key == key) else {
            return Ok((key, 0, 0));
        };
        let number = u32::try_from(attempt.number).unwrap_or(0).saturating_add(1);
        let retries = u32::try_from(attempt.retries).unwrap_or(0);
        let asked = requested_at(self.mirror);
        let asked = asked.is_some() && asked != self.status.last_handled_requested_at;
        if asked || attempt.environment.as_deref() != Some(&self.environment()) {
            return Ok((key, number, 0));
        }
        let retried = retries < RETRY_LIMIT;
        if is_due(attempt, self.observed.now) {
            return Ok((key, number, if retried { retries + 1 } else { 0 }));
        }
        let left = attempt
            .next_time
            .as_ref()
            .map(|next| next.0.duration_since(self.observed.now))
            .and_then(|left| Duration::try_from(left).ok())
            .unwrap_or(POLL);
        Err((self.unsynced(attempt), left.max(Duration::from_millis(100))))
    }

    /// The summary after a sync that left something to copy.
    fn unsynced(&self, attempt: &SyncAttempt) -> Summary {
        let Some(reason) = attempt.failure.as_deref().and_then(reason_named) else {
            let message = "the pod reported success, and tags still differ from the source";
            return Summary::stalled(Reason::VerificationFailed, message);
        };
        let told = current_pod(self.status, &self.observed.pods)
            .and_then(pod_failure)
            .or_else(|| self.status.failures.first().cloned())
            .unwrap_or_else(|| reason.meaning().to_owned());
        let soon = self
            .status
            .next_sync
            .as_ref()
            .is_some_and(|next| attempt.next_time.as_ref().is_some_and(|retry| retry < next));
        if soon {
            let message = format!("{}: {told}", reason.as_str());
            Summary::waiting(Reason::RetryPending, &message)
        } else {
            Summary::stalled(reason, &told)
        }
    }

    /// Nothing is to be copied.
    fn settled(&self) -> Summary {
        let chosen = self.observed.problems().iter().map(|problem| {
            let Problem {
                what,
                reason,
                message,
                transient,
            } = problem.clone();
            (what, (reason, message, transient))
        });
        let looked = self.observed.looked();
        let looked =
            looked.filter_map(|(tag, look)| Some((tag.source.to_string(), look.problem()?)));
        let mut problems = chosen.chain(looked);
        if let Some((what, (reason, message, transient))) = problems.next() {
            let more = problems.count();
            let mut text = format!("{what}: {message}");
            if more > 0 {
                let _ = write!(text, " (and {more} more, see status.failures)");
            }
            return if transient {
                Summary::waiting(reason, &text)
            } else {
                Summary::stalled(reason, &text)
            };
        }
        let count = self.observed.looked().count();
        let open = self
            .observed
            .looked()
            .filter(|(_, look)| look.is_open())
            .count();
        if open > 0 {
            let done = count - open;
            return syncing(&format!("{done} of {count} tags were looked at"));
        }
        if let Some(summary) = upkeep::complaint(self.mirror, self.observed, self.status) {
            return summary;
        }
        Summary::ready(
            Reason::Synced,
            format!("{count} tags are equal to the source"),
        )
    }

    fn environment(&self) -> String {
        let mut parts: Vec<&str> = Vec::new();
        for (name, state) in &self.observed.secrets {
            parts.push(name);
            if let SecretState::Present { version } = state {
                parts.push(version);
            }
        }
        hash_hex(&parts, 16)
    }

    fn start(
        &self,
        spec: &ValidatedMirror,
        (key, number, retries): (String, u32, u32),
        images: Vec<MirrorImage>,
        due: Due,
    ) -> Start {
        let owner = Owner::of(self.mirror);
        let last = self.status.attempt.as_ref().and_then(|a| a.pod.as_deref());
        let used = |name: &str| {
            let mut pods = self.observed.pods.iter();
            last == Some(name) || pods.any(|pod| pod.pod.identity.name == name)
        };
        let number = (number..number.saturating_add(64))
            .find(|number| !used(&owner.pod_name(&key, *number)))
            .unwrap_or(number);
        let name = owner.pod_name(&key, number);
        let credentials = spec.secrets();
        let work = MirrorRequest {
            images,
            ledger: upkeep::ledger(self.mirror, self.observed).map(|name| name.to_string()),
            report: upkeep::report(self.mirror, self.observed, self.status),
            limits: spec.limits.clone(),
            referrers: spec.referrers,
            verify: spec.verify.as_ref().map(|_| self.observed.keys.clone()),
            prune: due.prune,
            check: due.check,
        };
        let request = Request {
            network: self.observed.builder.network.clone(),
            credentials: credential_paths(credentials.len()),
            plain_http: self.observed.plain_http.clone(),
            ..Request::new(Task::Mirror(work))
        };
        let attempt = Attempt {
            key,
            number,
            retries,
            generation: self.mirror.metadata.generation.unwrap_or_default(),
            reason: "Sync".to_owned(),
            commit: None,
            environment: self.environment(),
            part: None,
        };
        let pod = build_pod(&PodSpecInput {
            meta: child_meta(self.mirror, name.clone()),
            attempt: &attempt,
            request: &request,
            isolation: Isolation::NoRun,
            settings: &self.observed.builder,
            credentials: &credentials,
            source_secret: None,
            source_config_map: None,
            source_claim: None,
            cache_claim: None,
            secrets: &[],
            timeout: TIMEOUT,
            options: &PodOptions::default(),
        });
        Start {
            attempt: SyncAttempt {
                key: attempt.key,
                number: i32::try_from(number).unwrap_or(i32::MAX),
                retries: i32::try_from(retries).unwrap_or(i32::MAX),
                environment: Some(attempt.environment),
                pod: Some(name.clone()),
                pod_uid: None,
                result: Some(RUNNING.to_owned()),
                failure: None,
                next_time: None,
            },
            name,
            pod,
        }
    }
}

/// The platforms as a request names them.
fn platforms(platforms: &Platforms) -> Option<MirrorPlatforms> {
    let (only, rewrite) = match platforms {
        Platforms::Whole => return None,
        Platforms::Sparse(only) => (only, false),
        Platforms::Rewrite(only) => (only, true),
    };
    Some(MirrorPlatforms {
        only: only.iter().map(ToString::to_string).collect(),
        rewrite,
    })
}

fn syncing(message: &str) -> Summary {
    Summary {
        ready: ConditionStatus::Unknown,
        ..Summary::waiting(Reason::Syncing, message)
    }
}

/// Why a pod failed as a whole.
fn pod_failure(pod: &PodView) -> Option<String> {
    match pod.state() {
        PodState::Ended(Ended::Failed(failure)) => Some(failure.message),
        _ => None,
    }
}
