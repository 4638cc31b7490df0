//! What a host asks us to keep to: pauses for all work on it, budgets, and limits of our own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use distribution::{Client, ErrorKind, Guard, HostLimits, RetryPolicy};
use oci::Digest;

use crate::support::{Script, answer, builder, client};

#[tokio::test]
async fn a_pause_holds_for_all_work_on_the_host() {
    let policy = RetryPolicy {
        max_retry_after: Duration::from_secs(7200),
        ..RetryPolicy::default()
    };
    let builder = || Client::builder().guard(Guard::Open).retry(policy.clone());
    let client = builder().build().unwrap();
    let headers = [("retry-after", "3600"), ("ratelimit-remaining", "9")];
    let server = Script::start(move |_, _| answer(503, &headers, "")).await;
    let repository = server.repository("a");
    let reference = repository.tagged("1".parse().unwrap());
    let mut first = Box::pin(client.resolve(&reference));
    let turn = Duration::from_millis(100);
    while client.budget(repository.host()).is_none() {
        assert!(tokio::time::timeout(turn, &mut first).await.is_err());
    }
    // The headers have come; the pause begins when the body has, too.
    assert!(tokio::time::timeout(turn * 5, &mut first).await.is_err());
    let other = client.with_plain_http(["elsewhere.example"]);
    let third = builder().traffic_of(&client).build().unwrap();
    for client in [&client, &other, &third] {
        let asked = client.tags(&repository, 10);
        assert!(tokio::time::timeout(turn, asked).await.is_err());
    }
    assert_eq!(server.lines(), ["HEAD /v2/a/manifests/1"]);
    // Clients that share nothing do not know of it.
    let stranger = builder().build().unwrap();
    let asked = stranger.tags(&repository, 10);
    assert!(tokio::time::timeout(turn, asked).await.is_err());
    while server.seen().len() < 2 {
        let asked = stranger.tags(&repository, 10);
        assert!(tokio::time::timeout(turn, asked).await.is_err());
    }
}

#[tokio::test]
async fn a_budget_that_is_spent_is_not_overdrawn() {
    let remaining = Arc::new(AtomicUsize::new(2));
    let left = remaining.clone();
    let server = Script::start(move |_, request| {
        let mut left = left.load(Ordering::Relaxed);
        if request.method() == "GET" {
            left -= 1;
            // GETs are counted, HEADs are not.
            let text = left.to_string();
            return counted(&text, "{}");
        }
        counted(&left.to_string(), "{}")
    })
    .await;
    let client = client();
    let host = server.repository("a").host().clone();
    let reference = server.repository("a").tagged("1".parse().unwrap());
    assert_eq!(client.budget(&host), None);
    client.manifest(&reference).await.unwrap();
    assert_eq!(client.budget(&host).unwrap().remaining, 1);
    remaining.store(1, Ordering::Relaxed);
    client.manifest(&reference).await.unwrap();
    let error = client.manifest(&reference).await.unwrap_err();
    assert_eq!(
        (error.kind(), server.seen().len()),
        (ErrorKind::Unavailable, 2)
    );
    // A hundred in six hours are one in 216 seconds.
    let after = error.retry_after().unwrap().as_secs();
    assert!((200..=216).contains(&after), "{after}");
    // A HEAD costs nothing, and tells that there is more again.
    remaining.store(7, Ordering::Relaxed);
    client.resolve(&reference).await.unwrap();
    assert_eq!(client.budget(&host).unwrap().remaining, 7);
    client.manifest(&reference).await.unwrap();
}

/// An answer that tells what remains.
fn counted(remaining: &str, body: &'static str) -> http::Response<axum::body::Body> {
    let digest = Digest::of(b"{}").to_string();
    let remaining = format!("{remaining};w=21600");
    let headers = [
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", remaining.as_str()),
        ("content-type", "application/vnd.oci.image.index.v1+json"),
        ("docker-content-digest", &digest),
    ];
    answer(200, &headers, body)
}

#[tokio::test]
async fn a_reserve_is_left_for_others() {
    let server = Script::start(|_, _| counted("10", "{}")).await;
    let limits = HostLimits {
        reserve: 10,
        ..HostLimits::default()
    };
    let client = builder().limits(limits).build().unwrap();
    let reference = server.repository("a").tagged("1".parse().unwrap());
    client.manifest(&reference).await.unwrap();
    let error = client.manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(server.seen().len(), 1);
}
