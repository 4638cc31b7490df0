//! What the operator asks of servers outside, over real connections on loopback: registries, git over https, the guard.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use distribution::memory::{Access, Fault, MemoryRegistry};
use distribution::{Credentials, DockerConfig, ErrorKind};
use oci::{Digest, MediaType, Reference};
use operator::git::{GitCredentials, GitError, GitRef};
use operator::network::{GitQuestion, GuardedNetwork, Network, RegistryAccess};
use operator::settings::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

fn network(allow: &[&str]) -> GuardedNetwork {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut settings = Settings::defaults();
    settings.allow_cidrs = allow.iter().map(|cidr| (*cidr).to_owned()).collect();
    GuardedNetwork::new(&settings).unwrap()
}

fn access(registry: &MemoryRegistry, password: &str) -> RegistryAccess {
    let credentials = Credentials::basic("puller", password);
    RegistryAccess {
        credentials: vec![
            DockerConfig::default()
                .with(registry.host().as_str(), credentials)
                .unwrap(),
        ],
        plain_http: true,
        ca_pem: None,
    }
}

#[tokio::test]
async fn a_registry_tells_what_a_tag_is_and_proves_a_digest() {
    let registry = MemoryRegistry::start_with(Access::Basic {
        username: "puller".into(),
        password: "right".into(),
    })
    .await;
    let manifest = r#"{"schemaVersion":2}"#;
    let digest =
        registry.add_manifest("app", Some("v1"), MediaType::MANIFESTS[0].clone(), manifest);
    let network = network(&["127.0.0.0/8"]);
    let repository = registry.repository("app");
    let right = access(&registry, "right");
    let ask = async |reference: Reference, access: &RegistryAccess| {
        let found = network.manifest(&reference, access).await;
        found
            .map(|found| found.map(|descriptor| descriptor.digest))
            .map_err(|error| error.kind())
    };
    let tagged = |tag: &str| repository.tagged(tag.parse().unwrap());
    assert_eq!(ask(tagged("v1"), &right).await, Ok(Some(digest.clone())));
    assert_eq!(ask(tagged("v2"), &right).await, Ok(None));
    assert_eq!(
        ask(repository.at(digest.clone()), &right).await,
        Ok(Some(digest))
    );
    assert_eq!(
        ask(repository.at(Digest::of(b"absent")), &right).await,
        Ok(None)
    );
    let wrong = access(&registry, "wrong");
    assert_eq!(
        ask(tagged("v1"), &wrong).await,
        Err(ErrorKind::Unauthorized)
    );
}

#[tokio::test]
async fn loopback_is_refused_unless_it_is_allowed() {
    let registry = MemoryRegistry::start().await;
    let reference = registry.repository("app").tagged("v1".parse().unwrap());
    let error = network(&[])
        .manifest(&reference, &access(&registry, "x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddressRefused);
    assert!(registry.requests().is_empty());

    let question = GitQuestion {
        url: "https://127.0.0.1:1/a".into(),
        reference: GitRef::Branch("main".into()),
        credentials: None,
        ca_pem: None,
    };
    let answer = network(&[]).commit(&question).await;
    assert!(
        matches!(answer, Err(GitError::AddressRefused(_))),
        "{answer:?}"
    );
}

/// What the operator asks one registry, whoever it is for, is one stream: other credentials and other certificates make no
/// new one.
#[tokio::test]
async fn all_questions_to_one_registry_keep_their_distance_together() {
    let registry = MemoryRegistry::start().await;
    let digest = registry.add_manifest("app", Some("v1"), MediaType::MANIFESTS[0].clone(), "{}");
    let network = network(&["127.0.0.0/8"]);
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let reference = registry.repository("app").tagged("v1".parse().unwrap());
    let accesses: Vec<RegistryAccess> = (0..20)
        .map(|n| RegistryAccess {
            ca_pem: (n % 4 == 0).then(|| certified.cert.pem().into_bytes()),
            ..access(&registry, &format!("password-{n}"))
        })
        .collect();
    let begun = std::time::Instant::now();
    let questions = accesses
        .iter()
        .map(|access| network.manifest(&reference, access));
    for found in futures::future::join_all(questions).await {
        assert_eq!(found.unwrap().unwrap().digest, digest);
    }
    // The first at once, each other one 20 ms after the one before.
    let spent = begun.elapsed();
    assert!(
        spent >= std::time::Duration::from_millis(19 * 20),
        "{spent:?}"
    );
}

#[tokio::test]
async fn a_budget_of_a_registry_is_shared_and_something_is_left_for_the_pods() {
    let registry = MemoryRegistry::start().await;
    registry.add_manifest("app", Some("v1"), MediaType::MANIFESTS[0].clone(), "{}");
    let reference = registry.repository("app").tagged("v1".parse().unwrap());
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(8));
    let counter = left.clone();
    registry.set_faults(move |request| {
        use std::sync::atomic::Ordering::SeqCst;
        let counted = request.method == "GET";
        let left = counter.load(SeqCst).saturating_sub(usize::from(counted));
        counter.store(left, SeqCst);
        let headers = vec![
            ("content-type", MediaType::MANIFESTS[0].to_string()),
            ("docker-content-digest", Digest::of(b"{}").to_string()),
            ("ratelimit-remaining", left.to_string()),
            ("ratelimit-reset", "3600".to_owned()),
        ];
        Some(Fault::Answer(200, headers, "{}".to_owned()))
    });
    let network = network(&["127.0.0.0/8"]);
    let mut refused = 0;
    for number in 0..6 {
        let access = access(&registry, &format!("password-{number}"));
        match network.document(&reference, &access).await {
            Ok(_) => assert_eq!(refused, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                refused += 1;
            }
        }
    }
    let left = || left.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((refused, left()), (3, 5));
    // HEADs are free.
    let found = network.manifest(&reference, &access(&registry, "x")).await;
    assert!(found.unwrap().is_some());
    assert_eq!(left(), 5);
}

#[tokio::test]
async fn a_pause_that_a_registry_asks_for_holds_for_all_who_ask() {
    let registry = MemoryRegistry::start().await;
    registry.add_manifest("app", Some("v1"), MediaType::MANIFESTS[0].clone(), "{}");
    let reference = registry.repository("app").tagged("v1".parse().unwrap());
    registry.set_faults(|_| {
        let headers = vec![("retry-after", "3600".to_owned())];
        Some(Fault::Answer(429, headers, String::new()))
    });
    let network = network(&["127.0.0.0/8"]);
    let asked = network.manifest(&reference, &access(&registry, "a")).await;
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::Unavailable);
    registry.clear_faults();
    registry.clear_requests();
    for password in ["a", "b"] {
        let access = access(&registry, password);
        let answers = [
            network.manifest(&reference, &access).await.err(),
            network.document(&reference, &access).await.err(),
            network.tags(reference.repository(), &access).await.err(),
        ];
        for error in answers {
            assert_eq!(error.unwrap().kind(), ErrorKind::Unavailable);
        }
    }
    assert!(registry.requests().is_empty());
    let other = MemoryRegistry::start().await;
    let reference = other.repository("app").tagged("v1".parse().unwrap());
    let found = network.manifest(&reference, &access(&other, "a")).await;
    assert!(found.unwrap().is_none());
}

/// A git server that answers one path; the requests it got.
struct GitServer {
    url: String,
    ca_pem: Vec<u8>,
    requests: Arc<std::sync::Mutex<Vec<String>>>,
}

async fn git_server() -> GitServer {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
        certified.signing_key.serialize_der(),
    ));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = requests.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => break,
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let answer = answer(&request);
            log.lock().unwrap().push(request);
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    GitServer {
        url: format!("https://localhost:{port}"),
        ca_pem: certified.cert.pem().into_bytes(),
        requests,
    }
}

fn answer(request: &str) -> String {
    let respond = |status: &str, kind: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let path = request.split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/private.git/")
        && !request
            .to_lowercase()
            .contains("authorization: basic dxnlcjpwyxnz")
    {
        return respond("401 Unauthorized", "text/plain", "");
    }
    match path {
        "/public.git/info/refs?service=git-upload-pack"
        | "/private.git/info/refs?service=git-upload-pack" => {
            let hash = "a".repeat(40);
            let line = format!("{hash} refs/heads/main\0agent=git/2\n");
            let body = format!(
                "001e# service=git-upload-pack\n0000{:04x}{line}0000",
                line.len() + 4
            );
            respond(
                "200 OK",
                "application/x-git-upload-pack-advertisement",
                &body,
            )
        }
        "/web/info/refs?service=git-upload-pack" => respond("200 OK", "text/html", "<html>"),
        _ => respond("404 Not Found", "text/plain", ""),
    }
}

#[tokio::test]
async fn a_branch_is_looked_up_over_https_with_a_certificate_of_the_secret() {
    let server = git_server().await;
    let network = network(&["127.0.0.0/8", "::1/128"]);
    let question = |repository: &str, branch: &str, password: Option<&str>| GitQuestion {
        url: format!("{}/{repository}", server.url),
        reference: GitRef::Branch(branch.into()),
        credentials: password.map(|password| GitCredentials {
            username: "user".into(),
            password: password.into(),
        }),
        ca_pem: Some(server.ca_pem.clone()),
    };
    let ok = Ok("a".repeat(40));
    for (question, expected) in [
        (question("public.git", "main", None), ok.clone()),
        (question("private.git", "main", Some("pass")), ok),
        (
            question("private.git", "main", None),
            Err(GitError::Unauthorized { status: 401 }),
        ),
        (
            question("private.git", "main", Some("wrong")),
            Err(GitError::Unauthorized { status: 401 }),
        ),
        (
            question("public.git", "dev", None),
            Err(GitError::RevisionNotFound("branch dev".into())),
        ),
        (
            question("none.git", "main", None),
            Err(GitError::RepositoryNotFound),
        ),
        (
            question("web", "main", None),
            Err(GitError::Malformed("another content type")),
        ),
    ] {
        assert_eq!(
            network.commit(&question).await,
            expected,
            "{}",
            question.url
        );
    }
    let credentials = |request: &String| request.to_lowercase().contains("authorization");
    let sent = server.requests.lock().unwrap().clone();
    assert_eq!(
        sent.iter().filter(|request| credentials(request)).count(),
        2
    );
    // Without the certificate, nothing is said to the server.
    let mut untrusted = question("public.git", "main", None);
    untrusted.ca_pem = None;
    let answer = network.commit(&untrusted).await;
    assert!(
        matches!(answer, Err(GitError::Unreachable(_))),
        "{answer:?}"
    );
}
