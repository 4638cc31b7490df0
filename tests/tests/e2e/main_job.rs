//! From `kubectl apply` to a digest: Registry, ImageBuild from each kind of source, the image as a Pod, an ImageMirror.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use crds::{ImageBuild, ImageMirror, Registry};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{LogParams, PostParams};
use serde_json::{Value, json};
use tests::kstatus::is_current;
use tests::stage::{Stage, TestNamespace};

use super::on_stage;

const LIMIT: Duration = Duration::from_secs(120);

/// A Registry `main` on an emptyDir, Ready; its host.
pub(crate) async fn registry(namespace: &TestNamespace) -> anyhow::Result<String> {
    namespace
        .apply_json::<Registry>(json!({
            "apiVersion": "coopery.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "main"},
            "spec": {"managed": {"storage": {"emptyDir": {}}}},
        }))
        .await?;
    let registry = namespace
        .until::<Registry>("main", "the Registry to be Ready", LIMIT, is_current)
        .await?;
    registry
        .status
        .and_then(|s| s.host)
        .context("a Ready Registry has a host")
}

/// An ImageBuild that pushes `name:latest` to the Registry `main`.
pub(crate) fn image_build(name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "coopery.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": name},
        "spec": {
            "imagePullSecrets": [{"name": "main-credentials"}],
            "destinations": [{"name": "main", "registry": {"name": "main"}, "repository": name, "tags": ["latest"]}],
        },
    });
    if let Value::Object(spec) = spec {
        for (key, value) in spec {
            object["spec"][key] = value;
        }
    }
    object
}

/// Applies an ImageBuild and waits until it is Current.
pub(crate) async fn built(namespace: &TestNamespace, object: Value) -> anyhow::Result<ImageBuild> {
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    namespace.apply_json::<ImageBuild>(object).await?;
    namespace
        .until::<ImageBuild>(&name, "the ImageBuild to be Ready", LIMIT, is_current)
        .await
}

/// Runs an image of the Registry `main` as a Pod; what it printed.
pub(crate) async fn run_image(
    stage: &Stage,
    namespace: &TestNamespace,
    name: &str,
    host: &str,
    image: &str,
) -> anyhow::Result<String> {
    stage.cluster.trust_plain_http(host)?;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "main-credentials"}],
            "containers": [{"name": "main", "image": image}],
        },
    }))?;
    namespace
        .api::<Pod>()
        .create(&PostParams::default(), &pod)
        .await?;
    let phase = |p: &Pod| {
        p.status
            .as_ref()
            .and_then(|s| s.phase.clone())
            .unwrap_or_default()
    };
    let done = namespace
        .until::<Pod>(name, "the Pod to end", LIMIT, |p| {
            ["Succeeded", "Failed"].contains(&&*phase(p))
        })
        .await?;
    let output = namespace
        .api::<Pod>()
        .logs(name, &LogParams::default())
        .await?;
    anyhow::ensure!(phase(&done) == "Succeeded", "the Pod failed: {output}");
    Ok(output)
}

#[test]
fn an_inline_dockerfile_becomes_an_image_that_runs() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("inline", "baseline").await?;
        let host = registry(&namespace).await?;
        let dockerfile = format!(
            "FROM {}\nARG WHO=nobody\nRUN echo \"hello $WHO, uid $(id -u)\" > /hello\nCMD [\"cat\", \"/hello\"]\n",
            stage.busybox()
        );
        let spec = json!({"dockerfile": {"inline": dockerfile, "buildArgs": {"WHO": "world"}}});
        let build = built(&namespace, image_build("hello", spec)).await?;
        let status = build.status.context("a Ready build has a status")?;
        let (image, digest) = (
            status.image.context("image")?,
            status.digest.context("digest")?,
        );
        assert_eq!(image, format!("{host}/hello@{digest}"));
        assert_eq!(status.destinations[0].verified, "True");
        assert_eq!(status.isolation.context("isolation")?.mode, "UserNamespace");
        assert_eq!(status.base_images[0].reference, stage.busybox());
        assert_eq!(
            run_image(stage, &namespace, "run", &host, &image).await?,
            "hello world, uid 0\n"
        );
        Ok(())
    });
}

#[test]
fn a_config_map_is_a_source_and_its_change_is_built() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("configmap", "baseline").await?;
        registry(&namespace).await?;
        let source = |text: &str| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "source"},
                "data": {"Dockerfile": format!("FROM {}\nCOPY message /message\n", stage.busybox()), "message": text},
            })
        };
        namespace.apply_json::<ConfigMap>(source("one")).await?;
        let first = built(
            &namespace,
            image_build("app", json!({"source": {"configMap": {"name": "source"}}})),
        )
        .await?;
        let first = first.status.and_then(|s| s.digest).context("digest")?;
        namespace.apply_json::<ConfigMap>(source("two")).await?;
        namespace
            .until::<ImageBuild>("app", "the changed ConfigMap to be built", LIMIT, |b| {
                is_current(b) && b.status.as_ref().and_then(|s| s.digest.as_deref()) != Some(&first)
            })
            .await?;
        Ok(())
    });
}

#[test]
fn a_git_branch_tag_and_commit_are_sources() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("git", "baseline").await?;
        registry(&namespace).await?;
        let dockerfile = format!(
            "FROM {}\nCOPY . /app\nRUN cat /app/file > /app/copy\n",
            stage.busybox()
        )
        .into_bytes();
        let files = |text: &str| {
            BTreeMap::from([
                ("svc/Dockerfile", dockerfile.clone()),
                ("svc/file", text.as_bytes().to_vec()),
            ])
        };
        let one = stage
            .git
            .commit("private/app", "main", &files("one"))
            .await?;
        stage.git.tag("private/app", "v1", &one).await?;
        let two = stage
            .git
            .commit("private/app", "main", &files("two"))
            .await?;
        let (user, password) = tests::git_server::CREDENTIALS;
        namespace
            .apply_json::<Secret>(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "git"}, "stringData": {"username": user, "password": password},
            }))
            .await?;
        for (name, reference, commit) in [
            ("branch", json!({"branch": "main"}), &two),
            ("tag", json!({"tag": "v1"}), &one),
            ("commit", json!({"commit": one}), &one),
        ] {
            let git = json!({"url": stage.git.url("private/app"), "ref": reference, "secretRef": {"name": "git"}});
            let build = built(
                &namespace,
                image_build(name, json!({"source": {"git": git, "subdirectory": "svc"}})),
            )
            .await?;
            let source = build.status.and_then(|s| s.source).and_then(|s| s.commit);
            assert_eq!(source.as_ref(), Some(commit), "{name}");
        }
        Ok(())
    });
}

#[test]
fn an_archive_behind_https_is_a_source_and_its_checksum_is_kept() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("http", "baseline").await?;
        registry(&namespace).await?;
        let (archive, checksum) = archive(&format!("FROM {}\nCOPY file /\n", stage.busybox()))?;
        let router = axum::Router::new().route(
            "/app.tar",
            axum::routing::get(move || std::future::ready(archive.clone())),
        );
        let address = stage.cluster.addresses().host().into();
        let identity = stage.authority.server("files.host.test", address)?;
        let server = tests::tls::serve(address, &identity, router).await?;
        let url = format!("https://files.host.test:{}/app.tar", server.address.port());
        let source = |checksum: &str| json!({"source": {"subdirectory": "app", "http": {"url": url, "checksum": checksum}}});
        built(&namespace, image_build("right", source(&checksum))).await?;
        let wrong = format!("sha256:{}", "0".repeat(64));
        namespace
            .apply_json::<ImageBuild>(image_build("wrong", source(&wrong)))
            .await?;
        namespace
            .until::<ImageBuild>("wrong", "the other checksum to be refused", LIMIT, |b| {
                tests::kstatus::reason(b) == "SourceInvalid"
                    && tests::kstatus::message(b).contains("sha256:")
            })
            .await?;
        Ok(())
    });
}

/// A tar archive with a Dockerfile and a file below `app/`; its bytes and its digest.
pub(crate) fn archive(dockerfile: &str) -> anyhow::Result<(Vec<u8>, String)> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in [("app/Dockerfile", dockerfile), ("app/file", "content")] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content.as_bytes())?;
    }
    let bytes = builder.into_inner()?;
    let digest = oci::Digest::of(&bytes).to_string();
    Ok((bytes, digest))
}

#[test]
fn a_mirror_keeps_the_bytes_and_a_build_starts_from_it() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("mirror", "baseline").await?;
        let host = registry(&namespace).await?;
        namespace
            .docker_secret("upstream", &stage.private.docker_config())
            .await?;
        namespace
            .apply_json::<ImageMirror>(json!({
                "apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {"name": "bases"},
                "spec": {
                    "interval": "10s", "source": {"host": stage.private.host(), "secretRef": {"name": "upstream"}},
                    "destination": {"registry": {"name": "main"}, "prefix": "mirror"},
                    "images": [{"name": "busybox", "repository": "base/busybox", "tags": {"names": ["1"]}}],
                },
            }))
            .await?;
        let mirror = namespace
            .until::<ImageMirror>("bases", "the ImageMirror to be Ready", LIMIT, is_current)
            .await?;
        let status = mirror.status.context("a Ready mirror has a status")?;
        let upstream = stage.digest(&stage.private, "base/busybox:1").await?;
        assert_eq!(status.images[0].digest, upstream);
        let base = format!("{host}/mirror/base/busybox:1");
        let build = built(
            &namespace,
            image_build(
                "app",
                json!({"dockerfile": {"inline": format!("FROM {base}\nRUN true\n")}}),
            ),
        )
        .await?;
        assert_eq!(
            build.status.context("status")?.base_images[0].digest,
            upstream
        );
        Ok(())
    });
}

#[test]
fn a_private_base_needs_its_pull_secret() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("private-base", "baseline").await?;
        registry(&namespace).await?;
        namespace
            .docker_secret("upstream", &stage.private.docker_config())
            .await?;
        let inline = format!("FROM {}/base/busybox:1\nRUN true\n", stage.private.host());
        let without = image_build("without", json!({"dockerfile": {"inline": inline}}));
        namespace.apply_json::<ImageBuild>(without).await?;
        let with = json!({"dockerfile": {"inline": inline}, "imagePullSecrets": [{"name": "main-credentials"}, {"name": "upstream"}]});
        built(&namespace, image_build("with", with)).await?;
        namespace
            .until::<ImageBuild>(
                "without",
                "the build without credentials to fail",
                LIMIT,
                |b| {
                    tests::kstatus::reason(b) == "ImageUnauthorized"
                        && tests::kstatus::message(b).contains("imagePullSecrets")
                },
            )
            .await?;
        Ok(())
    });
}

#[test]
fn without_run_a_build_passes_pod_security_restricted() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("restricted", "restricted").await?;
        registry(&namespace).await?;
        let inline = format!(
            "FROM {}\nCOPY <<text /etc/motd\nwelcome\ntext\nENV A=1\n",
            stage.busybox()
        );
        let build = built(
            &namespace,
            image_build("app", json!({"dockerfile": {"inline": inline}})),
        )
        .await?;
        assert_eq!(
            build
                .status
                .and_then(|s| s.isolation)
                .context("isolation")?
                .mode,
            "NoRun"
        );
        let run = image_build(
            "run",
            json!({"dockerfile": {"inline": format!("FROM {}\nRUN true\n", stage.busybox())}}),
        );
        namespace.apply_json::<ImageBuild>(run).await?;
        namespace
            .until::<ImageBuild>("run", "RUN to be refused", LIMIT, |b| {
                tests::kstatus::reason(b) == "IsolationUnavailable"
                    && tests::kstatus::message(b).contains("NoRun")
            })
            .await?;
        Ok(())
    });
}
