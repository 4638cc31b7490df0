//! Signatures in a registry: what is signed is verified, in both forms and in both kinds of registry; and what is copied
//! through the gate is signed, or is not there under any tag.
#![expect(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use distribution::{
    Client, CosignTag, Error, ErrorKind, Guard, RetryPolicy,
    copy::{Copier, CopyOptions, Found, Job, Platforms},
    memory::{Fault, MemoryRegistry},
};
use oci::{Descriptor, Digest, Index, Manifest, MediaType, Platform, Reference};
use signature::{Form, NamedKey, PrivateKey, Verifier, VerifyError, sign};

const REPOSITORY: &str = "library/app";
const CREATED: &str = "2026-11-22T00:00:00Z";

fn client() -> Client {
    let retry = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    let client = Client::builder().guard(Guard::Open).retry(retry);
    client.build().unwrap()
}

async fn registry(api: bool) -> MemoryRegistry {
    let registry = MemoryRegistry::start().await;
    if api {
        registry.serve_referrers();
    }
    registry
}

fn key() -> PrivateKey {
    PrivateKey::generate().unwrap()
}

fn verifier(keys: &[(&str, &PrivateKey)]) -> Verifier {
    let named = |(name, key): &(&str, &PrivateKey)| NamedKey {
        name: (*name).to_owned(),
        key: key.public().clone(),
    };
    Verifier::new(keys.iter().map(named).collect())
}

/// Puts an image of one layer.
fn add_image(registry: &MemoryRegistry, tag: Option<&str>, content: &str) -> Descriptor {
    let config = Bytes::from(format!(
        r#"{{"architecture":"amd64","os":"linux","c":"{content}"}}"#
    ));
    let layer = Bytes::from(content.to_owned());
    registry.add_blob(REPOSITORY, config.clone());
    registry.add_blob(REPOSITORY, layer.clone());
    let layers = vec![Descriptor::of(MediaType::OciLayerGzip, &layer)];
    let manifest = Manifest::new(Descriptor::of(MediaType::OciConfig, &config), layers);
    let json = serde_json::to_string(&manifest).unwrap();
    registry.add_manifest(REPOSITORY, tag, MediaType::OciManifest, json.clone());
    Descriptor::of(MediaType::OciManifest, json.as_bytes())
}

async fn sign_in(registry: &MemoryRegistry, image: &Descriptor, key: &PrivateKey, form: Form) {
    let repository = registry.repository(REPOSITORY);
    sign(&client(), &repository, image, key, form, CREATED)
        .await
        .unwrap();
}

async fn problem(registry: &MemoryRegistry, image: &Digest, trusted: &Verifier) -> Option<String> {
    let repository = registry.repository(REPOSITORY);
    let verified = trusted.verify(&client(), &repository, image).await;
    verified.err().map(|error| error.to_string())
}

#[tokio::test]
async fn what_is_signed_is_verified_in_both_forms() {
    for api in [true, false] {
        for form in [Form::Bundle, Form::Tag] {
            let registry = registry(api).await;
            let repository = registry.repository(REPOSITORY);
            let image = add_image(&registry, Some("1"), "content");
            let (ours, theirs, stranger) = (key(), key(), key());
            let trusted = verifier(&[("ours", &ours)]);
            let error = problem(&registry, &image.digest, &trusted).await.unwrap();
            assert!(error.contains("no signature at all"), "{error}");
            // Two signatures stand beside each other.
            sign_in(&registry, &image, &theirs, form).await;
            sign_in(&registry, &image, &ours, form).await;
            for (name, key) in [("ours", &ours), ("theirs", &theirs)] {
                let trusted = verifier(&[("stranger", &stranger), (name, key)]);
                let by = trusted.verify(&client(), &repository, &image.digest).await;
                let by = by.unwrap();
                assert_eq!((by.key.as_str(), by.form), (name, form), "{api}");
            }
            let trusted = verifier(&[("team/cosign.pub", &stranger)]);
            let error = problem(&registry, &image.digest, &trusted).await.unwrap();
            for part in [
                "team/cosign.pub",
                "another key",
                image.digest.as_str(),
                REPOSITORY,
            ] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn signatures_that_belong_to_other_images_are_of_no_use_here() {
    let registry = registry(false).await;
    let key = key();
    let trusted = verifier(&[("key", &key)]);
    let good = add_image(&registry, Some("good"), "good");
    let evil = add_image(&registry, Some("evil"), "evil");
    for form in [Form::Bundle, Form::Tag] {
        sign_in(&registry, &good, &key, form).await;
    }
    // The list of referrers and the tag of the signed image, under the names of the other.
    let name = |image: &Descriptor| distribution::fallback_tag(&image.digest);
    for (from, to) in [
        (name(&good), name(&evil)),
        (
            CosignTag::Signatures.of(&good.digest),
            CosignTag::Signatures.of(&evil.digest),
        ),
    ] {
        let stolen = registry.manifest(REPOSITORY, from.as_str()).unwrap();
        registry.add_manifest(
            REPOSITORY,
            Some(to.as_str()),
            stolen.media_type,
            stolen.bytes,
        );
        let error = problem(&registry, &evil.digest, &trusted).await.unwrap();
        assert!(error.contains("for another image"), "{error}");
    }
    assert_eq!(problem(&registry, &good.digest, &trusted).await, None);
}

/// Puts a manifest of `layers` at the place where the form is looked for.
fn plant(registry: &MemoryRegistry, image: &Descriptor, form: Form, layers: Vec<Descriptor>) {
    let config = registry.add_blob(REPOSITORY, "{}");
    let empty = Descriptor::new("application/vnd.oci.empty.v1+json".into(), config, 2);
    let mut manifest = Manifest::new(empty, layers);
    manifest.artifact_type = Some(signature::BUNDLE_TYPE.to_owned());
    manifest.subject = Some(image.clone());
    let json = serde_json::to_string(&manifest).unwrap();
    let tag = CosignTag::Signatures.of(&image.digest);
    let tag = (form == Form::Tag).then_some(tag.as_str());
    registry.add_manifest(REPOSITORY, tag, MediaType::OciManifest, json);
}

#[tokio::test]
async fn planted_manifests_end_in_a_reason() {
    let key = key();
    let trusted = verifier(&[("key", &key)]);
    let signed_layer = |media_type: &str, digest: &Digest, size: u64| {
        let mut layer = Descriptor::new(media_type.into(), digest.clone(), size);
        let annotation = "dev.cosignproject.cosign/signature".to_owned();
        layer.annotations.insert(annotation, "AAAA".to_owned());
        layer
    };
    let absent = Digest::of(b"absent");
    let bundle = signature::BUNDLE_TYPE;
    let payload = signature::SIMPLE_SIGNING_TYPE;
    for (form, layers, expected) in [
        (Form::Bundle, vec![], "holds no bundle"),
        (
            Form::Bundle,
            vec![signed_layer("text/plain", &absent, 5)],
            "holds no bundle",
        ),
        (
            Form::Bundle,
            vec![
                signed_layer(bundle, &absent, 5),
                signed_layer(bundle, &absent, 5),
            ],
            "holds no bundle",
        ),
        (
            Form::Bundle,
            vec![signed_layer(bundle, &absent, 1 << 40)],
            "larger than 262144 bytes",
        ),
        (
            Form::Bundle,
            vec![signed_layer(bundle, &absent, 5)],
            "bytes are not there",
        ),
        (Form::Tag, vec![], "names no signature"),
        (
            Form::Tag,
            vec![signed_layer("text/plain", &absent, 5)],
            "names no signature",
        ),
        (
            Form::Tag,
            vec![signed_layer(payload, &absent, 1 << 40)],
            "larger than 65536 bytes",
        ),
        (
            Form::Tag,
            vec![signed_layer(payload, &absent, 5)],
            "bytes are not there",
        ),
    ] {
        let registry = registry(true).await;
        let image = add_image(&registry, Some("1"), "content");
        plant(&registry, &image, form, layers);
        let error = problem(&registry, &image.digest, &trusted).await.unwrap();
        assert!(error.contains(expected), "{form:?}: {error}");
        // A signature beside it counts all the same.
        if form == Form::Bundle {
            sign_in(&registry, &image, &key, form).await;
            assert_eq!(problem(&registry, &image.digest, &trusted).await, None);
        }
    }
}

#[tokio::test]
async fn a_tag_of_something_else_is_not_written_over() {
    let registry = registry(false).await;
    let image = add_image(&registry, Some("1"), "content");
    let index = serde_json::to_string(&Index::new(Vec::new())).unwrap();
    let tag = CosignTag::Signatures.of(&image.digest);
    registry.add_manifest(REPOSITORY, Some(tag.as_str()), MediaType::OciIndex, index);
    let repository = registry.repository(REPOSITORY);
    let signed = sign(&client(), &repository, &image, &key(), Form::Tag, CREATED).await;
    let error = signed.unwrap_err().to_string();
    assert!(error.contains("something else than signatures"), "{error}");
}

/// Copies the tag `1` through the gate, as the pod of a mirror does.
async fn copy(
    source: &MemoryRegistry,
    target: &MemoryRegistry,
    trusted: Verifier,
    platforms: Platforms,
) -> Result<Digest, Error> {
    let from: Reference = source.repository(REPOSITORY).tagged("1".parse().unwrap());
    let options = CopyOptions {
        referrers: true,
        ..CopyOptions::default()
    };
    let job = Job {
        tags: vec!["1".parse().unwrap(), "latest".parse().unwrap()],
        found: Found::Nothing,
        platforms,
        ..Job::new(
            from,
            &target.repository(REPOSITORY).tagged("1".parse().unwrap()),
        )
    };
    let copier = Copier::new(client(), client(), options).with_gate(trusted);
    copier.copy(&job).await.map(|report| report.root.digest)
}

#[tokio::test]
async fn only_what_is_signed_is_published() {
    let (source, target) = (registry(true).await, registry(false).await);
    let (key, stranger) = (key(), key());
    let image = add_image(&source, Some("1"), "content");
    let trusted = || verifier(&[("team/cosign.pub", &key)]);
    for signer in [None, Some(&stranger)] {
        if let Some(signer) = signer {
            sign_in(&source, &image, signer, Form::Bundle).await;
        }
        let error = copy(&source, &target, trusted(), Platforms::Whole).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted);
        assert!(error.to_string().contains("team/cosign.pub"), "{error}");
        // Neither a tag nor anything else was written.
        assert!(
            target
                .requests()
                .iter()
                .all(|r| r.method == "HEAD" || r.method == "GET")
        );
    }
    // Its signature cannot be read: that is no reason to publish it.
    sign_in(&source, &image, &key, Form::Bundle).await;
    source.set_faults(|request| {
        let wanted = request.path.contains("/referrers/");
        wanted.then(|| Fault::Answer(500, vec![], String::new()))
    });
    let error = copy(&source, &target, trusted(), Platforms::Whole).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
    source.clear_faults();
    assert_eq!(target.tags(REPOSITORY), [""; 0]);

    let copied = copy(&source, &target, trusted(), Platforms::Whole).await;
    assert_eq!(copied.unwrap(), image.digest);
    // The signatures went along, and hold at the target.
    assert_eq!(problem(&target, &image.digest, &trusted()).await, None);
    for tag in ["1", "latest"] {
        assert!(target.manifest(REPOSITORY, tag).is_some());
    }

    // No keys at all trust nothing.
    let nothing = Verifier::new(Vec::new());
    let error = copy(&source, &target, nothing, Platforms::Whole).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Untrusted);
}

#[tokio::test]
async fn of_an_index_that_is_written_anew_the_one_of_the_source_is_verified() {
    let (source, target) = (registry(true).await, registry(true).await);
    let key = key();
    let children = ["amd64", "arm64"].map(|architecture| {
        let platform: Platform = format!("linux/{architecture}").parse().unwrap();
        add_image(&source, None, architecture).with_platform(platform)
    });
    let json = serde_json::to_string(&Index::new(children.to_vec())).unwrap();
    source.add_manifest(REPOSITORY, Some("1"), MediaType::OciIndex, json.clone());
    let index = Descriptor::of(MediaType::OciIndex, json.as_bytes());
    let trusted = || verifier(&[("key", &key)]);
    let rewrite = || Platforms::Rewrite(vec!["linux/arm64".parse().unwrap()]);
    // A signature of one child is none of the index.
    sign_in(&source, &children[1], &key, Form::Bundle).await;
    let error = copy(&source, &target, trusted(), rewrite()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Untrusted);
    sign_in(&source, &index, &key, Form::Bundle).await;
    let copied = copy(&source, &target, trusted(), rewrite()).await.unwrap();
    assert_ne!(copied, index.digest);
    // What refers to the child went along, what refers to the old index has nothing to refer to.
    assert_eq!(
        problem(&target, &children[1].digest, &trusted()).await,
        None
    );
    assert!(problem(&target, &copied, &trusted()).await.is_some());
}

#[tokio::test]
async fn a_registry_that_fails_is_no_missing_signature() {
    let registry = registry(false).await;
    let image = add_image(&registry, Some("1"), "content");
    for path in ["/referrers/", ".sig"] {
        registry.set_faults(move |request| {
            let wanted = request.path.contains(path);
            wanted.then(|| Fault::Answer(403, vec![], String::new()))
        });
        let trusted = verifier(&[("key", &key())]);
        let repository = registry.repository(REPOSITORY);
        let error = trusted.verify(&client(), &repository, &image.digest).await;
        assert!(matches!(error, Err(VerifyError::Registry(_))), "{path}");
    }
}
