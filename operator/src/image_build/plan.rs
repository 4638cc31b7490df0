//! Decides what an ImageBuild does next: start a build, wait (for what?), stop one, retry one, forget old ones. Pure: the
//! same resource and observations give the same plan, and the same plan carried out twice makes one pod.

use std::time::Duration;

use crds::ImageBuild;
use crds::condition::ConditionStatus;
use crds::image_build::{Attempt, ImageBuildStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::account::{Fate, Wishes, account, retry_delay};
use super::history::superfluous;
use super::key::{key, spec_hash, spec_part};
use super::need::Blocked;
use super::observed::{BaseLook, Observed, SourceState};
use super::start::{Start, start};
use super::validate::ValidatedBuild;
use crate::builder_pod::{Owner, PodFailure};
use crate::condition::{Progress, Summary};
use crate::plan::{Plan, Prepared};
use crate::reason::Reason;
use crate::request::{annotation, force_at, requested_at};

/// How often something is looked at that people must make or mend.
pub const POLL: Duration = Duration::from_secs(5);
/// How often a failed build looks whether its cause was mended.
pub const POLL_FAILED: Duration = Duration::from_secs(10);
/// How often a finished build looks at its ConfigMap, and at destinations that could not be reached.
const POLL_SETTLED: Duration = Duration::from_secs(30);
/// How often a running pod is looked at, besides at each of its changes.
const POLL_RUNNING: Duration = Duration::from_secs(30);
/// Why an attempt is started whose base image was missing and is there.
const BASE_IMAGE: &str = "BaseImage";
/// `timeout` of a spec that cannot be read.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);

/// What was decided: the status as it is to be when everything was carried out.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The status without its conditions, as of before the start of a pod.
    pub status: ImageBuildStatus,
    /// Ready, Reconciling and Stalled.
    pub summary: Summary,
    /// Succeeded: of the present or last attempt.
    pub succeeded: Option<(ConditionStatus, Reason, String)>,
    /// UpToDate: whether the image is of the present spec and source.
    pub up_to_date: (ConditionStatus, Reason, String),
    /// The attempt that is started.
    pub start: Option<Start>,
    /// `lastHandledRequestedAt`, when everything was carried out.
    pub requested_at: Option<String>,
    /// `lastHandledForceAt`, when everything was carried out.
    pub force_at: Option<String>,
}

/// What follows from the fate of the present attempt and from what is wanted.
enum Next {
    /// Nothing to do but to say so.
    Rest(Summary),
    /// Look again after a while.
    Poll(Summary, Duration),
    /// Start an attempt.
    Start {
        number: u32,
        retries: u32,
        reason: &'static str,
    },
}

/// Everything that the questions below are asked of.
struct Case<'a> {
    build: &'a ImageBuild,
    observed: &'a Observed,
    status: ImageBuildStatus,
    fate: Fate,
    spec_hash: String,
}

/// Decides.
pub fn plan(build: &ImageBuild, observed: &Observed) -> Plan<Prepared, Decision> {
    let mut status = build.status.clone().unwrap_or_default();
    let spec_hash = spec_hash(&build.spec);
    let cancel = annotation(build, crds::CANCEL_ANNOTATION);
    let fate = account(
        &mut status,
        observed,
        &Wishes {
            spec_hash: &spec_hash,
            cancel: cancel.as_deref(),
            retry_limit: build.spec.retry_limit(),
            timeout: observed
                .spec
                .as_ref()
                .map_or(DEFAULT_TIMEOUT, |s| s.timeout),
        },
    );
    let case = Case {
        build,
        observed,
        status,
        fate,
        spec_hash,
    };
    let mut plan = case.decide();
    for pod in superfluous(build, &case.status, observed) {
        plan.delete(pod, None);
    }
    plan
}

impl Case<'_> {
    fn attempt(&self) -> Option<&Attempt> {
        self.status.attempt.as_ref()
    }

    /// The key of what is to be there; what stands in the way of knowing it.
    fn wanted(&self) -> Result<String, Blocked> {
        let spec = self.spec()?;
        self.observed.source_problem(spec).map_or(Ok(()), Err)?;
        Ok(key(
            &self.spec_hash,
            self.observed.revision(),
            self.force_at().as_deref(),
        ))
    }

    fn spec(&self) -> Result<&ValidatedBuild, Blocked> {
        self.observed
            .spec
            .as_ref()
            .map_err(|violation| Blocked::stalled(violation.reason, violation.message.clone()))
    }

    /// The last wish to build again. One that was acted on holds also when its annotation is taken away.
    fn force_at(&self) -> Option<String> {
        force_at(self.build).or_else(|| self.status.last_handled_force_at.clone())
    }

    fn decide(&self) -> Plan<Prepared, Decision> {
        if self.fate.is_active() {
            return self.watch();
        }
        let wanted = self.wanted();
        let next = match &wanted {
            Ok(wanted) => self.next(wanted),
            Err(blocked) => self.blocked(blocked),
        };
        let mut start_made = None;
        let mut held_up = false;
        let (summary, requeue) = match next {
            Next::Rest(summary) => (summary, None),
            Next::Poll(summary, after) => (summary, Some(after)),
            Next::Start {
                number,
                retries,
                reason,
            } => match self.start(number, retries, reason) {
                Ok(made) => {
                    let message = format!("pod {} is being started", made.name);
                    start_made = Some(made);
                    let mut summary = Summary::waiting(Reason::Building, &message);
                    summary.ready = ConditionStatus::Unknown;
                    (summary, Some(POLL))
                }
                Err(blocked) => {
                    held_up = true;
                    (blocked.summary(), Some(POLL))
                }
            },
        };
        // A wish was acted on when what it asks for was started, or is there.
        let reached = self
            .attempt()
            .is_some_and(|attempt| wanted.as_ref().is_ok_and(|wanted| attempt.key == *wanted));
        let acted = start_made.is_some() || (reached && !held_up);
        let decision = Decision {
            succeeded: self.succeeded(start_made.as_ref()),
            up_to_date: self.up_to_date(&wanted, &summary),
            requested_at: if acted {
                requested_at(self.build)
            } else {
                self.status.last_handled_requested_at.clone()
            },
            force_at: if start_made.is_some() || reached {
                self.force_at()
            } else {
                self.status.last_handled_force_at.clone()
            },
            status: self.status.clone(),
            summary,
            start: start_made,
        };
        let pod = decision.start.as_ref().map(|start| start.pod.clone());
        let mut plan = Plan::new(decision);
        if let Some(pod) = pod {
            plan.create(&pod, &self.build.uid().unwrap_or_default());
        }
        for after in requeue.into_iter().chain(self.observed.look_again) {
            plan.requeue_after(after);
        }
        plan
    }

    /// A pod is there: wait for it or stop it.
    fn watch(&self) -> Plan<Prepared, Decision> {
        let name = self
            .attempt()
            .and_then(|attempt| attempt.pod.clone())
            .unwrap_or_default();
        let mut stop = None;
        let (reason, message, after) = match &self.fate {
            // That a pod takes a moment to start is no news.
            Fate::Active {
                waiting: Some((Reason::Pending, _)),
            } => (
                Reason::Building,
                format!("pod {name} is being started"),
                POLL,
            ),
            Fate::Active {
                waiting: Some((reason, message)),
            } => (*reason, format!("pod {name}: {message}"), POLL),
            Fate::Stop { reason, message } => {
                stop = self.current_pod();
                (*reason, format!("{message}; it is being stopped"), POLL)
            }
            Fate::Stopping { reason } => (*reason, format!("pod {name} is being stopped"), POLL),
            _ => (Reason::Building, format!("pod {name} runs"), POLL_RUNNING),
        };
        let mut summary = Summary::waiting(reason, &message);
        if reason == Reason::Building {
            summary.ready = ConditionStatus::Unknown;
        }
        let wanted = self.wanted();
        let mut plan = Plan::new(Decision {
            succeeded: Some((ConditionStatus::Unknown, reason, message)),
            up_to_date: self.up_to_date(&wanted, &summary),
            requested_at: requested_at(self.build),
            force_at: match (&wanted, self.attempt()) {
                (Ok(wanted), Some(attempt)) if attempt.key == *wanted => self.force_at(),
                _ => self.status.last_handled_force_at.clone(),
            },
            status: self.status.clone(),
            summary,
            start: None,
        });
        if let Some(pod) = stop {
            plan.delete(pod, None);
        }
        plan.requeue_after(after);
        if let Some(after) = self.observed.look_again {
            plan.requeue_after(after);
        }
        plan
    }

    fn current_pod(&self) -> Option<&Pod> {
        let uid = self.attempt()?.pod_uid.as_deref()?;
        self.observed
            .pods
            .iter()
            .find(|view| view.pod.identity.uid == uid)
            .map(|view| &view.pod.pod)
    }

    /// What follows when it is known what is to be there.
    fn next(&self, wanted: &str) -> Next {
        let attempt = self.attempt().filter(|attempt| attempt.key == wanted);
        let Some(attempt) = attempt else {
            return self.unless_suspended(Next::Start {
                number: 0,
                retries: 0,
                reason: self.why_new(),
            });
        };
        let number = u32::try_from(attempt.number).unwrap_or(0).saturating_add(1);
        let retries = u32::try_from(attempt.retries).unwrap_or(0);
        let asked = requested_at(self.build);
        let asked = asked.is_some() && asked != self.status.last_handled_requested_at;
        let again = Next::Start {
            number,
            retries: 0,
            reason: "Requested",
        };
        match &self.fate {
            Fate::Succeeded => self.settled(),
            Fate::Failed(_) | Fate::Cancelled { .. } if asked => self.unless_suspended(again),
            Fate::Failed(failure) => {
                if self.environment_changed(failure.reason, attempt) {
                    return self.unless_suspended(again);
                }
                match &attempt.next_time {
                    Some(next) if next.0 > self.observed.now => {
                        self.unless_suspended(self.retry_later(failure, attempt, next.0))
                    }
                    Some(_) => self.unless_suspended(Next::Start {
                        number,
                        retries: retries + 1,
                        reason: "Retry",
                    }),
                    None => self.failed(failure, attempt, number),
                }
            }
            // The spec was changed and then changed back.
            Fate::Cancelled {
                reason: Reason::Superseded,
            } => self.unless_suspended(Next::Start {
                number,
                retries: 0,
                reason: "Spec",
            }),
            Fate::Cancelled { reason } => {
                Next::Poll(Summary::stalled(*reason, reason.meaning()), POLL_FAILED)
            }
            _ => self.unless_suspended(again),
        }
    }

    /// A failure that is not tried again before its cause is mended. Where the cause is a base image that was not there,
    /// that is seen here; where mirrors and builds bring it, the build waits for it.
    fn failed(&self, failure: &PodFailure, attempt: &Attempt, number: u32) -> Next {
        let Some(image) = &failure.missing_image else {
            let summary = Summary::stalled(failure.reason, &failure.message);
            return Next::Poll(summary, POLL_FAILED);
        };
        let found = self.observed.base.as_ref();
        if found == Some(&BaseLook::There) && self.has_rested(attempt) {
            return self.unless_suspended(Next::Start {
                number,
                retries: 0,
                reason: BASE_IMAGE,
            });
        }
        let message = match found {
            Some(BaseLook::Unknown(why)) => format!(
                "{}; the operator cannot see whether it is there now: {why}",
                failure.message
            ),
            _ => format!("{}; the build starts when it is there", failure.message),
        };
        if self.observed.is_of_registry(image) {
            let summary = Summary::waiting(failure.reason, &message);
            self.unless_suspended(Next::Poll(summary, POLL_FAILED))
        } else {
            Next::Poll(Summary::stalled(failure.reason, &message), POLL_FAILED)
        }
    }

    /// Whether an attempt that was started because its base had appeared may be followed by another for the same cause:
    /// a registry that shows an image and does not serve it is asked more and more seldom.
    fn has_rested(&self, attempt: &Attempt) -> bool {
        if attempt.reason != BASE_IMAGE {
            return true;
        }
        let record = self
            .status
            .builds
            .iter()
            .find(|build| Some(&build.name) == attempt.pod.as_ref());
        let ended = record.and_then(|build| build.completion_time.as_ref());
        let before = u32::try_from(attempt.number).unwrap_or(0).saturating_sub(1);
        ended.is_none_or(|ended| {
            let rested = self.observed.now.duration_since(ended.0);
            Duration::try_from(rested).unwrap_or_default() >= retry_delay(before)
        })
    }

    fn retry_later(&self, failure: &PodFailure, attempt: &Attempt, next: Timestamp) -> Next {
        let message = format!(
            "{}: {}; retry {} of {} starts at {next}",
            failure.reason.as_str(),
            failure.message,
            attempt.retries + 1,
            self.build.spec.retry_limit(),
        );
        let left = next.duration_since(self.observed.now);
        let left = Duration::try_from(left).unwrap_or_default();
        Next::Poll(
            Summary::waiting(Reason::RetryPending, &message),
            left.clamp(Duration::from_millis(100), POLL_FAILED),
        )
    }

    /// Whether an attempt that failed by Secrets or isolation would now meet others.
    fn environment_changed(&self, reason: Reason, attempt: &Attempt) -> bool {
        let depends = matches!(
            reason,
            Reason::RegistryUnauthorized
                | Reason::ImageUnauthorized
                | Reason::SourceUnauthorized
                | Reason::BaseImageNotFound
                | Reason::IsolationUnavailable
                | Reason::SecretInvalid
        );
        let Ok(spec) = &self.observed.spec else {
            return false;
        };
        let (isolation, _) = self.observed.isolation(spec.isolation);
        let now = self.observed.environment(isolation);
        depends
            && attempt
                .environment
                .as_ref()
                .is_some_and(|then| *then != now)
    }

    /// The image is there.
    fn settled(&self) -> Next {
        let image = self.status.image.as_deref().unwrap_or_default();
        let unverified: Vec<&str> = self
            .status
            .destinations
            .iter()
            .filter(|destination| destination.verified == "Unknown")
            .map(|destination| destination.name.as_str())
            .collect();
        if unverified.is_empty() {
            let summary = Summary::ready(Reason::Succeeded, image);
            return match self.observed.source {
                SourceState::ConfigMap(_) => Next::Poll(summary, POLL_SETTLED),
                _ => Next::Rest(summary),
            };
        }
        let message = format!("{image}; not yet read back from {}", unverified.join(", "));
        Next::Poll(Summary::ready(Reason::Succeeded, message), POLL_SETTLED)
    }

    /// It is not known what is to be there: an image of the same spec stays good.
    fn blocked(&self, blocked: &Blocked) -> Next {
        let same_spec = self
            .attempt()
            .is_some_and(|attempt| spec_part(&attempt.key) == self.spec_hash);
        match &self.fate {
            Fate::Succeeded if same_spec => match self.settled() {
                Next::Rest(summary) | Next::Poll(summary, _) => Next::Poll(summary, POLL_FAILED),
                start @ Next::Start { .. } => start,
            },
            // What must be made first is told first.
            _ => {
                let spec = self.observed.spec.as_ref().ok();
                let missing = spec.and_then(|spec| self.observed.missing(spec));
                let summary = missing.as_ref().unwrap_or(blocked).summary();
                Next::Poll(summary, POLL)
            }
        }
    }

    fn unless_suspended(&self, next: Next) -> Next {
        if self.build.spec.suspended() {
            Next::Rest(Summary {
                ready: ConditionStatus::False,
                progress: Progress::Settled,
                reason: Reason::Suspended,
                message: Reason::Suspended.explain("a build is due, but the resource is suspended"),
            })
        } else {
            next
        }
    }

    /// Why something else is built than before.
    fn why_new(&self) -> &'static str {
        let Some(attempt) = self.attempt() else {
            return "Spec";
        };
        if spec_part(&attempt.key) != self.spec_hash {
            "Spec"
        } else if self.force_at() != self.status.last_handled_force_at {
            "Forced"
        } else {
            "Source"
        }
    }

    fn start(&self, number: u32, retries: u32, reason: &'static str) -> Result<Start, Blocked> {
        let spec = self.spec()?;
        self.observed.missing(spec).map_or(Ok(()), Err)?;
        let wanted = self.wanted()?;
        let owner = Owner::of(self.build);
        // A name that was used in this history is not used again, so that records stay apart.
        let used = |name: &str| {
            self.status.builds.iter().any(|build| build.name == name)
                || self
                    .observed
                    .pods
                    .iter()
                    .any(|v| v.pod.identity.name == name)
        };
        let number = (number..number.saturating_add(64))
            .find(|number| !used(&owner.pod_name(&wanted, *number)))
            .unwrap_or(number);
        let started = start(
            self.build,
            spec,
            self.observed,
            &wanted,
            number,
            retries,
            reason,
        );
        if self.observed.taken.as_deref() == Some(started.name.as_str()) {
            return Err(Blocked::stalled(
                Reason::NameConflict,
                format!("Pod {} exists and belongs to somebody else", started.name),
            ));
        }
        Ok(started)
    }

    fn succeeded(&self, starting: Option<&Start>) -> Option<(ConditionStatus, Reason, String)> {
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

    fn up_to_date(
        &self,
        wanted: &Result<String, Blocked>,
        summary: &Summary,
    ) -> (ConditionStatus, Reason, String) {
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
