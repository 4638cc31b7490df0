//! What ADD fetches: asked for only if it has changed, and known by its content.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::bench::Bench;

/// What a server has, and what it was asked.
#[derive(Default)]
struct Shelf {
    body: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    /// For each request, what it had in `If-None-Match` and `If-Modified-Since`, and the status of the answer.
    asked: Vec<(String, u16)>,
}

type Shared = Arc<Mutex<Shelf>>;

async fn answer(State(shelf): State<Shared>, request: Request) -> Response {
    let mut shelf = shelf.lock().unwrap();
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap()).to_owned()
    };
    let known = header("if-none-match") + &header("if-modified-since");
    let unchanged = shelf.headers.iter().any(|(_, value)| *value == known);
    let status = if unchanged { 304 } else { 200 };
    shelf.asked.push((known, status));
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        shelf.body.into_response()
    };
    for (name, value) in &shelf.headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

#[tokio::test]
async fn what_did_not_change_is_not_downloaded_again() {
    let shelf = Shared::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(shelf.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let bench = Bench::start().await;
    let text = format!("FROM scratch\nADD {url} /\n");
    let put = |body, headers: &[(&'static str, &'static str)]| {
        let mut shelf = shelf.lock().unwrap();
        shelf.body = body;
        shelf.headers = headers.to_vec();
    };
    let asked = || std::mem::take(&mut shelf.lock().unwrap().asked);
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    let tag = ("etag", "\"one\"");
    let cached = async || bench.build(&text, &["app:1"]).await.unwrap().counts.cached;

    put("one", &[tag, ("last-modified", date)]);
    assert_eq!(cached().await, 0);
    assert_eq!(asked(), [(String::new(), 200)]);
    // The tag is what counts, also for a layer that has to be made anew.
    assert_eq!(cached().await, 1);
    assert_eq!(asked(), [(tag.1.to_owned(), 304)]);
    let other = text.replace(" /\n", " /other/\n");
    bench.build(&other, &["app:2"]).await.unwrap();
    assert_eq!(asked(), [(tag.1.to_owned(), 304)]);
    // Other content.
    put("two", &[("last-modified", date)]);
    assert_eq!(cached().await, 0);
    assert_eq!(asked(), [(tag.1.to_owned(), 200)]);
    assert_eq!(cached().await, 1);
    assert_eq!(asked(), [(date.to_owned(), 304)]);
    // Without its body nothing is known.
    bench.remove_blobs();
    bench.build(&text, &["app:1"]).await.unwrap();
    assert_eq!(asked(), [(String::new(), 200)]);

    // A checksum that is known asks nobody.
    put("three", &[tag]);
    let digest = oci::Digest::of(b"three");
    let checked = text.replace("ADD ", &format!("ADD --checksum={digest} "));
    for _ in 0..2 {
        bench.build(&checked, &["app:3"]).await.unwrap();
    }
    assert_eq!(asked(), [(date.to_owned(), 200)]);
    let wrong = text.replace(
        "ADD ",
        &format!("ADD --checksum={} ", oci::Digest::of(b"x")),
    );
    let error = bench.build(&wrong, &["app:3"]).await.unwrap_err();
    assert!(error.to_string().contains("has the checksum"), "{error}");
    assert_eq!(asked(), [(tag.1.to_owned(), 304)]);
}
