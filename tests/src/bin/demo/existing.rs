//! The demo on a cluster that somebody else runs: no servers beside it, public images only.

use super::{
    BTreeMap, Command, Instant, LIMIT, NAMESPACE, OPERATOR_NAMESPACE, RELEASE, Stdio, Teller,
    repository,
};
use tests::stage::Stage;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: coopery-demo, labels: {pod-security.kubernetes.io/enforce: baseline}}
---
apiVersion: coopery.dev/v1alpha1
kind: Registry
metadata: {name: main, namespace: coopery-demo}
spec: {managed: {storage: {emptyDir: {}}}}
---
apiVersion: coopery.dev/v1alpha1
kind: ImageMirror
metadata: {name: busybox, namespace: coopery-demo}
spec:
  interval: 1h
  source: {host: docker.io}
  destination: {registry: {name: main}, prefix: mirror}
  images: [{name: busybox, repository: library/busybox, tags: {names: [stable]}}]
---
apiVersion: coopery.dev/v1alpha1
kind: ImageBuild
metadata: {name: hello, namespace: coopery-demo}
spec:
  dockerfile:
    inline: |
      FROM main.coopery-demo.svc:5000/mirror/library/busybox:stable
      RUN echo "made on $(uname -r)" > /hello
      CMD ["cat", "/hello"]
  imagePullSecrets: [{name: main-credentials}]
  destinations: [{name: main, registry: {name: main}, repository: hello, tags: [latest]}]
"#;

pub(super) async fn run(context: &str, prefix: &str) -> anyhow::Result<()> {
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
    tool("helm", &arguments, None).await?;
    teller.say("chart installed");
    let kubectl = |more: &[&str]| -> Vec<String> {
        ["--context", context]
            .iter()
            .chain(more)
            .map(|&a| a.to_owned())
            .collect()
    };
    tool("kubectl", &kubectl(&["apply", "-f", "-"]), Some(MANIFESTS)).await?;
    let timeout = format!("--timeout={}s", LIMIT.as_secs());
    for object in ["registry/main", "imagemirror/busybox", "imagebuild/hello"] {
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
    let mut child = Command::new(program)
        .args(arguments)
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
