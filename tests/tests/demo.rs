//! `make demo CONTEXT=… IMAGE_PREFIX=…` and `make demo-down CONTEXT=…` on a cluster that is there already: an embedded one
//! whose node pulls from a registry beside it, as a cluster of people does. The demo on its own cluster is not run here.

use std::process::Stdio;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use serde_json::json;
use tests::cluster::left_out;
use tests::stage::{OPERATOR_NAMESPACE, Stage, release_binary};
use tokio::process::Command;

/// Runs the demo with the kubeconfig of `stage`; what it printed.
async fn demo(stage: &Stage, arguments: &[&str]) -> anyhow::Result<String> {
    let release = release_binary("coopery")?;
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(arguments)
        .env("KUBECONFIG", stage.cluster.kubeconfig())
        .env(
            "COOPERY_RELEASE",
            release.parent().expect("it has a folder"),
        )
        .env("SSL_CERT_FILE", stage.authority_file())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "demo {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_uses_a_cluster_that_is_there_and_leaves_nothing() -> anyhow::Result<()> {
    if left_out("the demo on an existing cluster") {
        return Ok(());
    }
    let stage = Stage::start_without_operator("demo-context").await?;
    // Pods, the node and this machine call the registry by its address.
    let host = stage.public.local_host();
    let authority = &stage.authority.certificate;
    stage.cluster.trust_authority(&host, authority)?;
    let values = stage.files().join("demo-values.json");
    let more = json!({"builder": {"caCertificates": authority}});
    fs_err::write(&values, more.to_string())?;

    let (context, prefix) = (stage.cluster.name(), format!("{host}/coopery"));
    let base = format!("{host}/base/busybox:1");
    let values = values.to_string_lossy();
    let arguments = [
        "--context",
        context,
        "--image-prefix",
        &prefix,
        "--base",
        &base,
        "--values",
        &values,
    ];
    for _ in 0..2 {
        let told = demo(&stage, &arguments).await?;
        eprintln!("{told}");
        for word in [
            "chart installed",
            "registry/main is Ready",
            "imagemirror/base is Ready",
            "imagebuild/hello is Ready",
            "not run as a Pod",
        ] {
            ensure!(told.contains(word), "no `{word}` in:\n{told}");
        }
    }

    demo(
        &stage,
        &["--context", context, "--image-prefix", "unused", "--down"],
    )
    .await?;
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    for gone in ["coopery-demo", OPERATOR_NAMESPACE] {
        let left = namespaces.get_opt(gone).await?;
        ensure!(left.is_none(), "{gone} is left over: {left:#?}");
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
    let left = definitions.get_opt("imagebuilds.coopery.dev").await?;
    ensure!(left.is_none(), "the definitions are left over");
    stage.cluster.stop().await?;
    Ok(())
}
