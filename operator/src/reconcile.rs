//! The five steps of every reconcile, and what surrounds them: timeout, panic guard, backoff, metrics, events.
//!
//! ```text
//! observe (reads) -> validate -> plan (both pure) -> apply (writes) -> status (pure) -> one patch
//! ```
//! A failure at any step still reaches the status. What the steps do is each kind's own; here is no decision
//! about objects.

use std::fmt::Debug;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::condition::{self, Condition};
use futures::{FutureExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::object::HasStatus;
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::controller::{Action, Config, Controller, Error as ControllerError};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::apply::{self, Failed};
use crate::backoff::{Backoff, jittered};
use crate::context::Context;
use crate::error::{Class, Error, Result};
use crate::plan::{Applied, Event, NAME_LABEL, Plan, Prepared, Severity};
use crate::reason::Reason;

/// The longest wait for what people must mend and no watch tells: a name that is taken, a quota, a level of Pod Security.
const MENDED_BY_PEOPLE: Duration = Duration::from_secs(10);

/// A kind that has a controller.
pub trait Primary:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + HasStatus<Status: Clone + Debug + Default + PartialEq + Send + Serialize + Sync>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
}

impl<K> Primary for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + HasStatus<Status: Clone + Debug + Default + PartialEq + Send + Serialize + Sync>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

/// How the steps before the status went.
#[derive(Debug)]
pub enum Outcome<'a, D> {
    /// Everything that was planned is written.
    Applied(&'a Plan<Applied, D>),
    /// A step failed.
    Failed {
        /// Why.
        error: &'a Error,
        /// What had been decided, when planning was reached.
        decision: Option<&'a D>,
    },
}

impl<D> Clone for Outcome<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Outcome<'_, D> {}

/// One kind's part of a reconcile.
pub trait Reconciler: Send + Sync + 'static {
    /// The kind.
    type Object: Primary;
    /// Everything outside the object that a decision depends on: children, Secrets, clock, chance.
    type Observed: Send + Sync;
    /// The spec, read into types that cannot be wrong.
    type Validated: Send + Sync;
    /// What was decided, for the status.
    type Decision: Send + Sync;

    /// Adds the watches of children and of objects that the kind refers to.
    fn watches(
        controller: Controller<DeserializeGuard<Self::Object>>,
        context: &Context,
    ) -> Controller<DeserializeGuard<Self::Object>>;

    /// Reads what a decision depends on. The only step that reads.
    fn observe(
        context: &Context,
        object: &Self::Object,
    ) -> impl Future<Output = Result<Self::Observed>> + Send;

    /// Reads the spec into types that cannot be wrong, or says what is wrong. Pure.
    fn validate(object: &Self::Object, observed: &Self::Observed) -> Result<Self::Validated>;

    /// Decides what is to be written. Pure.
    fn plan(
        object: &Self::Object,
        observed: Self::Observed,
        validated: Self::Validated,
    ) -> Plan<Prepared, Self::Decision>;

    /// Derives the status from how it went. Pure.
    fn status(
        object: &Self::Object,
        outcome: Outcome<'_, Self::Decision>,
        now: &Time,
    ) -> <Self::Object as HasStatus>::Status;

    /// The conditions of a status.
    fn conditions(status: &<Self::Object as HasStatus>::Status) -> &[Condition];
}

/// The object of kind `K` that `child` belongs to, by its label.
pub fn owner_by_label<K: Primary>(
    child: &impl ResourceExt,
) -> Option<ObjectRef<DeserializeGuard<K>>> {
    let name = child.labels().get(NAME_LABEL)?;
    Some(ObjectRef::new(name).within(&child.namespace()?))
}

/// How a reconcile ended.
#[derive(Debug)]
pub struct Finished {
    /// When to look again at the latest. Default: at the next resync.
    pub requeue: Option<Duration>,
    /// What failed first, if anything.
    pub error: Option<Error>,
}

/// Runs the controller of `R` until `stop`, then lets running reconciles end.
pub async fn run<R: Reconciler>(context: Context, stop: CancellationToken) {
    let api = context.watched::<DeserializeGuard<R::Object>>();
    let config = Config::default().concurrency(context.settings.concurrency);
    let controller = Controller::new(api, watcher::Config::default()).with_config(config);
    let controller = R::watches(controller, &context)
        .graceful_shutdown_on(async move { stop.cancelled().await });
    let state = Arc::new(State {
        context,
        backoff: Backoff::default(),
    });
    let kind = R::Object::kind(&());
    controller
        .run(
            guarded::<R>,
            // Never called: `guarded` turns every failure into an action.
            |_, never, _| match *never {},
            state.clone(),
        )
        .for_each(|result| {
            match result {
                Ok(_) => {}
                Err(ControllerError::ObjectNotFound(object)) => {
                    let namespace = object.namespace.clone().unwrap_or_default();
                    state.backoff.forget(&key(&namespace, &object.name));
                }
                Err(error) => tracing::warn!(kind = %kind, %error, "watch failed, trying again"),
            }
            std::future::ready(())
        })
        .await;
}

struct State {
    context: Context,
    backoff: Backoff,
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// One reconcile as the controller sees it: it cannot fail, and says when to look again.
async fn guarded<R: Reconciler>(
    object: Arc<DeserializeGuard<R::Object>>,
    state: Arc<State>,
) -> Result<Action, std::convert::Infallible> {
    let kind = R::Object::kind(&());
    let context = &state.context;
    let object = match &object.0 {
        Ok(readable) => readable,
        Err(invalid) => {
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            tracing::error!(kind = %kind, name, error = invalid.error, "object cannot be read");
            let event = Event {
                severity: Severity::Warning,
                reason: Reason::InvalidObject,
                action: "Reconcile",
                note: Reason::InvalidObject.explain(&invalid.error),
            };
            apply::publish(
                context,
                object.as_ref(),
                Some(&invalid.metadata.resource_version),
                &[event],
            )
            .await;
            context
                .metrics
                .reconciled(&kind, Reason::InvalidObject.as_str(), Duration::ZERO);
            return Ok(Action::await_change());
        }
    };
    let started = Instant::now();
    let running = context.metrics.running(&kind);
    let finished = reconcile::<R>(context, object).await;
    drop(running);

    let key = key(&object.namespace().unwrap_or_default(), &object.name_any());
    let result = finished
        .error
        .as_ref()
        .map_or("success", |error| error.reason().as_str());
    context.metrics.reconciled(&kind, result, started.elapsed());
    let resync = jittered(context.settings.resync, rand::random());
    let delay = match &finished.error {
        None => {
            state.backoff.forget(&key);
            finished.requeue.map_or(resync, |after| after.min(resync))
        }
        Some(error) => {
            tracing::warn!(
                kind = %kind,
                object = key,
                reason = error.reason().as_str(),
                error = error.message(),
                "reconcile failed"
            );
            match error.class() {
                Class::Terminal => {
                    state.backoff.forget(&key);
                    if error.reason() == Reason::NameConflict {
                        // No watch tells that an object of somebody else is gone.
                        resync.min(MENDED_BY_PEOPLE)
                    } else {
                        resync
                    }
                }
                Class::Transient => {
                    let wait = state.backoff.failed(&key);
                    match error.reason() {
                        // People wait to see that they have made room.
                        Reason::QuotaExceeded | Reason::PodSecurityForbidden => {
                            wait.min(MENDED_BY_PEOPLE)
                        }
                        _ => wait,
                    }
                }
            }
        }
    };
    Ok(Action::requeue(delay))
}

/// One reconcile: the five steps, the events and the one status patch. Never panics and never takes longer
/// than the settings say (plus as long for the status).
pub async fn reconcile<R: Reconciler>(context: &Context, object: &R::Object) -> Finished {
    if object.meta().deletion_timestamp.is_some() {
        // Children go with their owner by garbage collection.
        return Finished {
            requeue: None,
            error: None,
        };
    }
    let limit = context.settings.reconcile_timeout;
    // Boxed: what the steps of a kind hold is large, and most objects are not being reconciled.
    let outcome = bounded(limit, Box::pin(steps::<R>(context, object))).await;
    let outcome = outcome.unwrap_or_else(|error| Err((error, None)));
    let finish = Box::pin(report::<R>(context, object, &outcome));
    let reported = bounded(limit, finish).await.and_then(|result| result);
    let requeue = outcome.as_ref().ok().and_then(|plan| plan.requeue);
    let error = outcome.err().map(|(error, _)| error).or(reported.err());
    Finished {
        requeue,
        // The object is gone: there is nothing to tell any more.
        error: error.filter(|error| !(error.is_not_found())),
    }
}

/// Runs `future` with the time limit and the panic guard.
async fn bounded<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T> {
    match tokio::time::timeout(limit, AssertUnwindSafe(future).catch_unwind()).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => Err(Error::Panic(panic_message(panic.as_ref()))),
        Err(_) => Err(Error::Timeout(limit)),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

type Stepped<D> = Result<Plan<Applied, D>, (Error, Option<D>)>;

/// Observe, validate, plan, apply.
async fn steps<R: Reconciler>(context: &Context, object: &R::Object) -> Stepped<R::Decision> {
    let observed = R::observe(context, object)
        .await
        .map_err(|error| (error, None))?;
    let validated = R::validate(object, &observed).map_err(|error| (error, None))?;
    let plan = R::plan(object, observed, validated);
    apply::apply(context, plan).await.map_err(|failed| {
        let Failed { decision, error } = *failed;
        (error, Some(decision))
    })
}

/// Derives the status, tells what changed, and patches the status.
async fn report<R: Reconciler>(
    context: &Context,
    object: &R::Object,
    outcome: &Stepped<R::Decision>,
) -> Result<()> {
    let (seen, told): (Outcome<'_, R::Decision>, &[Event]) = match outcome {
        Ok(plan) => (Outcome::Applied(plan), &plan.events),
        Err((error, decision)) => (
            Outcome::Failed {
                error,
                decision: decision.as_ref(),
            },
            &[],
        ),
    };
    if let Outcome::Failed { error, .. } = &seen
        && error.is_conflict()
    {
        // Somebody else was faster: the next look says what is the case. A status now would only flap.
        return Ok(());
    }
    let status = R::status(object, seen, &context.time());
    let old = object.status();
    let mut events = told.to_vec();
    events.extend(change(
        old.map(R::conditions).unwrap_or_default(),
        R::conditions(&status),
    ));
    apply::publish(context, object, old, &events).await;
    apply::patch_status(context, object, old, &status).await
}

/// The event for a Ready condition whose status or reason changed.
fn change(old: &[Condition], new: &[Condition]) -> Option<Event> {
    let ready = condition::find(new, condition::READY)?;
    let before = condition::find(old, condition::READY);
    if before.is_some_and(|c| c.status == ready.status && c.reason == ready.reason) {
        return None;
    }
    let stalled = condition::is_true(new, condition::STALLED);
    let reason = Reason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == ready.reason)?;
    Some(Event {
        severity: if stalled || reason.is_alarming() {
            Severity::Warning
        } else {
            Severity::Normal
        },
        reason,
        action: "Reconcile",
        note: ready.message.clone(),
    })
}
