//! End-to-end tests on the embedded cluster: the chart as Helm installs it, builder pods, registries, and what people see in
//! `kubectl get`. All tests share one cluster; each has a namespace of its own. They need root and what `make image` builds;
//! without root the run says what it leaves out.

mod cache;
mod chart;
mod failures;
mod gitops;
mod inputs;
mod lifecycle;
mod main_job;
mod mirror_kills;
mod platforms;
#[path = "../chart/rights.rs"]
mod rights;
mod security;
mod sources;

use std::future::Future;
use std::sync::LazyLock;

use tests::cluster::left_out;
use tests::stage::Stage;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// The runtime that the stage's servers live on, longer than any one test.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("the machine can start threads"));
static STAGE: OnceCell<Stage> = OnceCell::const_new();

/// Runs `test` on the shared stage. As an ordinary user nothing can be run: that is said, and on CI it is a failure.
fn on_stage<F>(test: impl FnOnce(&'static Stage) -> F)
where
    F: Future<Output = anyhow::Result<()>>,
{
    run_as_root("an end-to-end test", async {
        let stage = STAGE.get_or_try_init(|| Stage::start("e2e")).await?;
        test(stage).await
    });
}

/// Runs `test`, which makes its own stage.
fn run_as_root(name: &str, test: impl Future<Output = anyhow::Result<()>>) {
    if left_out(name) {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI leaves nothing out: run as root"
        );
        return;
    }
    if let Err(error) = RUNTIME.block_on(test) {
        panic!("{error:#}");
    }
}

/// How often a counted test repeats: in full with `COOPERY_SOAK`, else a tenth, at least once.
fn count(full: u32) -> u32 {
    if std::env::var_os("COOPERY_SOAK").is_some() {
        full
    } else {
        (full / 10).max(1)
    }
}
