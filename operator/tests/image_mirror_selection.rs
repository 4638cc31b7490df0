//! Scenarios of the selection of an ImageMirror: patterns over a list of tags, digests, platforms, many tags; and how few
//! questions that takes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::{World, conditions, core, message, ours, pass};
use crds::ImageMirror;
use distribution::RawManifest;
use oci::{Descriptor, Digest, Index, MediaType};
use operator::image_mirror::ImageMirrorReconciler;
use operator::reconcile::reconcile;
use protocol::{MirrorImage, MirrorPlatforms, MirrorRequest, Request, Task};
use serde_json::{Value, json};

const SOURCE: &str = "docker.io/acme/app";
const DESTINATION: &str = "main.team.svc:5000/acme/app";

fn path() -> String {
    ours("imagemirrors", "hub")
}

fn mirror(world: &World, image: &Value) {
    let mut entry = json!({"name": "app", "repository": "acme/app"});
    for (field, value) in image.as_object().unwrap() {
        entry[field] = value.clone();
    }
    world.api.put(
        &path(),
        json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {},
            "spec": {"interval": "15m", "source": {"host": "docker.io"},
                "destination": {"registry": {"name": "main"}}, "images": [entry]},
            "status": {"observedGeneration": -1}}),
    );
}

async fn look(world: &World) {
    let object: ImageMirror = serde_json::from_value(object(world)).unwrap();
    reconcile::<ImageMirrorReconciler>(&world.context, &object).await;
}

fn object(world: &World) -> Value {
    world.api.get(&path()).unwrap()
}

fn status(world: &World) -> Value {
    object(world)["status"].clone()
}

fn ready(world: &World) -> String {
    conditions(&object(world)).join(", ")
}

/// What was asked since the last time.
fn asked(world: &World) -> Vec<String> {
    let asked = std::mem::take(&mut *world.network.asked.lock().unwrap());
    asked.into_iter().map(|(name, _, _)| name).collect()
}

/// Puts each tag at the source and lists it.
fn push(world: &World, tags: &[&str]) {
    for tag in tags {
        let digest = Digest::of(tag.as_bytes());
        world.network.push(&format!("{SOURCE}:{tag}"), &digest);
    }
    world.network.list(SOURCE, tags);
}

fn request(world: &World) -> MirrorRequest {
    let pod = world.api.get(&core("pods", &attempt(world))).unwrap();
    let text = pod["metadata"]["annotations"]["coopery.dev/request"].clone();
    match Request::parse(text.as_str().unwrap().as_bytes())
        .unwrap()
        .task
    {
        Task::Mirror(request) => request,
        _ => panic!("no mirror"),
    }
}

fn attempt(world: &World) -> String {
    status(world)["attempt"]["pod"].as_str().unwrap().to_owned()
}

/// The pod puts what it was asked for, as `digest` says.
fn copy(world: &World, digest: impl Fn(&MirrorImage) -> Digest) {
    let request = request(world);
    for image in &request.images {
        world.network.push(&image.destination, &digest(image));
    }
    let outcome = json!({"mirrored": {"copied": request.images.len()}});
    world.end(&attempt(world), &outcome);
}

fn same(image: &MirrorImage) -> Digest {
    image.digest.as_ref().unwrap().parse().unwrap()
}

fn sources(request: &MirrorRequest) -> Vec<&str> {
    let images = request.images.iter();
    images
        .map(|i| i.source.rsplit_once(':').unwrap().1)
        .collect()
}

#[tokio::test]
async fn a_pattern_selects_of_what_is_listed_and_names_are_added() {
    let world = World::new();
    push(&world, &["1.9", "1.10", "1.11", "1.11-rc1", "2.0", "edge"]);
    let tags = json!({"names": ["edge"], "semver": ">=1 <2", "newest": 2});
    mirror(&world, &json!({"tags": tags}));
    look(&world).await;
    let request = request(&world);
    assert_eq!(sources(&request), ["edge", "1.11", "1.10"]);
    assert!(
        request
            .images
            .iter()
            .all(|image| image.replaces == Some(false))
    );
    let ledger = "main.team.svc:5000/team/coopery-ledger";
    assert_eq!(request.ledger.as_deref(), Some(ledger));
    copy(&world, same);
    asked(&world);
    look(&world).await;
    // After a sync, only the destination is asked for what was copied.
    let mut questions = asked(&world);
    questions.sort();
    let expected = ["1.10", "1.11", "edge"].map(|tag| format!("{DESTINATION}:{tag}"));
    assert_eq!(questions, expected);
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(status(&world)["tags"]["synced"], 3);
    assert_eq!(world.pods().len(), 1);
}

#[tokio::test]
async fn a_new_tag_is_found_at_the_next_look() {
    let world = World::new();
    push(&world, &["1.0"]);
    mirror(&world, &json!({"tags": {"regex": r"^1\."}}));
    look(&world).await;
    copy(&world, same);
    look(&world).await;
    push(&world, &["1.0", "1.1"]);
    look(&world).await;
    assert_eq!(status(&world)["tags"]["selected"], 1);
    world.api.change(&path(), |mirror| {
        mirror["metadata"]["annotations"]["reconcile.coopery.dev/requestedAt"] = json!("1");
    });
    pass(60);
    look(&world).await;
    assert_eq!(sources(&request(&world)), ["1.1"]);
}

#[tokio::test]
async fn a_list_that_fails_is_told_and_names_are_mirrored_all_the_same() {
    let world = World::new();
    push(&world, &["1.0"]);
    world.network.lists.lock().unwrap().clear();
    mirror(&world, &json!({"tags": {"names": ["1.0"], "regex": "."}}));
    look(&world).await;
    assert_eq!(sources(&request(&world)), ["1.0"]);
    copy(&world, same);
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False TagNotFound, Stalled=True TagNotFound"
    );
    assert_eq!(
        status(&world)["failures"][0],
        format!("{SOURCE}: TagNotFound: list tags of {SOURCE}: not found")
    );
    // It is not said that nothing is selected, which nobody knows.
    assert_eq!(status(&world)["failures"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_pattern_that_selects_nothing_is_told() {
    let world = World::new();
    push(&world, &["1.0"]);
    mirror(&world, &json!({"tags": {"regex": "^v"}}));
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False TagNotFound, Stalled=True TagNotFound"
    );
    let told = message(&object(&world));
    assert!(
        told.contains("spec.images[0].tags selects none of its 1 tags"),
        "{told}"
    );
}

#[tokio::test]
async fn a_wrong_pattern_is_told_with_its_field() {
    let world = World::new();
    mirror(&world, &json!({"tags": {"regex": "(a"}}));
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False InvalidSpec, Stalled=True InvalidSpec"
    );
    assert!(message(&object(&world)).contains("spec.images[0].tags.regex"));
    assert!(asked(&world).is_empty());
}

#[tokio::test]
async fn a_digest_is_mirrored_and_gets_a_tag() {
    let world = World::new();
    let digest = Digest::of(b"pinned");
    mirror(&world, &json!({"digests": [digest.to_string()]}));
    look(&world).await;
    let image = request(&world).images.remove(0);
    let tag = format!("sha256-{}", &digest.hex()[..12]);
    assert_eq!(image.source, format!("{SOURCE}@{digest}"));
    assert_eq!(image.destination, format!("{DESTINATION}:{tag}"));
    copy(&world, same);
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(status(&world)["images"][0]["tag"], tag);
    // The source is never asked: the digest is what it is.
    assert!(
        asked(&world)
            .iter()
            .all(|name| name.starts_with(DESTINATION))
    );
}

fn index(world: &World, tag: &str) -> RawManifest {
    let child = |platform: &str| {
        Descriptor::of(MediaType::OciManifest, platform.as_bytes())
            .with_platform(platform.parse().unwrap())
    };
    let index = Index::new(vec![child("linux/amd64"), child("linux/arm64")]);
    let bytes = serde_json::to_vec(&index).unwrap();
    let manifest = RawManifest {
        media_type: MediaType::OciIndex,
        digest: Digest::of(&bytes),
        bytes: bytes.into(),
    };
    world
        .network
        .push(&format!("{SOURCE}:{tag}"), &manifest.digest);
    let name = format!("{SOURCE}@{}", manifest.digest);
    world
        .network
        .documents
        .lock()
        .unwrap()
        .insert(name, manifest.clone());
    manifest
}

#[tokio::test]
async fn an_index_that_is_written_anew_is_known_by_both_digests() {
    let world = World::new();
    let source = index(&world, "1");
    let platforms = json!({"only": ["linux/amd64"], "index": "Rewrite"});
    mirror(
        &world,
        &json!({"tags": {"names": ["1"]}, "platforms": platforms}),
    );
    look(&world).await;
    let image = request(&world).images.remove(0);
    let expected = MirrorPlatforms {
        only: vec!["linux/amd64".into()],
        rewrite: true,
    };
    assert_eq!(image.platforms, Some(expected));
    assert_eq!(image.digest, Some(source.digest.to_string()));
    let only = distribution::copy::Platforms::Rewrite(vec!["linux/amd64".parse().unwrap()]);
    let rewritten = only.result_of(source.clone()).unwrap().digest;
    copy(&world, |_| rewritten.clone());
    asked(&world);
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(asked(&world), [format!("{DESTINATION}:1")]);
    let image = status(&world)["images"][0].clone();
    assert_eq!(image["digest"], rewritten.to_string());
    assert_eq!(image["sourceDigest"], source.digest.to_string());
    assert_eq!(world.pods().len(), 1);
}

#[tokio::test]
async fn a_sparse_index_keeps_its_digest() {
    let world = World::new();
    index(&world, "1");
    let platforms = json!({"only": ["linux/arm64"], "index": "Sparse"});
    mirror(
        &world,
        &json!({"tags": {"names": ["1"]}, "platforms": platforms}),
    );
    look(&world).await;
    assert!(
        !request(&world).images[0]
            .platforms
            .as_ref()
            .unwrap()
            .rewrite
    );
    copy(&world, same);
    look(&world).await;
    assert_eq!(ready(&world), "Ready=True Synced");
    assert_eq!(status(&world)["images"][0]["sourceDigest"], Value::Null);
    assert!(asked(&world).iter().all(|name| !name.starts_with("GET")));
}

/// As many tags as one resource takes: copied by pods one after the other, and the sides are asked once for each, not once
/// for each pod.
#[tokio::test]
async fn many_tags_are_copied_pod_by_pod() {
    let world = World::new();
    let count = if std::env::var_os("COOPERY_SOAK").is_some() {
        10_000
    } else {
        1_000
    };
    let names: Vec<String> = (0..count).map(|number| format!("1.{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    push(&world, &names);
    mirror(&world, &json!({"tags": {"all": true}}));
    let mut pods = 0;
    loop {
        look(&world).await;
        if ready(&world).starts_with("Ready=True") {
            break;
        }
        pods += 1;
        assert!(pods < count / 100, "{}", ready(&world));
        pass(30);
        copy(&world, same);
    }
    let status = status(&world);
    assert_eq!(
        status["tags"],
        json!({"selected": count, "synced": count, "failed": 0})
    );
    let size = object(&world).to_string().len();
    assert!(size < 16 * 1024, "{size}");
    // Of each tag the source once and the destination once; again of what a pod did not yet copy.
    let asked = asked(&world);
    let of_source = asked.iter().filter(|name| name.starts_with(SOURCE)).count();
    assert_eq!(of_source, count);
    assert_eq!(
        asked.iter().filter(|name| name.starts_with("LIST")).count(),
        1
    );
    assert_eq!(status["images"].as_array().unwrap().len(), 15);
}
