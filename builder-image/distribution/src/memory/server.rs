//! The HTTP side of the in-memory registry: one handler that checks, dispatches and answers.

use std::{collections::HashSet, sync::Arc};

use axum::{Router, body::Body, extract::Request, response::Response};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, header};
use oci::{Descriptor, Digest, Digester, Document, Index, MediaType};
use serde_json::json;
use tokio::net::TcpListener;
use url::form_urlencoded;

use super::{Access, Contained, Content, Fault, Logged, Shared, lock};
use crate::RawManifest;

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let handler = move |request: Request| answer(shared.clone(), request);
    // It ends when the registry is dropped.
    let _ = axum::serve(listener, Router::new().fallback(handler)).await;
}

/// An answer before faults are applied to it.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Answer {
    const fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    fn error(status: u16, code: &str) -> Self {
        let body = json!({"errors": [{"code": code, "message": "in-memory registry"}]});
        Self::new(status)
            .with("content-type", "application/json")
            .body(body.to_string())
    }

    const fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

async fn answer(shared: Arc<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let logged = {
        let mut log = lock(&shared.log);
        let logged = Logged {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers: parts.headers,
            number: log.len(),
            status: 0,
        };
        log.push(logged.clone());
        logged
    };
    let fault = lock(&shared.faults).as_ref().and_then(|f| f(&logged));
    if let Some(Fault::Delay(duration)) = &fault {
        tokio::time::sleep(*duration).await;
    }
    let right = match &fault {
        Some(Fault::Answer(status, headers, body)) => {
            let mut answer = Answer::new(*status).body(body.clone());
            answer.headers.clone_from(headers);
            answer
        }
        _ => match authorize(&shared, &logged) {
            Err(refusal) => refusal,
            Ok(()) => match axum::body::to_bytes(body, usize::MAX).await {
                Ok(body) => dispatch(&shared, &logged, &body),
                Err(_) => Answer::error(400, "BLOB_UPLOAD_INVALID"),
            },
        },
    };
    if let Some(entry) = lock(&shared.log).get_mut(logged.number) {
        entry.status = right.status;
    }
    send(right, fault.as_ref(), logged.method == Method::HEAD)
}

fn send(answer: Answer, fault: Option<&Fault>, is_head: bool) -> Response {
    let Answer {
        status,
        headers,
        mut body,
    } = answer;
    let mut response = Response::builder().status(status);
    let left_out = match fault {
        Some(Fault::Without(name)) => *name,
        _ => "",
    };
    for (name, value) in headers.into_iter().filter(|(name, _)| *name != left_out) {
        response = response.header(name, value);
    }
    if let (Some(Fault::Corrupt), Some(first)) = (fault, body.first()) {
        body = [&[!first], &body[1..]].concat().into();
    }
    let body = match fault {
        _ if is_head => {
            response = response.header(header::CONTENT_LENGTH, body.len());
            Body::empty()
        }
        Some(Fault::Cut(after)) => {
            response = response.header(header::CONTENT_LENGTH, body.len());
            let part = body.slice(..body.len().min(*after));
            Body::from_stream(broken(part))
        }
        _ => Body::from(body),
    };
    response.body(body).expect("the headers are valid")
}

/// `part`, and then an error, but not before the part is on its way.
fn broken(part: Bytes) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
    futures::stream::once(async { Ok(part) }).chain(futures::stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    }))
}

/// The parameters of a query, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter();
        all.find(|(key, _)| key == name).map(|(_, v)| v.as_str())
    }
}

fn authorize(shared: &Shared, request: &Logged) -> Result<(), Answer> {
    let sent = request.headers.get(header::AUTHORIZATION);
    let sent = sent.and_then(|v| v.to_str().ok()).unwrap_or_default();
    match &shared.access {
        _ if request.path == "/auth/token" => Ok(()),
        Access::Open => Ok(()),
        Access::Basic { username, password } if sent == basic(username, password) => Ok(()),
        Access::Basic { .. } => {
            Err(Answer::error(401, "UNAUTHORIZED")
                .with("www-authenticate", r#"Basic realm="memory""#))
        }
        Access::Token { .. } => {
            let needed = needed_scopes(request);
            let content = lock(&shared.content);
            let token = sent.strip_prefix("Bearer ").unwrap_or_default();
            let granted = content.tokens.get(token);
            if granted.is_some_and(|granted| needed.iter().all(|n| granted.contains(n))) {
                return Ok(());
            }
            let host = request.headers.get(header::HOST);
            let host = host.and_then(|h| h.to_str().ok()).unwrap_or_default();
            let error = if granted.is_some() {
                r#",error="insufficient_scope""#
            } else {
                ""
            };
            let scope = needed
                .first()
                .map_or_else(String::new, |s| format!(r#",scope="{s}""#));
            let challenge = format!(
                r#"Bearer realm="http://{host}/auth/token",service="memory"{scope}{error}"#
            );
            Err(Answer::error(401, "UNAUTHORIZED").with("www-authenticate", challenge))
        }
    }
}

fn basic(username: &str, password: &str) -> String {
    let pair = BASE64_STANDARD.encode(format!("{username}:{password}"));
    format!("Basic {pair}")
}

/// The scopes of single actions that a request needs.
fn needed_scopes(request: &Logged) -> Vec<String> {
    let Some((name, _, _)) = split(&request.path) else {
        return Vec::new();
    };
    let actions: &[&str] = match request.method {
        Method::GET | Method::HEAD => &["pull"],
        Method::DELETE if !request.path.contains("/uploads/") => &["delete"],
        _ => &["pull", "push"],
    };
    let scopes = actions.iter().map(|a| format!("repository:{name}:{a}"));
    scopes.collect()
}

/// `/v2/<name>/<kind>/<rest>`
fn split(path: &str) -> Option<(&str, &str, &str)> {
    let path = path.strip_prefix("/v2/")?;
    for kind in [
        "/blobs/uploads/",
        "/blobs/",
        "/manifests/",
        "/tags/",
        "/referrers/",
    ] {
        if let Some(at) = path.rfind(kind) {
            return Some((
                &path[..at],
                kind.trim_matches('/'),
                &path[at + kind.len()..],
            ));
        }
    }
    None
}

fn dispatch(shared: &Shared, request: &Logged, body: &Bytes) -> Answer {
    let query = Query::of(request.query.as_deref());
    let content = &mut *lock(&shared.content);
    match (request.path.as_str(), &shared.access) {
        ("/v2/", _) => return Answer::new(200).body("{}"),
        ("/v2/_catalog", _) => return catalog(content, &query),
        ("/auth/token", access @ Access::Token { .. }) => {
            return token(content, access, request, &query, body);
        }
        _ => {}
    }
    let Some((name, kind, rest)) = split(&request.path) else {
        return Answer::error(404, "NAME_UNKNOWN");
    };
    let is_read = matches!(request.method, Method::GET | Method::HEAD);
    match (kind, &request.method) {
        ("tags", &Method::GET) => tags(content, name, &query),
        ("referrers", &Method::GET) if content.referrers => referrers(content, name, rest),
        ("referrers", _) => Answer::error(404, "NAME_UNKNOWN"),
        ("blobs", _) if is_read => blob(content, name, rest, &request.headers),
        ("manifests", _) if is_read => manifest(content, name, rest, &request.headers),
        ("manifests", &Method::PUT) => put_manifest(content, name, rest, &request.headers, body),
        ("manifests", &Method::DELETE) => delete_manifest(content, name, rest),
        ("blobs/uploads", &Method::POST) => start_upload(content, name, &query),
        ("blobs/uploads", &Method::PATCH) => {
            continue_upload(content, name, rest, &request.headers, body)
        }
        ("blobs/uploads", &Method::GET) => match content.uploads.get(rest) {
            Some(upload) => upload_at(name, rest, upload.len()).status(204),
            None => Answer::error(404, "BLOB_UPLOAD_UNKNOWN"),
        },
        ("blobs/uploads", &Method::PUT) => finish_upload(content, name, rest, &query, body),
        ("blobs/uploads", &Method::DELETE) => match content.uploads.remove(rest) {
            Some(_) => Answer::new(204),
            None => Answer::error(404, "BLOB_UPLOAD_UNKNOWN"),
        },
        _ => Answer::error(405, "UNSUPPORTED"),
    }
}

fn token(
    content: &mut Content,
    access: &Access,
    request: &Logged,
    query: &Query,
    body: &Bytes,
) -> Answer {
    let Access::Token {
        username,
        password,
        anonymous_pull,
        expires_in,
    } = access
    else {
        return Answer::error(404, "UNSUPPORTED");
    };
    let form = Query(form_urlencoded::parse(body).into_owned().collect());
    let sent = request.headers.get(header::AUTHORIZATION);
    let known = match (sent, form.get("refresh_token")) {
        (Some(sent), _) => sent.to_str().is_ok_and(|s| s == basic(username, password)),
        (None, Some(refresh)) => refresh == password,
        (None, None) => {
            if !anonymous_pull {
                return Answer::error(401, "UNAUTHORIZED");
            }
            return grant(content, query, &["pull"], *expires_in);
        }
    };
    if !known {
        return Answer::error(401, "UNAUTHORIZED");
    }
    let query = if form.get("scope").is_some() {
        &form
    } else {
        query
    };
    grant(content, query, &["pull", "push", "delete"], *expires_in)
}

fn grant(content: &mut Content, query: &Query, allowed: &[&str], expires_in: u64) -> Answer {
    let mut granted = HashSet::new();
    let scopes = query.0.iter().filter(|(key, _)| key == "scope");
    for scope in scopes.flat_map(|(_, value)| value.split(' ')) {
        let Some((name, actions)) = scope.rsplit_once(':') else {
            continue;
        };
        for action in actions.split(',').filter(|a| allowed.contains(a)) {
            granted.insert(format!("{name}:{action}"));
        }
    }
    content.counter += 1;
    let token = format!("token-{}", content.counter);
    content.tokens.insert(token.clone(), granted);
    let body = json!({"token": token, "expires_in": expires_in});
    Answer::new(200).body(body.to_string())
}

fn catalog(content: &Content, query: &Query) -> Answer {
    let last = query.get("last").unwrap_or_default();
    let count = query.get("n").and_then(|n| n.parse().ok());
    let count = count.unwrap_or(usize::MAX);
    let names = content.repositories.keys();
    let mut after = names.filter(|name| name.as_str() > last);
    let page: Vec<_> = after.by_ref().take(count).collect();
    let mut answer = Answer::new(200);
    if let (Some(last), Some(_)) = (page.last(), after.next()) {
        let next = format!(r#"</v2/_catalog?n={count}&last={last}>; rel="next""#);
        answer = answer.with("link", next);
    }
    answer.body(json!({"repositories": page}).to_string())
}

fn tags(content: &Content, name: &str, query: &Query) -> Answer {
    let Some(contained) = content.repositories.get(name) else {
        return Answer::error(404, "NAME_UNKNOWN");
    };
    let last = query.get("last").unwrap_or_default();
    let count = query.get("n").and_then(|n| n.parse().ok());
    let count = count.unwrap_or(usize::MAX);
    let after = contained.tags.keys().filter(|tag| tag.as_str() > last);
    let mut page: Vec<_> = after.take(count.saturating_add(1)).collect();
    let mut answer = Answer::new(200);
    if page.len() > count {
        page.truncate(count);
        if let Some(last) = page.last() {
            let next = format!(r#"</v2/{name}/tags/list?n={count}&last={last}>; rel="next""#);
            answer = answer.with("link", next);
        }
    }
    answer.body(json!({"name": name, "tags": page}).to_string())
}

fn blob(content: &Content, name: &str, digest: &str, headers: &HeaderMap) -> Answer {
    let found = digest.parse::<Digest>().ok().and_then(|digest| {
        let contained = content.repositories.get(name)?;
        contained.blobs.get(&digest)?;
        content.blobs.get(&digest)
    });
    let Some(bytes) = found else {
        return Answer::error(404, "BLOB_UNKNOWN");
    };
    let range = headers.get(header::RANGE).and_then(|range| {
        let (start, last) = range
            .to_str()
            .ok()?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let end = match last {
            "" => bytes.len(),
            last => last.parse::<usize>().ok()?.checked_add(1)?.min(bytes.len()),
        };
        let start: usize = start.parse().ok()?;
        (start < end).then_some(start..end)
    });
    let answer = match range {
        None => Answer::new(200).body(bytes.clone()),
        Some(range) => {
            let text = format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len());
            Answer::new(206)
                .with("content-range", text)
                .body(bytes.slice(range))
        }
    };
    answer
        .with("docker-content-digest", digest)
        .with("content-type", "application/octet-stream")
}

fn manifest(content: &Content, name: &str, reference: &str, headers: &HeaderMap) -> Answer {
    let unknown = || Answer::error(404, "MANIFEST_UNKNOWN");
    let contained = content.repositories.get(name);
    let Some((digest, media_type, bytes)) = contained.and_then(|c| c.find(reference)) else {
        return unknown();
    };
    // As distribution v3: what is not named is not found.
    let mut accepted = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok());
    if !accepted.any(|text| text.contains(media_type.as_str())) {
        return unknown();
    }
    Answer::new(200)
        .with("content-type", media_type.as_str())
        .with("docker-content-digest", digest.as_str())
        .body(bytes)
}

fn put_manifest(
    content: &mut Content,
    name: &str,
    reference: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Answer {
    let digest = Digest::of(body);
    if reference.contains(':') && reference != digest.as_str() {
        return Answer::error(400, "DIGEST_INVALID");
    }
    let media_type = headers.get(header::CONTENT_TYPE);
    let media_type = MediaType::from(media_type.and_then(|v| v.to_str().ok()).unwrap_or_default());
    let serves_referrers = content.referrers;
    let contained = content.repositories.entry(name.into()).or_default();
    let complete = match Document::parse(&media_type, body) {
        Ok(Document::Manifest(manifest)) => std::iter::once(&manifest.config)
            .chain(manifest.layers.iter().filter(|layer| layer.urls.is_empty()))
            .all(|blob| contained.blobs.contains(&blob.digest)),
        Ok(Document::Index(index)) => index
            .manifests
            .iter()
            .all(|child| contained.manifests.contains_key(&child.digest)),
        Err(_) => return Answer::error(400, "MANIFEST_INVALID"),
    };
    if !complete {
        return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
    }
    let subject = subject(&media_type, body).map(|(subject, _)| subject);
    contained
        .manifests
        .insert(digest.clone(), (media_type, body.clone()));
    if !reference.contains(':') {
        contained.tags.insert(reference.into(), digest.clone());
    }
    let answer = Answer::new(201)
        .with("location", format!("/v2/{name}/manifests/{digest}"))
        .with("docker-content-digest", digest.as_str());
    match subject {
        Some(subject) if serves_referrers => answer.with("oci-subject", subject.as_str()),
        _ => answer,
    }
}

/// The subject of a manifest, and how the manifest is listed among its referrers.
fn subject(media_type: &MediaType, body: &Bytes) -> Option<(Digest, Descriptor)> {
    let manifest = RawManifest {
        media_type: media_type.clone(),
        digest: Digest::of(body),
        bytes: body.clone(),
    };
    crate::referrers::referrer(&manifest).ok().flatten()
}

fn referrers(content: &Content, name: &str, digest: &str) -> Answer {
    let contained = content.repositories.get(name);
    let manifests = contained.into_iter().flat_map(|c| c.manifests.values());
    let entries = manifests
        .filter_map(|(media_type, body)| subject(media_type, body))
        .filter(|(about, _)| about.as_str() == digest)
        .map(|(_, entry)| entry);
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by(|a, b| a.digest.cmp(&b.digest));
    let index = serde_json::json!(Index::new(entries)).to_string();
    Answer::new(200)
        .with("content-type", MediaType::OciIndex.as_str())
        .body(index)
}

fn delete_manifest(content: &mut Content, name: &str, reference: &str) -> Answer {
    let unknown = Answer::error(404, "MANIFEST_UNKNOWN");
    let Some(contained) = content.repositories.get_mut(name) else {
        return unknown;
    };
    let removed = match reference.parse::<Digest>() {
        Ok(digest) => {
            contained.tags.retain(|_, tagged| *tagged != digest);
            contained.manifests.remove(&digest).is_some()
        }
        Err(_) => contained.tags.remove(reference).is_some(),
    };
    if removed { Answer::new(202) } else { unknown }
}

fn start_upload(content: &mut Content, name: &str, query: &Query) -> Answer {
    let mounted = query.get("mount").and_then(|digest| {
        let digest: Digest = digest.parse().ok()?;
        let from: &Contained = content.repositories.get(query.get("from")?)?;
        from.blobs.contains(&digest).then_some(digest)
    });
    if let Some(digest) = mounted {
        let contained = content.repositories.entry(name.into()).or_default();
        contained.blobs.insert(digest.clone());
        return Answer::new(201)
            .with("location", format!("/v2/{name}/blobs/{digest}"))
            .with("docker-content-digest", digest.as_str());
    }
    content.counter += 1;
    let id = format!("upload-{}", content.counter);
    content.uploads.insert(id.clone(), Vec::new());
    upload_at(name, &id, 0)
}

/// The location of an upload is relative and changes with every request.
fn upload_at(name: &str, id: &str, received: usize) -> Answer {
    Answer::new(202)
        .with(
            "location",
            format!("/v2/{name}/blobs/uploads/{id}?_state={received}"),
        )
        .with("range", format!("0-{}", received.saturating_sub(1)))
}

fn continue_upload(
    content: &mut Content,
    name: &str,
    id: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Answer {
    let Some(upload) = content.uploads.get_mut(id) else {
        return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    let range = headers.get(header::CONTENT_RANGE);
    let expected = format!("{}-{}", upload.len(), upload.len() + body.len().max(1) - 1);
    if range.is_some_and(|range| range != expected.as_str()) {
        return upload_at(name, id, upload.len()).status(416);
    }
    upload.extend_from_slice(body);
    upload_at(name, id, upload.len())
}

fn finish_upload(
    content: &mut Content,
    name: &str,
    id: &str,
    query: &Query,
    body: &Bytes,
) -> Answer {
    let state = query.get("_state").and_then(|s| s.parse().ok());
    let Some(mut upload) = content.uploads.remove(id) else {
        return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    if state != Some(upload.len()) {
        return Answer::error(400, "BLOB_UPLOAD_INVALID");
    }
    upload.extend_from_slice(body);
    let wanted = query.get("digest").and_then(|d| d.parse::<Digest>().ok());
    let right = wanted.filter(|wanted| {
        let mut digester = Digester::new(wanted.algorithm());
        digester.update(&upload);
        digester.finish() == *wanted
    });
    let Some(digest) = right else {
        return Answer::error(400, "DIGEST_INVALID");
    };
    content.blobs.insert(digest.clone(), upload.into());
    let contained = content.repositories.entry(name.into()).or_default();
    contained.blobs.insert(digest.clone());
    Answer::new(201)
        .with("location", format!("/v2/{name}/blobs/{digest}"))
        .with("docker-content-digest", digest.as_str())
}
