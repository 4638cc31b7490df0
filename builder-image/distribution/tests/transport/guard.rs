//! The network guard at connect time, URLs that are never asked for, proxies, and private certificate authorities.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
};

use distribution::{
    Client, ClientBuilder, Error, ErrorKind, Guard, HttpClient, HttpSettings, Proxies, RetryPolicy,
    memory::{Fault, MemoryRegistry},
};
use oci::MediaType;
use url::Url;

use crate::support::{Script, answer};

/// A client that may reach nothing here but `allow`, and speaks plain HTTP to `port`.
fn closed(port: u16, allow: &[&str]) -> Client {
    let hosts = ["127.0.0.1", "localhost"].map(|host| format!("{host}:{port}"));
    let client = Client::builder()
        .guard(Guard::closed(allow).unwrap())
        .plain_http(hosts);
    client.retry(RetryPolicy::never()).build().unwrap()
}

#[tokio::test]
async fn this_machine_is_refused_by_address_and_by_name() {
    let server = Script::start(|_, _| answer(200, &[], "")).await;
    let port = server.address.port();
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        "169.254.169.254".to_owned(),
    ] {
        let reference = format!("{host}/a/b:1").parse().unwrap();
        let error = closed(port, &[]).resolve(&reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddressRefused, "{host}: {error}");
        assert!(!error.is_transient());
    }
    assert!(server.seen().is_empty());
    let reference = format!("127.0.0.1:{port}/a/b:1").parse().unwrap();
    let answered = closed(port, &["127.0.0.0/8"]).manifest(&reference).await;
    assert!(answered.is_ok());
}

#[tokio::test]
async fn each_hop_is_guarded() {
    let registry = MemoryRegistry::start().await;
    let port = registry.address().port();
    let target = format!("http://127.0.0.2:{port}/x");
    registry.set_faults(move |r| {
        let status = if r.method == "POST" { 202 } else { 307 };
        let headers = vec![("location", target.clone())];
        Some(Fault::Answer(status, headers, String::new()))
    });
    let client = closed(port, &["127.0.0.1"]);
    let repository = registry.repository("a/b");
    let redirected = client
        .resolve(&repository.tagged("1".parse().unwrap()))
        .await;
    let uploaded = client.upload_bytes(&repository, MediaType::OciLayer, "x".into());
    for error in [redirected.unwrap_err(), uploaded.await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::AddressRefused, "{error}");
    }
}

#[tokio::test]
async fn urls_of_other_kinds_are_refused() {
    let http = HttpClient::new(&HttpSettings::default()).unwrap();
    for url in [
        "ftp://example.com/x",
        "file:///etc/passwd",
        "https://user:s3cret@example.com/",
        "http://2130706433/",
        "http://[::ffff:a9fe:a9fe]/latest/meta-data",
    ] {
        let error = http.get(&Url::parse(url).unwrap(), None).await.unwrap_err();
        let refused = matches!(error, Error::Url { .. } | Error::AddressRefused { .. });
        assert!(refused, "{url}: {error}");
        assert!(!error.to_string().contains("s3cret"));
    }
}

#[tokio::test]
async fn plain_sources_are_got_with_bounds_and_credentials_for_one_origin() {
    let other = Script::start(|_, _| answer(200, &[], "0123456789")).await;
    let target = format!("http://{}/there", other.address);
    let server = Script::start(move |number, _| match number {
        0 => answer(500, &[], ""),
        1 => answer(302, &[("location", "/again")], ""),
        _ => answer(302, &[("location", &target)], ""),
    })
    .await;
    let settings = HttpSettings {
        guard: Guard::Open,
        ..HttpSettings::default()
    };
    let http = HttpClient::new(&settings).unwrap();
    let url = Url::parse(&format!("http://{}/here", server.address)).unwrap();
    let credentials = distribution::Credentials::Bearer("s3cret".into());
    let response = http.get(&url, Some(&credentials)).await.unwrap();
    assert_eq!(response.url().path(), "/there");
    assert_eq!(response.bytes_bounded(10).await.unwrap(), "0123456789");
    let authorized = |script: &Script| -> Vec<bool> {
        let seen = script.seen();
        seen.iter().map(|s| s.authorization.is_some()).collect()
    };
    assert_eq!(authorized(&server), [true, true, true]);
    assert_eq!(authorized(&other), [false]);
    let response = http.get(&url, None).await.unwrap();
    let error = response.bytes_bounded(9).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn proxies_are_used_but_for_exceptions() {
    let proxy = Script::start(|_, _| answer(200, &[("content-type", "x/y")], "{}")).await;
    let direct = Script::start(|_, _| answer(404, &[], "")).await;
    let proxies = Proxies {
        http: Some(format!("http://{}", proxy.address)),
        https: None,
        no_proxy: Some("127.0.0.1".into()),
    };
    let client = Client::builder()
        .guard(Guard::Open)
        .plain_http(["registry.example"])
        .proxies(proxies)
        .build()
        .unwrap();
    let reference = "registry.example/a/b:1".parse().unwrap();
    client.manifest(&reference).await.unwrap();
    assert_eq!(
        proxy.seen()[0].line,
        "GET http://registry.example/v2/a/b/manifests/1"
    );
    let reference = direct.repository("a").tagged("1".parse().unwrap());
    assert_eq!(client.resolve(&reference).await.unwrap(), None);
    assert_eq!((proxy.seen().len(), direct.seen().len()), (1, 1));
}

/// Answers one request by TLS, on a thread of its own, with a certificate made here. Gives its port and certificate.
fn tls_server(reply: String) -> (u16, String) {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let pem = key.cert.pem();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private =
        rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let mut request = [0; 4096];
        // A client that does not trust us ends here.
        if stream.read(&mut request).is_ok() {
            let _ = stream.write_all(reply.as_bytes());
            tls.send_close_notify();
            let _ = tls.complete_io(&mut socket);
        }
    });
    (port, pem)
}

#[tokio::test]
async fn private_authorities_are_trusted_where_they_are_given() {
    let reply = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let client = |pem: Option<String>| {
        let builder = Client::builder().guard(Guard::closed(["127.0.0.1", "::1"]).unwrap());
        let builder = builder.retry(RetryPolicy::never());
        let builder = pem.into_iter().fold(builder, ClientBuilder::ca_pem);
        builder.build().unwrap()
    };
    let (port, pem) = tls_server(reply.into());
    let reference = format!("localhost:{port}/a:1").parse().unwrap();
    let manifest = client(Some(pem)).manifest(&reference).await.unwrap();
    assert_eq!(manifest.bytes, "{}");

    let (port, _) = tls_server(reply.into());
    let reference = format!("localhost:{port}/a:1").parse().unwrap();
    let error = client(None).manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Certificate, "{error}");
    assert!(!error.is_transient());
    let error = Client::builder()
        .ca_pem("nonsense\n-----BEGIN CERTIFICATE-----")
        .build();
    assert!(matches!(error, Err(Error::Settings(_))));
}

#[tokio::test]
async fn redirects_never_leave_tls() {
    let plain = Script::start(|_, _| answer(200, &[], "{}")).await;
    let reply = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        plain.address
    );
    let (port, pem) = tls_server(reply);
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
