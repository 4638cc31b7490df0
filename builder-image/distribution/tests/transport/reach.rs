//! How servers are reached: proxies, private certificate authorities, client certificates, servers without TLS.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
};

use distribution::{
    Client, ClientBuilder, Error, ErrorKind, Guard, HostTls, HttpClient, HttpSettings, Proxies,
    RetryPolicy,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use url::Url;

use crate::support::{Act, Raw, Script, answer};

fn builder() -> ClientBuilder {
    Client::builder()
        .guard(Guard::Open)
        .retry(RetryPolicy::never())
}

#[tokio::test]
async fn proxies_are_used_but_for_exceptions() {
    let proxy = Script::start(|_, _| answer(200, &[("content-type", "x/y")], "{}")).await;
    let direct = Script::start(|_, _| answer(404, &[], "")).await;
    let client = |no_proxy: &str| {
        let proxies = Proxies {
            http: Some(format!("http://{}", proxy.address)),
            https: None,
            no_proxy: Some(no_proxy.into()),
        };
        let builder = builder().plain_http(["registry.example", "localhost"]);
        builder.proxies(proxies).build().unwrap()
    };
    let reference = "registry.example/a/b:1".parse().unwrap();
    client("127.0.0.1").manifest(&reference).await.unwrap();
    assert_eq!(
        proxy.lines(),
        ["GET http://registry.example/v2/a/b/manifests/1"]
    );
    let reference = direct.repository("a").tagged("1".parse().unwrap());
    for (no_proxy, is_direct) in [
        ("127.0.0.1", true),
        ("example,127.0.0.0/8", true),
        ("*", true),
        ("10.0.0.0/8, .example", false),
    ] {
        let resolved = client(no_proxy).resolve(&reference).await.unwrap();
        assert_eq!(resolved.is_none(), is_direct, "{no_proxy}");
    }
    assert_eq!(direct.seen().len(), 3);
}

#[tokio::test]
async fn tls_goes_through_a_proxy_that_sees_only_the_host() {
    let proxy =
        Raw::start(|_| Act::Send("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")).await;
    let proxies = Proxies {
        http: None,
        https: Some(format!("http://user:s3cret@{}", proxy.address)),
        no_proxy: None,
    };
    let client = builder().proxies(proxies).build().unwrap();
    let reference = "registry.example/a/b:1".parse().unwrap();
    let error = client.manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
    let heads = proxy.heads();
    assert!(heads[0].starts_with("CONNECT registry.example:443 HTTP/1.1\r\n"));
    let sent = heads[0].to_ascii_lowercase();
    assert!(
        sent.contains("proxy-authorization: basic dxnlcjpzm2nyzxq="),
        "{sent}"
    );
    assert!(!sent.contains("/v2/"));
}

/// Answers one request by TLS, on a thread of its own, with a certificate made here. Where `clients` is given, only to
/// whom that has signed. Gives its port and certificate.
fn tls_server(reply: String, clients: Option<CertificateDer<'static>>) -> (u16, String) {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let pem = key.cert.pem();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(root) => {
            let mut roots = RootCertStore::empty();
            roots.add(root).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = config
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let mut request = [0; 4096];
        // A client that does not trust us, or that we do not trust, ends here.
        if stream.read(&mut request).is_ok() {
            let _ = stream.write_all(reply.as_bytes());
            tls.send_close_notify();
            let _ = tls.complete_io(&mut socket);
        } else {
            let _ = tls.complete_io(&mut socket);
            // What the client still sends is read, so that it gets our alert rather than a reset.
            let _ = socket.read(&mut request);
        }
    });
    (port, pem)
}

const REPLY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";

#[tokio::test]
async fn private_authorities_are_trusted_where_they_are_given() {
    let client = |pem: Option<String>| {
        let guard = Guard::closed(["127.0.0.1", "::1"]).unwrap();
        let builder = builder().guard(guard);
        let builder = pem.into_iter().fold(builder, ClientBuilder::ca_pem);
        builder.build().unwrap()
    };
    let (port, pem) = tls_server(REPLY.into(), None);
    let reference = format!("localhost:{port}/a:1").parse().unwrap();
    let manifest = client(Some(pem)).manifest(&reference).await.unwrap();
    assert_eq!(manifest.bytes, "{}");

    let (port, _) = tls_server(REPLY.into(), None);
    let reference = format!("localhost:{port}/a:1").parse().unwrap();
    let error = client(None).manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Certificate, "{error}");
    assert!(!error.is_transient());
    let error = Client::builder()
        .ca_pem("nonsense\n-----BEGIN CERTIFICATE-----")
        .build();
    assert!(matches!(error, Err(Error::Settings(_))));
}

/// What a closed guard sees as TLS: with an open one, loopback is spoken to by plain HTTP.
async fn ask(port: u16, tls: Option<(&str, HostTls)>) -> distribution::Result<bytes::Bytes> {
    let guard = Guard::closed(["127.0.0.1", "::1"]).unwrap();
    let mut builder = builder().guard(guard);
    if let Some((host, tls)) = tls {
        let host = host.parse().unwrap();
        builder = builder.host_tls(&host, tls);
    }
    let reference = format!("localhost:{port}/a:1").parse().unwrap();
    let manifest = builder.build().unwrap().manifest(&reference).await?;
    Ok(manifest.bytes)
}

#[tokio::test]
async fn what_is_trusted_for_one_host_is_not_for_others() {
    for (is_the_host, unverified) in [(true, false), (true, true), (false, false), (false, true)] {
        let (port, pem) = tls_server(REPLY.into(), None);
        let host = format!("localhost:{}", if is_the_host { port } else { 1 });
        let tls = HostTls {
            ca_pem: (!unverified).then(|| pem.into()),
            unverified,
            ..HostTls::default()
        };
        let answer = ask(port, Some((&host, tls))).await;
        assert_eq!(answer.is_ok(), is_the_host, "{unverified}");
        if let Err(error) = answer {
            assert_eq!(error.kind(), ErrorKind::Certificate, "{error}");
        }
    }
}

#[tokio::test]
async fn servers_that_ask_who_we_are_are_told() {
    let ours = rcgen::generate_simple_self_signed(vec!["client".into()]).unwrap();
    let identity = format!("{}{}", ours.cert.pem(), ours.signing_key.serialize_pem());
    let (port, pem) = tls_server(REPLY.into(), Some(ours.cert.der().clone()));
    let host = format!("localhost:{port}");
    let tls = HostTls {
        ca_pem: Some(pem.into()),
        identity_pem: Some(identity.into()),
        unverified: false,
    };
    assert_eq!(ask(port, Some((&host, tls))).await.unwrap(), "{}");

    let (port, pem) = tls_server(REPLY.into(), Some(ours.cert.der().clone()));
    let host = format!("localhost:{port}");
    let tls = HostTls {
        ca_pem: Some(pem.into()),
        ..HostTls::default()
    };
    let error = ask(port, Some((&host, tls))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Certificate, "{error}");
    assert!(error.to_string().contains("client certificate"), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_is_told_as_such() {
    let plain = Script::start(|_, _| answer(200, &[], "{}")).await;
    let error = ask(plain.address.port(), None).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    assert!(error.to_string().contains("plain HTTP"), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn redirects_never_leave_tls() {
    let plain = Script::start(|_, _| answer(200, &[], "{}")).await;
    let reply = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        plain.address
    );
    let (port, pem) = tls_server(reply, None);
    let settings = HttpSettings {
        guard: Guard::Open,
        ca_pem: Some(pem.into()),
        ..HttpSettings::default()
    };
    let http = HttpClient::new(&settings).unwrap();
    let url = Url::parse(&format!("https://localhost:{port}/")).unwrap();
    let error = http.get(&url, None).await.unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert!(plain.seen().is_empty());
}
