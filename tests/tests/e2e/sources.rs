//! Sources that are neither git, an archive nor a ConfigMap: an image of a registry, whose tag moves, and a claim. And servers
//! of sources whose authority nobody knows but a Secret.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use crds::ImageBuild;
use crds::image_build::ImageBuildStatus;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::json;
use tests::certificate::Authority;
use tests::git_server::GitServer;
use tests::kstatus::{is_current, message};
use tests::stage::{Stage, TestNamespace};

use super::cache::claim;
use super::inputs::status;
use super::main_job::{archive, built, image_build, registry, run_image};
use super::on_stage;

const LIMIT: Duration = Duration::from_secs(120);

/// Pushes an image that holds a Dockerfile and a file that it copies; its digest.
async fn push_context(stage: &Stage, message: &str) -> anyhow::Result<String> {
    let directory = stage.files().join("context-image");
    fs_err::create_dir_all(directory.join("files"))?;
    fs_err::write(
        directory.join("Dockerfile"),
        "FROM scratch\nCOPY files/ /\n",
    )?;
    let dockerfile = format!(
        "FROM {}\nCOPY message /message\nCMD [\"cat\", \"/message\"]\n",
        stage.busybox()
    );
    fs_err::write(directory.join("files/Dockerfile"), dockerfile)?;
    fs_err::write(directory.join("files/message"), message)?;
    stage
        .push(&stage.public, "contexts/app:main", &directory)
        .await
}

#[test]
fn an_image_is_the_source_and_its_moved_tag_is_built() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("oci-source", "baseline").await?;
        let host = registry(&namespace).await?;
        let one = push_context(stage, "one").await?;
        let image = format!("{}/contexts/app:main", stage.public.host());
        let spec = json!({"source": {"oci": {"image": image, "interval": "5s"}}});
        let first = status(built(&namespace, image_build("app", spec)).await?)?;
        let source = |status: &ImageBuildStatus| status.source.clone().and_then(|s| s.digest);
        assert_eq!(source(&first), Some(one));
        let made = first.image.context("image")?;
        assert_eq!(
            run_image(stage, &namespace, "first", &host, &made).await?,
            "one"
        );
        let two = push_context(stage, "two").await?;
        let moved = namespace
            .until::<ImageBuild>("app", "the moved tag to be built", LIMIT, |b| {
                let now = b.status.as_ref().and_then(source);
                is_current(b) && now.as_deref() == Some(two.as_str())
            })
            .await?;
        let moved = status(moved)?;
        assert_eq!(moved.builds[0].reason, "Source");
        let made = moved.image.context("image")?;
        assert_eq!(
            run_image(stage, &namespace, "second", &host, &made).await?,
            "two"
        );
        Ok(())
    });
}

/// A claim whose `app` holds a Dockerfile and a file that it copies, written by a Pod.
async fn filled_claim(stage: &Stage, namespace: &TestNamespace, host: &str) -> anyhow::Result<()> {
    claim(namespace, "files").await?;
    let inline = format!("FROM {}\nENV A=1\n", stage.busybox());
    let spec = json!({"dockerfile": {"inline": inline}});
    let tools = status(built(namespace, image_build("tools", spec)).await?)?;
    stage.cluster.trust_plain_http(host)?;
    let script = format!(
        "mkdir /files/app && cd /files/app && echo hello > message && printf 'FROM {}\\nCOPY message /message\\nCMD [\"cat\", \"/message\"]\\n' > Dockerfile",
        stage.busybox()
    );
    namespace
        .apply_json::<Pod>(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fill"},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": false,
                "imagePullSecrets": [{"name": "main-credentials"}],
                "containers": [{
                    "name": "main", "image": tools.image, "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": "files", "mountPath": "/files"}],
                }],
                "volumes": [{"name": "files", "persistentVolumeClaim": {"claimName": "files"}}],
            },
        }))
        .await?;
    namespace
        .until::<Pod>("fill", "the claim to be filled", LIMIT, |pod| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            phase == Some("Succeeded")
        })
        .await?;
    Ok(())
}

#[test]
fn a_claim_is_the_source() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("claim-source", "baseline").await?;
        let host = registry(&namespace).await?;
        filled_claim(stage, &namespace, &host).await?;
        let spec =
            json!({"source": {"persistentVolumeClaim": {"name": "files"}, "subdirectory": "app"}});
        let build = status(built(&namespace, image_build("app", spec)).await?)?;
        let image = build.image.context("image")?;
        assert_eq!(
            run_image(stage, &namespace, "run", &host, &image).await?,
            "hello\n"
        );
        Ok(())
    });
}

#[test]
fn a_private_authority_is_trusted_by_its_secret() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("authority", "baseline").await?;
        registry(&namespace).await?;
        let authority = Authority::new("of one team")?;
        let address = stage.cluster.addresses().host().into();
        let dockerfile = format!("FROM {}\nCOPY file /\n", stage.busybox());
        let git = GitServer::start(&authority, address).await?;
        let files = BTreeMap::from([
            ("app/Dockerfile", dockerfile.clone().into_bytes()),
            ("app/file", b"content".to_vec()),
        ]);
        git.commit("app", "main", &files).await?;
        let (bytes, _) = archive(&dockerfile)?;
        let served = move || std::future::ready(bytes.clone());
        let router = axum::Router::new().route("/app.tar", axum::routing::get(served));
        let identity = authority.server("files.host.test", address)?;
        let http = tests::tls::serve(address, &identity, router).await?;
        let url = format!("https://files.host.test:{}/app.tar", http.address.port());
        let sources = [
            (
                "git",
                json!({"url": git.url("app"), "ref": {"branch": "main"}, "interval": "5s"}),
            ),
            ("http", json!({"url": url})),
        ];
        for (kind, source) in &sources {
            let spec = json!({"source": {*kind: source, "subdirectory": "app"}});
            namespace
                .apply_json::<ImageBuild>(image_build(kind, spec))
                .await?;
        }
        for (kind, _) in &sources {
            namespace
                .until::<ImageBuild>(kind, "the authority to be refused", LIMIT, |b| {
                    message(b).contains("certificate")
                })
                .await?;
        }
        namespace
            .apply_json::<Secret>(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "authority"},
                "stringData": {"ca.crt": authority.certificate},
            }))
            .await?;
        for (kind, mut source) in sources {
            source["caSecretRef"] = json!({"name": "authority"});
            let spec = json!({"source": {kind: source, "subdirectory": "app"}});
            built(&namespace, image_build(kind, spec)).await?;
        }
        Ok(())
    });
}
