//! What scenarios of builds do: make an ImageBuild, look at it, end its pods.

use crds::ImageBuild;
use oci::Digest;
use operator::image_build::ImageBuildReconciler;
use operator::reconcile::{Finished, reconcile};
use protocol::Request;
use serde_json::{Value, json};

use super::{World, conditions, core, ours};

pub fn path() -> String {
    ours("imagebuilds", "app")
}

/// A build of an inline Dockerfile, with `spec` merged over it at its top.
pub fn inline(world: &World, spec: &Value) {
    create(
        world,
        json!({
            "dockerfile": {"inline": "FROM scratch"},
            "destinations": [{"name": "main", "registry": {"name": "main"}, "repository": "team/app", "tags": ["latest"]}],
        }),
        spec,
    );
}

/// A build of branch main of a git repository.
pub fn git(world: &World, spec: &Value) {
    create(
        world,
        json!({
            "source": {"git": {"url": "https://git.example.com/a.git", "ref": {"branch": "main"}, "interval": "1h"}},
            "destinations": [{"name": "main", "registry": {"name": "main"}, "repository": "team/app",
                "tags": ["branch-$(branch)", "$(shortCommit)"]}],
        }),
        spec,
    );
}

fn create(world: &World, mut base: Value, spec: &Value) {
    for (key, value) in spec.as_object().unwrap() {
        base[key] = value.clone();
    }
    world.api.put(
        &path(),
        json!({"apiVersion": "coopery.dev/v1alpha1", "kind": "ImageBuild", "metadata": {}, "spec": base,
            "status": {"observedGeneration": -1}}),
    );
}

pub async fn look(world: &World) -> Finished {
    let object: ImageBuild = serde_json::from_value(world.api.get(&path()).unwrap()).unwrap();
    reconcile::<ImageBuildReconciler>(&world.context, &object).await
}

pub fn build(world: &World) -> Value {
    world.api.get(&path()).unwrap()
}

pub fn set_spec(world: &World, pointer: &str, value: Value) {
    world.api.change(&path(), |build| {
        build["metadata"]["generation"] =
            json!(build["metadata"]["generation"].as_i64().unwrap() + 1);
        *build["spec"].pointer_mut(pointer).unwrap() = value;
    });
}

pub fn annotate(world: &World, name: &str, value: &str) {
    world.api.change(&path(), |build| {
        build["metadata"]["annotations"][format!("reconcile.coopery.dev/{name}")] = json!(value);
    });
}

pub fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

pub fn built(digest: &Digest) -> Value {
    json!({"built": {"digest": digest.to_string(), "size": 1234, "platform": "linux/amd64",
        "destinations": [{"name": "main", "image": format!("main.team.svc:5000/team/app@{digest}")}],
        "baseImages": [{"reference": "docker.io/library/alpine:3", "digest": digest.to_string()}],
        "steps": 5, "cachedSteps": 2, "misses": [{"step": "Dockerfile:3: COPY . /src", "reason": "file main.c"}], "isolation": "UserNamespace"}})
}

/// The pod succeeds, and the registry has what it reports.
pub fn succeed(world: &World, pod: &str, content: &str) -> Digest {
    let digest = digest(content);
    for tag in ["latest", "branch-main", "aaaaaaa", "bbbbbbb"] {
        world
            .network
            .push(&format!("main.team.svc:5000/team/app:{tag}"), &digest);
    }
    world.end(pod, &built(&digest));
    digest
}

pub fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

pub fn push_commit(world: &World, digit: char) {
    *world.network.commit.lock().unwrap() = Some(Ok(commit(digit)));
}

pub fn request_of(world: &World, pod: &str) -> Request {
    let pod = world.api.get(&core("pods", pod)).unwrap();
    let text = pod["metadata"]["annotations"]["coopery.dev/request"]
        .as_str()
        .unwrap();
    Request::parse(text.as_bytes()).unwrap()
}

/// Status and reason of Ready, and what of Reconciling and Stalled is true.
pub fn ready(world: &World) -> String {
    conditions(&build(world))
        .into_iter()
        .filter(|c| {
            c.starts_with("Ready") || c.starts_with("Reconciling") || c.starts_with("Stalled")
        })
        .map(|c| c.replace("=True", "").replace("=False", ""))
        .collect::<Vec<_>>()
        .join(", ")
}

pub fn attempt(world: &World) -> String {
    build(world)["status"]["attempt"]["pod"]
        .as_str()
        .unwrap()
        .to_owned()
}
