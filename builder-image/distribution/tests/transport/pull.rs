//! Pulling from registries that lie, break off, redirect, or ask to slow down.

use std::time::Duration;

use bytes::Bytes;
use distribution::{
    Client, ErrorKind, Result,
    memory::{Access, Fault, MemoryRegistry},
};
use futures::TryStreamExt;
use oci::{Descriptor, Digest, MediaType, Reference};
use tokio::io::AsyncReadExt;

use crate::support::{
    KIB, Script, add_image, answer, blob_of, broken, builder, chunked, client, client_with, count,
    lines,
};

async fn read(client: &Client, repository: &oci::Repository, blob: &Descriptor) -> Result<Bytes> {
    let parts: Vec<Bytes> = client.blob(repository, blob).await?.try_collect().await?;
    Ok(parts.concat().into())
}

async fn registry() -> (MemoryRegistry, Reference) {
    let registry = MemoryRegistry::start().await;
    add_image(&registry, "a/b", Some("1"), "amd64", &[("x", 300 * KIB)]);
    let reference = registry.repository("a/b").tagged("1".parse().unwrap());
    (registry, reference)
}

fn big_blob() -> (Bytes, Descriptor) {
    blob_of(4_000_000)
}

#[tokio::test]
async fn resolving_takes_one_head() {
    let (registry, reference) = registry().await;
    let client = client();
    let resolved = client.resolve(&reference).await.unwrap().unwrap();
    let stored = registry.manifest("a/b", "1").unwrap();
    assert_eq!(resolved, stored.descriptor());
    assert_eq!(
        lines(&registry.requests()),
        ["HEAD /v2/a/b/manifests/1 200"]
    );
    assert_eq!(client.manifest(&reference).await.unwrap(), stored);
    let absent = registry.repository("a/b").tagged("2".parse().unwrap());
    assert_eq!(client.resolve(&absent).await.unwrap(), None);
    let error = client.manifest(&absent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().ends_with("not found (MANIFEST_UNKNOWN)"),
        "{error}"
    );
}

#[tokio::test]
async fn registries_that_do_not_tell_by_head_are_asked_by_get() {
    let (registry, reference) = registry().await;
    let expected = registry.manifest("a/b", "1").unwrap().descriptor();
    for fault in [
        Fault::Without("docker-content-digest"),
        Fault::Without("content-type"),
        Fault::Answer(405, Vec::new(), String::new()),
    ] {
        registry.set_faults(move |r| (r.method == "HEAD").then(|| fault.clone()));
        let resolved = client().resolve(&reference).await.unwrap().unwrap();
        assert_eq!(resolved, expected);
    }
}

#[tokio::test]
async fn manifests_that_are_not_what_they_are_called_are_refused() {
    let (registry, reference) = registry().await;
    registry.set_faults(|_| Some(Fault::Corrupt));
    let digest = registry.manifest("a/b", "1").unwrap().digest;
    for reference in [reference.clone(), reference.pinned(digest)] {
        let error = client().manifest(&reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
    }
}

#[tokio::test]
async fn endless_manifests_are_cut_off() {
    let server =
        Script::start(|_, _| chunked(200, vec![Bytes::from(vec![b' '; 64 * KIB]); 80])).await;
    let reference = server.repository("a").tagged("1".parse().unwrap());
    let error = client().manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn blobs_are_read_as_stream_and_as_reader() {
    let (registry, _) = registry().await;
    let (bytes, blob) = big_blob();
    registry.add_blob("a/b", bytes.clone());
    let repository = registry.repository("a/b");
    assert_eq!(read(&client(), &repository, &blob).await.unwrap(), bytes);
    let mut reader = client().blob(&repository, &blob).await.unwrap();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, bytes);
    assert!(
        client()
            .blob_exists(&repository, &blob.digest)
            .await
            .unwrap()
    );
    assert!(
        !client()
            .blob_exists(&repository, &Digest::of(b"no"))
            .await
            .unwrap()
    );
    let error = client()
        .small_blob(&repository, &blob, 100)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn an_interrupted_blob_goes_on_where_it_stopped() {
    let (registry, _) = registry().await;
    let (bytes, blob) = big_blob();
    registry.add_blob("a/b", bytes.clone());
    registry.set_faults(|r| (r.number < 2).then_some(Fault::Cut(1_000_000)));
    let repository = registry.repository("a/b");
    assert_eq!(read(&client(), &repository, &blob).await.unwrap(), bytes);
    let statuses: Vec<_> = registry.requests().iter().map(|r| r.status).collect();
    assert_eq!(statuses, [200, 206, 206]);
}

#[tokio::test]
async fn a_server_without_ranges_sends_all_again() {
    let (bytes, blob) = big_blob();
    let body = bytes.clone();
    let server = Script::start(move |number, _| {
        let length = body.len().to_string();
        if number == 0 {
            let cut = broken(body.slice(..100_001));
            return answer(200, &[("content-length", &length)], cut);
        }
        answer(200, &[], body.clone())
    })
    .await;
    let repository = server.repository("a");
    assert_eq!(read(&client(), &repository, &blob).await.unwrap(), bytes);
    assert_eq!(server.seen().len(), 2);
    assert!(
        server.seen()[1]
            .range
            .as_deref()
            .is_some_and(|r| r.starts_with("bytes="))
    );
}

#[tokio::test]
async fn another_range_than_asked_for_is_refused() {
    let (bytes, blob) = big_blob();
    let server = Script::start(move |number, _| {
        let length = bytes.len().to_string();
        if number == 0 {
            let cut = broken(bytes.slice(..1000));
            return answer(200, &[("content-length", &length)], cut);
        }
        answer(206, &[("content-range", "bytes 0-9/10")], bytes.slice(..10))
    })
    .await;
    let error = read(&client(), &server.repository("a"), &blob)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[tokio::test]
async fn blobs_of_another_length_or_content_are_refused() {
    let right = Bytes::from_static(b"0123456789");
    let blob = Descriptor::of(MediaType::OciLayer, &right);
    for (bodies, announced) in [
        (vec!["012345678"], true),
        (vec!["0123456789a"], true),
        (vec!["012345678"], false),
        (vec!["01234", "56789a"], false),
        (vec!["0123456780"], true),
    ] {
        let shown = format!("{bodies:?} {announced}");
        let server = Script::start(move |_, _| {
            if announced {
                return answer(200, &[], bodies.concat());
            }
            chunked(
                200,
                bodies
                    .iter()
                    .map(|b| Bytes::from_static(b.as_bytes()))
                    .collect(),
            )
        })
        .await;
        let error = read(&client(), &server.repository("a"), &blob)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{shown}: {error}");
        // What came is asked to be gone on with, once.
        let is_short = !announced && shown.contains("012345678\"");
        assert_eq!(server.seen().len(), 1 + usize::from(is_short), "{shown}");
    }
}

#[tokio::test]
async fn redirects_to_other_origins_get_no_credentials() {
    let bytes = Bytes::from_static(b"from the store");
    let blob = Descriptor::of(MediaType::OciLayer, &bytes);
    let store = Script::start(move |_, _| answer(200, &[], bytes.clone())).await;
    let access = Access::Basic {
        username: "user".into(),
        password: "s3cret".into(),
    };
    let registry = MemoryRegistry::start_with(access).await;
    registry.add_blob("a/b", "x");
    let target = format!("http://{}/blob?X-Amz-Signature=abc", store.address);
    registry.set_faults(move |r| {
        let headers = vec![("location", target.clone())];
        let authorized = r.headers.contains_key("authorization");
        (authorized && r.path.contains("/blobs/"))
            .then(|| Fault::Answer(307, headers, String::new()))
    });
    let client = client_with(registry.host().as_str(), "user", "s3cret");
    let read = read(&client, &registry.repository("a/b"), &blob)
        .await
        .unwrap();
    assert_eq!(read, "from the store");
    let seen = store.seen();
    assert_eq!((seen.len(), seen[0].authorization.as_ref()), (1, None));
    assert_eq!(
        count(&registry, |r| r.headers.contains_key("authorization")),
        1
    );
}

#[tokio::test]
async fn redirects_end() {
    let server = Script::start(|number, _| {
        let location = format!("/v2/{number}");
        answer(302, &[("location", &location)], "")
    })
    .await;
    let reference = server.repository("a").tagged("1".parse().unwrap());
    let error = client().manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(server.seen().len(), 11);
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let (registry, reference) = registry().await;
    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (status, headers) in [
        (500, vec![]),
        (502, vec![]),
        (503, vec![("retry-after", "0".to_owned())]),
        (429, vec![("retry-after", past.to_owned())]),
    ] {
        registry.clear_requests();
        registry.set_faults(move |r| {
            let fault = Fault::Answer(status, headers.clone(), String::new());
            (r.number < 2).then_some(fault)
        });
        assert!(
            client().resolve(&reference).await.unwrap().is_some(),
            "{status}"
        );
        assert_eq!(registry.requests().len(), 3);
    }
}

#[tokio::test]
async fn what_does_not_pass_is_given_up() {
    let (registry, reference) = registry().await;
    for (status, headers, kind, requests) in [
        (503, vec![], ErrorKind::Unavailable, 3),
        (
            429,
            vec![("retry-after", "3600".to_owned())],
            ErrorKind::Unavailable,
            1,
        ),
        (403, vec![], ErrorKind::Unauthorized, 1),
        (418, vec![], ErrorKind::Refused, 1),
    ] {
        registry.clear_requests();
        let after = headers.first().map(|_| Duration::from_secs(3600));
        registry.set_faults(move |_| Some(Fault::Answer(status, headers.clone(), "<html>".into())));
        let error = client().manifest(&reference).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry_after()),
            (kind, after),
            "{status}"
        );
        assert_eq!(registry.requests().len(), requests, "{status}");
        assert!(!error.to_string().contains("html"));
    }
}

#[tokio::test]
async fn servers_that_hang_or_are_not_there_are_unavailable() {
    let (registry, reference) = registry().await;
    registry.set_faults(|_| Some(Fault::Delay(Duration::from_secs(3600))));
    let impatient = builder().timeouts(Duration::from_secs(5), Duration::from_millis(20));
    let error = impatient
        .build()
        .unwrap()
        .manifest(&reference)
        .await
        .unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("in time"),
        "{error}"
    );
    drop(registry);
    let error = client().manifest(&reference).await.unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("refused"),
        "{error}"
    );
    // A label that no name server can be asked for.
    let host = format!("{}.invalid", "x".repeat(64));
    let nowhere = format!("{host}/a:1").parse().unwrap();
    let client = builder().plain_http([host]).build().unwrap();
    let error = client.manifest(&nowhere).await.unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("resolved"),
        "{error}"
    );
}
