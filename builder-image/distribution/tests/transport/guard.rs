//! The network guard at connect time, and URLs that are never asked for.

use distribution::{
    Client, Error, ErrorKind, Guard, HttpClient, HttpSettings, RetryPolicy,
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
