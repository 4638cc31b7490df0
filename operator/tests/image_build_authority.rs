//! Scenarios of sources whose server shows a certificate of a private authority.
#![allow(clippy::unwrap_used, reason = "tests")]

mod build_world;
mod support;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use build_world::builds::{build, inline, look, push_commit, ready, request_of};
use build_world::{World, core, message};
use serde_json::{Value, json};

const GIT: &str = "git";
const HTTP: &str = "http";

/// A build of a source of that kind, with `more` in it.
async fn start(world: &World, kind: &str, more: &Value) {
    let mut source = match kind {
        GIT => json!({"url": "https://git.example.com/a.git", "ref": {"branch": "main"}}),
        _ => json!({"url": "https://files.example.com/a.tar"}),
    };
    for (key, value) in more.as_object().unwrap() {
        source[key] = value.clone();
    }
    inline(world, &json!({"source": {kind: source}, "dockerfile": {}}));
    push_commit(world, 'a');
    look(world).await;
}

fn secret(world: &World, name: &str, values: &[(&str, &str)]) {
    let encoded = |(key, value): &(&str, &str)| ((*key).to_owned(), BASE64_STANDARD.encode(value));
    let data: std::collections::BTreeMap<String, String> = values.iter().map(encoded).collect();
    world.api.put(
        &core("secrets", name),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": data}),
    );
}

/// What the only pod trusts besides the authorities that all know.
fn certificates(world: &World) -> String {
    let request = request_of(world, &world.pod());
    request.network.ca_certificates.unwrap_or_default()
}

#[tokio::test]
async fn the_authority_of_a_secret_is_awaited_and_given_to_the_pod() {
    for kind in [GIT, HTTP] {
        let world = World::new();
        start(
            &world,
            kind,
            &json!({"secretRef": {"name": "login"}, "caSecretRef": {"name": "authority"}}),
        )
        .await;
        let told = |part: &str| {
            let message = message(&build(&world));
            assert!(message.contains(part), "{kind}: {message}");
        };
        told("Secret login does not exist");
        secret(
            &world,
            "login",
            &[("username", "u"), ("password", "p"), ("ca.crt", "LOGIN")],
        );
        look(&world).await;
        told("Secret authority does not exist");
        assert_eq!(*world.network.lookups.lock().unwrap(), 0, "{kind}");
        secret(&world, "authority", &[("tls.crt", "OTHER")]);
        look(&world).await;
        assert_eq!(
            ready(&world),
            "Ready SecretInvalid, Reconciling SecretInvalid",
            "{kind}"
        );
        told("ca.crt");
        assert!(world.pods().is_empty());
        secret(&world, "authority", &[("ca.crt", "AUTHORITY\n")]);
        look(&world).await;
        let trusted = certificates(&world);
        assert!(
            trusted.contains("AUTHORITY") && !trusted.contains("LOGIN"),
            "{kind}: {trusted}"
        );
        let pod = world.api.get(&core("pods", &world.pod())).unwrap();
        let volumes = pod["spec"]["volumes"].as_array().unwrap().clone();
        let mounted = |name: &str| volumes.iter().any(|v| v["secret"]["secretName"] == name);
        assert!(mounted("login") && !mounted("authority"), "{volumes:?}");
        support::rights::assert_within_rights(&world.api);
    }
}

#[tokio::test]
async fn the_authority_may_be_with_the_credentials() {
    for kind in [GIT, HTTP] {
        let world = World::new();
        secret(&world, "login", &[("password", "p"), ("ca.crt", "LOGIN")]);
        start(&world, kind, &json!({"secretRef": {"name": "login"}})).await;
        assert!(certificates(&world).contains("LOGIN"), "{kind}");
        // Credentials without an authority are as good.
        let world = World::new();
        secret(&world, "login", &[("password", "p")]);
        start(&world, kind, &json!({"secretRef": {"name": "login"}})).await;
        assert!(!certificates(&world).contains("LOGIN"), "{kind}");
    }
}
