//! Leader election by a Lease, as client-go does it.
//!
//! # Flow
//! 1. Read the lease. Absent: create it.
//! 2. Held by another whose record was seen to change less than its duration ago (by the local clock, never by
//!    the times in the record): wait.
//! 3. Else write this process into it, with the resource version that was read: of two candidates one gets a conflict.
//! 4. The leader repeats this every `retry_period`, and gives up when it did not succeed for `renew_deadline`,
//!    which is less than `lease_duration`: it has stopped when another may start. One attempt gets half of that
//!    time, so that an answer that never comes does not use up all of it.
//! 5. Every write asks the [`Tenure`] before it is sent: a process that wakes after a pause sends none.
//!
//! # Caveats
//! A lease does not fence: a write that was sent in time may arrive late. Children therefore have deterministic
//! names, and two operators at once still make one of each.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::settings::LeaderElection;
use crate::tenure::{Moment, Tenure};

/// Why leading ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// It was asked to stop; the lease was released.
    Stopped,
    /// The lease could not be renewed in time, or another holds it: the process must end at once.
    Lost,
}

/// One candidate for the lease.
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    settings: LeaderElection,
    tenure: Tenure,
    /// The last record that was read or written, and when it was first seen.
    observed: Option<(LeaseSpec, Instant)>,
}

/// What one attempt came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Attempt {
    /// This process holds the lease.
    Held,
    /// Another holds it.
    HeldByOther,
}

impl Candidate {
    /// A candidate with the name `identity`. `client` should be its own, without retries.
    pub fn new(client: Client, identity: String, settings: LeaderElection) -> Self {
        Self {
            api: Api::namespaced(client, &settings.namespace),
            identity,
            tenure: Tenure::limited(settings.renew_deadline),
            settings,
            observed: None,
        }
    }

    /// What writers ask: it lasts as long as this process leads.
    pub fn tenure(&self) -> Tenure {
        self.tenure.clone()
    }

    /// Waits until this process holds the lease; `false` when `stop` came first. `reached` is called after
    /// every answer of the API server.
    pub async fn acquire(&mut self, stop: &CancellationToken, reached: impl Fn()) -> bool {
        loop {
            match self.attempt(self.longest_attempt()).await {
                Ok(Attempt::Held) => {
                    reached();
                    tracing::info!(identity = self.identity, "leading");
                    return true;
                }
                Ok(Attempt::HeldByOther) => reached(),
                Err(error) => tracing::warn!(error, "lease not acquired, trying again"),
            }
            let pause = self
                .settings
                .retry_period
                .mul_f64(1.0 + 0.2 * rand::random::<f64>());
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Keeps the lease until `stop`, then releases it; returns early when it is lost.
    pub async fn hold(&mut self, stop: &CancellationToken) -> Ended {
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.release().await;
                    return Ended::Stopped;
                }
                () = tokio::time::sleep(self.settings.retry_period) => {}
            }
            let left = self.tenure.left();
            if left.is_zero() {
                return self.lost();
            }
            match self.attempt(left.min(self.longest_attempt())).await {
                Ok(Attempt::Held) => {}
                Ok(Attempt::HeldByOther) => return self.lost(),
                Err(error) => tracing::warn!(error, "lease not renewed, trying again"),
            }
            if self.tenure.left().is_zero() {
                return self.lost();
            }
        }
    }

    fn lost(&self) -> Ended {
        self.tenure.end();
        Ended::Lost
    }

    /// How long one attempt may take: after one that hangs there is time for another.
    fn longest_attempt(&self) -> Duration {
        self.settings.renew_deadline / 2
    }

    /// One attempt to acquire or renew, bounded by `limit`. What it reaches counts from when it began.
    async fn attempt(&mut self, limit: Duration) -> Result<Attempt, String> {
        let began = Moment::now();
        match tokio::time::timeout(limit, self.acquire_or_renew()).await {
            Ok(Ok(Attempt::Held)) => {
                self.tenure.renewed(began);
                Ok(Attempt::Held)
            }
            Ok(Ok(Attempt::HeldByOther)) => Ok(Attempt::HeldByOther),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the API server did not answer in time".to_owned()),
        }
    }

    async fn acquire_or_renew(&mut self) -> Result<Attempt, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.settings.lease).await? else {
            let spec = self.record(None);
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.settings.lease.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(spec),
            };
            let created = self.api.create(&PostParams::default(), &lease).await?;
            self.observe(created.spec.unwrap_or_default());
            return Ok(Attempt::Held);
        };
        let old = lease.spec.take().unwrap_or_default();
        self.observe(old.clone());
        if !self.may_take(&old, Instant::now()) {
            return Ok(Attempt::HeldByOther);
        }
        lease.spec = Some(self.record(Some(&old)));
        // The metadata that was read goes back with its resource version: a conflict means that another was faster.
        let written = self
            .api
            .replace(&self.settings.lease, &PostParams::default(), &lease)
            .await?;
        self.observe(written.spec.unwrap_or_default());
        Ok(Attempt::Held)
    }

    /// Remembers `spec` and when it was first seen.
    fn observe(&mut self, spec: LeaseSpec) {
        if self.observed.as_ref().is_none_or(|(old, _)| *old != spec) {
            self.observed = Some((spec, Instant::now()));
        }
    }

    /// Whether this process may write itself into a lease with the record `spec`, which was observed.
    fn may_take(&self, spec: &LeaseSpec, now: Instant) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let seconds = spec.lease_duration_seconds.unwrap_or(0).max(0);
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
            .max(self.settings.lease_duration);
        self.observed
            .as_ref()
            .is_some_and(|(_, since)| now.saturating_duration_since(*since) > duration)
    }

    /// The record that makes this process the holder, after `old`.
    fn record(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = old.is_some_and(|old| old.holder_identity.as_deref() == Some(&self.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.settings.lease_duration.as_secs()).ok(),
            acquire_time: old
                .filter(|_| same)
                .and_then(|old| old.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same || old.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    /// Gives the lease away, so that another need not wait for its end. A failure is logged: the lease expires.
    async fn release(&mut self) {
        self.tenure.end();
        let limit = self.settings.retry_period;
        match tokio::time::timeout(limit, self.try_release()).await {
            Ok(Ok(())) => tracing::info!("lease released"),
            Ok(Err(error)) => tracing::warn!(%error, "lease not released"),
            Err(_) => tracing::warn!("lease not released in time"),
        }
    }

    async fn try_release(&mut self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.settings.lease).await? else {
            return Ok(());
        };
        let Some(spec) = lease.spec.as_mut() else {
            return Ok(());
        };
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        self.api
            .replace(&self.settings.lease, &PostParams::default(), &lease)
            .await
            .map(drop)
    }
}
