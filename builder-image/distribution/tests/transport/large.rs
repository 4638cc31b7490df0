//! Large blobs in a copy: read in parts where their server has ranges, sent in chunks, gone on with where either side broke
//! off, and on their way to the destination before they have come.

use std::sync::Arc;

use axum::{Router, body::Body, extract::Request};
use bytes::Bytes;
use distribution::{
    Parts,
    copy::{Copier, CopyOptions, Job, LargeBlobs},
    memory::{Fault, MemoryRegistry},
};
use futures::StreamExt;
use oci::{Descriptor, Manifest, MediaType, Repository};
use tokio::sync::Semaphore;

use crate::support::{KIB, Script, add_image, answer, blob_of, client, count};

/// A tenth of a mebibyte is large here.
fn copier(at_once: usize) -> Copier {
    let kib = KIB as u64;
    let large = LargeBlobs {
        from: 200 * kib,
        parts: Parts {
            connections: 3,
            size: 100 * kib,
        },
        at_once,
        chunk: 300 * kib,
    };
    let options = CopyOptions {
        large,
        ..CopyOptions::default()
    };
    Copier::new(client(), client(), options)
}

fn job(from: &Repository, to: &Repository) -> Job {
    let tag: oci::Tag = "1".parse().unwrap();
    Job::new(from.tagged(tag.clone()), &to.tagged(tag))
}

fn ranges(source: &MemoryRegistry) -> usize {
    count(source, |r| {
        r.path.contains("/blobs/") && r.headers.contains_key("range")
    })
}

/// A source with an image that has one large layer and one small.
async fn registries() -> (MemoryRegistry, MemoryRegistry, Job) {
    let (source, target) = (MemoryRegistry::start().await, MemoryRegistry::start().await);
    let layers = [("large", 1000 * KIB), ("small", 100 * KIB)];
    add_image(&source, "a", Some("1"), "amd64", &layers);
    let job = job(&source.repository("a"), &target.repository("b"));
    (source, target, job)
}

#[tokio::test]
async fn large_layers_are_read_in_parts_and_sent_in_chunks() {
    let (source, target, job) = registries().await;
    let report = copier(1).copy(&job).await.unwrap();
    assert_eq!(report.copied.blobs, 3);
    assert_eq!(ranges(&source), 10);
    assert_eq!(count(&target, |r| r.method == "PATCH"), 3);
    assert_eq!(target.open_uploads(), 0);
    // Without room for parts in memory it is read by one connection.
    let target = MemoryRegistry::start().await;
    source.clear_requests();
    let job = self::job(&source.repository("a"), &target.repository("b"));
    assert_eq!(copier(0).copy(&job).await.unwrap().copied.blobs, 3);
    assert_eq!(ranges(&source), 0);
}

#[tokio::test]
async fn an_interruption_costs_no_more_than_a_chunk() {
    let (source, target, job) = registries().await;
    let patches = std::sync::atomic::AtomicUsize::new(0);
    target.set_faults(move |r| {
        let third =
            r.method == "PATCH" && patches.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 2;
        third.then(|| Fault::Answer(503, vec![], String::new()))
    });
    copier(1).copy(&job).await.unwrap();
    let sent = |r: &distribution::memory::Logged| r.method == "PATCH";
    assert_eq!(count(&target, sent), 4, "one of them was refused");
    // From where the registry is on, without parts.
    let rest = source
        .requests()
        .iter()
        .filter_map(|r| r.headers.get("range")?.to_str().ok().map(str::to_owned))
        .filter(|range| *range == format!("bytes={}-", 600 * KIB))
        .count();
    assert_eq!(rest, 1);
}

#[tokio::test]
async fn registries_that_take_one_chunk_only_get_all_in_one() {
    let (bytes, blob) = blob_of(1000 * KIB);
    let server = Script::start(move |_, request| {
        let location = [("location", "/v2/b/blobs/uploads/1")];
        match (request.method().as_str(), request.uri().path()) {
            ("POST", _) => answer(202, &location, ""),
            ("PATCH", _) if request.headers()["content-range"] == "0-307199" => {
                answer(202, &[location[0], ("range", "0-307199")], "")
            }
            ("PATCH", _) => answer(416, &[], ""),
            ("GET", _) => answer(204, &[location[0], ("range", "0-307199")], ""),
            ("PUT", _) if request.body().len() < 1000 * KIB => answer(416, &[], ""),
            _ => answer(201, &[], ""),
        }
    })
    .await;
    let content = bytes.clone();
    let options = distribution::ChunkedPush {
        chunk: 300 * KIB as u64,
        ..distribution::ChunkedPush::default()
    };
    let pushed = client()
        .push_blob_in_chunks(&server.repository("b"), &blob, options, |offset| {
            let rest = content.slice(usize::try_from(offset).unwrap()..);
            let rest: distribution::Content = futures::stream::iter([Ok(rest)]).boxed();
            Box::pin(futures::future::ready(Ok(rest)))
        })
        .await;
    assert_eq!(pushed.unwrap(), distribution::Pushed::Uploaded);
    let last = server.seen().pop().unwrap();
    assert!(last.line.starts_with("PUT "), "{}", last.line);
    assert_eq!(last.body, bytes);
}

/// A registry that sends the second half of each blob only when a quarter of it has come back.
async fn echo(layer: Bytes) -> (std::net::SocketAddr, tokio::task::AbortHandle) {
    let config = Bytes::from_static(b"{}");
    let manifest = Manifest::new(
        Descriptor::of(MediaType::OciConfig, &config),
        vec![Descriptor::of(MediaType::OciLayer, &layer)],
    );
    let manifest = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let came = Arc::new(Semaphore::new(0));
    let handler = move |request: Request| {
        let (layer, config, manifest) = (layer.clone(), config.clone(), manifest.clone());
        let came = came.clone();
        async move {
            let path = request.uri().path().to_owned();
            let is_layer =
                path.ends_with(Descriptor::of(MediaType::OciLayer, &layer).digest.as_str());
            match (request.method().as_str(), path.as_str()) {
                ("GET", path) if path.contains("/manifests/") => answer(
                    200,
                    &[("content-type", MediaType::OciManifest.as_str())],
                    manifest,
                ),
                ("GET", _) if is_layer => {
                    let half = layer.len() / 2;
                    let (first, second) = (layer.slice(..half), layer.slice(half..));
                    let second = async move {
                        let _came = came.acquire().await;
                        std::io::Result::Ok(second)
                    };
                    let first = futures::stream::once(async { std::io::Result::Ok(first) });
                    let body = first.chain(futures::stream::once(second));
                    answer(200, &[], Body::from_stream(body))
                }
                ("GET", _) => answer(200, &[], config),
                ("HEAD", _) => answer(404, &[], ""),
                ("POST", _) => answer(202, &[("location", "/v2/b/blobs/uploads/1")], ""),
                (_, path) => {
                    let mut body = request.into_body().into_data_stream();
                    let (mut received, is_upload) = (0, path.contains("/uploads/"));
                    while let Some(Ok(bytes)) = body.next().await {
                        received += bytes.len();
                        if is_upload && received * 4 >= layer.len() {
                            came.add_permits(1);
                        }
                    }
                    answer(201, &[], "")
                }
            }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let _ = axum::serve(listener, Router::new().fallback(handler)).await;
    });
    (address, server.abort_handle())
}

#[tokio::test]
async fn a_layer_goes_out_before_it_has_come() {
    // Otherwise neither side would ever go on.
    let (address, server) = echo(blob_of(900 * KIB).0).await;
    let repository = |path: &str| -> Repository { format!("{address}/{path}").parse().unwrap() };
    let job = job(&repository("a"), &repository("b"));
    for at_once in [0, 1] {
        let copied = copier(at_once).copy(&job).await;
        assert_eq!(copied.unwrap().copied.blobs, 2);
    }
    server.abort();
}
