//! What a Dockerfile's author must not get: credentials of the build, tokens of the cluster, addresses behind the guard, a
//! digest that was never pushed.

use anyhow::Context as _;
use crds::ImageBuild;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, LogParams};
use serde_json::json;
use std::time::Duration;
use tests::kstatus::{is_current, message, reason};
use tests::stage::TestNamespace;

use super::main_job::{built, image_build, registry};
use super::on_stage;

const LIMIT: Duration = Duration::from_secs(90);

/// Looks wherever a RUN could find what is not its own, and prints all of it.
const SPY: &str = r#"RUN <<SPY
env
id
ls -l /proc/self/fd
cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\0' '\n'
ls -lR /run /var/run /var/lib/coopery /dev/termination-log 2>/dev/null
cat /run/coopery/credentials/*/.dockerconfigjson 2>/dev/null
cat /var/run/secrets/kubernetes.io/serviceaccount/token 2>/dev/null
mount
for p in /proc/[0-9]*; do cat $p/root/run/coopery/credentials/0/.dockerconfigjson 2>/dev/null; done
echo '{"version":1,"report":{"built":{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}}}' > /dev/termination-log
exit 0
SPY"#;

async fn builder_pod(namespace: &TestNamespace, name: &str) -> anyhow::Result<Pod> {
    let selector = ListParams::default().labels(&format!(
        "coopery.dev/name={name},coopery.dev/kind=ImageBuild"
    ));
    let pods = namespace.api::<Pod>().list(&selector).await?.items;
    pods.into_iter()
        .next()
        .context("a finished build keeps its pod")
}

async fn log_of(namespace: &TestNamespace, pod: &Pod) -> anyhow::Result<String> {
    let name = pod.metadata.name.as_deref().context("name")?;
    let pods = namespace.api::<Pod>();
    Ok(pods.logs(name, &LogParams::default()).await?)
}

#[test]
fn a_step_finds_no_credentials_and_cannot_forge_the_result() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("spy", "baseline").await?;
        registry(&namespace).await?;
        let spec = json!({"dockerfile": {"inline": format!("FROM {}\n{SPY}\n", stage.busybox())}});
        let build = built(&namespace, image_build("app", spec)).await?;
        let digest = build.status.and_then(|s| s.digest).context("digest")?;
        assert!(!digest.contains("000000000000"), "{digest}");

        let secret = namespace.api::<Secret>().get("main-credentials").await?;
        let data = secret.data.context("the Secret has data")?;
        let password = String::from_utf8(data["password"].0.clone())?;
        let pod = builder_pod(&namespace, "app").await?;
        let log = log_of(&namespace, &pod).await?;
        assert!(log.contains("uid=0(root)"), "the spy ran: {log}");
        for hidden in [password.as_str(), "auths", "COOPERY_", "KUBERNETES_", "eyJ"] {
            assert!(
                !log.contains(hidden),
                "`{hidden}` can be seen by a step:\n{log}"
            );
        }
        let object = serde_json::to_string(&pod)?;
        assert!(
            !object.contains(&password),
            "the password is in the pod object"
        );

        let spec = pod.spec.context("spec")?;
        assert_eq!(
            (
                spec.automount_service_account_token,
                spec.enable_service_links,
                spec.host_users
            ),
            (Some(false), Some(false), Some(false))
        );
        assert!(spec.host_network.is_none() && spec.host_pid.is_none());
        Ok(())
    });
}

#[test]
fn a_secret_of_a_step_stays_with_the_step() {
    on_stage(|stage| async move {
        const VALUE: &str = "correct-horse-battery-staple";
        let namespace = stage.namespace("secrets", "baseline").await?;
        registry(&namespace).await?;
        let inline = format!(
            "FROM {}\nRUN --mount=type=secret,id=token,required test $(wc -c </run/secrets/token) = {} && cat /run/secrets/token\n\
             RUN test ! -e /run/secrets/token\n",
            stage.busybox(),
            VALUE.len()
        );
        let secrets = json!([{"id": "token", "secretRef": {"name": "npm", "key": "token"}}]);
        let build = image_build(
            "app",
            json!({"dockerfile": {"inline": inline, "secrets": secrets}}),
        );
        namespace.apply_json::<ImageBuild>(build).await?;
        namespace
            .until::<ImageBuild>("app", "it to wait for the Secret", LIMIT, |b| {
                reason(b) == "SecretNotFound"
            })
            .await?;
        namespace
            .apply_json::<Secret>(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "npm"}, "stringData": {"token": VALUE},
            }))
            .await?;
        let build = namespace
            .until::<ImageBuild>("app", "the build with the Secret", LIMIT, is_current)
            .await?;
        let pod = builder_pod(&namespace, "app").await?;
        let log = log_of(&namespace, &pod).await?;
        assert!(
            log.contains("***"),
            "what the step printed is masked: {log}"
        );
        for (place, text) in [
            ("log", log),
            ("pod", serde_json::to_string(&pod)?),
            ("status", serde_json::to_string(&build)?),
        ] {
            assert!(!text.contains(VALUE), "the secret is in the {place}");
        }
        Ok(())
    });
}

#[test]
fn guarded_addresses_are_refused_at_connect_time() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("guard", "baseline").await?;
        registry(&namespace).await?;
        for (name, url) in [
            ("metadata", "http://169.254.169.254/latest/meta-data/"),
            ("loopback", "http://127.0.0.1:10250/"),
            ("mapped", "http://[::ffff:169.254.169.254]/"),
            ("decimal", "http://2852039166/"),
            ("name", "http://localhost:8080/"),
        ] {
            let inline = format!("FROM {}\nADD {url} /stolen\n", stage.busybox());
            namespace
                .apply_json::<ImageBuild>(image_build(
                    name,
                    json!({"dockerfile": {"inline": inline}}),
                ))
                .await?;
        }
        for name in ["metadata", "loopback", "mapped", "decimal", "name"] {
            let build = namespace
                .until::<ImageBuild>(name, &format!("{name} to be refused"), LIMIT, |b| {
                    reason(b) == "AddressRefused" || is_current(b)
                })
                .await?;
            assert_eq!(
                reason(&build),
                "AddressRefused",
                "{name}: {}",
                message(&build)
            );
        }
        Ok(())
    });
}

#[test]
fn a_git_source_cannot_leave_its_clone() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("escape", "baseline").await?;
        registry(&namespace).await?;
        let directory = stage.files().join("escape");
        fs_err::create_dir_all(&directory)?;
        fs_err::write(
            directory.join("Dockerfile"),
            format!("FROM {}\nCOPY out /out\n", stage.busybox()),
        )?;
        for (link, target) in [
            ("sub", "/run/coopery/credentials"),
            ("out", "/run/coopery/credentials/0"),
        ] {
            let path = directory.join(link);
            if !path.is_symlink() {
                fs_err::os::unix::fs::symlink(target, path)?;
            }
        }
        stage
            .git
            .commit_directory("escape", "main", &directory)
            .await?;
        let git = json!({"url": stage.git.url("escape"), "ref": {"branch": "main"}});
        let sub = json!({"source": {"git": git, "subdirectory": "sub"}});
        namespace
            .apply_json::<ImageBuild>(image_build("sub", sub))
            .await?;
        namespace
            .apply_json::<ImageBuild>(image_build("out", json!({"source": {"git": git}})))
            .await?;
        for name in ["sub", "out"] {
            let build = namespace
                .until::<ImageBuild>(name, &format!("{name} to end"), LIMIT, |b| {
                    is_current(b)
                        || crds::condition::is_true(
                            tests::kstatus::Conditioned::conditions(b),
                            "Stalled",
                        )
                })
                .await?;
            assert!(
                !is_current(&build),
                "{name} was built from outside the clone"
            );
        }
        Ok(())
    });
}
