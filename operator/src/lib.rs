//! The operator: controllers of `Registry`, `ImageBuild` and `ImageMirror`.
//!
//! Every reconcile has five steps (see [`reconcile`]): observe, validate, plan, apply, status. Deciding is pure;
//! [`apply`] is the only module that writes to Kubernetes. The builder's engine is not linked here: operator and
//! builder meet in the crate `protocol`.

pub mod admin;
pub mod apply;
pub mod backoff;
pub mod budget;
pub mod builder_pod;
pub mod cluster;
pub mod condition;
pub mod context;
pub mod error;
pub mod git;
pub mod image_build;
pub mod image_mirror;
pub mod leader;
pub mod lookups;
pub mod metrics;
pub mod network;
pub mod plan;
pub mod pod_state;
pub mod reason;
pub mod reconcile;
pub mod registry;
pub mod request;
pub mod schedule;
pub mod settings;
pub mod telemetry;
pub mod tenure;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::Health;
use crate::context::Context;
use crate::leader::{Candidate, Ended};
use crate::metrics::Metrics;
use crate::network::GuardedNetwork;
use crate::settings::Settings;

/// How long running reconciles may take to end after a signal.
const DRAIN: Duration = Duration::from_secs(20);

/// Why the operator ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Settings(String),
    /// There is no way to the API server.
    #[error("read the client configuration")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The client could not be made.
    #[error("make the client")]
    Client(#[source] kube::Error),
    /// The admin port could not be opened.
    #[error("open the admin port")]
    Admin(#[source] std::io::Error),
    /// Signals could not be received.
    #[error("listen to signals")]
    Signal(#[source] std::io::Error),
    /// The lease was lost: the process must end before it expires.
    #[error("the lease was lost")]
    LeaseLost,
}

/// Runs the controllers until a signal. Returns `LeaseLost` when the lease was lost: the caller must exit at once.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    if let Some(violation) = settings.leader_election.violation() {
        return Err(RunError::Settings(violation));
    }
    let settings = Arc::new(settings);
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::default());
    let stop = stop_on_signal()?;
    // The probes answer until the end, also while reconciles are drained.
    let admin_stop = CancellationToken::new();
    let _admin_guard = admin_stop.clone().drop_guard();
    admin::serve(
        settings.admin_addr,
        health.clone(),
        metrics.clone(),
        admin_stop,
    )
    .await
    .map_err(RunError::Admin)?;

    let config = client_config(&settings).await?;
    let client = Client::try_from(config.clone()).map_err(RunError::Client)?;
    let network = GuardedNetwork::new(&settings).map_err(RunError::Settings)?;
    let context =
        Context::new(client, settings.clone(), metrics.clone()).with_network(Arc::new(network));
    if !settings.leader_election.enabled {
        health.set_ready();
        metrics.set_leader(true);
        control(&context, &stop).await;
        return Ok(());
    }
    // A client of its own: the lease must not wait behind anything.
    let client = Client::try_from(config).map_err(RunError::Client)?;
    let election = settings.leader_election.clone();
    let mut candidate = Candidate::new(client, context.identity.clone(), election);
    let context = context.with_tenure(candidate.tenure());
    if !candidate.acquire(&stop, || health.set_ready()).await {
        return Ok(());
    }
    metrics.set_leader(true);
    let release = CancellationToken::new();
    let held = {
        let release = release.clone();
        tokio::spawn(async move { candidate.hold(&release).await })
    };
    lead(&context, &stop, release, held, &health).await
}

/// Runs the controllers beside the task that holds the lease.
async fn lead(
    context: &Context,
    stop: &CancellationToken,
    release: CancellationToken,
    mut held: tokio::task::JoinHandle<Ended>,
    health: &Health,
) -> Result<(), RunError> {
    tokio::select! {
        // Dropping the controllers ends their reconciles.
        ended = &mut held => {
            tracing::error!(?ended, "the lease was lost, exiting");
            health.set_failed();
            context.metrics.set_leader(false);
            Err(RunError::LeaseLost)
        }
        () = control(context, stop) => {
            release.cancel();
            match held.await {
                Ok(Ended::Stopped) => Ok(()),
                Ok(Ended::Lost) | Err(_) => Err(RunError::LeaseLost),
            }
        }
    }
}

/// Runs the controllers until `stop`, then gives running reconciles [`DRAIN`] to end.
async fn control(context: &Context, stop: &CancellationToken) {
    let controllers = join_all(controllers(context, stop));
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
        tracing::warn!("some reconciles did not end in time");
    };
    tokio::select! {
        _ = controllers => tracing::info!("controllers ended"),
        () = drained => {}
    }
}

/// The controllers of all kinds.
fn controllers(context: &Context, stop: &CancellationToken) -> Vec<BoxFuture<'static, ()>> {
    vec![
        Box::pin(reconcile::run::<registry::RegistryReconciler>(
            context.clone(),
            stop.clone(),
        )),
        Box::pin(reconcile::run::<image_build::ImageBuildReconciler>(
            context.clone(),
            stop.clone(),
        )),
        Box::pin(reconcile::run::<image_mirror::ImageMirrorReconciler>(
            context.clone(),
            stop.clone(),
        )),
    ]
}

/// A token that is cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> Result<CancellationToken, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        token.cancel();
    });
    Ok(stop)
}

/// The way to the API server: the pod's service account, or the kubeconfig that the command line names.
async fn client_config(settings: &Settings) -> Result<kube::Config, RunError> {
    let refused = |error: Box<dyn std::error::Error + Send + Sync>| RunError::Config(error);
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|e| refused(Box::new(e)))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(|e| refused(Box::new(e)))?
        }
        None => kube::Config::incluster().map_err(|e| refused(Box::new(e)))?,
    };
    // The client's own retries take up to hours; a reconcile is tried again by its backoff instead.
    config.default_retry = false;
    Ok(config)
}
