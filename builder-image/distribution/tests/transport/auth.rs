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

#[tokio::test]
async fn many_who_wait_for_a_token_are_refused_by_one_answer() {
    let registry = MemoryRegistry::start_with(token_access(false)).await;
    let client = client_with(registry.host().as_str(), "user", "wrong");
    let reference = registry.repository("a/b").tagged("1".parse().unwrap());
    // What the registry demands is known from here on.
    client.resolve(&reference).await.unwrap_err();
    registry.clear_requests();
    registry.set_faults(|r| {
        let slow = Fault::Delay(std::time::Duration::from_millis(500));
        (r.path == "/auth/token").then_some(slow)
    });
    let resolved = join_all((0..20).map(|_| client.resolve(&reference))).await;
    for error in resolved.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(error.to_string().contains("wrong or lack"), "{error}");
    }
    assert_eq!(tokens(&registry), 1);
}

/// A registry with a token server on the same port, which answers with `token` and its status to the number of the
/// request for a token.
async fn oauth(
    token: impl Fn(usize, &http::Request<bytes::Bytes>) -> (u16, String) + Clone + Send + Sync + 'static,
) -> Script {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Script::start(move |_, request| {
        if request.uri().path() == "/token" {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (status, body) = token(number, request);
            return answer(
                status,
                &[("location", "http://127.0.0.1:1/elsewhere")],
                body,
            );
        }
        let sent = request.headers().get("authorization");
        if sent.is_some_and(|sent| sent != "Bearer revoked") {
            return answer(200, &[], "{}");
        }
        let host = request.headers()["host"].to_str().unwrap();
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="s""#);
        answer(401, &[("www-authenticate", &challenge)], "")
    })
    .await
}

fn forms(server: &Script) -> Vec<String> {
    let seen = server.seen().into_iter();
    seen.filter(|seen| seen.line.contains("/token"))
        .map(|seen| format!("{} {}", seen.line, String::from_utf8_lossy(&seen.body)))
        .collect()
}

#[tokio::test]
async fn token_servers_that_know_only_forms_get_one() {
    let server = oauth(|_, request| match request.method().as_str() {
        "GET" => (405, String::new()),
        _ => (200, r#"{"access_token":"t"}"#.into()),
    })
    .await;
    let client = client_with(&server.address.to_string(), "user", "s3cret");
    let reference = server.repository("a").tagged("1".parse().unwrap());
    client.manifest(&reference).await.unwrap();
    let forms = forms(&server);
    assert_eq!(forms.len(), 2);
    assert!(forms[1].starts_with("POST /token grant_type=password&username=user&password=s3cret&"));
}

#[tokio::test]
async fn refresh_tokens_are_replaced_by_those_that_the_server_sends() {
    let server = oauth(|number, _| {
        let token = if number == 0 { "revoked" } else { "good" };
        let body = format!(r#"{{"access_token":"{token}","refresh_token":"next{number}"}}"#);
        (200, body)
    })
    .await;
    let config = DockerConfig::default().with(
        &server.address.to_string(),
        Credentials::Identity("first".into()),
    );
    let client = builder().keychain(config.unwrap()).build().unwrap();
    let reference = server.repository("a").tagged("1".parse().unwrap());
    client.manifest(&reference).await.unwrap();
    let forms = forms(&server);
    let begins = |form: &str, token: &str| {
        form.starts_with(&format!(
            "POST /token grant_type=refresh_token&refresh_token={token}&"
        ))
    };
    assert_eq!(forms.len(), 2);
    assert!(
        begins(&forms[0], "first") && begins(&forms[1], "next0"),
        "{forms:?}"
    );
}

#[tokio::test]
async fn token_servers_do_not_send_us_elsewhere() {
    for status in [301, 302, 307, 308] {
        let server = oauth(move |_, _| (status, String::new())).await;
        let client = client_with(&server.address.to_string(), "user", "s3cret");
        let reference = server.repository("a").tagged("1".parse().unwrap());
        let error = client.manifest(&reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{status}: {error}");
        assert_eq!(forms(&server).len(), 1);
    }
}

#[tokio::test]
async fn a_token_that_expires_is_replaced_before_it_does() {
    let server = oauth(|number, _| {
        let body =
            format!(r#"{{"token":"t{number}","expires_in":1,"issued_at":"2000-01-01T00:00:00Z"}}"#);
        (200, body)
    })
    .await;
    let client = client_with(&server.address.to_string(), "user", "s3cret");
    let reference = server.repository("a").tagged("1".parse().unwrap());
    for _ in 0..3 {
        client.manifest(&reference).await.unwrap();
    }
    // The server's own clock says that each of them is old: none is used twice.
    assert_eq!(forms(&server).len(), 3);
}
