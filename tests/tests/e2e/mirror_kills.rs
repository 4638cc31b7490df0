//! The pod of a mirror is killed at sampled moments of its work, which goes from one registry outside of the cluster to another:
//! the next one ends it, sends nothing again that had arrived, and no tag ever names something incomplete.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use crds::ImageMirror;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use reqwest::{Certificate, Client, StatusCode};
use serde_json::json;
use tests::kstatus::is_current;
use tests::stage::{Stage, TestNamespace};
use tests::upstream::CREDENTIALS;
use tests::wait::until;

use super::{count, on_stage};

const LIMIT: Duration = Duration::from_secs(120);
/// Layers of an image, and the bytes of each: with the rate below, each takes a second.
const LAYERS: usize = 6;
const LAYER: usize = 256 << 10;
/// How many layers have arrived when the pod is killed.
const MOMENTS: [usize; 10] = [3, 0, 5, 1, 4, 2, 3, 5, 1, 4];

/// What can be seen of the destination from here.
struct Destination<'a> {
    stage: &'a Stage,
    client: Client,
}

impl<'a> Destination<'a> {
    fn of(stage: &'a Stage) -> anyhow::Result<Self> {
        let authority = Certificate::from_pem(stage.authority.certificate.as_bytes())?;
        let client = Client::builder().no_proxy();
        let client = client.add_root_certificate(authority).build()?;
        Ok(Self { stage, client })
    }

    /// Whether it has `path` of a repository.
    async fn has(&self, path: &str) -> anyhow::Result<bool> {
        let url = format!("https://{}/v2/{path}", self.stage.private.local_host());
        let (user, password) = CREDENTIALS;
        let accept =
            "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
        let request = self.client.head(url).header("accept", accept);
        let answer = request.basic_auth(user, Some(password)).send().await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            other => anyhow::bail!("{path}: {other}"),
        }
    }

    async fn arrived(&self, repository: &str, layers: &[String]) -> anyhow::Result<usize> {
        let mut arrived = 0;
        for layer in layers {
            arrived += usize::from(self.has(&format!("{repository}/blobs/{layer}")).await?);
        }
        Ok(arrived)
    }
}

#[test]
fn a_mirror_converges_whenever_its_pod_is_killed() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("mirror-kills", "restricted").await?;
        namespace
            .docker_secret("push", &stage.private.docker_config())
            .await?;
        let destination = Destination::of(stage)?;
        let kills = usize::try_from(count(10))?.max(2);
        for (number, moment) in MOMENTS.iter().take(kills).enumerate() {
            kill(stage, &namespace, &destination, number, *moment)
                .await
                .with_context(|| format!("kill {number}, at {moment} layers"))?;
        }
        Ok(())
    });
}

/// Mirrors an image of its own, and kills the pod when `moment` of its layers are there.
async fn kill(
    stage: &Stage,
    namespace: &TestNamespace,
    destination: &Destination<'_>,
    number: usize,
    moment: usize,
) -> anyhow::Result<()> {
    let name = format!("kills/app-{number}");
    let layers = push(stage, &name, number).await?;
    let mirror = format!("kill-{number}");
    namespace
        .apply_json::<ImageMirror>(json!({
            "apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {"name": mirror},
            "spec": {
                "source": {"host": stage.public.host()},
                "destination": {"host": stage.private.host(), "secretRef": {"name": "push"}, "prefix": "mirrored"},
                "images": [{"name": "app", "repository": name, "tags": {"names": ["1"]}}],
                "limits": {"concurrency": 1, "bytesPerSecond": "256Ki"},
            },
        }))
        .await?;
    let repository = format!("mirrored/{name}");
    let pods = namespace.api::<Pod>();
    let selector = format!("coopery.dev/name={mirror},coopery.dev/kind=ImageMirror");
    let selector = ListParams::default().labels(&selector);
    let running = async || {
        let pods = pods.list(&selector).await?.items;
        let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
        let mut running = pods
            .iter()
            .filter(|pod| phase(pod).as_deref() == Some("Running"));
        anyhow::Ok(running.next().and_then(|pod| pod.metadata.name.clone()))
    };
    let pod = until("the pod to run", LIMIT, running).await?;
    until("the layers to arrive", LIMIT, || async {
        let arrived = destination.arrived(&repository, &layers).await?;
        Ok((arrived >= moment).then_some(()))
    })
    .await?;
    let at_once = DeleteParams::default().grace_period(0);
    pods.delete(&pod, &at_once).await?;

    // It was killed before it had named anything, and what is named later is whole.
    let tag = format!("{repository}/manifests/1");
    anyhow::ensure!(!destination.has(&tag).await?, "the pod was faster");
    let kept = destination.arrived(&repository, &layers).await?;
    until("the tag", LIMIT, || async {
        Ok(destination.has(&tag).await?.then_some(()))
    })
    .await?;
    let copy = format!("{repository}:1");
    stage.validate(&stage.private, &copy).await?;
    let mirror = namespace
        .until::<ImageMirror>(&mirror, "the mirror to be Ready", LIMIT, is_current)
        .await?;
    let digest = stage.digest(&stage.public, &format!("{name}:1")).await?;
    assert_eq!(stage.digest(&stage.private, &copy).await?, digest);
    let status = mirror.status.context("a Ready mirror has a status")?;
    assert_eq!(status.images[0].digest, digest);
    let sync = status.last_sync.context("something was copied")?;
    assert_eq!((sync.copied, sync.failed), (1, 0));
    // Layers, and the configuration, which may have come before the kill or after it.
    let (mounted, kept) = (usize::try_from(sync.mounted)?, kept);
    anyhow::ensure!(
        mounted >= kept && mounted <= kept + 1,
        "{mounted} blobs were there, {kept} had arrived"
    );
    Ok(())
}

/// Pushes an image of [`LAYERS`] layers that nothing else has; their digests.
async fn push(stage: &Stage, name: &str, number: usize) -> anyhow::Result<Vec<String>> {
    let context = stage.files().join(format!("kills-{number}"));
    fs_err::create_dir_all(&context)?;
    let mut dockerfile = "FROM scratch\n".to_owned();
    for layer in 0..LAYERS {
        let file = format!("layer-{layer}");
        let mut state = (number * LAYERS + layer + 1) as u64;
        // Noise, so that it is as large when packed.
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let bytes: Vec<u8> = noise.take(LAYER / 8).flatten().collect();
        fs_err::write(context.join(&file), bytes)?;
        writeln!(dockerfile, "COPY {file} /")?;
    }
    fs_err::write(context.join("Dockerfile"), dockerfile)?;
    let name = format!("{name}:1");
    stage.push(&stage.public, &name, &context).await?;
    let manifest = stage.manifest(&stage.public, &name).await?;
    let layers = manifest["layers"].as_array().context("it is an image")?;
    let digest = |layer: &serde_json::Value| layer["digest"].as_str().map(str::to_owned);
    let digests: Vec<String> = layers.iter().filter_map(digest).collect();
    anyhow::ensure!(digests.len() == LAYERS, "{manifest}");
    Ok(digests)
}
