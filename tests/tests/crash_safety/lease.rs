//! The leader's lease with a fault at each of its writes: acquired, renewed, released and acquired again, and the operator leads
//! in the end. Its writes are a group of their own, as renewals come all the time.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::Registry;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use rustix::process::Signal;
use tests::fault_proxy::{Fault, Point};
use tests::kstatus::is_current;
use tests::stage::{Stage, TestNamespace};
use tests::wait::until;

use super::choice::Dice;
use super::run::{Operator, apply, forget, job};
use super::{on_stage, soak};

/// Name of the lease.
pub(crate) const LEASE: &str = "operator";
/// How long it may take until somebody leads: several times the lease's duration.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Renewals that are tried.
const RENEWALS: usize = 2;

/// Arguments by which an operator takes part in the election in `namespace`, with a lease of 4 s.
pub(crate) fn arguments(namespace: &str) -> Vec<String> {
    vec![
        format!("--leader-election-lease={LEASE}"),
        format!("--leader-election-namespace={namespace}"),
        "--leader-election-lease-duration=4s".to_owned(),
        "--leader-election-renew-deadline=3s".to_owned(),
        "--leader-election-retry-period=1s".to_owned(),
    ]
}

/// An operator that takes part in the election in its namespace.
pub(crate) async fn candidate(
    stage: &Stage,
    namespace: &TestNamespace,
    name: &str,
    target: Option<(Point, Fault)>,
) -> anyhow::Result<Operator> {
    let arguments = arguments(&namespace.name);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Operator::new(stage, &namespace.name, name, target, &arguments).await
}

/// Names of the writes of leases that came.
fn lease_writes(operator: &Operator) -> BTreeSet<String> {
    let writes = operator.proxy.writes().into_iter().map(|w| w.point.write);
    writes.filter(|write| write.contains(" leases ")).collect()
}

/// A leader's life, with a fault or without: the names of its writes, and whether the fault was met.
async fn life(
    stage: &Stage,
    target: Option<(Point, Fault)>,
) -> anyhow::Result<(BTreeSet<String>, bool)> {
    let namespace = stage.namespace("lease", "baseline").await?;
    let operator = candidate(stage, &namespace, "operator", target).await?;
    live(stage, &namespace, &operator)
        .await
        .map_err(|error| operator.explain(&error))?;
    let done = (lease_writes(&operator), operator.proxy.hit());
    operator.process.crash().await?;
    forget(stage, &namespace).await?;
    Ok(done)
}

async fn live(stage: &Stage, namespace: &TestNamespace, operator: &Operator) -> anyhow::Result<()> {
    let process = &operator.process;
    process.start().await?;
    process.until_leading(LIMIT).await?;
    let renewed = || async {
        operator.check().await?;
        let renewal = |w: &&tests::fault_proxy::Written| w.point.write.ends_with(" renew");
        let count = operator.proxy.writes().iter().filter(renewal).count();
        Ok((count > RENEWALS).then_some(()))
    };
    until("the lease to be renewed", LIMIT, renewed).await?;
    let [registry, ..] = job(stage);
    apply(namespace, &[registry]).await?;
    serves(namespace, operator).await?;

    let starts = process.starts();
    process.signal(Signal::TERM).await?;
    let gone = until("the operator to end", LIMIT, || async {
        if process.starts() > starts {
            return Ok(Some(None));
        }
        Ok(process.try_ended().await?.map(Some))
    });
    if let Some(status) = gone.await? {
        anyhow::ensure!(
            status.success(),
            "it was asked to stop and ended with {status}"
        );
        process.start().await?;
    }
    process.until_leading(LIMIT).await?;
    serves(namespace, operator).await?;
    let deployments = namespace
        .api::<Deployment>()
        .list(&ListParams::default())
        .await?;
    anyhow::ensure!(
        deployments.items.len() == 1,
        "one Deployment, not {}",
        deployments.items.len()
    );
    anyhow::ensure!(
        holder(namespace).await?.is_some(),
        "the lease has no holder"
    );
    Ok(())
}

/// Who holds the lease.
pub(crate) async fn holder(namespace: &TestNamespace) -> anyhow::Result<Option<String>> {
    let lease = namespace.api::<Lease>().get(LEASE).await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity);
    Ok(holder.filter(|holder| !holder.is_empty()))
}

/// Waits until the Registry is Current and its status is written no more.
async fn serves(namespace: &TestNamespace, operator: &Operator) -> anyhow::Result<()> {
    operator
        .settle(&["Registry"], || async {
            Ok(is_current(&namespace.api::<Registry>().get("main").await?))
        })
        .await
}

fn cases(writes: &BTreeSet<String>) -> Vec<(Point, Fault)> {
    let mut cases = Vec::new();
    for write in writes {
        let renewal = write.ends_with(" renew");
        for occurrence in 1..=if renewal { RENEWALS } else { 1 } {
            let point = Point {
                write: write.clone(),
                occurrence,
            };
            // A lease that nobody answers for is lost: the process ends, which is another test's subject.
            let refusals = Fault::REFUSALS
                .into_iter()
                .filter(|f| renewal && *f != Fault::Hang);
            for fault in Fault::AT_EVERY_WRITE.into_iter().chain(refusals) {
                cases.push((point.clone(), fault));
            }
        }
    }
    cases
}

#[test]
fn a_fault_at_any_write_of_the_lease_ends_with_a_leader() {
    on_stage("faults of the lease", |stage| async move {
        let (writes, _) = life(stage, None).await?;
        eprintln!("the lease has {} names of writes: {writes:?}", writes.len());
        let purposes = ["acquire", "renew", "release"];
        for purpose in purposes {
            let has = writes.iter().any(|write| write.ends_with(purpose));
            anyhow::ensure!(has, "no write does {purpose}: {writes:?}");
        }
        let mut cases = cases(&writes);
        let count = cases.len();
        if !soak() {
            cases = Dice::new("faults of the lease").tenth(cases, 3, |(_, fault)| fault.kills());
        }
        eprintln!("{} of {count} faults:", cases.len());
        let results: Vec<Result<(), String>> = futures::stream::iter(&cases)
            .map(async |(point, fault)| {
                let what = format!("{fault:?} at {} #{}", point.write, point.occurrence);
                let lived = life(stage, Some((point.clone(), *fault))).await;
                let (came, hit) = lived.map_err(|error| format!("{what}: {error:#}"))?;
                if !hit || !came.is_subset(&writes) {
                    return Err(format!("{what}: met: {hit}; writes: {came:?}"));
                }
                eprintln!("  {what}: held");
                Ok(())
            })
            .buffer_unordered(3)
            .collect()
            .await;
        let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
        Ok(())
    });
}
