//! An API server in memory: enough of get, list, create, server-side apply, replace, status and delete to play
//! scenarios against, with a log of writes and faults. It knows no schemas, no watches and no controllers.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each scenario uses its part of the support"
)]

pub mod rights;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use operator::context::Context;
use operator::metrics::Metrics;
use operator::settings::Settings;
use serde_json::{Value, json};

/// What happens to a request instead of, or after, being served.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answered with this code and message, nothing is changed.
    Refuse(u16, String),
    /// Served, but the answer is lost.
    LoseReply,
    /// Never answered, nothing is changed.
    Hang,
}

type Matcher = Box<dyn FnMut(&str, &str) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: Vec<String>,
    requests: Vec<(String, String)>,
    fault: Option<Matcher>,
    clock: Option<fn() -> jiff::Timestamp>,
}

/// The API server.
#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
}

impl FakeApi {
    pub fn new() -> Self {
        Self::default()
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { api.serve(request).await }
        });
        Client::new(service, "default")
    }

    /// A context with this server and default settings.
    pub fn context(&self) -> Context {
        let mut settings = Settings::defaults();
        "registry.example.com/registry:3.1".clone_into(&mut settings.registry_image);
        Context::new(
            self.client(),
            Arc::new(settings),
            Arc::new(Metrics::default()),
        )
    }

    /// Writes `creationTimestamp` into what is created from now on.
    pub fn stamp_creation(&self, clock: fn() -> jiff::Timestamp) {
        self.state.lock().unwrap().clock = Some(clock);
    }

    /// Puts an object at `path` as if somebody had made it.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.stamp(path, &mut object);
        state.objects.insert(path.to_owned(), object);
    }

    /// Puts an object at `path` as it is: for objects outside of namespaces.
    pub fn put_raw(&self, path: &str, object: Value) {
        let mut state = self.state.lock().unwrap();
        state.objects.insert(path.to_owned(), object);
    }

    /// The object at `path`.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// Changes the object at `path`.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock().unwrap();
        let mut object = state.objects.get(path).cloned().unwrap();
        change(&mut object);
        state.bump(&mut object);
        state.objects.insert(path.to_owned(), object);
    }

    /// Deletes the object at `path`.
    pub fn remove(&self, path: &str) {
        self.state.lock().unwrap().objects.remove(path);
    }

    /// Paths of all objects.
    pub fn paths(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Writes since the last call, as `METHOD path`.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().writes)
    }

    /// All requests so far, as method and path.
    pub fn requests(&self) -> Vec<(String, String)> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Asks `matcher` before every request, with method and path. Requests that come while it is asked go on
    /// without it.
    pub fn faults(&self, matcher: impl FnMut(&str, &str) -> Option<Fault> + Send + 'static) {
        self.state.lock().unwrap().fault = Some(Box::new(matcher));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.state.lock().unwrap().fault = None;
    }

    async fn serve(&self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        // The matcher is asked without the lock: it may change objects itself.
        let matcher = {
            let mut state = self.state.lock().unwrap();
            let method = parts.method.to_string();
            state.requests.push((method, path.clone()));
            state.fault.take()
        };
        let mut fault = None;
        if let Some(mut matcher) = matcher {
            fault = matcher(parts.method.as_str(), &path);
            self.state.lock().unwrap().fault.get_or_insert(matcher);
        }
        match fault {
            Some(Fault::Hang) => std::future::pending::<()>().await,
            Some(Fault::Refuse(code, message)) => return Ok(failure(code, "", &message)),
            _ => {}
        }
        let bytes = body.collect_bytes().await.map_err(std::io::Error::other)?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let response = self
            .state
            .lock()
            .unwrap()
            .handle(&parts.method, &path, &query, body);
        if matches!(fault, Some(Fault::LoseReply)) {
            return Err(std::io::Error::other("connection reset"));
        }
        Ok(response)
    }
}

impl State {
    fn stamp(&mut self, path: &str, object: &mut Value) {
        let (namespace, name) = place(path);
        self.version += 1;
        let meta = &mut object["metadata"];
        meta["name"] = json!(name);
        meta["namespace"] = json!(namespace);
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.version));
        }
        if meta["generation"].is_null() {
            meta["generation"] = json!(1);
        }
        meta["resourceVersion"] = json!(self.version.to_string());
    }

    fn bump(&mut self, object: &mut Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
    }

    fn handle(&mut self, method: &Method, path: &str, query: &str, body: Value) -> Response<Body> {
        let status = path.ends_with("/status");
        let key = path.trim_end_matches("/status").to_owned();
        if method != Method::GET {
            self.writes.push(format!("{method} {path}"));
        }
        match *method {
            Method::GET if is_collection(&key) => self.list(&key, query),
            Method::GET => match self.objects.get(&key) {
                Some(object) => answer(object),
                None => not_found(&key),
            },
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                let key = format!("{key}/{name}");
                if self.objects.contains_key(&key) {
                    return failure(409, "AlreadyExists", "already exists");
                }
                let mut body = body;
                if let Some(clock) = self.clock {
                    body["metadata"]["creationTimestamp"] = json!(clock().to_string());
                }
                self.store(key, body)
            }
            Method::PATCH => self.patch(key, status, query, body),
            Method::PUT => match self.objects.get(&key) {
                None => not_found(&key),
                Some(old) if !same_version(old, &body) => conflict(),
                Some(_) => self.store(key, body),
            },
            Method::DELETE => match self.objects.get(&key) {
                None => not_found(&key),
                Some(old) if !same_uid(old, &body["preconditions"]) => conflict(),
                Some(_) => answer(&self.objects.remove(&key).unwrap()),
            },
            _ => failure(405, "MethodNotAllowed", "not served"),
        }
    }

    fn store(&mut self, key: String, mut object: Value) -> Response<Body> {
        self.stamp(&key, &mut object);
        self.objects.insert(key, object.clone());
        answer(&object)
    }

    fn list(&self, key: &str, query: &str) -> Response<Body> {
        let query = query
            .replace("%2F", "/")
            .replace("%3D", "=")
            .replace("%2C", ",");
        let wanted: Vec<(&str, &str)> = query
            .split('&')
            .find_map(|part| part.strip_prefix("labelSelector="))
            .into_iter()
            .flat_map(|selector| selector.split(','))
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, _)| path.rsplit_once('/').is_some_and(|(head, _)| head == key))
            .map(|(_, object)| object)
            .filter(|object| {
                wanted
                    .iter()
                    .all(|(label, value)| object["metadata"]["labels"][label] == *value)
            })
            .collect();
        answer(&json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
    }

    /// Server-side apply with one manager: what is sent is merged into what is there.
    fn patch(&mut self, key: String, status: bool, query: &str, body: Value) -> Response<Body> {
        let Some(old) = self.objects.get(&key).cloned() else {
            return if status {
                not_found(&key)
            } else {
                self.store(key, body)
            };
        };
        if !same_version(&old, &body) || !same_uid(&old, &body["metadata"]) {
            return conflict();
        }
        if !status && !query.contains("force=true") && !covers(&old, &body) {
            return failure(409, "Conflict", "Apply failed with 1 conflict");
        }
        let mut new = old.clone();
        if status {
            new["status"] = body["status"].clone();
        } else {
            merge(&mut new, &body);
        }
        if new == old {
            return answer(&old);
        }
        self.bump(&mut new);
        if !status && new["spec"] != old["spec"] {
            let generation = new["metadata"]["generation"].as_i64().unwrap_or(0);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        self.objects.insert(key, new.clone());
        answer(&new)
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn covers(live: &Value, desired: &Value) -> bool {
    operator::plan::covers(live, desired)
}

fn same_version(old: &Value, new: &Value) -> bool {
    let wanted = &new["metadata"]["resourceVersion"];
    wanted.is_null() || *wanted == old["metadata"]["resourceVersion"]
}

fn same_uid(old: &Value, wanted: &Value) -> bool {
    wanted["uid"].is_null() || wanted["uid"] == old["metadata"]["uid"]
}

/// Whether a path ends in a plural: `…/namespaces/NS/PLURAL`.
fn is_collection(path: &str) -> bool {
    path.split('/').rev().nth(2) == Some("namespaces")
}

/// Namespace and name of a path.
fn place(path: &str) -> (String, String) {
    let parts: Vec<&str> = path.split('/').collect();
    let at = parts.iter().position(|p| *p == "namespaces").unwrap();
    (parts[at + 1].to_owned(), parts[at + 3].to_owned())
}

fn answer(object: &Value) -> Response<Body> {
    Response::builder()
        .status(StatusCode::OK)
        .body(Body::from(object.to_string().into_bytes()))
        .unwrap()
}

fn not_found(path: &str) -> Response<Body> {
    failure(404, "NotFound", &format!("{path} not found"))
}

fn conflict() -> Response<Body> {
    failure(409, "Conflict", "the object has been modified")
}

fn failure(code: u16, reason: &str, message: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message});
    Response::builder()
        .status(code)
        .body(Body::from(status.to_string().into_bytes()))
        .unwrap()
}
