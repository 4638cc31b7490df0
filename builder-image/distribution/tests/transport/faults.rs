//! Servers that fail in every way there is: the reason, the number of attempts, and that each of them ends.

use std::time::Duration;

use distribution::{Client, ErrorKind, Guard, Result, RetryPolicy};
use futures::{StreamExt, TryStreamExt};
use oci::{Descriptor, MediaType, Repository};

use crate::support::{Act, Raw, Script, answer, builder, client};

/// What is asked of a server.
#[derive(Debug, Clone, Copy)]
enum What {
    Head,
    Manifest,
    Tags,
    Blob,
    Push,
}

/// The content of [`What::Manifest`] and [`What::Blob`].
const RIGHT: &str = "0123456789";

async fn ask(client: &Client, repository: &Repository, what: What) -> Result<()> {
    let blob = Descriptor::of(MediaType::OciLayer, RIGHT.as_bytes());
    match what {
        What::Head => {
            let tag = repository.tagged("1".parse().unwrap());
            client.resolve(&tag).await.map(drop)
        }
        What::Manifest => {
            let name = repository.at(blob.digest);
            client.manifest(&name).await.map(drop)
        }
        What::Tags => client.tags(repository, 10).await.map(drop),
        What::Blob => {
            let reader = client.blob(repository, &blob).await?;
            reader.try_collect::<Vec<_>>().await.map(drop)
        }
        What::Push => {
            let pushed = client.upload_bytes(repository, MediaType::OciLayer, RIGHT.into());
            pushed.await.map(drop)
        }
    }
}

/// A client that waits half a second for a sign of life.
fn impatient() -> Client {
    builder()
        .timeouts(Duration::from_secs(10), Duration::from_millis(500))
        .build()
        .unwrap()
}

#[tokio::test]
async fn connections_that_fail_are_given_up_after_all_attempts() {
    use What::{Blob, Head, Manifest, Push, Tags};
    let every = [Head, Manifest, Tags, Blob, Push];
    let with_body = [Manifest, Tags, Blob];
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut all = Vec::new();
    for (act, said, whats) in [
        (Act::Send(""), "broke", &every[..]),
        (Act::Send("HTTP/1.1 200 OK\r\ncontent-le"), "broke", &every),
        (Act::Send("SSH-2.0-OpenSSH_9.2\r\n"), "broke", &every),
        (Act::Hang(""), "in time", &every),
        (Act::Hang("HTTP/1.1 200 O"), "in time", &every),
        (Act::Send(short), "broke", &with_body),
        (Act::Send(chunked), "broke", &with_body),
        (Act::Hang(short), "too slow", &with_body),
        (Act::Hang(chunked), "in time", &with_body),
    ] {
        all.extend(whats.iter().map(|what| (act, said, *what)));
    }
    // At the same time, since some of them wait for the idle timeout.
    let asked = all.into_iter().map(async |(act, said, what)| {
        let server = Raw::start(move |_| act).await;
        let hangs = matches!(act, Act::Hang(_));
        let client = if hangs { impatient() } else { client() };
        let error = ask(&client, &server.repository("a"), what).await;
        let error = error.unwrap_err();
        let (Act::Send(text) | Act::Hang(text) | Act::Drip(text)) = act;
        let shown = format!("{what:?} {text}: {error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{shown}");
        assert!(error.to_string().contains(said), "{shown}");
        // An attempt may meet the connection of the one before, which is not yet known to be closed, or end before a busy
        // server has read it.
        let seen = server.heads().len();
        assert!(seen <= 3 && (hangs || seen >= 2), "{seen}: {shown}");
    });
    futures::stream::iter(asked)
        .buffer_unordered(8)
        .collect::<()>()
        .await;
}

#[tokio::test]
async fn a_server_that_drips_does_not_hold_us_for_ever() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let server = Raw::start(move |_| Act::Drip(chunked)).await;
    let client = builder()
        .timeouts(Duration::from_secs(10), Duration::from_millis(50))
        .build()
        .unwrap();
    // Not a blob: ten bytes of it come soon enough.
    for what in [What::Manifest, What::Tags] {
        let error = ask(&client, &server.repository("a"), what)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what:?}: {error}");
        assert!(error.to_string().contains("too slow"), "{what:?}: {error}");
    }
}

#[tokio::test]
async fn a_failure_that_passes_does_no_harm() {
    let good = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n0123456789";
    for bad in [
        Act::Send(""),
        Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234"),
        Act::Hang("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234"),
        Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n012345678X"),
    ] {
        let server = Raw::start(move |number| if number == 0 { bad } else { Act::Send(good) });
        let server = server.await;
        ask(&impatient(), &server.repository("a"), What::Manifest)
            .await
            .unwrap();
        assert_eq!(server.heads().len(), 2);
    }
}

#[tokio::test]
async fn corrupt_content_is_asked_for_once_more() {
    let server = Script::start(|_, _| answer(200, &[], "012345678X")).await;
    let error = ask(&impatient(), &server.repository("a"), What::Manifest).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::DigestMismatch);
    assert_eq!(server.seen().len(), 2);
    // A reader of a blob has taken the bytes already.
    let error = ask(&impatient(), &server.repository("a"), What::Blob).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::DigestMismatch);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn every_status_has_its_reason_and_its_attempts() {
    for (status, kind, attempts) in [
        (400, ErrorKind::Refused, 1),
        (403, ErrorKind::Unauthorized, 1),
        (404, ErrorKind::NotFound, 1),
        (408, ErrorKind::Unavailable, 3),
        (429, ErrorKind::Unavailable, 3),
        (500, ErrorKind::Unavailable, 3),
        (501, ErrorKind::Refused, 1),
        (502, ErrorKind::Unavailable, 3),
        (503, ErrorKind::Unavailable, 3),
        (504, ErrorKind::Unavailable, 3),
        (507, ErrorKind::Refused, 1),
    ] {
        for what in [What::Manifest, What::Blob, What::Push] {
            let server = Script::start(move |_, _| answer(status, &[], "<html>")).await;
            let error = ask(&impatient(), &server.repository("a"), what).await;
            let error = error.unwrap_err();
            assert_eq!(error.kind(), kind, "{status} {what:?}: {error}");
            assert_eq!(server.seen().len(), attempts, "{status} {what:?}");
            assert!(!error.to_string().contains("html"));
        }
    }
}

#[tokio::test]
async fn one_server_that_fails_does_not_hold_up_another() {
    let policy = RetryPolicy {
        max_retry_after: Duration::from_secs(7200),
        ..RetryPolicy::default()
    };
    let client = Client::builder()
        .guard(Guard::Open)
        .retry(policy)
        .build()
        .unwrap();
    let busy = Script::start(|_, _| answer(429, &[("retry-after", "3600")], "")).await;
    let good = Script::start(|_, _| answer(200, &[], RIGHT)).await;
    let repository = busy.repository("a");
    let mut first = Box::pin(ask(&client, &repository, What::Head));
    while busy.seen().is_empty() {
        assert!(futures::poll!(&mut first).is_pending());
        tokio::task::yield_now().await;
    }
    ask(&client, &good.repository("a"), What::Manifest)
        .await
        .unwrap();
    assert!(futures::poll!(&mut first).is_pending());
}
