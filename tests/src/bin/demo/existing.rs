//! The demo on a cluster that somebody else runs: no servers beside it, and a base image that needs no credentials.

use std::path::Path;

use super::{
    BTreeMap, CLUSTER, Command, Instant, LIMIT, NAMESPACE, OPERATOR_NAMESPACE, RELEASE, Stdio,
    Teller, repository,
};
use oci::Reference;
use tests::cluster::Options;
use tests::stage::Stage;

/// What the demo is to use.
pub(super) struct Wishes<'a> {
    /// The kubectl context.
    pub(super) context: &'a str,
    /// Where the images of operator, builder and registry are pushed.
    pub(super) prefix: &'a str,
    /// The image that is mirrored and built from.
    pub(super) base: &'a Reference,
    /// More values of the chart.
    pub(super) values: Option<&'a Path>,
}

/// The resources, in their order.
fn manifests(base: &Reference) -> String {
    let (host, repository) = (base.repository().host(), base.repository().path());
    let tag = base.tag().map_or("latest", |tag| tag.as_str());
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}, labels: {{pod-security.kubernetes.io/enforce: baseline}}}}
---
apiVersion: coopery.dev/v1alpha1
kind: Registry
metadata: {{name: main, namespace: {NAMESPACE}}}
spec: {{managed: {{storage: {{emptyDir: {{}}}}}}}}
---
apiVersion: coopery.dev/v1alpha1
kind: ImageMirror
metadata: {{name: base, namespace: {NAMESPACE}}}
spec:
  interval: 1h
  source: {{host: "{}"}}
  destination: {{registry: {{name: main}}, prefix: mirror}}
  images: [{{name: base, repository: {repository}, tags: {{names: ["{tag}"]}}}}]
---
apiVersion: coopery.dev/v1alpha1
kind: ImageBuild
metadata: {{name: hello, namespace: {NAMESPACE}}}
spec:
  dockerfile:
    inline: |
      FROM main.{NAMESPACE}.svc:5000/mirror/{repository}:{tag}
      RUN echo "made on $(uname -r)" > /hello
      CMD ["cat", "/hello"]
  imagePullSecrets: [{{name: main-credentials}}]
  destinations: [{{name: main, registry: {{name: main}}, repository: hello, tags: [latest]}}]
"#,
        host.as_str()
    )
}

pub(super) async fn run(wishes: &Wishes<'_>) -> anyhow::Result<()> {
    let (context, prefix) = (wishes.context, wishes.prefix);
    let teller = Teller(Instant::now());
    let script = repository().join("builder-image/build-images");
    let status = Command::new(script)
        .env("PUSH_PREFIX", prefix)
        .status()
        .await?;
    anyhow::ensure!(
        status.success(),
        "the images could not be pushed below {prefix}: log in with the tool that you use, or name another prefix"
    );
    teller.say(&format!(
        "pushed operator, builder and registry below {prefix}"
    ));
    let chart = Stage::chart();
    let images: BTreeMap<&str, &str> = [
        ("image", "operator"),
        ("builder.image", "builder"),
        ("registry.image", "registry"),
    ]
    .into();
    let mut arguments: Vec<String> = [
        "--kube-context",
        context,
        "upgrade",
        "--install",
        RELEASE,
        &chart,
        "-n",
        OPERATOR_NAMESPACE,
        "--create-namespace",
        "--wait",
    ]
    .map(str::to_owned)
    .into();
    for (value, image) in images {
        arguments.extend([
            "--set".to_owned(),
            format!("{value}.repository={prefix}/{image}"),
        ]);
    }
    if let Some(values) = wishes.values {
        arguments.extend(["--values".to_owned(), values.display().to_string()]);
    }
    tool("helm", &arguments, None).await?;
    teller.say("chart installed");
    let kubectl = |more: &[&str]| -> Vec<String> {
        ["--context", context]
            .iter()
            .chain(more)
            .map(|&a| a.to_owned())
            .collect()
    };
    tool(
        "kubectl",
        &kubectl(&["apply", "-f", "-"]),
        Some(&manifests(wishes.base)),
    )
    .await?;
    let timeout = format!("--timeout={}s", LIMIT.as_secs());
    for object in ["registry/main", "imagemirror/base", "imagebuild/hello"] {
        tool(
            "kubectl",
            &kubectl(&[
                "wait",
                "-n",
                NAMESPACE,
                "--for=condition=Ready",
                &timeout,
                object,
            ]),
            None,
        )
        .await?;
        teller.say(&format!("{object} is Ready"));
    }
    tool(
        "kubectl",
        &kubectl(&["get", "coopery", "-n", NAMESPACE]),
        None,
    )
    .await?;
    teller.say("not run as a Pod: the nodes of this cluster do not know main.coopery-demo.svc:5000 as a registry");
    Ok(())
}

pub(super) async fn down(context: &str) -> anyhow::Result<()> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    tool(
        "kubectl",
        &words(&format!(
            "--context {context} delete namespace {NAMESPACE} --ignore-not-found --wait"
        )),
        None,
    )
    .await?;
    tool("helm", &words(&format!("--kube-context {context} uninstall {RELEASE} -n {OPERATOR_NAMESPACE} --ignore-not-found --wait")), None).await?;
    let definitions = "imagebuilds.coopery.dev imagemirrors.coopery.dev registries.coopery.dev";
    tool(
        "kubectl",
        &words(&format!(
            "--context {context} delete crd {definitions} --ignore-not-found"
        )),
        None,
    )
    .await?;
    tool(
        "kubectl",
        &words(&format!(
            "--context {context} delete namespace {OPERATOR_NAMESPACE} --ignore-not-found"
        )),
        None,
    )
    .await
}

async fn tool(program: &str, arguments: &[String], input: Option<&str>) -> anyhow::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    // The embedded cluster's programs serve where the machine has none.
    let path = std::env::var("PATH").unwrap_or_default();
    let ours = Options::new(CLUSTER).cache.join("bin");
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:{}", ours.display()))
        .stdin(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin
        .write_all(input.unwrap_or_default().as_bytes())
        .await?;
    drop(stdin);
    anyhow::ensure!(
        child.wait().await?.success(),
        "{program} {arguments:?} failed"
    );
    Ok(())
}
