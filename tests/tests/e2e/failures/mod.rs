//! Failure is clear: every way a build can fail has its reason and a message that helps, within ten seconds of its cause;
//! mending the cause recovers without deleting the resource, and no child is left over. Here is what the cases share.

mod awaited;
mod disk;
mod interrupted;
mod own;

use std::time::Duration;

use anyhow::Context as _;
use crds::{ImageBuild, condition};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::{Value, json};
use tests::kstatus::{Conditioned as _, Kstatus, is_current, kstatus, message, reason};
use tests::stage::{Stage, TestNamespace};
use tests::witness::{Seen, Witness};

use super::main_job::image_build;

/// A pod must come and go before a failed build is told.
const LIMIT: Duration = Duration::from_secs(120);
/// How soon a cause shows in the condition.
const PROMPT: Duration = Duration::from_secs(10);

/// One ImageBuild that fails and is mended, in a namespace with others or of its own, and the witness of its conditions.
struct Case<'a> {
    namespace: &'a TestNamespace,
    name: &'a str,
    witness: Witness<ImageBuild>,
}

impl<'a> Case<'a> {
    async fn new(namespace: &'a TestNamespace, name: &'a str) -> anyhow::Result<Self> {
        let witness = Witness::start(namespace.api(), name).await?;
        Ok(Self {
            namespace,
            name,
            witness,
        })
    }

    /// Applies the build that [`image_build`] makes of `spec`; when that was asked for.
    async fn apply(&self, spec: Value) -> anyhow::Result<Timestamp> {
        let asked = Timestamp::now();
        let object = image_build(self.name, spec);
        self.namespace.apply_json::<ImageBuild>(object).await?;
        Ok(asked)
    }

    /// When people were first told of `wanted`: by Ready, or by Succeeded where the build is tried again.
    async fn told(&self, wanted: &str) -> anyhow::Result<Seen<ImageBuild>> {
        let tells = |build: &ImageBuild| {
            let succeeded = condition::find(build.conditions(), condition::SUCCEEDED);
            reason(build) == wanted || succeeded.is_some_and(|c| c.reason == wanted)
        };
        let what = format!("{} to say {wanted}", self.name);
        self.witness.first(&what, LIMIT, tells).await
    }

    /// As [`told`](Self::told), and fails when it came too long after `cause`, or without one of `words`.
    async fn told_promptly(
        &self,
        wanted: &str,
        words: &[&str],
        cause: Timestamp,
    ) -> anyhow::Result<ImageBuild> {
        let seen = self.told(wanted).await?;
        prompt(&format!("{}: {wanted}", self.name), cause, seen.at)?;
        for word in words {
            anyhow::ensure!(
                message(&seen.object).contains(word),
                "no `{word}` in: {}",
                message(&seen.object)
            );
        }
        Ok(seen.object)
    }

    /// As [`told_promptly`](Self::told_promptly), after the end of the build's pod; nothing is to happen until somebody
    /// mends it.
    async fn fails(&self, wanted: &str, words: &[&str]) -> anyhow::Result<ImageBuild> {
        self.told(wanted).await?;
        let ended = self.pod_ended().await?;
        let build = self.told_promptly(wanted, words, ended).await?;
        anyhow::ensure!(kstatus(&build) == Kstatus::Failed, "{build:#?}");
        Ok(build)
    }

    /// The builder pods.
    async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let labels = format!("coopery.dev/name={},coopery.dev/kind=ImageBuild", self.name);
        let selector = ListParams::default().labels(&labels);
        Ok(self.namespace.api::<Pod>().list(&selector).await?.items)
    }

    /// The first builder pod that is as `content` wants it.
    async fn pod(&self, what: &str, content: impl Fn(&Pod) -> bool) -> anyhow::Result<Pod> {
        tests::wait::until(what, LIMIT, || async {
            Ok(self.pods().await?.into_iter().find(&content))
        })
        .await
    }

    /// When the container of the newest builder pod that ended did so.
    async fn pod_ended(&self) -> anyhow::Result<Timestamp> {
        let ended = self.pods().await?.iter().filter_map(ended).max();
        ended.context("a builder pod that ended")
    }

    /// Waits until the same resource is Current, whatever mended it; then takes it away.
    async fn recovers(&self, failed: &ImageBuild) -> anyhow::Result<()> {
        let build = self
            .namespace
            .until::<ImageBuild>(self.name, "the mended build", LIMIT, is_current)
            .await?;
        anyhow::ensure!(build.uid() == failed.uid(), "the resource was made anew");
        self.leaves_nothing().await
    }

    /// Fails unless every pod has ended and all of them go with the resource.
    async fn leaves_nothing(&self) -> anyhow::Result<()> {
        let at_work = |pods: &Vec<Pod>| {
            pods.iter()
                .all(|p| ["Succeeded", "Failed"].contains(&phase(p)))
        };
        let pods = || self.pods();
        tests::wait::until_seen("every pod of the build to end", LIMIT, pods, at_work).await?;
        self.namespace.delete::<ImageBuild>(self.name).await?;
        tests::wait::until_seen("every pod of the build to go", LIMIT, pods, Vec::is_empty).await?;
        Ok(())
    }
}

fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// When the container of `pod` ended; of a pod that was evicted, when it was no longer ready: its container tells no time.
fn ended(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().next();
    let terminated = container.and_then(|c| c.state.as_ref()?.terminated.as_ref());
    let finished = terminated.and_then(|t| t.finished_at.as_ref());
    let mut conditions = status.conditions.iter().flatten();
    let unready = conditions
        .find(|c| c.type_ == "Ready" && c.status == "False" && phase(pod) == "Failed")
        .and_then(|c| c.last_transition_time.as_ref());
    Some(finished.or(unready)?.0)
}

/// Fails when `told` came too long after `cause`. Kubernetes writes whole seconds, so the cause counts as up to one earlier.
fn prompt(what: &str, cause: Timestamp, told: Timestamp) -> anyhow::Result<()> {
    let late = told.duration_since(cause);
    eprintln!("{what}: told {:.1} s after its cause", late.as_secs_f64());
    let late = Duration::try_from(late).unwrap_or_default();
    anyhow::ensure!(late <= PROMPT, "{what}: told {late:?} after its cause");
    Ok(())
}

/// A build from the busybox base that runs `steps`.
fn inline(stage: &Stage, steps: &str) -> Value {
    json!({"dockerfile": {"inline": format!("FROM {}\n{steps}\n", stage.busybox())}})
}
