//! Two operators at once: one leads and the other takes over; and without a lease, both act, and still there is one pod for
//! each build.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crds::{ImageBuild, Registry};
use rustix::process::Signal;
use tests::fault_proxy::{Fault, Point};
use tests::kstatus::is_current;
use tests::stage::TestNamespace;
use tests::wait::until;

use super::end_state::pods_created;
use super::lease::{LIMIT, candidate, holder};
use super::run::{Operator, apply, build, forget, job};
use super::{on_stage, soak};

/// How long a build may take.
const BUILT: Duration = Duration::from_secs(120);
/// Exit code of an operator that lost its lease.
const LEASE_LOST: i32 = 3;

/// Waits until the Registry `main` and the builds are Current.
async fn built(namespace: &TestNamespace, names: &[String]) -> anyhow::Result<()> {
    namespace
        .until::<Registry>("main", "the Registry to be Ready", BUILT, is_current)
        .await?;
    for name in names {
        namespace
            .until::<ImageBuild>(name, "the ImageBuild to be Ready", BUILT, is_current)
            .await?;
    }
    Ok(())
}

/// The error with what both operators did.
fn explain(error: &anyhow::Error, first: &Operator, second: &Operator) -> anyhow::Error {
    anyhow::anyhow!(
        "{error:#}\nfirst {}\nsecond {}",
        first.story(),
        second.story()
    )
}

/// A leader is stopped (as a machine that hangs) at the write that makes the pod; the second takes over and builds; then the
/// write arrives after all and the first goes on.
#[test]
fn a_leader_that_hung_ends_before_it_acts_again() {
    on_stage("a paused leader", |stage| async move {
        let namespace = stage.namespace("paused", "baseline").await?;
        let point = Point {
            write: "POST pods app-*".to_owned(),
            occurrence: 1,
        };
        let target = Some((point, Fault::Delay));
        let first = candidate(stage, &namespace, "first", target).await?;
        let second = candidate(stage, &namespace, "second", None).await?;
        let test = async {
            first.process.start().await?;
            first.process.until_leading(LIMIT).await?;
            second.process.start().await?;
            second.process.until_ready(LIMIT).await?;
            let led = holder(&namespace).await?;
            let [registry, ..] = job(stage);
            apply(&namespace, &[registry, build(stage, "app")]).await?;
            until("the write that makes the pod", BUILT, || async {
                first.check().await?;
                Ok(first.proxy.hit().then_some(()))
            })
            .await?;
            first.process.signal(Signal::STOP).await?;
            let acted = first.acts().len();
            second.process.until_leading(LIMIT).await?;
            anyhow::ensure!(
                holder(&namespace).await? != led,
                "the lease has changed hands"
            );
            built(&namespace, &["app".to_owned()]).await?;

            first.proxy.release();
            first.process.signal(Signal::CONT).await?;
            let status = first.process.ended(LIMIT).await?;
            anyhow::ensure!(
                status.code() == Some(LEASE_LOST),
                "the first ended with {status}"
            );
            let acts = first.acts();
            anyhow::ensure!(
                acts.len() == acted,
                "it acted after its lease: {:?}",
                &acts[acted..]
            );
            second.check().await?;
            let created = pods_created(stage, &namespace.name)?;
            anyhow::ensure!(
                created == BTreeMap::from([("app".to_owned(), 1)]),
                "{created:?}"
            );
            second
                .settle(&["Registry", "ImageBuild"], || async {
                    Ok(is_current(&namespace.api::<ImageBuild>().get("app").await?))
                })
                .await
        };
        test.await
            .map_err(|error| explain(&error, &first, &second))?;
        forget(stage, &namespace).await
    });
}

#[test]
fn a_leader_that_is_asked_to_stop_hands_over_at_once() {
    on_stage("a handover", |stage| async move {
        let namespace = stage.namespace("handover", "baseline").await?;
        let first = candidate(stage, &namespace, "first", None).await?;
        let second = candidate(stage, &namespace, "second", None).await?;
        let test = async {
            first.process.start().await?;
            first.process.until_leading(LIMIT).await?;
            second.process.start().await?;
            second.process.until_ready(LIMIT).await?;
            anyhow::ensure!(!second.process.leads().await, "one leads at a time");
            let asked = Instant::now();
            first.process.signal(Signal::TERM).await?;
            second.process.until_leading(LIMIT).await?;
            let took = asked.elapsed();
            eprintln!("handover after {took:?}");
            anyhow::ensure!(took < Duration::from_secs(2), "handover after {took:?}");
            let status = first.process.ended(LIMIT).await?;
            anyhow::ensure!(status.success(), "the first ended with {status}");
            second.check().await
        };
        test.await
            .map_err(|error| explain(&error, &first, &second))?;
        forget(stage, &namespace).await
    });
}

#[test]
fn two_operators_without_a_lease_make_one_pod_for_each_build() {
    on_stage("two operators at once", |stage| async move {
        let namespace = stage.namespace("two", "baseline").await?;
        let no_lease = ["--leader-election=false"];
        let first = Operator::new(stage, &namespace.name, "first", None, &no_lease).await?;
        let second = Operator::new(stage, &namespace.name, "second", None, &no_lease).await?;
        let count = if soak() { 10 } else { 2 };
        let names: Vec<String> = (0..count).map(|number| format!("app{number}")).collect();
        let test = async {
            for operator in [&first, &second] {
                operator.process.start().await?;
                operator.process.until_ready(LIMIT).await?;
            }
            let [registry, ..] = job(stage);
            let mut objects = vec![registry];
            objects.extend(names.iter().map(|name| build(stage, name)));
            apply(&namespace, &objects).await?;
            built(&namespace, &names).await?;
            let wrote = || (first.acts().len(), second.acts().len());
            let mut before = wrote();
            loop {
                for operator in [&first, &second] {
                    let kinds = ["Registry", "ImageBuild"];
                    operator.settle(&kinds, || async { Ok(true) }).await?;
                }
                let now = wrote();
                if now == before {
                    break;
                }
                before = now;
            }
            let created = pods_created(stage, &namespace.name)?;
            let expected = names.iter().map(|name| (name.clone(), 1)).collect();
            anyhow::ensure!(created == expected, "{created:?}");
            let both = [&first, &second].map(|operator| operator.acts().len());
            eprintln!("{count} builds, one pod each; writes of the two: {both:?}");
            anyhow::ensure!(both.iter().all(|acts| *acts > 0), "both act: {both:?}");
            built(&namespace, &names).await
        };
        test.await
            .map_err(|error| explain(&error, &first, &second))?;
        forget(stage, &namespace).await
    });
}
