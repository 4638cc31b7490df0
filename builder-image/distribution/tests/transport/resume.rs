//! Large blobs: read in parts, gone on with after an interruption, and pushed in chunks of which none is sent twice.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use distribution::{
    ChunkedPush, Client, Content, ErrorKind, Parts, Pushed, Result, SavedUpload,
    memory::{Access, Fault, MemoryRegistry},
};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture};
use oci::{Descriptor, Repository};

use crate::support::{KIB, Script, answer, blob_of, broken, client, client_with, count, lines};

const PARTS: Parts = Parts {
    connections: 3,
    size: 100 * KIB as u64,
};

async fn in_parts(repository: &Repository, blob: &Descriptor) -> Result<Bytes> {
    let reader = client().blob_in_parts(repository, blob, PARTS).await?;
    let parts: Vec<Bytes> = reader.try_collect().await?;
    Ok(parts.concat().into())
}

fn range_of(text: &str, bytes: &Bytes) -> (Bytes, String) {
    let (start, last) = text
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let start: usize = start.parse().unwrap();
    let last = last.parse().unwrap_or(bytes.len() - 1);
    let range = format!("bytes {start}-{last}/{}", bytes.len());
    (bytes.slice(start..=last), range)
}

#[tokio::test]
async fn a_large_blob_is_read_in_parts() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a");
    for size in [300 * KIB, 1000 * KIB - 1, 1000 * KIB, 1000 * KIB + 1] {
        let (bytes, blob) = blob_of(size);
        registry.add_blob("a", bytes.clone());
        registry.clear_requests();
        assert_eq!(in_parts(&repository, &blob).await.unwrap(), bytes);
        let requests = registry.requests();
        assert_eq!(requests.len(), size.div_ceil(100 * KIB), "{size}");
        assert!(requests.iter().all(|r| r.status == 206));
    }
    // It is not worth it for the small ones.
    let (bytes, blob) = blob_of(199 * KIB);
    registry.add_blob("a", bytes.clone());
    registry.clear_requests();
    assert_eq!(in_parts(&repository, &blob).await.unwrap(), bytes);
    assert_eq!(
        lines(&registry.requests()),
        [format!("GET /v2/a/blobs/{} 200", blob.digest)]
    );
}

#[tokio::test]
async fn parts_that_break_off_are_completed_and_corrupt_ones_are_found() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a");
    let (bytes, blob) = blob_of(1000 * KIB);
    registry.add_blob("a", bytes.clone());
    registry.set_faults(|r| (r.number % 2 == 1).then_some(Fault::Cut(60 * KIB)));
    assert_eq!(in_parts(&repository, &blob).await.unwrap(), bytes);
    registry.clear_requests();
    registry.set_faults(|r| (r.number == 4).then_some(Fault::Corrupt));
    let error = in_parts(&repository, &blob).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[tokio::test]
async fn servers_without_ranges_send_the_whole_once() {
    let (bytes, blob) = blob_of(1000 * KIB);
    let body = bytes.clone();
    let server = Script::start(move |_, _| answer(200, &[], body.clone())).await;
    let read = in_parts(&server.repository("a"), &blob).await.unwrap();
    assert_eq!((read, server.seen().len()), (bytes, 1));
}

#[tokio::test]
async fn the_place_that_a_registry_redirects_to_is_asked_directly_while_it_answers() {
    let (bytes, blob) = blob_of(1000 * KIB);
    let body = bytes.clone();
    // The signature of its URL ends after four requests.
    let store = Script::start(move |number, request| {
        if number == 4 {
            return answer(403, &[], "expired");
        }
        let (part, range) = range_of(request.headers()["range"].to_str().unwrap(), &body);
        answer(206, &[("content-range", &range)], part)
    })
    .await;
    let target = format!("http://{}/blob?X-Amz-Signature=abc", store.address);
    let registry = Script::start(move |_, _| answer(307, &[("location", &target)], "")).await;
    let read = in_parts(&registry.repository("a"), &blob).await.unwrap();
    assert_eq!(read, bytes);
    assert_eq!(store.seen().len(), 11);
    // For the first part, for the one that was refused, and for parts that began before the first answer came.
    assert!(
        (2..=5).contains(&registry.seen().len()),
        "{:?}",
        registry.lines()
    );
    assert!(store.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn a_server_that_lets_go_again_and_again_is_given_up() {
    let (bytes, blob) = blob_of(1000 * KIB);
    let server = Script::start(move |_, request| {
        let Some(range) = request.headers().get("range") else {
            let length = bytes.len().to_string();
            return answer(
                200,
                &[("content-length", &length)],
                broken(bytes.slice(..1)),
            );
        };
        let (part, range) = range_of(range.to_str().unwrap(), &bytes);
        let length = part.len().to_string();
        let headers = [
            ("content-range", range.as_str()),
            ("content-length", &length),
        ];
        answer(206, &headers, broken(part.slice(..1)))
    })
    .await;
    let reader = client().blob(&server.repository("a"), &blob).await.unwrap();
    let error = reader.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(server.seen().len() <= 4, "{:?}", server.lines());
}

#[tokio::test]
async fn a_blob_is_read_from_an_offset() {
    let registry = MemoryRegistry::start().await;
    let (bytes, blob) = blob_of(500 * KIB);
    registry.add_blob("a", bytes.clone());
    for offset in [0, 1, 300 * KIB, 500 * KIB - 1, 500 * KIB] {
        let from = u64::try_from(offset).unwrap();
        let (client, repository) = (client(), registry.repository("a"));
        let reader = client.blob_from(&repository, &blob, from);
        let parts: Vec<Bytes> = reader.await.unwrap().try_collect().await.unwrap();
        assert_eq!(parts.concat(), bytes[offset..], "{offset}");
    }
}

/// A source that can be opened anywhere, and the offsets at which that was done.
struct Source {
    bytes: Bytes,
    opened: Arc<Mutex<Vec<u64>>>,
}

impl Source {
    fn new(bytes: &Bytes) -> Self {
        Self {
            bytes: bytes.clone(),
            opened: Arc::default(),
        }
    }

    fn open(&self, offset: u64) -> BoxFuture<'static, Result<Content>> {
        self.opened.lock().unwrap().push(offset);
        let rest = self.bytes.slice(usize::try_from(offset).unwrap()..);
        let pieces: Vec<_> = rest.chunks(7000).map(|p| Ok(rest.slice_ref(p))).collect();
        futures::future::ready(Ok(futures::stream::iter(pieces).boxed())).boxed()
    }

    fn opened(&self) -> Vec<u64> {
        self.opened.lock().unwrap().clone()
    }
}

async fn push(
    client: &Client,
    repository: &Repository,
    blob: &Descriptor,
    source: &Source,
    options: ChunkedPush<'_>,
) -> Result<Pushed> {
    client
        .push_blob_in_chunks(repository, blob, options, |offset| source.open(offset))
        .await
}

fn in_chunks(kib: usize) -> ChunkedPush<'static> {
    ChunkedPush {
        chunk: (kib * KIB) as u64,
        ..ChunkedPush::default()
    }
}

#[tokio::test]
async fn a_blob_is_pushed_in_chunks_at_locations_that_change() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a");
    for (size, chunks) in [(300 * KIB, 2), (301 * KIB, 3), (100 * KIB, 0), (1, 0)] {
        let (bytes, blob) = blob_of(size);
        let source = Source::new(&bytes);
        registry.clear_requests();
        let pushed = push(&client(), &repository, &blob, &source, in_chunks(100)).await;
        assert_eq!(pushed.unwrap(), Pushed::Uploaded);
        assert_eq!(registry.blob("a", &blob.digest).unwrap(), bytes);
        assert_eq!(count(&registry, |r| r.method == "PATCH"), chunks, "{size}");
        assert_eq!(registry.requests().len(), chunks + 2);
        assert_eq!(source.opened(), [0]);
    }
    assert_eq!(registry.open_uploads(), 0);
}

#[tokio::test]
async fn what_arrived_is_not_sent_again() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a");
    let (bytes, blob) = blob_of(1000 * KIB);
    let source = Source::new(&bytes);
    // The fourth chunk is not taken, and the answer to the end of the upload is lost once.
    let puts = Mutex::new(0);
    registry.set_faults(move |r| {
        let busy = Fault::Answer(503, vec![], String::new());
        let is_first_put = r.method == "PUT" && {
            let mut puts = puts.lock().unwrap();
            *puts += 1;
            *puts == 1
        };
        (r.number == 4 || is_first_put).then_some(busy)
    });
    let pushed = push(&client(), &repository, &blob, &source, in_chunks(100)).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.blob("a", &blob.digest).unwrap(), bytes);
    assert_eq!(source.opened(), [0, 300 * KIB as u64, 900 * KIB as u64]);
    assert_eq!(count(&registry, |r| r.method == "POST"), 1);
    assert_eq!(count(&registry, |r| r.method == "GET"), 2);
    assert_eq!(count(&registry, |r| r.method == "PATCH"), 10);
}

/// A registry that has a state of its own: how much of an upload it has. Its answers to requests are those of `script`
/// (status and location), or else the right ones.
async fn uploads(
    script: impl Fn(usize) -> Option<u16> + Clone + Send + Sync + 'static,
    headers: &'static [(&'static str, &'static str)],
) -> Script {
    let received = Arc::new(Mutex::new(0));
    Script::start(move |number, request| {
        let mut received = received.lock().unwrap();
        let method = request.method().as_str();
        if let Some(status) = script(number) {
            return answer(status, &[], "");
        }
        if method == "POST" {
            *received = 0;
        }
        if method == "PATCH" {
            *received += request.body().len();
        }
        let last = received.max(1) - 1;
        let (location, range) = (format!("{number}?at={received}"), format!("0-{last}"));
        let mut all = vec![("location", location.as_str()), ("range", &range)];
        all.extend(headers);
        let status = match method {
            "POST" | "PATCH" => 202,
            "GET" => 204,
            _ => 201,
        };
        answer(status, &all, "")
    })
    .await
}

#[tokio::test]
async fn the_minimum_of_a_registry_counts() {
    let server = uploads(|_| None, &[("oci-chunk-min-length", "153600")]).await;
    let (bytes, blob) = blob_of(400 * KIB);
    let source = Source::new(&bytes);
    let pushed = push(
        &client(),
        &server.repository("a"),
        &blob,
        &source,
        in_chunks(1),
    )
    .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let ranges: Vec<_> = server
        .seen()
        .into_iter()
        .filter_map(|s| s.content_range)
        .collect();
    assert_eq!(ranges, ["0-153599", "153600-307199"]);
    let lengths: Vec<_> = server.seen().iter().map(|seen| seen.body.len()).collect();
    assert_eq!(lengths, [0, 153_600, 153_600, 400 * KIB - 307_200]);
    // Relative to the request before, with a query of its own, another one each time.
    let lines = server.lines();
    assert!(
        lines[1].ends_with("/v2/a/blobs/uploads/0?at=0"),
        "{lines:?}"
    );
    assert!(
        lines[3].contains("/uploads/2?at=307200&digest=sha256"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn an_upload_at_another_offset_is_asked_how_far_it_is() {
    // 416 to the second chunk, as from a registry that has only a part of the first.
    let server = uploads(|number| (number == 2).then_some(416), &[]).await;
    let (bytes, blob) = blob_of(300 * KIB);
    let source = Source::new(&bytes);
    let pushed = push(
        &client(),
        &server.repository("a"),
        &blob,
        &source,
        in_chunks(100),
    )
    .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let methods: Vec<_> = server.lines().iter().map(|l| l[..3].to_owned()).collect();
    assert_eq!(methods, ["POS", "PAT", "PAT", "GET", "PAT", "PUT"]);
    assert_eq!(source.opened(), [0, 100 * KIB as u64]);
}

#[tokio::test]
async fn an_upload_that_is_lost_begins_anew() {
    for lost in [404, 400, 416] {
        // The second chunk fails, and the registry knows no more of the upload.
        let script = move |number| match number {
            2 => Some(503),
            3 => Some(lost),
            _ => None,
        };
        let server = uploads(script, &[]).await;
        let (bytes, blob) = blob_of(300 * KIB);
        let source = Source::new(&bytes);
        let pushed = push(
            &client(),
            &server.repository("a"),
            &blob,
            &source,
            in_chunks(100),
        )
        .await;
        assert_eq!(pushed.unwrap(), Pushed::Uploaded);
        let methods: Vec<_> = server.lines().iter().map(|l| l[..3].to_owned()).collect();
        assert_eq!(
            methods,
            ["POS", "PAT", "PAT", "GET", "POS", "PAT", "PAT", "PUT"],
            "{lost}"
        );
        assert_eq!(source.opened(), [0, 0]);
    }
}

#[tokio::test]
async fn registries_without_chunks_get_all_in_one() {
    let server = uploads(|number| (number == 1).then_some(405), &[]).await;
    let (bytes, blob) = blob_of(300 * KIB);
    let source = Source::new(&bytes);
    let pushed = push(
        &client(),
        &server.repository("a"),
        &blob,
        &source,
        in_chunks(100),
    )
    .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let lengths: Vec<_> = server.seen().iter().map(|seen| seen.body.len()).collect();
    assert_eq!(lengths, [0, 100 * KIB, 0, 300 * KIB]);
}

#[tokio::test]
async fn another_process_goes_on_with_an_upload() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a");
    let (bytes, blob) = blob_of(500 * KIB);
    let source = Source::new(&bytes);
    // The first process ends when its third chunk has arrived.
    registry.set_faults(|r| (r.number >= 4).then_some(Fault::Answer(400, vec![], String::new())));
    let saved: Mutex<Option<SavedUpload>> = Mutex::default();
    let note = |upload| *saved.lock().unwrap() = Some(upload);
    let options = ChunkedPush {
        note: Some(&note),
        ..in_chunks(100)
    };
    let died = push(&client(), &repository, &blob, &source, options).await;
    assert!(died.is_err());
    registry.clear_faults();
    registry.clear_requests();
    let json = serde_json::to_string(&*saved.lock().unwrap()).unwrap();
    let options = ChunkedPush {
        saved: serde_json::from_str(&json).unwrap(),
        ..in_chunks(100)
    };
    let pushed = push(&client(), &repository, &blob, &source, options).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(source.opened(), [0, 300 * KIB as u64]);
    assert_eq!(registry.blob("a", &blob.digest).unwrap(), bytes);
    let methods: Vec<_> = lines(&registry.requests())
        .iter()
        .map(|l| l[..3].to_owned())
        .collect();
    assert_eq!(methods, ["GET", "PAT", "PUT"]);

    // What another registry has given is not followed with credentials, and what nobody knows of begins anew.
    let other = MemoryRegistry::start_with(Access::Basic {
        username: "user".into(),
        password: "s3cret".into(),
    })
    .await;
    let client = client_with(other.host().as_str(), "user", "s3cret");
    let options = ChunkedPush {
        saved: serde_json::from_str(&json).unwrap(),
        ..in_chunks(100)
    };
    registry.clear_requests();
    let pushed = push(&client, &other.repository("a"), &blob, &source, options).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.requests().len(), 1);
    assert!(!registry.requests()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_token_that_ends_before_the_upload_does_is_replaced() {
    let registry = Arc::new(
        MemoryRegistry::start_with(Access::Token {
            username: "user".into(),
            password: "s3cret".into(),
            anonymous_pull: false,
            expires_in: 3600,
        })
        .await,
    );
    let client = client_with(registry.host().as_str(), "user", "s3cret");
    let (bytes, blob) = blob_of(10 * KIB);
    let (revoked, content) = (registry.clone(), bytes.clone());
    let times = Mutex::new(0);
    let open = || {
        let mut times = times.lock().unwrap();
        *times += 1;
        if *times == 1 {
            revoked.revoke_tokens();
        }
        let content = futures::stream::iter([Ok(content.clone())]).boxed();
        futures::future::ready(Ok(content)).boxed()
    };
    let repository = registry.repository("a");
    let pushed = client.push_blob(&repository, &blob, None, open).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.blob("a", &blob.digest).unwrap(), bytes);
    assert_eq!(count(&registry, |r| r.path == "/auth/token"), 2);
}

#[tokio::test]
async fn a_repository_that_may_not_be_mounted_from_is_not_needed() {
    let registry = MemoryRegistry::start().await;
    registry.set_faults(|r| {
        let refused = Fault::Answer(403, vec![], String::new());
        let names_other = r
            .query
            .as_deref()
            .is_some_and(|q| q.contains("from=secret"));
        names_other.then_some(refused)
    });
    let (bytes, blob) = blob_of(10 * KIB);
    let options = ChunkedPush {
        from: Some(&registry.repository("secret")),
        ..ChunkedPush::default()
    };
    let source = Source::new(&bytes);
    let pushed = push(
        &client(),
        &registry.repository("a"),
        &blob,
        &source,
        options,
    )
    .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.requests().len(), 3);
}

#[tokio::test]
async fn an_upload_of_wrong_bytes_is_made_once_more_and_not_left_behind() {
    let registry = MemoryRegistry::start().await;
    let (_, blob) = blob_of(10 * KIB);
    let wrong = Source::new(&Bytes::from(vec![0; 10 * KIB]));
    let repository = registry.repository("a");
    let options = ChunkedPush::default();
    let error = push(&client(), &repository, &blob, &wrong, options).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::DigestMismatch);
    assert_eq!((wrong.opened().len(), registry.open_uploads()), (2, 0));
}
