//! GitOps: a chart that holds the three kinds installs with Helm 4 and waits for them by kstatus, upgrades, and uninstalls.

use std::path::Path;

use anyhow::Context as _;
use crds::{ImageBuild, ImageMirror, Registry};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use tests::kstatus::is_current;
use tests::stage::Stage;

use super::on_stage;

/// Writes a chart with a Registry, an ImageMirror into it and an ImageBuild from the mirrored base.
fn write_chart(stage: &Stage, directory: &Path, namespace: &str) -> anyhow::Result<()> {
    let templates = directory.join("templates");
    fs_err::create_dir_all(&templates)?;
    fs_err::write(
        directory.join("Chart.yaml"),
        "apiVersion: v2\nname: team\nversion: 0.1.0\n",
    )?;
    fs_err::write(directory.join("values.yaml"), "greeting: hello\n")?;
    let manifest = format!(
        r#"apiVersion: coopery.dev/v1alpha1
kind: Registry
metadata: {{name: main}}
spec: {{managed: {{storage: {{emptyDir: {{}}}}}}}}
---
apiVersion: coopery.dev/v1alpha1
kind: ImageMirror
metadata: {{name: bases}}
spec:
  interval: 10s
  source: {{host: "{upstream}"}}
  destination: {{registry: {{name: main}}, prefix: mirror}}
  images: [{{name: busybox, repository: base/busybox, tags: {{names: ["1"]}}}}]
---
apiVersion: coopery.dev/v1alpha1
kind: ImageBuild
metadata: {{name: app}}
spec:
  dockerfile:
    inline: |
      FROM main.{namespace}.svc:5000/mirror/base/busybox:1
      RUN echo {{{{ .Values.greeting }}}} > /greeting
  imagePullSecrets: [{{name: main-credentials}}]
  destinations: [{{name: main, registry: {{name: main}}, repository: app, tags: [latest]}}]
"#,
        upstream = stage.public.host(),
    );
    fs_err::write(templates.join("all.yaml"), manifest)?;
    Ok(())
}

#[test]
fn a_chart_of_the_three_kinds_installs_and_waits_by_kstatus() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("gitops", "baseline").await?;
        let chart = stage.files().join(&namespace.name);
        write_chart(stage, &chart, &namespace.name)?;
        let chart = chart.to_string_lossy();
        let helm = |verb: &'static [&'static str], more: Vec<String>| {
            let mut arguments: Vec<String> = verb.iter().map(|&a| a.to_owned()).collect();
            arguments.extend([
                "team".to_owned(),
                chart.clone().into_owned(),
                "-n".to_owned(),
                namespace.name.clone(),
            ]);
            arguments.extend([
                "--wait".to_owned(),
                "--timeout".to_owned(),
                "150s".to_owned(),
            ]);
            arguments.extend(more);
            async move {
                stage
                    .cluster
                    .helm(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
                    .await
            }
        };
        helm(&["install"], vec![]).await?;
        let digest = |build: ImageBuild| {
            build
                .status
                .and_then(|s| s.digest)
                .context("a waited-for build has a digest")
        };
        let build = namespace.api::<ImageBuild>().get("app").await?;
        assert!(
            is_current(&build),
            "Helm returned before the build was Current: {build:#?}"
        );
        assert!(is_current(
            &namespace.api::<ImageMirror>().get("bases").await?
        ));
        assert!(is_current(&namespace.api::<Registry>().get("main").await?));
        let first = digest(build)?;

        helm(
            &["upgrade"],
            vec!["--set".to_owned(), "greeting=again".to_owned()],
        )
        .await?;
        let build = namespace.api::<ImageBuild>().get("app").await?;
        assert!(
            is_current(&build),
            "Helm returned before the new build was Current: {build:#?}"
        );
        assert_ne!(digest(build)?, first);

        stage
            .cluster
            .helm(&[
                "uninstall",
                "team",
                "-n",
                &namespace.name,
                "--wait",
                "--timeout",
                "60s",
            ])
            .await?;
        tests::wait::until(
            "every pod to be gone",
            std::time::Duration::from_secs(60),
            || async {
                Ok(namespace
                    .api::<Pod>()
                    .list(&ListParams::default())
                    .await?
                    .items
                    .is_empty()
                    .then_some(()))
            },
        )
        .await
    });
}
