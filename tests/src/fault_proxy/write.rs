//! The name of a write: what was asked of which object, the same in every run. Pure.

use http::Method;
use serde_json::Value;

/// Characters of the shortest hash that an operator puts at the end of a name.
const MIN_HASH: usize = 10;

/// The name of a write, such as `PATCH registries/status main` or `POST pods app-*`; none for a read.
///
/// Hashes at the end of names become `*`. A write of a lease says what it does with it.
pub(super) fn name(method: &Method, path: &str, body: &[u8]) -> Option<String> {
    if *method == Method::GET || *method == Method::HEAD {
        return None;
    }
    let target = Target::of(path);
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let object = target
        .name
        .or_else(|| body["metadata"]["name"].as_str())
        .map(mask)
        .unwrap_or_default();
    let resource = match target.subresource {
        Some(subresource) => format!("{}/{subresource}", target.resource),
        None => target.resource.to_owned(),
    };
    let purpose = (target.resource == "leases").then(|| lease_purpose(&body));
    let words = [
        Some(method.as_str()),
        Some(&resource),
        Some(&object),
        purpose,
    ];
    let words: Vec<&str> = words
        .into_iter()
        .flatten()
        .filter(|w| !w.is_empty())
        .collect();
    Some(words.join(" "))
}

/// What a path of the API server leads to.
struct Target<'a> {
    resource: &'a str,
    name: Option<&'a str>,
    subresource: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// `/api/v1/…` or `/apis/GROUP/VERSION/…`, then `namespaces/NAME/` or not, then resource, name and subresource.
    fn of(path: &'a str) -> Self {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let skipped = if parts.next() == Some("apis") { 2 } else { 1 };
        let rest: Vec<&str> = parts.skip(skipped).collect();
        let rest = match rest.as_slice() {
            ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
            rest => rest,
        };
        Self {
            resource: rest.first().copied().unwrap_or(path),
            name: rest.get(1).copied(),
            subresource: rest.get(2).copied(),
        }
    }
}

/// The name without the hash at its end.
fn mask(name: &str) -> String {
    let hash = name
        .rfind(['-', '.'])
        .map(|at| name.split_at(at + 1))
        .filter(|(_, end)| end.len() >= MIN_HASH && end.bytes().all(|b| b.is_ascii_hexdigit()));
    hash.map_or_else(|| name.to_owned(), |(stem, _)| format!("{stem}*"))
}

/// Whether a record of a lease acquires, renews or releases it.
fn lease_purpose(lease: &Value) -> &'static str {
    let spec = &lease["spec"];
    if spec["holderIdentity"].as_str().is_none_or(str::is_empty) {
        "release"
    } else if spec["acquireTime"] == spec["renewTime"] {
        "acquire"
    } else {
        "renew"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_are_named_by_what_they_do() {
        let event = json!({"metadata": {"name": "app.0123456789abcdef"}});
        let lease = |holder: &str, renewed: &str| json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": holder, "acquireTime": "1", "renewTime": renewed}});
        let pod = json!({"metadata": {"name": "app-0123456789"}});
        let leases = "/apis/coordination.k8s.io/v1/namespaces/n/leases";
        for (method, path, body, expected) in [
            (Method::GET, "/api/v1/namespaces/n/pods", json!(null), None),
            (
                Method::POST,
                "/api/v1/namespaces/n/pods",
                pod,
                Some("POST pods app-*"),
            ),
            (
                Method::PATCH,
                "/apis/coopery.dev/v1alpha1/namespaces/n/registries/main/status",
                json!({"metadata": {"name": "main"}}),
                Some("PATCH registries/status main"),
            ),
            (
                Method::PATCH,
                "/api/v1/namespaces/n/secrets/main-credentials",
                json!({}),
                Some("PATCH secrets main-credentials"),
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/n/pods/app-0123456789",
                json!({}),
                Some("DELETE pods app-*"),
            ),
            (
                Method::POST,
                "/apis/events.k8s.io/v1/namespaces/n/events",
                event,
                Some("POST events app.*"),
            ),
            (
                Method::POST,
                leases,
                lease("a", "1"),
                Some("POST leases l acquire"),
            ),
            (
                Method::PUT,
                leases,
                lease("a", "2"),
                Some("PUT leases l renew"),
            ),
            (
                Method::PUT,
                leases,
                lease("", "2"),
                Some("PUT leases l release"),
            ),
            (
                Method::PATCH,
                "/api/v1/namespaces/n",
                json!({}),
                Some("PATCH namespaces n"),
            ),
        ] {
            let body = serde_json::to_vec(&body).unwrap();
            assert_eq!(
                name(&method, path, &body).as_deref(),
                expected,
                "{method} {path}"
            );
        }
    }
}
