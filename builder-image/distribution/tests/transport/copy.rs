//! Copies: the number and the order of requests, what is refused, and what is left when one fails.

use std::sync::atomic::{AtomicUsize, Ordering};

use distribution::{
    Client, ErrorKind,
    copy::{Amount, CopyOptions, copy},
    memory::{Fault, MemoryRegistry},
};
use oci::{Descriptor, Digest, Index, Manifest, MediaType, Reference};

use crate::support::{KIB, add_image, add_index, client, lines};

struct Pair {
    source: MemoryRegistry,
    target: MemoryRegistry,
    from: Reference,
    to: Reference,
    client: Client,
}

async fn pair() -> Pair {
    let (source, target) = (MemoryRegistry::start().await, MemoryRegistry::start().await);
    add_index(&source, "library/app", "1");
    let from = source
        .repository("library/app")
        .tagged("1".parse().unwrap());
    let to = target.repository("mirror/app").tagged("1".parse().unwrap());
    Pair {
        source,
        target,
        from,
        to,
        client: client(),
    }
}

impl Pair {
    async fn copy(
        &self,
        options: &CopyOptions,
    ) -> distribution::Result<distribution::copy::CopyReport> {
        self.source.clear_requests();
        self.target.clear_requests();
        copy(&self.client, &self.from, &self.client, &self.to, options).await
    }

    fn requests(&self) -> (usize, usize) {
        (self.source.requests().len(), self.target.requests().len())
    }
}

#[tokio::test]
async fn an_index_is_copied_whole_and_unchanged() {
    let pair = pair().await;
    let report = pair.copy(&CopyOptions::default()).await.unwrap();
    assert_eq!(pair.requests(), (16, 30));
    assert_eq!((report.manifests, report.copied.blobs), (3, 13));
    assert_eq!(report.mounted, Amount::default());
    let original = pair.source.manifest("library/app", "1").unwrap();
    assert_eq!(pair.target.manifest("mirror/app", "1").unwrap(), original);
    assert_eq!(report.root, original.descriptor());
    let lines = lines(&pair.target.requests());
    assert_eq!(lines.last().unwrap(), "PUT /v2/mirror/app/manifests/1 201");
    assert_eq!(pair.target.open_uploads(), 0);

    let again = pair.copy(&CopyOptions::default()).await.unwrap();
    assert!(again.unchanged);
    assert_eq!((again.root, pair.requests()), (report.root, (1, 1)));
}

#[tokio::test]
async fn within_one_registry_everything_is_mounted() {
    let pair = pair().await;
    let to = pair.source.repository("copy").tagged("1".parse().unwrap());
    let options = CopyOptions::default();
    let report = copy(&pair.client, &pair.from, &pair.client, &to, &options).await;
    assert_eq!(report.unwrap().mounted.blobs, 13);
    assert_eq!(pair.source.requests().len(), 20);
    // Another name in the same repository is nothing but that.
    pair.source.clear_requests();
    let to = pair.from.repository().tagged("2".parse().unwrap());
    let report = copy(&pair.client, &pair.from, &pair.client, &to, &options).await;
    assert_eq!(
        (report.unwrap().manifests, pair.source.requests().len()),
        (1, 5)
    );
}

#[tokio::test]
async fn a_moved_tag_is_copied_again_without_the_blobs_that_are_there() {
    let pair = pair().await;
    pair.copy(&CopyOptions::default()).await.unwrap();
    add_image(
        &pair.source,
        "library/app",
        Some("1"),
        "amd64",
        &[("shared", 50 * KIB), ("new", 70)],
    );
    let report = pair.copy(&CopyOptions::default()).await.unwrap();
    assert_eq!((report.copied.blobs, report.copied.bytes), (1, 70));
    assert_eq!(report.mounted.blobs, 2);
}

#[tokio::test]
async fn a_tag_that_moves_meanwhile_does_not_mix_images() {
    let pair = pair().await;
    pair.copy(&CopyOptions::default()).await.unwrap();
    let wanted = add_image(
        &pair.source,
        "library/app",
        Some("1"),
        "amd64",
        &[("second", 9)],
    );
    let third = Manifest::new(Descriptor::of(MediaType::OciConfig, b"third"), vec![]);
    let third = serde_json::to_string(&third).unwrap();
    let digest =
        pair.source
            .add_manifest("library/app", None, MediaType::OciManifest, third.clone());
    // The HEAD tells the second image; whoever asks for the tag afterwards gets the third.
    pair.source.set_faults(move |r| {
        let headers = vec![
            ("content-type", MediaType::OciManifest.to_string()),
            ("docker-content-digest", digest.to_string()),
        ];
        let moved = Fault::Answer(200, headers, third.clone());
        (r.method == "GET" && r.path.ends_with("/manifests/1")).then_some(moved)
    });
    let report = pair.copy(&CopyOptions::default()).await.unwrap();
    assert_eq!(report.root, wanted);
    let stored = pair.target.manifest("mirror/app", "1").unwrap();
    assert_eq!(stored.digest, wanted.digest);
}

#[tokio::test]
async fn a_copy_that_fails_leaves_the_tag_alone() {
    let pair = pair().await;
    let manifest = pair.source.manifest("library/app", "1").unwrap();
    for (path, fault, kind) in [
        ("/blobs/", Fault::Corrupt, ErrorKind::DigestMismatch),
        (
            "/blobs/",
            Fault::Answer(404, vec![], String::new()),
            ErrorKind::NotFound,
        ),
        (
            "/manifests/sha256",
            Fault::Corrupt,
            ErrorKind::DigestMismatch,
        ),
        (
            "/manifests/sha256",
            Fault::Answer(503, vec![], String::new()),
            ErrorKind::Unavailable,
        ),
    ] {
        pair.source
            .set_faults(move |r| r.path.contains(path).then(|| fault.clone()));
        let error = pair.copy(&CopyOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {error}");
        assert!(pair.target.tags("mirror/app").is_empty());
    }
    pair.source.clear_faults();
    pair.copy(&CopyOptions::default()).await.unwrap();
    assert_eq!(pair.target.manifest("mirror/app", "1").unwrap(), manifest);
}

#[tokio::test]
async fn broken_connections_do_not_break_a_copy() {
    let pair = pair().await;
    pair.source.set_faults(|r| {
        let first = r.headers.get("range").is_none() && r.path.contains("/blobs/");
        first.then_some(Fault::Cut(10_000))
    });
    // Twice, which one blob alone could bear.
    let uploads = AtomicUsize::new(0);
    pair.target.set_faults(move |r| {
        let upload = r.method == "PUT" && r.path.contains("/uploads/");
        let fault = Fault::Answer(502, vec![], String::new());
        (upload && uploads.fetch_add(1, Ordering::Relaxed) < 2).then_some(fault)
    });
    let report = pair.copy(&CopyOptions::default()).await.unwrap();
    assert_eq!(report.copied.blobs + report.mounted.blobs, 13);
    let stored = pair.target.manifest("mirror/app", "1").unwrap();
    assert_eq!(stored.descriptor(), report.root);
}

#[tokio::test]
async fn foreign_layers_are_refused_unless_allowed() {
    let pair = pair().await;
    let config = pair.source.add_blob("f", "{}");
    let config = Descriptor::new(MediaType::OciConfig, config, 2);
    let media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let mut layer = Descriptor::of(MediaType::from(media_type), b"elsewhere");
    layer.urls = vec!["http://169.254.169.254/layer".into()];
    let json = serde_json::to_string(&Manifest::new(config, vec![layer])).unwrap();
    pair.source
        .add_manifest("f", Some("1"), MediaType::OciManifest, json);
    let from = pair.source.repository("f").tagged("1".parse().unwrap());
    let mut options = CopyOptions::default();
    let error = copy(&pair.client, &from, &pair.client, &pair.to, &options).await;
    assert!(error.unwrap_err().to_string().contains("foreign layer"));
    options.foreign_layers = true;
    let report = copy(&pair.client, &from, &pair.client, &pair.to, &options).await;
    assert_eq!(report.unwrap().copied.blobs, 1);
}

#[tokio::test]
async fn images_without_end_are_refused() {
    let pair = pair().await;
    // Indexes within indexes.
    let mut child = add_image(&pair.source, "deep", None, "amd64", &[]);
    for _ in 0..6 {
        let json = serde_json::to_string(&Index::new(vec![child])).unwrap();
        pair.source
            .add_manifest("deep", Some("1"), MediaType::OciIndex, json.clone());
        child = Descriptor::of(MediaType::OciIndex, json.as_bytes());
    }
    // An index of more children than there are.
    let children = (0..1100_u32).map(|number| {
        let json = format!(r#"{{"schemaVersion":2,"manifests":[],"x":{number}}}"#);
        pair.source
            .add_manifest("wide", None, MediaType::OciIndex, json.clone());
        Descriptor::of(MediaType::OciIndex, json.as_bytes())
    });
    let json = serde_json::to_string(&Index::new(children.collect())).unwrap();
    pair.source
        .add_manifest("wide", Some("1"), MediaType::OciIndex, json);
    for path in ["deep", "wide"] {
        let from = pair.source.repository(path).tagged("1".parse().unwrap());
        let options = CopyOptions::default();
        let error = copy(&pair.client, &from, &pair.client, &pair.to, &options).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TooLarge, "{path}");
    }
    let absent = pair.source.repository("absent").at(Digest::of(b""));
    let options = CopyOptions::default();
    let error = copy(&pair.client, &absent, &pair.client, &pair.to, &options).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
}
