//! `make demo`: the main job on real input, told step by step. On the embedded cluster, a named source package of Debian goes
//! into a git repository, a Debian root into an upstream registry; a Registry, an ImageMirror of that root and an ImageBuild
//! that starts from the mirrored root and runs the package's own tests are applied; the built image runs as a Pod.
//! With `--context`, the same kinds on a cluster that is there already.
#![expect(clippy::print_stdout, reason = "the output is the product")]

mod existing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use crds::{ImageBuild, ImageMirror, Registry};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{LogParams, ObjectMeta};
use oci::Reference;
use serde_json::json;
use tests::cluster::{Cluster, Options};
use tests::debian_base;
use tests::kstatus::is_current;
use tests::stage::{OPERATOR_NAMESPACE, RELEASE, Stage, TestNamespace, repository};
use tokio::process::Command;

/// Name of the demo's cluster.
const CLUSTER: &str = "demo";
/// Namespace of its resources.
const NAMESPACE: &str = "coopery-demo";
/// Source package of Debian that is built.
const PACKAGE: &str = "zlib";
const LIMIT: Duration = Duration::from_secs(300);

/// Run the main job and print what comes of it
#[derive(Parser)]
struct Arguments {
    /// Use the cluster of this kubectl context instead of an embedded one
    #[arg(long, requires = "image_prefix")]
    context: Option<String>,
    /// Where to push the images of operator, builder and registry, so that that cluster can pull them
    #[arg(long, requires = "context")]
    image_prefix: Option<String>,
    /// Image with a shell that is mirrored and built from; without credentials
    #[arg(
        long,
        requires = "context",
        default_value = "docker.io/library/busybox:stable"
    )]
    base: Reference,
    /// More values of the chart: authorities, proxies, pull Secrets
    #[arg(long, requires = "context")]
    values: Option<PathBuf>,
    /// Remove everything that the demo made
    #[arg(long)]
    down: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match (&arguments.context, &arguments.image_prefix, arguments.down) {
        (Some(context), _, true) => existing::down(context).await,
        (Some(context), Some(prefix), false) => {
            let wishes = existing::Wishes {
                context,
                prefix,
                base: &arguments.base,
                values: arguments.values.as_deref(),
            };
            existing::run(&wishes).await
        }
        (None, _, true) => down().await,
        _ => run().await,
    }
}

/// Says what is done, with the time since the start.
struct Teller(Instant);

impl Teller {
    fn say(&self, text: &str) {
        println!("[{:6.1}s] {text}", self.0.elapsed().as_secs_f32());
    }
}

async fn down() -> anyhow::Result<()> {
    match Cluster::attach(&Options::new(CLUSTER)) {
        Ok(cluster) => {
            cluster.stop().await?;
            println!("the cluster `{CLUSTER}` and everything in it is gone");
        }
        Err(_) => println!("no cluster `{CLUSTER}` runs"),
    }
    Ok(())
}

async fn run() -> anyhow::Result<()> {
    let teller = Teller(Instant::now());
    let cluster = if let Ok(cluster) = Cluster::attach(&Options::new(CLUSTER)) {
        teller.say("using the cluster `demo` of an earlier run (`make demo-down` removes it)");
        cluster
    } else {
        teller.say("starting a Kubernetes of its own: etcd, API server, kubelet, containerd …");
        Cluster::start(Options::new(CLUSTER).detached()).await?
    };
    let stage = Stage::on(cluster).await?;
    teller.say(&format!(
        "node Ready; KUBECONFIG={}",
        stage.cluster.kubeconfig().display()
    ));

    stage.install_chart(&[]).await?;
    teller.say(&format!("chart installed: helm upgrade --install {RELEASE} charts/coopery -n {OPERATOR_NAMESPACE} --wait"));

    let cache = Options::new(CLUSTER).cache;
    let base = debian_base::context(&cache, |text| teller.say(text))?;
    let pushed = stage
        .push(&stage.public, "library/debian-gcc:bookworm", &base)
        .await?;
    teller.say(&format!(
        "upstream registry has library/debian-gcc:bookworm {pushed}"
    ));

    let sources = sources(stage.files()).await?;
    fs_err::copy(
        repository().join("tests/demo/Dockerfile"),
        sources.join("Dockerfile"),
    )?;
    let commit = stage
        .git
        .commit_directory(PACKAGE, "main", &sources)
        .await?;
    teller.say(&format!(
        "git server has {PACKAGE} from Debian's sources, commit {commit}"
    ));

    let namespace = stage.existing_namespace(NAMESPACE, "baseline").await?;
    let registry_host = format!("main.{NAMESPACE}.svc:5000");
    apply(&stage, &registry_host, &namespace).await?;
    teller.say("applied: Registry main, ImageMirror debian, ImageBuild zlib");

    namespace
        .until::<Registry>("main", "the Registry to be Ready", LIMIT, is_current)
        .await?;
    teller.say(&format!("Registry main is Ready at {registry_host}"));
    let mirror = namespace
        .until::<ImageMirror>("debian", "the ImageMirror to be Ready", LIMIT, is_current)
        .await?;
    for image in mirror.status.iter().flat_map(|s| &s.images) {
        teller.say(&format!(
            "ImageMirror debian is Ready: {}:{} {}",
            image.repository, image.tag, image.digest
        ));
        anyhow::ensure!(
            image.digest == pushed,
            "the mirror changed the image: upstream has {pushed}"
        );
    }
    let build = namespace
        .until::<ImageBuild>(
            "zlib",
            "the ImageBuild to be Ready for this commit",
            LIMIT,
            |b| {
                let status = b.status.as_ref();
                let current = status
                    .and_then(|s| s.source.as_ref())
                    .and_then(|s| s.commit.as_deref())
                    == Some(&commit);
                current && is_current(b)
            },
        )
        .await?;
    report(&build)?;
    teller.say("ImageBuild zlib is Ready");

    show(&stage, &teller, &namespace, &registry_host, build).await
}

/// Runs the built image as a Pod and prints what people see with kubectl.
async fn show(
    stage: &Stage,
    teller: &Teller,
    namespace: &TestNamespace,
    registry_host: &str,
    build: ImageBuild,
) -> anyhow::Result<()> {
    let image = build
        .status
        .and_then(|s| s.image)
        .context("a Ready build has an image")?;
    stage.cluster.trust_plain_http(registry_host)?;
    let output = run_image(namespace, &image).await?;
    teller.say(&format!("a Pod ran {image}; it printed:"));
    for line in output.lines() {
        println!("           {line}");
    }
    println!();
    println!(
        "{}",
        stage
            .cluster
            .kubectl(&[
                "get",
                "registries,imagemirrors,imagebuilds",
                "-n",
                NAMESPACE
            ])
            .await?
    );
    println!(
        "Look around:  export KUBECONFIG={}",
        stage.cluster.kubeconfig().display()
    );
    println!("Clean up:     make demo-down");
    Ok(())
}

async fn apply(
    stage: &Stage,
    registry_host: &str,
    namespace: &TestNamespace,
) -> anyhow::Result<()> {
    let api = "coopery.dev/v1alpha1";
    namespace
        .apply_json::<Registry>(json!({
            "apiVersion": api, "kind": "Registry", "metadata": {"name": "main"},
            "spec": {"managed": {"storage": {"persistentVolumeClaim": {"size": "5Gi"}}}},
        }))
        .await?;
    namespace
        .apply_json::<ImageMirror>(json!({
            "apiVersion": api, "kind": "ImageMirror", "metadata": {"name": "debian"},
            "spec": {
                "interval": "1m",
                "source": {"host": stage.public.host()},
                "destination": {"registry": {"name": "main"}, "prefix": "mirror"},
                "images": [{"name": "debian-gcc", "repository": "library/debian-gcc", "tags": {"names": ["bookworm"]}}],
            },
        }))
        .await?;
    namespace
        .until::<ImageMirror>("debian", "the ImageMirror to be Ready", LIMIT, is_current)
        .await?;
    namespace
        .apply_json::<ImageBuild>(json!({
            "apiVersion": api, "kind": "ImageBuild", "metadata": {"name": "zlib"},
            "spec": {
                "source": {"git": {"url": stage.git.url(PACKAGE), "ref": {"branch": "main"}, "interval": "30s"}},
                "dockerfile": {"buildArgs": {"BASE": format!("{registry_host}/mirror/library/debian-gcc:bookworm")}},
                "imagePullSecrets": [{"name": "main-credentials"}],
                "destinations": [{"name": "main", "registry": {"name": "main"}, "repository": "apps/zlib", "tags": ["$(shortCommit)", "latest"]}],
                "timeout": "10m",
            },
        }))
        .await?;
    Ok(())
}

/// Prints conditions, digests, size and timings of a build.
fn report(build: &ImageBuild) -> anyhow::Result<()> {
    let status = build
        .status
        .as_ref()
        .context("a Ready build has a status")?;
    for condition in &status.conditions {
        println!(
            "           {:<12} {} {} {}",
            condition.type_, condition.status, condition.reason, condition.message
        );
    }
    println!(
        "           image        {}",
        status.image.as_deref().unwrap_or_default()
    );
    println!(
        "           size         {} bytes",
        status.size.unwrap_or_default()
    );
    for base in &status.base_images {
        println!("           base         {}@{}", base.reference, base.digest);
    }
    if let Some(isolation) = &status.isolation {
        println!(
            "           isolation    {} {}",
            isolation.mode,
            isolation.message.as_deref().unwrap_or_default()
        );
    }
    for run in status.builds.iter().take(1) {
        let (Some(start), Some(end)) = (&run.start_time, &run.completion_time) else {
            continue;
        };
        let seconds = end.0.duration_since(start.0).as_secs();
        println!(
            "           build        {} in {seconds} s, {} steps, {} cached",
            run.name,
            run.steps.unwrap_or_default(),
            run.cached_steps.unwrap_or_default()
        );
    }
    Ok(())
}

/// Runs the image as a Pod, pulled by the node with the registry's own Secret; what it printed.
async fn run_image(namespace: &TestNamespace, image: &str) -> anyhow::Result<String> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": ObjectMeta { name: Some("zlib".to_owned()), ..ObjectMeta::default() },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "imagePullSecrets": [{"name": "main-credentials"}],
            "containers": [{"name": "zlib", "image": image}],
        },
    }))?;
    let pods = namespace.api::<Pod>();
    if pods.get_opt("zlib").await?.is_some() {
        namespace.delete::<Pod>("zlib").await?;
    }
    pods.create(&kube::api::PostParams::default(), &pod).await?;
    let phase = |p: &Pod| {
        p.status
            .as_ref()
            .and_then(|s| s.phase.clone())
            .unwrap_or_default()
    };
    let done = namespace
        .until::<Pod>("zlib", "the Pod to end", LIMIT, |p| {
            ["Succeeded", "Failed"].contains(&&*phase(p))
        })
        .await?;
    let output = pods.logs("zlib", &LogParams::default()).await?;
    anyhow::ensure!(phase(&done) == "Succeeded", "the Pod failed: {output}");
    Ok(output)
}

/// The upstream sources of [`PACKAGE`] as Debian distributes them, unpacked.
async fn sources(directory: &Path) -> anyhow::Result<PathBuf> {
    let work = directory.join("source");
    let target = directory.join("source-tree");
    fs_err::create_dir_all(work.join("lists/partial"))?;
    fs_err::create_dir_all(&target)?;
    fs_err::write(
        work.join("sources.list"),
        "deb-src http://deb.debian.org/debian bookworm main\n",
    )?;
    let options: Vec<String> = [
        (
            "Dir::Etc::sourcelist",
            work.join("sources.list").to_string_lossy().into_owned(),
        ),
        ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
        (
            "Dir::State::lists",
            work.join("lists").to_string_lossy().into_owned(),
        ),
        ("APT::Sandbox::User", "root".to_owned()),
    ]
    .into_iter()
    .flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")])
    .collect();
    let apt = |more: &[&str]| -> Vec<String> {
        ["-qq".to_owned()]
            .into_iter()
            .chain(options.clone())
            .chain(more.iter().map(|&a| a.to_owned()))
            .collect()
    };
    for arguments in [
        apt(&["update"]),
        apt(&["source", "--download-only", PACKAGE]),
    ] {
        command(
            "apt-get",
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
            &work,
        )
        .await?;
    }
    let archive = fs_err::read_dir(&work)?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().contains(".orig.tar."))
        .context("the source package has no upstream archive")?;
    command(
        "tar",
        &[
            "-xf",
            &archive.path().to_string_lossy(),
            "--strip-components=1",
            "-C",
            &target.to_string_lossy(),
        ],
        &work,
    )
    .await?;
    Ok(target)
}

async fn command(program: &str, arguments: &[&str], directory: &Path) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| program.to_owned())?;
    anyhow::ensure!(
        output.status.success(),
        "{program} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
