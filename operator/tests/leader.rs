//! Scenarios of the leader election against an API server in memory, on a clock that only the test moves.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crds::Registry;
use operator::error::Error;
use operator::leader::{Candidate, Ended};
use operator::reconcile::reconcile;
use operator::registry::RegistryReconciler;
use operator::settings::Settings;
use serde_json::json;
use support::{FakeApi, Fault};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/coopery-operator";

const REGISTRY: &str = "/apis/coopery.dev/v1alpha1/namespaces/images/registries/main";

fn candidate(api: &FakeApi, name: &str) -> Candidate {
    let mut election = Settings::defaults().leader_election;
    "default".clone_into(&mut election.namespace);
    Candidate::new(api.client(), name.to_owned(), election)
}

fn holder(api: &FakeApi) -> String {
    api.get(LEASE).unwrap()["spec"]["holderIdentity"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn the_second_candidate_waits_until_the_first_releases() {
    let api = FakeApi::new();
    let never = CancellationToken::new();
    let mut first = candidate(&api, "first");
    assert!(first.acquire(&never, || {}).await);
    let release = CancellationToken::new();
    let holding = tokio::spawn({
        let release = release.clone();
        async move { first.hold(&release).await }
    });
    let mut second = candidate(&api, "second");
    let waiting = tokio::time::timeout(Duration::from_secs(120), second.acquire(&never, || {}));
    assert!(waiting.await.is_err(), "the lease is renewed");
    assert_eq!(holder(&api), "first");

    release.cancel();
    assert_eq!(holding.await.unwrap(), Ended::Stopped);
    assert_eq!(holder(&api), "");
    let started = Instant::now();
    assert!(second.acquire(&never, || {}).await);
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(holder(&api), "second");
    assert_eq!(api.get(LEASE).unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_has_stopped_before_another_starts() {
    let api = FakeApi::new();
    let never = CancellationToken::new();
    let mut first = candidate(&api, "first");
    assert!(first.acquire(&never, || {}).await);
    let mut second = candidate(&api, "second");
    // The first is cut off: everything that it sends hangs. The second is not.
    let cut = Arc::new(AtomicBool::new(true));
    let started = Instant::now();
    let hold = async {
        api.faults({
            let cut = cut.clone();
            move |_, _| cut.load(Ordering::Relaxed).then_some(Fault::Hang)
        });
        let ended = first.hold(&never).await;
        (ended, started.elapsed())
    };
    let (ended, stopped) = hold.await;
    assert_eq!(ended, Ended::Lost);
    assert!(stopped <= Duration::from_secs(12), "{stopped:?}");
    api.heal();
    // The second saw the lease first now: it waits a whole duration by its own clock, whatever the record says.
    let started = Instant::now();
    assert!(second.acquire(&never, || {}).await);
    assert!(started.elapsed() >= Duration::from_secs(15));
    assert_eq!(holder(&api), "second");
}

#[tokio::test(start_paused = true)]
async fn one_renewal_that_hangs_leaves_time_for_another() {
    let api = FakeApi::new();
    let never = CancellationToken::new();
    let mut first = candidate(&api, "first");
    assert!(first.acquire(&never, || {}).await);
    let started = Instant::now();
    let asked = Arc::new(Mutex::new(Vec::new()));
    api.faults({
        let asked = asked.clone();
        move |method, _| {
            let mut asked = asked.lock().unwrap();
            if method == "GET" {
                asked.push(started.elapsed());
            }
            (asked.len() == 1).then_some(Fault::Hang)
        }
    });
    let held = tokio::time::timeout(Duration::from_secs(60), first.hold(&never)).await;
    assert!(held.is_err(), "still leading: {held:?}");
    let asked = asked.lock().unwrap();
    let waited = asked[1].saturating_sub(asked[0]);
    // Half of the deadline of 10 s, and the pause of 2 s.
    assert!(waited <= Duration::from_millis(7100), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_wakes_after_its_lease_expired_writes_nothing() {
    let api = FakeApi::new();
    let never = CancellationToken::new();
    let mut first = candidate(&api, "first");
    let context = api.context().with_tenure(first.tenure());
    api.put(
        REGISTRY,
        json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "Registry", "metadata": {},
            "spec": {"managed": {"storage": {"emptyDir": {}}}}}),
    );
    let look = || async {
        let registry: Registry = serde_json::from_value(api.get(REGISTRY).unwrap()).unwrap();
        reconcile::<RegistryReconciler>(&context, &registry).await
    };
    let unelected = look().await;
    assert!(matches!(unelected.error, Some(Error::LeaseExpired)));
    assert!(first.acquire(&never, || {}).await);
    api.writes();

    // Stopped for longer than the lease lasts, and woken in the middle of everything: nothing ran that could renew it.
    tokio::time::advance(Duration::from_secs(16)).await;
    let woken = look().await;
    assert!(
        matches!(woken.error, Some(Error::LeaseExpired)),
        "{woken:?}"
    );
    assert_eq!(
        api.writes(),
        Vec::<String>::new(),
        "children, events, status"
    );
    assert_eq!(first.hold(&never).await, Ended::Lost);

    // It leads again only by the lease, and then it writes.
    assert!(first.acquire(&never, || {}).await);
    assert!(look().await.error.is_none());
    assert!(api.get(REGISTRY).unwrap()["status"].is_object());
}

#[tokio::test(start_paused = true)]
async fn who_gave_the_lease_away_writes_nothing_any_more() {
    let api = FakeApi::new();
    let never = CancellationToken::new();
    let mut first = candidate(&api, "first");
    let tenure = first.tenure();
    assert!(first.acquire(&never, || {}).await);
    assert!(tenure.check().is_ok());
    let release = CancellationToken::new();
    release.cancel();
    assert_eq!(first.hold(&release).await, Ended::Stopped);
    assert!(tenure.check().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_expired_time_in_the_record_is_not_believed() {
    let api = FakeApi::new();
    let never = CancellationToken::new();
    let mut first = candidate(&api, "first");
    assert!(first.acquire(&never, || {}).await);
    api.change(LEASE, |lease| {
        lease["spec"]["renewTime"] = "2001-01-01T00:00:00.000000Z".into();
    });
    let mut second = candidate(&api, "second");
    let early = tokio::time::timeout(Duration::from_secs(10), second.acquire(&never, || {}));
    assert!(early.await.is_err());
    assert_eq!(holder(&api), "first");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_replaced_notices_it_at_the_next_renewal() {
    let api = FakeApi::new();
    let never = CancellationToken::new();
    let mut first = candidate(&api, "first");
    assert!(first.acquire(&never, || {}).await);
    api.change(LEASE, |lease| {
        lease["spec"]["holderIdentity"] = "thief".into();
    });
    let started = Instant::now();
    assert_eq!(first.hold(&never).await, Ended::Lost);
    assert!(started.elapsed() <= Duration::from_secs(3));
    assert_eq!(holder(&api), "thief");
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_one_gets_a_conflict() {
    let api = FakeApi::new();
    let never = CancellationToken::new();
    let mut first = candidate(&api, "first");
    assert!(first.acquire(&never, || {}).await);
    api.change(LEASE, |lease| {
        lease["spec"]["holderIdentity"] = "".into();
    });
    let (mut second, mut third) = (candidate(&api, "second"), candidate(&api, "third"));
    // Both read before either writes: every first replace is answered by a conflict of the version.
    let soon = Duration::from_secs(5);
    let (a, b) = tokio::join!(
        tokio::time::timeout(soon, second.acquire(&never, || {})),
        tokio::time::timeout(soon, third.acquire(&never, || {})),
    );
    assert!(a.is_ok() != b.is_ok(), "exactly one leads: {a:?} {b:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_does_not_lose_the_lease() {
    let api = FakeApi::new();
    let never = CancellationToken::new();
    let mut first = candidate(&api, "first");
    assert!(first.acquire(&never, || {}).await);
    let mut left = 3;
    api.faults(move |_, _| {
        if left == 0 {
            return None;
        }
        left -= 1;
        Some(Fault::Refuse(503, "busy".to_owned()))
    });
    let held = tokio::time::timeout(Duration::from_secs(60), first.hold(&never)).await;
    assert!(held.is_err(), "still leading: {held:?}");
    assert_eq!(holder(&api), "first");
}
