//! Scenarios of signatures: which keys a pod gets to verify images with, and what happens where there are none.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use build_world::{World, conditions, core, message, ours, pass};
use crds::ImageMirror;
use oci::Digest;
use operator::image_mirror::ImageMirrorReconciler;
use operator::reconcile::reconcile;
use protocol::{MirrorRequest, Request, Task, VerifyKey};
use serde_json::{Value, json};

const KEY: &str = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";

fn path() -> String {
    ours("imagemirrors", "hub")
}

/// A mirror of one tag that differs, with more fields.
fn mirror(world: &World, more: &Value) {
    let digest = Digest::of(b"image");
    world.network.push("docker.io/acme/app:1", &digest);
    let mut spec = json!({"interval": "15m", "source": {"host": "docker.io"},
        "destination": {"registry": {"name": "main"}},
        "images": [{"name": "app", "repository": "acme/app", "tags": {"names": ["1"]}}]});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    world.api.put(
        &path(),
        json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "ImageMirror", "metadata": {},
            "spec": spec, "status": {"observedGeneration": -1}}),
    );
}

fn secret(world: &World, data: &Value) {
    world.api.put(
        &core("secrets", "cosign"),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": "cosign"},
            "data": data}),
    );
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(text)
}

async fn look(world: &World) {
    let object: ImageMirror = serde_json::from_value(object(world)).unwrap();
    reconcile::<ImageMirrorReconciler>(&world.context, &object).await;
}

fn object(world: &World) -> Value {
    world.api.get(&path()).unwrap()
}

fn ready(world: &World) -> String {
    conditions(&object(world)).join(", ")
}

fn request(world: &World) -> MirrorRequest {
    let pod = world.api.get(&core("pods", &world.pod())).unwrap();
    let text = pod["metadata"]["annotations"]["coopery.dev/request"].clone();
    match Request::parse(text.as_str().unwrap().as_bytes())
        .unwrap()
        .task
    {
        Task::Mirror(request) => request,
        _ => panic!("no mirror"),
    }
}

fn verify() -> Value {
    json!({"verify": {"keys": [{"secretRef": {"name": "cosign", "key": "cosign.pub"}}]}})
}

#[tokio::test]
async fn a_pod_gets_the_keys_and_copies_signatures() {
    let world = World::new();
    secret(&world, &json!({"cosign.pub": base64(KEY)}));
    mirror(&world, &verify());
    look(&world).await;
    let request = request(&world);
    let key = VerifyKey {
        name: "cosign/cosign.pub".into(),
        pem: KEY.into(),
    };
    assert_eq!(request.verify, Some(vec![key]));
    assert!(request.referrers);
    support::rights::assert_within_rights(&world.api);
}

#[tokio::test]
async fn referrers_are_copied_where_that_is_wished() {
    for (more, expected) in [
        (json!({}), false),
        (json!({"referrers": {}}), false),
        (json!({"referrers": {"copy": true}}), true),
        (json!({"referrers": {"copy": false}}), false),
    ] {
        let world = World::new();
        mirror(&world, &more);
        look(&world).await;
        let request = request(&world);
        assert_eq!(
            (request.referrers, request.verify),
            (expected, None),
            "{more}"
        );
    }
}

#[tokio::test]
async fn without_its_keys_nothing_is_copied() {
    let world = World::new();
    mirror(&world, &verify());
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False SecretNotFound, Reconciling=True SecretNotFound"
    );
    assert!(message(&object(&world)).contains("cosign"));
    for data in [
        json!({"other": base64(KEY)}),
        json!({"cosign.pub": base64("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----")}),
    ] {
        secret(&world, &data);
        look(&world).await;
        assert_eq!(
            ready(&world),
            "Ready=False SecretInvalid, Reconciling=True SecretInvalid"
        );
        assert!(message(&object(&world)).contains("cosign.pub"));
    }
    assert_eq!(world.pods().len(), 0);
    secret(&world, &json!({"cosign.pub": base64(KEY)}));
    look(&world).await;
    assert_eq!(world.pods().len(), 1);
}

#[tokio::test]
async fn an_image_that_is_not_signed_is_told_and_tried_again_with_other_keys() {
    let world = World::new();
    secret(&world, &json!({"cosign.pub": base64(KEY)}));
    mirror(&world, &verify());
    look(&world).await;
    let pod = world.pod();
    world.run(&pod);
    look(&world).await;
    pass(20);
    let failure =
        json!({"kind": "ImageUntrusted", "message": "it has no signature by cosign/cosign.pub"});
    world.end(
        &pod,
        &json!({"mirrored": {"failed": 1, "images": [{"index": 0, "failure": failure}]}}),
    );
    look(&world).await;
    assert_eq!(
        ready(&world),
        "Ready=False ImageUntrusted, Stalled=True ImageUntrusted"
    );
    let failures = object(&world)["status"]["failures"].to_string();
    for part in ["acme/app:1", "cosign/cosign.pub"] {
        assert!(failures.contains(part), "{failures}");
    }
    // Another key may have signed it.
    secret(
        &world,
        &json!({"cosign.pub": base64(&KEY.replace("AAAA", "BBBB"))}),
    );
    look(&world).await;
    assert_eq!(world.pods().len(), 2);
}
