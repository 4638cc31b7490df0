//! The committed table of rights, against the requests that a scenario made.

use serde_json::{Value, json};

use super::FakeApi;

/// Fails where a request needs a right that `rbac.yaml` does not give, or where the table lets Secrets be listed.
pub fn assert_within_rights(api: &FakeApi) {
    let table = fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/rbac.yaml")).unwrap();
    let table: Value = serde_saphyr::from_str(&table).unwrap();
    let has = |list: &Value, word: &str| list.as_array().unwrap().iter().any(|w| w == word);
    let rules = table["clusterRules"].as_array().unwrap();
    for (method, path) in api.requests() {
        let (group, resource, verbs) = right(&method, &path);
        for verb in verbs {
            let allowed = rules.iter().any(|rule| {
                has(&rule["apiGroups"], &group)
                    && has(&rule["resources"], &resource)
                    && has(&rule["verbs"], verb)
            });
            assert!(allowed, "{verb} {resource} of {group:?}: {method} {path}");
        }
    }
    for rule in rules {
        if has(&rule["resources"], "secrets") {
            assert_eq!(rule["verbs"], json!(["get", "create", "patch"]));
        }
    }
}

/// Group, resource and verbs that a request needs.
fn right(method: &str, path: &str) -> (String, String, &'static [&'static str]) {
    let parts: Vec<&str> = path.split('/').collect();
    let group = if parts[1] == "api" { "" } else { parts[2] };
    let at = parts.iter().position(|p| *p == "namespaces").unwrap();
    if parts.len() <= at + 2 {
        return (group.to_owned(), "namespaces".to_owned(), &["get"]);
    }
    let mut resource = parts[at + 2].to_owned();
    let named = parts.len() > at + 3;
    if let Some(subresource) = parts.get(at + 4) {
        resource = format!("{resource}/{subresource}");
    }
    let verbs: &[&str] = match (method, named) {
        ("GET", true) => &["get"],
        ("GET", false) => &["list"],
        ("POST", _) => &["create"],
        ("PATCH", _) if resource.ends_with("/status") => &["patch"],
        // Server-side apply may create.
        ("PATCH", _) => &["patch", "create"],
        ("DELETE", _) => &["delete"],
        _ => &["update"],
    };
    (group.to_owned(), resource, verbs)
}
