//! Authentication: how often tokens are asked for, and who gets to see credentials.

use distribution::{
    Credentials, DockerConfig, ErrorKind,
    memory::{Access, Fault, MemoryRegistry},
};
use futures::future::join_all;
use oci::MediaType;

use crate::support::{Script, add_image, answer, builder, client, client_with, count};

fn token_access(anonymous_pull: bool) -> Access {
    Access::Token {
        username: "user".into(),
        password: "s3cret".into(),
        anonymous_pull,
        expires_in: 300,
    }
}

async fn registry_with_tokens() -> MemoryRegistry {
    let registry = MemoryRegistry::start_with(token_access(true)).await;
    add_image(&registry, "a/b", Some("1"), "amd64", &[("x", 10)]);
    registry
}

fn tokens(registry: &MemoryRegistry) -> usize {
    count(registry, |r| r.path == "/auth/token")
}

#[tokio::test]
async fn parallel_requests_share_one_challenge_and_one_token() {
    let registry = registry_with_tokens().await;
    let client = client();
    let reference = registry.repository("a/b").tagged("1".parse().unwrap());
    let resolved = join_all((0..8).map(|_| client.resolve(&reference))).await;
    assert!(resolved.into_iter().all(|r| r.unwrap().is_some()));
    assert_eq!(tokens(&registry), 1);
    assert_eq!(count(&registry, |r| r.status == 401), 1);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let registry = registry_with_tokens().await;
    let client = client();
    let reference = registry.repository("a/b").tagged("1".parse().unwrap());
    client.resolve(&reference).await.unwrap();
    registry.revoke_tokens();
    registry.clear_requests();
    assert!(client.resolve(&reference).await.unwrap().is_some());
    assert_eq!((tokens(&registry), registry.requests().len()), (1, 3));
}

#[tokio::test]
async fn pull_and_push_have_tokens_of_their_own() {
    let registry = registry_with_tokens().await;
    let host = registry.host();
    let client = client_with(host.as_str(), "user", "s3cret");
    let repository = registry.repository("a/b");
    let reference = repository.tagged("1".parse().unwrap());
    client.resolve(&reference).await.unwrap();
    let pushed = client.upload_bytes(&repository, MediaType::OciLayer, "new".into());
    pushed.await.unwrap();
    assert_eq!(tokens(&registry), 2);
    let scopes: Vec<_> = registry
        .requests()
        .into_iter()
        .filter(|r| r.path == "/auth/token")
        .map(|r| r.query.unwrap())
        .collect();
    assert!(scopes[0].ends_with("scope=repository%3Aa%2Fb%3Apull"));
    assert!(scopes[1].ends_with("scope=repository%3Aa%2Fb%3Apull%2Cpush"));
}

#[tokio::test]
async fn a_mount_asks_for_both_repositories() {
    let registry = registry_with_tokens().await;
    let client = client_with(registry.host().as_str(), "user", "s3cret");
    let digest = registry.add_blob("other", "blob");
    let (to, from) = (registry.repository("a/b"), registry.repository("other"));
    assert!(client.mount(&to, &digest, &from).await.unwrap().is_none());
    let asked = registry.requests();
    let asked = asked.iter().find(|r| r.path == "/auth/token").unwrap();
    let query = asked.query.as_deref().unwrap();
    assert!(query.contains("a%2Fb%3Apull%2Cpush") && query.contains("other%3Apull"));
}

#[tokio::test]
async fn wrong_credentials_are_told_apart_from_none() {
    let registry = MemoryRegistry::start_with(token_access(false)).await;
    let reference = registry.repository("a/b").tagged("1".parse().unwrap());
    for (client, message) in [
        (
            client_with(registry.host().as_str(), "user", "wrong"),
            "wrong or lack the right",
        ),
        (client(), "no credentials are known"),
    ] {
        registry.clear_requests();
        let error = client.resolve(&reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(error.to_string().contains(message), "{error}");
        assert!(registry.requests().len() <= 3);
    }
}

#[tokio::test]
async fn basic_authentication_is_asked_for_once() {
    let access = Access::Basic {
        username: "user".into(),
        password: "s3cret".into(),
    };
    let registry = MemoryRegistry::start_with(access).await;
    add_image(&registry, "a/b", Some("1"), "amd64", &[("x", 10)]);
    let client = client_with(registry.host().as_str(), "user", "s3cret");
    let reference = registry.repository("a/b").tagged("1".parse().unwrap());
    for _ in 0..3 {
        client.manifest(&reference).await.unwrap();
    }
    assert_eq!(count(&registry, |r| r.status == 401), 1);
    assert_eq!(registry.requests().len(), 4);
    // The same connections and hosts with other credentials, or none.
    let other = DockerConfig::default()
        .with(
            registry.host().as_str(),
            Credentials::basic("user", "wrong"),
        )
        .unwrap();
    for client in [
        client.with_keychain(other),
        client.with_keychain(distribution::Anonymous),
    ] {
        let error = client.manifest(&reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
    }
}

#[tokio::test]
async fn identity_tokens_are_exchanged() {
    let registry = MemoryRegistry::start_with(token_access(false)).await;
    add_image(&registry, "a/b", Some("1"), "amd64", &[("x", 10)]);
    let json = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"s3cret"}}}}}}"#,
        registry.host()
    );
    let config = DockerConfig::parse(json.as_bytes()).unwrap();
    let client = builder().keychain(config).build().unwrap();
    let reference = registry.repository("a/b").tagged("1".parse().unwrap());
    assert!(client.resolve(&reference).await.unwrap().is_some());
}

#[tokio::test]
async fn a_failing_token_server_is_unavailable_not_unauthorized() {
    let registry = registry_with_tokens().await;
    registry.set_faults(|r| {
        let down = Fault::Answer(503, Vec::new(), "secret stack trace".into());
        (r.path == "/auth/token").then_some(down)
    });
    let reference = registry.repository("a/b").tagged("1".parse().unwrap());
    let error = client().resolve(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.to_string().contains("stack trace"));
    registry.clear_faults();
    let back = client().resolve(&reference).await.unwrap();
    assert!(back.is_some());
}

#[tokio::test]
async fn token_servers_of_foreign_hosts_are_not_asked() {
    let foreign = Script::start(|_, _| answer(200, &[], r#"{"token":"x"}"#)).await;
    let realm = format!("http://{}/token", foreign.address);
    let registry = Script::start(move |_, _| {
        let challenge = format!(r#"Bearer realm="{realm}",service="s""#);
        answer(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    // By its name, so that the realm's address is another host.
    let host = format!("localhost:{}", registry.address.port());
    let client = client_with(&host, "user", "s3cret");
    let reference = format!("{host}/a/b:1").parse().unwrap();
    let error = client.resolve(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error
            .to_string()
            .contains("token server of a foreign domain"),
        "{error}"
    );
    assert!(foreign.seen().is_empty());
    // Nothing was sent to the registry that it could keep, either.
    assert!(registry.seen().iter().all(|s| s.authorization.is_none()));
}

#[tokio::test]
async fn a_registry_that_never_has_enough_is_given_up() {
    let registry = Script::start(move |number, request| {
        if request.uri().path() == "/token" {
            return answer(200, &[], format!(r#"{{"token":"t{number}"}}"#));
        }
        let host = request.headers()["host"].to_str().unwrap();
        let challenge = format!(
            r#"Bearer realm="http://{host}/token",scope="repository:x{number}:pull",error="insufficient_scope""#
        );
        answer(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    let reference = registry.repository("a/b").tagged("1".parse().unwrap());
    let error = client().manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(registry.seen().len() <= 5, "{:?}", registry.seen());
}

#[tokio::test]
async fn a_copy_has_one_token_for_each_side() {
    let source = registry_with_tokens().await;
    let target = MemoryRegistry::start_with(token_access(false)).await;
    let client = client_with(target.host().as_str(), "user", "s3cret");
    let from = source.repository("a/b").tagged("1".parse().unwrap());
    let to = target.repository("new/b").tagged("1".parse().unwrap());
    let options = distribution::copy::CopyOptions::default();
    let copied = distribution::copy::copy(&client, &from, &client, &to, &options).await;
    assert_eq!(copied.unwrap().copied.blobs, 2);
    assert_eq!((tokens(&source), tokens(&target)), (1, 1));
}
