//! Decides what an ImageBuild does next: start a build, wait (for what?), stop one, retry one, forget old ones. Pure: the
//! same resource and observations give the same plan, and the same plan carried out twice makes one pod.

use std::time::Duration;

use crds::ImageBuild;
use crds::condition::ConditionStatus;
use crds::image_build::{Attempt, ImageBuildStatus, Trigger};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::account::{Fate, Wishes, account};
use super::history::superfluous;
use super::key::{Key, part, spec_hash};
use super::need::Blocked;
use super::next::Next;
use super::observed::Observed;
use super::split::{ARCHITECTURE_LABEL, PartStart, pods_of_attempt, progress};
use super::start::{Start, start};
use super::validate::ValidatedBuild;
use crate::builder_pod::Owner;
use crate::condition::Summary;
use crate::plan::{Plan, Prepared};
use crate::reason::Reason;
use crate::request::{annotation, force_at, requested_at};

/// How often something is looked at that people must make or mend.
pub const POLL: Duration = Duration::from_secs(5);
/// How often a failed build looks whether its cause was mended.
pub const POLL_FAILED: Duration = Duration::from_secs(10);
/// How often a running pod is looked at, besides at each of its changes.
const POLL_RUNNING: Duration = Duration::from_secs(30);
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
    /// The parts of the present attempt that are started.
    pub parts: Vec<PartStart>,
    /// `lastHandledRequestedAt`, when everything was carried out.
    pub requested_at: Option<String>,
    /// `lastHandledForceAt`, when everything was carried out.
    pub force_at: Option<String>,
}

impl Decision {
    /// Names of the pods that are started.
    pub fn pod_names(&self) -> Vec<String> {
        let parts = self.parts.iter().map(|part| part.name.clone());
        let whole = self.start.iter().map(|start| start.name.clone());
        whole.chain(parts).collect()
    }
}

/// Everything that a decision is made of.
pub(super) struct Case<'a> {
    /// The resource.
    pub build: &'a ImageBuild,
    /// What was read besides.
    pub observed: &'a Observed,
    /// The status, with the records brought up to date.
    pub status: ImageBuildStatus,
    /// What has become of the present attempt.
    pub fate: Fate,
    /// Hash of the present spec.
    pub spec_hash: String,
}

/// Whether people have chosen the architecture of the node themselves.
fn selects_architecture(build: &ImageBuild) -> bool {
    let options = build.spec.pod.as_ref();
    options.is_some_and(|options| options.node_selector.contains_key(ARCHITECTURE_LABEL))
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
            may_split: !selects_architecture(build),
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
    pub(super) fn attempt(&self) -> Option<&Attempt> {
        self.status.attempt.as_ref()
    }

    /// The key of the present attempt.
    pub(super) fn made(&self) -> Option<Key> {
        self.attempt().map(|attempt| Key::read(&attempt.key))
    }

    /// The key of what is to be there; what stands in the way of knowing it. An image that is there stays good when
    /// something changes that `rebuild.triggers` does not name.
    pub(super) fn wanted(&self) -> Result<Key, Blocked> {
        let mut key = self.present()?;
        let spec = self.spec()?;
        let stays = self.fate == Fate::Succeeded || self.fate.is_active();
        if let Some(made) = self.made().filter(|made| stays && made.spec == key.spec) {
            if !spec.rebuild.follows(Trigger::Source) {
                key.source = made.source;
            }
            if !spec.rebuild.follows(Trigger::Inputs) {
                key.inputs = made.inputs;
            }
        }
        Ok(key)
    }

    /// The key of all that is there at present; what stands in the way of knowing it.
    pub(super) fn present(&self) -> Result<Key, Blocked> {
        let (spec, observed) = (self.spec()?, self.observed);
        observed.source_problem(spec).map_or(Ok(()), Err)?;
        observed.input_problem(spec).map_or(Ok(()), Err)?;
        let one = |text: Option<&str>| text.map_or_else(|| part(&[]), |text| part(&[text]));
        let mut key = Key {
            force: one(self.force_at().as_deref()),
            source: one(observed.revision()),
            inputs: part(&observed.input_values()),
            ..Key::of_spec(&self.spec_hash)
        };
        // What has not changed since the last attempt has called for that one.
        if let Some(made) = self.made().filter(|made| made.spec == key.spec) {
            key.bases = match observed.moved_bases(&self.status) {
                moved if moved.is_empty() => made.bases,
                moved => part(&moved),
            };
            key.schedule = match self.due() {
                None => made.schedule,
                Some(time) => part(&[&time.to_string()]),
            };
        }
        Ok(key)
    }

    /// The last time of the schedule, when the present attempt was started before it.
    fn due(&self) -> Option<Timestamp> {
        let schedule = self.spec().ok()?.rebuild.schedule.as_ref()?;
        let last = schedule.last(self.observed.now)?;
        let name = self.attempt()?.pod.as_ref()?;
        let record = self.status.builds.iter().find(|b| b.name == *name)?;
        (record.start_time.as_ref()?.0 < last).then_some(last)
    }

    /// How long it is until the next time of the schedule.
    fn until_schedule(&self) -> Option<Duration> {
        let schedule = self.spec().ok()?.rebuild.schedule.as_ref()?;
        let now = self.observed.now;
        let left = schedule.next(now)?.duration_since(now);
        // The clock that wakes the operator is another one than the one that tells the time.
        Some(Duration::try_from(left).ok()? + Duration::from_millis(100))
    }

    pub(super) fn spec(&self) -> Result<&ValidatedBuild, Blocked> {
        self.observed
            .spec
            .as_ref()
            .map_err(|violation| Blocked::stalled(violation.reason, violation.message.clone()))
    }

    /// The last wish to build again. One that was acted on holds also when its annotation is taken away.
    pub(super) fn force_at(&self) -> Option<String> {
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
        let reached = self.attempt().is_some_and(|attempt| {
            wanted
                .as_ref()
                .is_ok_and(|key| attempt.key == key.to_string())
        });
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
            parts: Vec::new(),
        };
        let pod = decision.start.as_ref().map(|start| start.pod.clone());
        let mut plan = Plan::new(decision);
        if let Some(pod) = pod {
            plan.create(&pod, &self.build.uid().unwrap_or_default());
        }
        let more = [self.observed.look_again, self.until_schedule()];
        for after in requeue.into_iter().chain(more.into_iter().flatten()) {
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
        let mut stop = Vec::new();
        let mut parts = Vec::new();
        let is_split = self.attempt().is_some_and(|a| !a.parts.is_empty());
        let (mut reason, mut message, mut after) = match &self.fate {
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
            } => (*reason, message.clone(), POLL),
            Fate::Stop { reason, message } => {
                stop = self.active_pods();
                (*reason, format!("{message}; it is being stopped"), POLL)
            }
            Fate::Stopping { reason } => (*reason, format!("pod {name} is being stopped"), POLL),
            Fate::Active { waiting: None } if is_split => {
                let parts = self.attempt().map(progress).unwrap_or_default();
                let message = format!("{name} is built for each platform apart: {parts}");
                (Reason::Building, message, POLL_RUNNING)
            }
            _ => (Reason::Building, format!("pod {name} runs"), POLL_RUNNING),
        };
        if is_split && matches!(self.fate, Fate::Active { .. }) {
            match self.part_starts() {
                Ok(starts) => parts = starts,
                Err(blocked) => {
                    (reason, message, after) = (blocked.reason, blocked.message, POLL);
                }
            }
        }
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
                (Ok(key), Some(attempt)) if attempt.key == key.to_string() => self.force_at(),
                _ => self.status.last_handled_force_at.clone(),
            },
            status: self.status.clone(),
            summary,
            start: None,
            parts,
        });
        for pod in stop {
            plan.delete(pod, None);
        }
        let starting: Vec<Pod> = plan.decision.parts.iter().map(|p| p.pod.clone()).collect();
        for pod in starting {
            plan.create(&pod, &self.build.uid().unwrap_or_default());
        }
        plan.requeue_after(after);
        if let Some(after) = self.observed.look_again {
            plan.requeue_after(after);
        }
        plan
    }

    /// The pods of the present attempt that have not ended.
    fn active_pods(&self) -> Vec<&Pod> {
        let Some(attempt) = self.attempt() else {
            return Vec::new();
        };
        let uid = attempt.pod_uid.as_deref();
        let whole = self
            .observed
            .pods
            .iter()
            .filter(|view| uid == Some(&view.pod.identity.uid));
        whole
            .chain(pods_of_attempt(attempt, &self.observed.parts))
            .filter(|view| view.is_active() && !view.pod.deleting)
            .map(|view| &view.pod.pod)
            .collect()
    }

    fn start(&self, number: u32, retries: u32, reason: &'static str) -> Result<Start, Blocked> {
        let spec = self.spec()?;
        self.observed.missing(spec).map_or(Ok(()), Err)?;
        // Whatever called for it, a build is of all that is there.
        let key = self.present()?.to_string();
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
            .find(|number| !used(&owner.pod_name(&key, *number)))
            .unwrap_or(number);
        let started = start(
            self.build,
            spec,
            self.observed,
            &key,
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
}
