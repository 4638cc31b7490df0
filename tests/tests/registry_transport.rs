//! Our registry transport against the CNCF registry: push, pull, mount, copy, chunks, parts, tags and delete with Basic
//! authentication. `oci-client` looks at the result as an independent peer.
//!
//! Needs the program `registry` that `tests/cluster/build` builds; without it the test fails.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use distribution::{
    ChunkedPush, Client, Content, Credentials, DockerConfig, ErrorKind, Guard, Parts, Pushed,
    ReferrersOrigin, SavedUpload,
    copy::{Checker, Copier, CopyOptions, Found, Health, Job, Platforms, copy},
    fallback_tag,
};
use futures::{FutureExt, StreamExt, TryStreamExt};
use oci::{Descriptor, Index, Manifest, MediaType, Platform, Reference, Repository};

/// The registry program on a free loopback port, with one user. Dropping it ends the process.
struct Registry {
    process: Child,
    host: String,
    directory: tempfile::TempDir,
}

impl Registry {
    async fn start() -> Self {
        let cache = std::env::var_os("COOPERY_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/coopery"),
            PathBuf::from,
        );
        let program = cache.join("bin/registry");
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let hash = bcrypt::hash("s3cret", 4).unwrap();
        fs_err::write(directory.path().join("htpasswd"), format!("user:{hash}\n")).unwrap();
        let host = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '{host}', secret: fixed, relativeurls: true}}\n\
             auth: {{htpasswd: {{realm: r, path: {root}/htpasswd}}}}\n"
        );
        let file = directory.path().join("config.yml");
        fs_err::write(&file, config).unwrap();
        let process = Command::new(&program)
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}; run `make cluster`", program.display()));
        let registry = Self {
            process,
            host,
            directory,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(&registry.host)
            .await
            .is_err()
        {
            assert!(Instant::now() < deadline, "the registry does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    /// Takes the content of a blob from the storage, as a failing disk does; repositories still link to it.
    fn lose(&self, digest: &str) {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = "data/docker/registry/v2/blobs/sha256";
        let blob = format!("{blobs}/{}/{hex}/data", &hex[..2]);
        fs_err::remove_file(self.directory.path().join(blob)).unwrap();
    }

    fn repository(&self, path: &str) -> Repository {
        format!("{}/{path}", self.host).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn client(registries: &[&Registry]) -> Client {
    let config = registries
        .iter()
        .fold(DockerConfig::default(), |config, registry| {
            let credentials = Credentials::basic("user", "s3cret");
            config.with(&registry.host, credentials).unwrap()
        });
    Client::builder()
        .guard(Guard::Open)
        .keychain(config)
        .build()
        .unwrap()
}

/// Pushes an image of one layer of a MiB, gives its descriptor.
async fn push(client: &Client, repository: &Repository, architecture: &str) -> Descriptor {
    let config = format!(r#"{{"architecture":"{architecture}","os":"linux"}}"#);
    let config = client.upload_bytes(repository, MediaType::OciConfig, config.into());
    let layer: Bytes = architecture.bytes().cycle().take(1 << 20).collect();
    let layer = client.upload_bytes(repository, MediaType::OciLayer, layer);
    let manifest = Manifest::new(config.await.unwrap(), vec![layer.await.unwrap()]);
    let json = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let descriptor = Descriptor::of(MediaType::OciManifest, &json);
    let name = repository.at(descriptor.digest.clone());
    let put = client.put_manifest(&name, &MediaType::OciManifest, json);
    assert_eq!(put.await.unwrap(), descriptor.digest);
    descriptor.with_platform(format!("linux/{architecture}").parse::<Platform>().unwrap())
}

/// Pushes an index of two platforms under `reference`.
async fn push_index(client: &Client, reference: &Reference) -> Descriptor {
    let repository = reference.repository();
    let mut children = Vec::new();
    for architecture in ["amd64", "arm64"] {
        children.push(push(client, repository, architecture).await);
    }
    let json = Bytes::from(serde_json::to_vec_pretty(&Index::new(children)).unwrap());
    let descriptor = Descriptor::of(MediaType::OciIndex, &json);
    let put = client.put_manifest(reference, &MediaType::OciIndex, json);
    assert_eq!(put.await.unwrap(), descriptor.digest);
    descriptor
}

#[tokio::test]
async fn what_is_pushed_is_there_for_us_and_for_others() {
    let registry = Registry::start().await;
    let client = client(&[&registry]);
    let reference = registry
        .repository("team/app")
        .tagged("v1".parse().unwrap());
    let index = push_index(&client, &reference).await;
    let resolved = client.resolve(&reference).await.unwrap().unwrap();
    assert_eq!(resolved, index);

    let manifest = client.manifest(&reference).await.unwrap();
    let oci::Document::Index(document) = manifest.document().unwrap() else {
        panic!("it is an index");
    };
    let child = reference
        .repository()
        .at(document.manifests[0].digest.clone());
    let manifest = client.manifest(&child).await.unwrap().document().unwrap();
    let oci::Document::Manifest(manifest) = manifest else {
        panic!("it is a manifest");
    };
    let layer = &manifest.layers[0];
    let reader = client.blob(reference.repository(), layer).await.unwrap();
    let parts: Vec<Bytes> = reader.try_collect().await.unwrap();
    assert_eq!(parts.concat().len(), 1 << 20);

    // The peer: another implementation, by the tag.
    let peer = oci_client::Client::try_from(oci_client::client::ClientConfig {
        protocol: oci_client::client::ClientProtocol::Http,
        ..Default::default()
    })
    .unwrap();
    let auth = oci_client::secrets::RegistryAuth::Basic("user".into(), "s3cret".into());
    let name = reference.to_string().parse().unwrap();
    let digest = peer.fetch_manifest_digest(&name, &auth).await.unwrap();
    assert_eq!(digest, index.digest.as_str());
}

#[tokio::test]
async fn blobs_that_are_there_are_not_sent_again() {
    let registry = Registry::start().await;
    let client = client(&[&registry]);
    let (first, second) = (
        registry.repository("first"),
        registry.repository("second/deep"),
    );
    let bytes = Bytes::from(vec![1; 100_000]);
    let blob = Descriptor::of(MediaType::OciLayer, &bytes);
    for expected in [Pushed::Uploaded, Pushed::Mounted] {
        let pushed = client.upload(&first, &blob, std::io::Cursor::new(bytes.clone()));
        assert_eq!(pushed.await.unwrap(), expected);
    }
    assert!(!client.blob_exists(&second, &blob.digest).await.unwrap());
    let mounted = client.mount(&second, &blob.digest, &first).await.unwrap();
    assert!(mounted.is_none());
    assert!(client.blob_exists(&second, &blob.digest).await.unwrap());
    // The mount that fails leaves an upload, which the registry lets us cancel.
    let other = oci::Digest::of(b"other");
    let upload = client
        .mount(&second, &other, &first)
        .await
        .unwrap()
        .unwrap();
    client.cancel_upload(upload).await.unwrap();
    let empty = client.upload_bytes(&first, MediaType::OciConfig, Bytes::new());
    assert_eq!(empty.await.unwrap().size, 0);
}

#[tokio::test]
async fn indexes_are_copied_between_registries_and_within_one() {
    let (source, target) = (Registry::start().await, Registry::start().await);
    let client = client(&[&source, &target]);
    let from = source
        .repository("library/app")
        .tagged("1".parse().unwrap());
    let index = push_index(&client, &from).await;
    let to = target.repository("mirror/app").tagged("1".parse().unwrap());
    let options = CopyOptions::default();
    let report = copy(&client, &from, &client, &to, &options).await.unwrap();
    assert_eq!(
        (report.copied.blobs, report.mounted.blobs, report.manifests),
        (4, 0, 3)
    );
    assert_eq!(client.manifest(&to).await.unwrap().descriptor(), index);
    assert!(
        copy(&client, &from, &client, &to, &options)
            .await
            .unwrap()
            .unchanged
    );

    let within = target.repository("elsewhere").tagged("2".parse().unwrap());
    let report = copy(&client, &to, &client, &within, &options)
        .await
        .unwrap();
    assert_eq!((report.copied.blobs, report.mounted.blobs), (0, 4));
}

#[tokio::test]
async fn a_ledger_is_kept_in_the_registry_and_leads_to_mounts() {
    let (source, target) = (Registry::start().await, Registry::start().await);
    let client = client(&[&source, &target]);
    let from = source
        .repository("library/app")
        .tagged("1".parse().unwrap());
    push_index(&client, &from).await;
    let run = || {
        let run = Copier::new(client.clone(), client.clone(), CopyOptions::default());
        run.with_ledger(target.repository("team/coopery-ledger"))
    };
    let job = |to: &str| Job {
        found: Found::Nothing,
        ..Job::new(
            from.clone(),
            &target.repository(to).tagged("1".parse().unwrap()),
        )
    };
    let first = run();
    let report = first.copy(&job("team/one")).await.unwrap();
    assert_eq!((report.copied.blobs, report.mounted.blobs), (4, 0));
    first.keep_ledger().await;
    let report = run().copy(&job("team/two")).await.unwrap();
    assert_eq!((report.copied.blobs, report.mounted.blobs), (0, 4));
}

#[tokio::test]
async fn tags_are_listed_page_by_page_and_deleted() {
    let registry = Registry::start().await;
    let client = client(&[&registry]);
    let repository = registry.repository("tags");
    let image = push(&client, &repository, "amd64").await;
    let bytes = client
        .manifest(&repository.at(image.digest.clone()))
        .await
        .unwrap()
        .bytes;
    futures::stream::iter(0..1005)
        .for_each_concurrent(16, async |number| {
            let name = repository.tagged(format!("v{number:04}").parse().unwrap());
            let put = client.put_manifest(&name, &MediaType::OciManifest, bytes.clone());
            put.await.unwrap();
        })
        .await;
    let tags = client.tags(&repository, 10_000).await.unwrap();
    assert_eq!(tags.len(), 1005);
    let tagged = repository.tagged(tags[0].clone());
    assert!(client.delete_manifest(&tagged).await.unwrap());
    assert_eq!(client.resolve(&tagged).await.unwrap(), None);
    assert_eq!(client.tags(&repository, 10_000).await.unwrap().len(), 1004);
    let absent = registry.repository("absent");
    let error = client.tags(&absent, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let anonymous = client.with_keychain(distribution::Anonymous);
    let error = anonymous.resolve(&tagged).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}

/// The bytes of `all` from `offset` on, and then nothing more where they reach `end`.
fn content(all: &Bytes, offset: u64, end: usize) -> Content {
    let from = usize::try_from(offset).unwrap();
    let part = all.slice(from..end.max(from));
    let pieces: Vec<_> = part
        .chunks(64 * 1024)
        .map(|piece| Ok(part.slice_ref(piece)))
        .collect();
    let rest = if end < all.len() {
        futures::stream::pending().boxed()
    } else {
        futures::stream::empty().boxed()
    };
    futures::stream::iter(pieces).chain(rest).boxed()
}

#[tokio::test]
async fn large_blobs_go_in_chunks_and_come_in_parts() {
    const CHUNK: usize = 1 << 20;
    let registry = Registry::start().await;
    let client = client(&[&registry]);
    let repository = registry.repository("large");
    let words = (0..1_500_000_u32).flat_map(u32::to_le_bytes);
    let bytes: Bytes = words.collect::<Vec<u8>>().into();
    let blob = Descriptor::of(MediaType::OciLayer, &bytes);
    // The first process ends when two chunks were confirmed and the third has begun.
    let saved: Mutex<Vec<SavedUpload>> = Mutex::default();
    let note = |upload| saved.lock().unwrap().push(upload);
    let options = ChunkedPush {
        chunk: CHUNK as u64,
        note: Some(&note),
        ..ChunkedPush::default()
    };
    {
        let open = |offset| futures::future::ready(Ok(content(&bytes, offset, 2 * CHUNK))).boxed();
        let mut push = Box::pin(client.push_blob_in_chunks(&repository, &blob, options, open));
        while saved.lock().unwrap().len() < 2 {
            let turn = tokio::time::timeout(Duration::from_millis(50), &mut push).await;
            assert!(turn.is_err());
        }
    }
    let opened: Mutex<Vec<u64>> = Mutex::default();
    let open = |offset| {
        opened.lock().unwrap().push(offset);
        futures::future::ready(Ok(content(&bytes, offset, bytes.len()))).boxed()
    };
    let options = ChunkedPush {
        chunk: CHUNK as u64,
        saved: saved.lock().unwrap().last().cloned(),
        ..ChunkedPush::default()
    };
    let pushed = client.push_blob_in_chunks(&repository, &blob, options, open);
    assert_eq!(pushed.await.unwrap(), Pushed::Uploaded);
    assert_eq!(*opened.lock().unwrap(), [2 * CHUNK as u64]);

    let parts = Parts {
        connections: 4,
        size: 700_000,
    };
    let reader = client.blob_in_parts(&repository, &blob, parts).await;
    let read: Vec<Bytes> = reader.unwrap().try_collect().await.unwrap();
    assert_eq!(read.concat(), bytes);
}

#[tokio::test]
async fn referrers_are_under_the_fallback_tag() {
    let registry = Registry::start().await;
    let client = client(&[&registry]);
    let repository = registry.repository("signed");
    let image = push(&client, &repository, "amd64").await;
    let none = client.referrers(&repository, &image.digest, None).await;
    assert_eq!(none.unwrap().origin, ReferrersOrigin::Nowhere);
    let mut signature = push(&client, &repository, "arm64").await;
    signature.artifact_type = Some("application/x-signature".into());
    let index = serde_json::to_vec(&Index::new(vec![signature.clone()])).unwrap();
    let tag = repository.tagged(fallback_tag(&image.digest));
    client
        .put_manifest(&tag, &MediaType::OciIndex, index.into())
        .await
        .unwrap();
    let kind = Some("application/x-signature");
    let found = client.referrers(&repository, &image.digest, kind).await;
    let found = found.unwrap();
    assert_eq!(found.origin, ReferrersOrigin::FallbackTag);
    assert_eq!(found.manifests, [signature]);
}

/// Pushes an index as `from`, and copies it to `to`.
async fn mirrored(client: &Client, from: &Reference, to: &Reference) -> Descriptor {
    let index = push_index(client, from).await;
    let options = CopyOptions::default();
    copy(client, from, client, to, &options).await.unwrap();
    index
}

#[tokio::test]
async fn what_the_storage_lost_is_found_and_copied_again() {
    let (upstream, registry) = (Registry::start().await, Registry::start().await);
    let client = client(&[&upstream, &registry]);
    let tag: oci::Tag = "v1".parse().unwrap();
    let from = upstream.repository("team/app").tagged(tag.clone());
    let to = registry.repository("mirror/app").tagged(tag);
    let index = mirrored(&client, &from, &to).await;
    let child = client.manifest(&from).await.unwrap();
    let oci::Document::Index(document) = child.document().unwrap() else {
        panic!("it is an index");
    };
    let child = document.manifests[0].digest.clone();
    let manifest = client.manifest(&from.repository().at(child.clone())).await;
    let oci::Document::Manifest(manifest) = manifest.unwrap().document().unwrap() else {
        panic!("it is a manifest");
    };
    let lost = [&manifest.layers[0].digest, &manifest.config.digest, &child];
    for digest in lost {
        let health = async || {
            // What one run saw, it does not ask for again.
            let checker = Checker::new(client.clone());
            let whole = Platforms::Whole;
            checker.check(&to, &index.digest, &whole).await.unwrap()
        };
        assert_eq!(health().await, Health::Whole);
        registry.lose(digest.as_str());
        assert_eq!(health().await, Health::Missing(1), "{digest}");
        // The tag and its manifest are there: a look at those finds nothing to do.
        let seen = client.resolve(&to).await.unwrap();
        assert_eq!(seen.unwrap().digest, index.digest);
        let copier = Copier::new(client.clone(), client.clone(), CopyOptions::default());
        let job = Job {
            tags: Vec::new(),
            found: Found::Other,
            ..Job::new(from.clone().pinned(index.digest.clone()), &to)
        };
        copier.copy(&job).await.unwrap();
        assert_eq!(health().await, Health::Whole, "{digest}");
    }
}

#[tokio::test]
async fn a_deleted_tag_takes_no_other_tag_along() {
    let registry = Registry::start().await;
    let client = client(&[&registry]);
    let repository = registry.repository("mirror/app");
    let name = |tag: &str| repository.tagged(tag.parse().unwrap());
    let index = mirrored(&client, &name("old"), &name("same")).await;
    assert!(client.delete_manifest(&name("old")).await.unwrap());
    assert_eq!(client.resolve(&name("old")).await.unwrap(), None);
    let same = client.resolve(&name("same")).await.unwrap();
    assert_eq!(same.unwrap().digest, index.digest);
    assert!(!client.delete_manifest(&name("old")).await.unwrap());
}
