//! Disks: a limit of its own that a build exceeds, a disk that is full to the last byte, and a node that evicts for want of
//! disk. The last two need a small disk, and so a cluster of their own.

use serde_json::{Value, json};
use tests::cluster::{Disk, Options};
use tests::stage::Stage;

use super::{Case, inline};
use crate::main_job::registry;
use crate::{on_stage, run_as_root};

#[test]
fn a_workspace_that_outgrows_its_limit_is_told_as_such() {
    on_stage(|stage| async move {
        let namespace = stage.namespace("limit", "baseline").await?;
        registry(&namespace).await?;
        let case = Case::new(&namespace, "limit").await?;
        let mut spec = inline(
            stage,
            "RUN dd if=/dev/zero of=/big bs=1M count=400; sleep 600",
        );
        spec["pod"] = json!({"workspace": {"sizeLimit": "64Mi"}});
        case.apply(spec).await?;
        let failed = case.fails("OutOfDisk", &["limit", "sizeLimit"]).await?;
        case.apply(inline(stage, "RUN true")).await?;
        case.recovers(&failed).await
    });
}

/// The pods' volumes share 400 MiB and 16,000 files. Half of these files are more than the node itself needs.
const SMALL: Disk = Disk {
    size: 400,
    inodes: 16_000,
};

#[test]
fn a_full_disk_and_an_eviction_are_told_apart() {
    run_as_root("a full disk", async {
        let options = Options {
            volumes_disk: Some(SMALL),
            ..Options::new("e2e-disk")
        };
        let stage = Stage::start_with(options).await?;
        fills_the_disk(&stage).await?;
        is_evicted(&stage).await?;
        stage.cluster.stop().await?;
        Ok(())
    });
}

/// A build that goes to the public registry: nothing else is to fill the small disk.
fn build(stage: &Stage, steps: &str) -> Value {
    let mut spec = inline(stage, steps);
    let image = format!("{}/pushed/small-disk", stage.public.host());
    spec["imagePullSecrets"] = json!([]);
    spec["destinations"] = json!([{"name": "main", "image": image, "tags": ["1"]}]);
    spec
}

async fn fills_the_disk(stage: &Stage) -> anyhow::Result<()> {
    let namespace = stage.namespace("full", "baseline").await?;
    let case = Case::new(&namespace, "full").await?;
    case.apply(build(stage, "RUN dd if=/dev/zero of=/big bs=1M"))
        .await?;
    let words = ["Dockerfile:2", "No space left on device", "more disk"];
    let failed = case.fails("OutOfDisk", &words).await?;
    case.apply(build(stage, "RUN true")).await?;
    case.recovers(&failed).await
}

async fn is_evicted(stage: &Stage) -> anyhow::Result<()> {
    let namespace = stage.namespace("pressed", "baseline").await?;
    let case = Case::new(&namespace, "pressed").await?;
    let steps = "RUN i=0; while [ $i -lt 9000 ]; do : >/$i; i=$((i+1)); done; sleep 600";
    let mut spec = build(stage, steps);
    spec["retry"] = json!({"limit": 0});
    case.apply(spec).await?;
    let failed = case.fails("Evicted", &["low on resource"]).await?;
    case.apply(build(stage, "RUN true")).await?;
    case.recovers(&failed).await
}
