//! What refers to an image goes with it, whichever of the two ways each side keeps it in; a hostile list ends.

use std::sync::Arc;

use bytes::Bytes;
use distribution::{
    CosignTag, Error, ErrorKind,
    copy::{Copier, CopyOptions, CopyReport, Job},
    fallback_tag,
    memory::MemoryRegistry,
};
use oci::{Descriptor, Digest, Index, Manifest, MediaType};

use crate::support::{add_image, add_index, client, count};

const REPOSITORY: &str = "library/app";

/// A source with an index, and a target; each with or without the referrers API.
async fn registries(source_api: bool, target_api: bool) -> (MemoryRegistry, MemoryRegistry) {
    let (source, target) = (MemoryRegistry::start().await, MemoryRegistry::start().await);
    if source_api {
        source.serve_referrers();
    }
    if target_api {
        target.serve_referrers();
    }
    (source, target)
}

/// Puts an artifact of `kind` into `registry`.
fn add_artifact(
    registry: &MemoryRegistry,
    tag: Option<&str>,
    kind: &str,
    subject: Option<&Descriptor>,
) -> Descriptor {
    let config = Bytes::from_static(b"{}");
    registry.add_blob(REPOSITORY, config.clone());
    let payload = Bytes::from(format!("{kind} of {:?}", subject.map(|s| &s.digest)));
    registry.add_blob(REPOSITORY, payload.clone());
    let mut manifest = Manifest::new(
        Descriptor::of("application/vnd.oci.empty.v1+json".into(), &config),
        vec![Descriptor::of("text/plain".into(), &payload)],
    );
    manifest.artifact_type = Some(kind.to_owned());
    manifest.subject = subject.cloned();
    let json = serde_json::to_string_pretty(&manifest).unwrap();
    registry.add_manifest(REPOSITORY, tag, MediaType::OciManifest, json.clone());
    let mut entry = Descriptor::of(MediaType::OciManifest, json.as_bytes());
    entry.artifact_type = manifest.artifact_type;
    entry
}

/// Lists `entries` under the fallback tag of `subject`.
fn list(registry: &MemoryRegistry, subject: &Digest, entries: &[Descriptor]) {
    let json = serde_json::to_string(&Index::new(entries.to_vec())).unwrap();
    let tag = fallback_tag(subject);
    registry.add_manifest(REPOSITORY, Some(tag.as_str()), MediaType::OciIndex, json);
}

/// Puts an artifact that refers to `subject`, so that it is found with and without the API.
fn refer(registry: &MemoryRegistry, kind: &str, subject: &Descriptor) -> Descriptor {
    let entry = add_artifact(registry, None, kind, Some(subject));
    list(registry, &subject.digest, std::slice::from_ref(&entry));
    entry
}

fn job(source: &MemoryRegistry, target: &MemoryRegistry) -> Job {
    let from = source.repository(REPOSITORY).tagged("1".parse().unwrap());
    let to = target.repository(REPOSITORY).tagged("1".parse().unwrap());
    Job::new(from, &to)
}

async fn copy(source: &MemoryRegistry, target: &MemoryRegistry) -> Result<CopyReport, Error> {
    let options = CopyOptions {
        referrers: true,
        ..CopyOptions::default()
    };
    let copier = Copier::new(client(), client(), options);
    copier.copy(&job(source, target)).await
}

async fn kinds(target: &MemoryRegistry, subject: &Digest) -> Vec<String> {
    let to = target.repository(REPOSITORY);
    let found = client().referrers(&to, subject, None).await.unwrap();
    let mut kinds: Vec<_> = found
        .manifests
        .into_iter()
        .filter_map(|entry| entry.artifact_type)
        .collect();
    kinds.sort();
    kinds
}

#[tokio::test]
async fn all_that_refers_to_an_image_goes_with_it_and_comes_before_its_tag() {
    for (source_api, target_api) in [(true, true), (true, false), (false, true), (false, false)] {
        let (source, target) = registries(source_api, target_api).await;
        let root = add_index(&source, REPOSITORY, "1");
        let bytes = source.manifest(REPOSITORY, "1").unwrap().bytes;
        let index: Index = serde_json::from_slice(&bytes).unwrap();
        let child = index.manifests[0].clone();
        let sbom = refer(&source, "sbom", &root);
        let signature = refer(&source, "signature-of-sbom", &sbom);
        refer(&source, "signature-of-child", &child);
        let tags = CosignTag::ALL.map(|kind| kind.of(&root.digest));
        for tag in &tags {
            add_artifact(&source, Some(tag.as_str()), tag.as_str(), None);
        }
        let context = format!("source {source_api}, target {target_api}");

        let report = copy(&source, &target).await.unwrap();
        assert_eq!(report.referrers, 6, "{context}");
        assert_eq!(kinds(&target, &root.digest).await, ["sbom"], "{context}");
        let of_sbom = kinds(&target, &sbom.digest).await;
        assert_eq!(of_sbom, ["signature-of-sbom"], "{context}");
        let of_child = kinds(&target, &child.digest).await;
        assert_eq!(of_child, ["signature-of-child"], "{context}");
        for digest in [&sbom.digest, &signature.digest] {
            let of = |registry: &MemoryRegistry| registry.manifest(REPOSITORY, digest.as_str());
            assert_eq!(of(&target), of(&source), "{context}");
        }
        for tag in tags.iter().map(oci::Tag::as_str) {
            let of = |registry: &MemoryRegistry| registry.manifest(REPOSITORY, tag);
            assert!(of(&target).is_some(), "{context}");
            assert_eq!(of(&target), of(&source), "{context}");
        }
        let puts: Vec<_> = target
            .requests()
            .into_iter()
            .filter(|request| request.method == "PUT")
            .collect();
        assert!(puts.last().unwrap().path.ends_with("/manifests/1"));

        // Nothing is left to do: no request changes anything.
        target.clear_requests();
        let report = copy(&source, &target).await.unwrap();
        assert!(report.unchanged, "{context}");
        let writes = count(&target, |r| r.method != "GET" && r.method != "HEAD");
        assert_eq!(writes, 0, "{context}");
    }
}

#[tokio::test]
async fn a_signature_that_came_later_follows_and_what_others_listed_stays() {
    for target_api in [true, false] {
        let (source, target) = registries(false, target_api).await;
        let root = add_index(&source, REPOSITORY, "1");
        assert_eq!(copy(&source, &target).await.unwrap().referrers, 0);
        refer(&target, "theirs", &root);
        refer(&source, "signature", &root);
        let report = copy(&source, &target).await.unwrap();
        assert_eq!((report.referrers, report.unchanged), (1, false));
        let found = kinds(&target, &root.digest).await;
        assert_eq!(found, ["signature", "theirs"], "{target_api}");
    }
}

#[tokio::test]
async fn without_being_asked_for_nothing_is_looked_up() {
    let (source, target) = registries(true, true).await;
    let root = add_index(&source, REPOSITORY, "1");
    refer(&source, "signature", &root);
    let copier = Copier::new(client(), client(), CopyOptions::default());
    copier.copy(&job(&source, &target)).await.unwrap();
    assert_eq!(kinds(&target, &root.digest).await, [""; 0]);
    assert_eq!(count(&source, |r| r.path.contains("sha256-")), 0);
}

#[tokio::test]
async fn what_does_not_refer_to_the_image_is_left_out() {
    let (source, target) = registries(false, true).await;
    let root = add_index(&source, REPOSITORY, "1");
    let other = add_image(&source, REPOSITORY, None, "amd64", &[("other", 100)]);
    let of_other = add_artifact(&source, None, "of-other", Some(&other));
    let of_nothing = add_artifact(&source, None, "of-nothing", None);
    let right = add_artifact(&source, None, "right", Some(&root));
    list(&source, &root.digest, &[of_other, of_nothing, right]);
    assert_eq!(copy(&source, &target).await.unwrap().referrers, 1);
    assert_eq!(kinds(&target, &root.digest).await, ["right"]);
    assert_eq!(kinds(&target, &other.digest).await, [""; 0]);
}

#[tokio::test]
async fn chains_and_lists_end() {
    // Deeper than is followed.
    let (source, target) = registries(true, true).await;
    let root = add_index(&source, REPOSITORY, "1");
    let mut subject = root;
    for depth in 0..6 {
        subject = refer(&source, &format!("depth{depth}"), &subject);
    }
    assert_eq!(copy(&source, &target).await.unwrap().referrers, 3);

    // Longer than is accepted: an error, and no tag.
    let (source, target) = registries(true, true).await;
    let root = add_image(&source, REPOSITORY, Some("1"), "amd64", &[("base", 100)]);
    for number in 0..1001 {
        add_artifact(&source, None, &format!("kind{number}"), Some(&root));
    }
    let error = copy(&source, &target).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert!(error.to_string().contains("too many referrers"), "{error}");
    assert!(target.manifest(REPOSITORY, "1").is_none());

    // Larger than is accepted, by what its manifest says.
    let (source, target) = registries(true, true).await;
    let root = add_image(&source, REPOSITORY, Some("1"), "amd64", &[("base", 100)]);
    let config = source.add_blob(REPOSITORY, "{}");
    let mut manifest = Manifest::new(
        Descriptor::new("a/b".into(), config, 2),
        vec![Descriptor::new("a/b".into(), Digest::of(b"big"), 1 << 40)],
    );
    manifest.subject = Some(root);
    let json = serde_json::to_string(&manifest).unwrap();
    source.add_manifest(REPOSITORY, None, MediaType::OciManifest, json);
    let error = copy(&source, &target).await.unwrap_err();
    assert!(error.to_string().contains("too many bytes"), "{error}");
    assert!(target.manifest(REPOSITORY, "1").is_none());
}

#[tokio::test]
async fn an_entry_that_somebody_else_writes_over_is_written_again() {
    let (source, target) = registries(true, false).await;
    let target = Arc::new(target);
    let root = add_index(&source, REPOSITORY, "1");
    let ours = refer(&source, "ours", &root);
    let theirs = add_artifact(&target, None, "theirs", Some(&root));
    let (registry, subject) = (Arc::downgrade(&target), root.digest.clone());
    let path = format!("/manifests/{}", fallback_tag(&root.digest));
    let reads = std::sync::atomic::AtomicUsize::new(0);
    target.set_faults(move |request| {
        // They read before we wrote, and write when we look whether ours is there: once when the list of the target
        // is asked for, once before it is written, and then the time that counts.
        let is_read = request.method == "GET" && request.path.ends_with(&path);
        if is_read && reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2 {
            let registry = registry.upgrade()?;
            list(&registry, &subject, std::slice::from_ref(&theirs));
        }
        None
    });
    copy(&source, &target).await.unwrap();
    target.clear_faults();
    assert!(target.manifest(REPOSITORY, ours.digest.as_str()).is_some());
    assert_eq!(kinds(&target, &root.digest).await, ["ours", "theirs"]);
}
