//! Crash safety of the operator: a process on this machine that is killed at each of its writes, two of them at once, and the
//! lease between them, with the real API server, registries and builder pods. The chart is not installed here.
//!
//! Needs root and what `make image` builds; without root the run says what it leaves out. `COOPERY_OPERATOR` names another
//! program than the release binary, `COOPERY_SEED` repeats a choice of faults, `COOPERY_SOAK` runs all of them.

mod choice;
mod end_state;
mod faults;
mod lease;
mod run;
mod two_operators;

use std::future::Future;
use std::sync::LazyLock;

use tests::cluster::left_out;
use tests::stage::{Stage, repository};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, OnceCell};

/// The runtime that the stage's servers live on, longer than any one test.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("the machine can start threads"));
static STAGE: OnceCell<Stage> = OnceCell::const_new();
/// One test at a time: each loads the machine as it sees fit, and some measure time.
static TURN: Mutex<()> = Mutex::const_new(());

/// Runs `test` on the shared stage. As an ordinary user nothing can be run: that is said, and on CI it is a failure.
fn on_stage<F>(name: &str, test: impl FnOnce(&'static Stage) -> F)
where
    F: Future<Output = anyhow::Result<()>>,
{
    if left_out(name) {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI leaves nothing out: run as root"
        );
        return;
    }
    let result = RUNTIME.block_on(async {
        let _turn = TURN.lock().await;
        let stage = STAGE.get_or_try_init(start).await?;
        test(stage).await
    });
    if let Err(error) = result {
        panic!("{error:#}");
    }
}

/// A stage with the three kinds and nobody who looks after them.
async fn start() -> anyhow::Result<Stage> {
    let stage = Stage::start_without_operator("crash").await?;
    for (file, definition) in crds::definition::definitions() {
        let path = repository().join("crds").join(file);
        let path = path.to_string_lossy();
        stage
            .cluster
            .kubectl(&["apply", "--server-side", "-f", &path])
            .await?;
        let name = definition.metadata.name.unwrap_or_default();
        let established = ["wait", "--for=condition=Established", "crd", &name];
        stage.cluster.kubectl(&established).await?;
    }
    Ok(stage)
}

/// Whether everything is run, instead of a tenth.
fn soak() -> bool {
    std::env::var_os("COOPERY_SOAK").is_some()
}
