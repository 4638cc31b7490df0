//! The definitions of the three kinds on a real API server: what it takes, what it refuses and with which message, and
//! what kubectl shows. The tables are in `crds/testdata`; a rule or bound that no row tries fails the test.
//!
//! Needs root and the programs that `tests/cluster/build` builds; without root it says so and checks only the files.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "crd/schema.rs"]
mod schema;
#[path = "crd/server.rs"]
mod server;
#[path = "crd/table.rs"]
mod table;

use std::collections::BTreeSet;

use kube::core::Status;
use schema::Constraint;
use serde_json::Value;
use server::{Ask, Server, on_server};
use table::{BoundRow, Row, merge};
use tests::stage::repository;

#[test]
fn generated_files_are_current() {
    for (file, definition) in crds::definition::definitions() {
        let expected = crds::definition::to_yaml(&definition);
        for folder in ["crds", "charts/coopery/files/crds"] {
            let path = repository().join(folder).join(file);
            let text = fs_err::read_to_string(&path).unwrap();
            assert!(
                text == expected,
                "{} is stale: run `make generate`",
                path.display()
            );
        }
    }
}

#[test]
fn pages_name_every_field_and_only_known_reasons() {
    let table = fs_err::read_to_string(repository().join("docs/reasons.md")).unwrap();
    let reasons: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert!(reasons.len() > 50, "{reasons:?}");
    for kind in ["ImageBuild", "ImageMirror", "Registry"] {
        let page = format!("docs/{}.md", kind.to_lowercase());
        let text = fs_err::read_to_string(repository().join(&page)).unwrap();
        for field in schema::leaves(kind) {
            assert!(
                text.contains(&format!("`{field}`")),
                "{page} has no `{field}`"
            );
        }
        let (_, trouble) = text.split_once("## Trouble").unwrap();
        for row in trouble.lines().filter_map(|line| line.strip_prefix("| `")) {
            let (words, _) = row.split_once("` ").unwrap();
            for word in words.split("`, `") {
                assert!(
                    reasons.contains(word) || word.starts_with("Ready"),
                    "{page}: {word}"
                );
            }
        }
    }
}

#[test]
fn every_rule_refuses_with_its_message() {
    on_server("every_rule_refuses_with_its_message", |server| async move {
        let mut seen = BTreeSet::new();
        let mut wrong = Vec::new();
        for row in table::read::<Row>("refused.yaml") {
            let spec = table::spec(&row.kind, &row.spec);
            let answer = server.ask(&row.kind, &row.name, Ask::Create(&spec)).await;
            wrong.extend(judge(&row, answer.err().as_deref(), &mut seen));
        }
        for (index, row) in (0..).zip(table::read::<Row>("refused-updates.yaml")) {
            let answer = change(server, &row, &format!("refused-{index}")).await;
            wrong.extend(judge(&row, answer.err().as_deref(), &mut seen));
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        let untried: Vec<_> = schema::RULES.difference(&seen).cloned().collect();
        assert!(
            untried.is_empty(),
            "rules that no row of crds/testdata tries: {untried:#?}"
        );
    });
}

#[test]
fn valid_objects_and_changes_are_accepted() {
    on_server(
        "valid_objects_and_changes_are_accepted",
        |server| async move {
            let mut wrong = Vec::new();
            let rows = [
                table::read::<Row>("valid.yaml"),
                table::read("accepted.yaml"),
            ];
            for row in rows.iter().flatten() {
                let spec = table::spec(&row.kind, &row.spec);
                if let Err(status) = server.ask(&row.kind, &row.name, Ask::Create(&spec)).await {
                    wrong.push(format!("{row:?}: {}", status.message));
                }
            }
            for (index, row) in (0..).zip(table::read::<Row>("accepted-updates.yaml")) {
                if let Err(status) = change(server, &row, &format!("accepted-{index}")).await {
                    wrong.push(format!("{row:?}: {}", status.message));
                }
            }
            assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        },
    );
}

#[test]
fn bounds_hold_exactly() {
    on_server("bounds_hold_exactly", |server| async move {
        let mut tried = BTreeSet::new();
        let mut wrong = Vec::new();
        for row in table::read::<BoundRow>("bounds.yaml") {
            let place = schema::place(&row.kind, &row.field);
            for (keyword, bound) in place.schema.as_object().unwrap() {
                let Some((refused, message)) = beyond(keyword, bound, &row.field) else {
                    continue;
                };
                tried.insert(Constraint {
                    kind: row.kind.clone(),
                    field: place.field.clone(),
                    what: keyword.clone(),
                });
                let refused = match refused {
                    Beyond::Empty if row.item.is_some() => Value::Array(Vec::new()),
                    Beyond::Empty => Value::from(""),
                    Beyond::Below(bound) => Value::from(bound - 1),
                    Beyond::Above(n) => row.value(n),
                };
                match ask_with(server, &row, &place.pointer, refused).await {
                    Err(status) if status.message.contains(&message) => {}
                    answer => wrong.push(format!(
                        "{} beyond {keyword}: expected {message}: {answer:?}",
                        row.field
                    )),
                }
                let accepted = match keyword.as_str() {
                    "minimum" => Value::from(number(bound)),
                    "maxLength" | "maxItems" if row.closed => continue,
                    "minLength" if row.text.as_deref() != Some("*") => continue,
                    _ => row.value(number(bound)),
                };
                if let Err(status) = ask_with(server, &row, &place.pointer, accepted).await {
                    wrong.push(format!("{} at {keyword}: {}", row.field, status.message));
                }
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        let untried: Vec<_> = schema::bounds().difference(&tried).cloned().collect();
        assert!(
            untried.is_empty(),
            "bounds that no row of crds/testdata/bounds.yaml tries: {untried:#?}"
        );
    });
}

/// A value just outside of a bound.
enum Beyond {
    Empty,
    Below(i64),
    Above(u64),
}

/// What lies beyond a bound of the schema, and what the API server says of it.
fn beyond(keyword: &str, bound: &Value, field: &str) -> Option<(Beyond, String)> {
    let above = || Beyond::Above(number(bound) + 1);
    Some(match keyword {
        "minLength" => (
            Beyond::Empty,
            format!("{field} in body should be at least {bound} chars long"),
        ),
        "minItems" => (
            Beyond::Empty,
            format!("{field} in body should have at least {bound} items"),
        ),
        "minimum" => (
            Beyond::Below(i64::try_from(number(bound)).unwrap()),
            format!(
                "{field} in body should be greater than or equal to {}",
                number(bound)
            ),
        ),
        "maxLength" => (
            above(),
            format!("{field}: Too long: may not be more than {bound} bytes"),
        ),
        "maxItems" | "maxProperties" => (above(), format!("must have at most {bound} items")),
        "maximum" => (
            above(),
            format!(
                "{field} in body should be less than or equal to {}",
                number(bound)
            ),
        ),
        _ => return None,
    })
}

/// A bound; those of numbers are written as floating point numbers.
fn number(bound: &Value) -> u64 {
    bound
        .as_u64()
        .unwrap_or_else(|| bound.as_f64().unwrap().to_string().parse().unwrap())
}

async fn ask_with(
    server: &Server,
    row: &BoundRow,
    pointer: &str,
    value: Value,
) -> Result<(), Box<Status>> {
    let mut object = serde_json::json!({"spec": table::spec(&row.kind, &row.spec)});
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = object
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("{}: spec of the row does not hold {parent}", row.field));
    match parent {
        Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
        parent => parent[last] = value,
    }
    server
        .ask(&row.kind, "bound", Ask::Create(&object["spec"]))
        .await
}

/// Makes the object of `row`, and asks whether the change is taken.
async fn change(server: &Server, row: &Row, name: &str) -> Result<(), Box<Status>> {
    let spec = table::spec(&row.kind, &row.spec);
    if let Err(status) = server.ask(&row.kind, name, Ask::Keep(&spec)).await {
        panic!(
            "{row:?} cannot be made before it is changed: {}",
            status.message
        );
    }
    let mut changed = spec;
    merge(
        &mut changed,
        row.change.as_ref().expect("a row of updates has a change"),
    );
    server
        .ask(&row.kind, name, Ask::Change(row.change.as_ref().unwrap()))
        .await
}

/// Notes which rules a refusal names; what is wrong with the answer.
fn judge(row: &Row, refusal: Option<&Status>, seen: &mut BTreeSet<Constraint>) -> Option<String> {
    let Some(status) = refusal else {
        return Some(format!("{row:?} was accepted"));
    };
    for rule in schema::RULES.iter().filter(|rule| rule.kind == row.kind) {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        if causes
            .filter(|cause| schema::without_indexes(&cause.field) == rule.field)
            .any(|cause| cause.message.ends_with(&rule.what))
        {
            seen.insert(rule.clone());
        }
    }
    let expected = row
        .expect
        .as_deref()
        .expect("a refused row says what is expected");
    (!status.message.contains(expected)).then(|| format!("{row:?}: {}", status.message))
}

#[test]
fn examples_are_applied_and_shown() {
    on_server("examples_are_applied_and_shown", |server| async move {
        let folder = repository().join("crds/examples");
        let folder = folder.to_str().unwrap();
        let apply = ["apply", "--validate=strict", "-f", folder];
        server.kubectl(&apply).await;
        let again = server.kubectl(&apply).await;
        assert!(
            again.lines().all(|line| line.ends_with(" unchanged")),
            "{again}"
        );
        server.kubectl(&["diff", "-f", folder]).await;

        let seen = server
            .kubectl(&["get", "ib", "app", "-o", "jsonpath={.status}"])
            .await;
        assert_eq!(seen, r#"{"observedGeneration":-1}"#);
        for (object, status) in [
            ("imagebuild/app", BUILD_STATUS),
            ("imagemirror/hub", MIRROR_STATUS),
            ("registry/main", REGISTRY_STATUS),
        ] {
            let patch = [
                "patch",
                object,
                "--subresource=status",
                "--type=merge",
                "-p",
                status,
            ];
            server.kubectl(&patch).await;
        }
        let category = server.kubectl(&["get", "coopery", "-o", "name"]).await;
        for name in [
            "imagebuild.coopery.dev/app",
            "imagemirror.coopery.dev/hub",
            "registry.coopery.dev/main",
        ] {
            assert!(category.lines().any(|line| line == name), "{category}");
        }
        let tables = [
            server.kubectl(&["get", "ib", "app"]).await,
            server.kubectl(&["get", "im", "hub"]).await,
            server.kubectl(&["get", "reg", "main"]).await,
        ];
        insta::with_settings!({filters => vec![(r" +", " "), (r" \d+s\n", " AGE\n")]}, {
            insta::assert_snapshot!(tables.join("\n"), @r"
            NAME IMAGE DIGEST READY STATUS AGE
            app main.default.svc:5000/team/app:latest sha256:ab True Succeeded AGE

            NAME IMAGE DIGEST TAGS READY STATUS AGE
            hub main.default.svc:5000/mirror/docker.io/nginx sha256:cd 2 False SyncFailed AGE

            NAME HOST READY STATUS AGE
            main main.default.svc:5000 AGE
            ");
        });
    });
}

const BUILD_STATUS: &str = r#"{"status": {"digest": "sha256:ab", "destinations": [{"name": "main", "image": "main.default.svc:5000/team/app:latest",
    "digest": "sha256:ab", "verified": "True"}], "conditions": [{"type": "Ready", "status": "True", "reason": "Succeeded", "message": "built",
    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
const MIRROR_STATUS: &str = r#"{"status": {"tags": {"selected": 3, "synced": 2, "failed": 1}, "images": [{"repository":
    "main.default.svc:5000/mirror/docker.io/nginx", "tag": "1.29", "digest": "sha256:cd"}], "conditions": [{"type": "Ready", "status": "False",
    "reason": "SyncFailed", "message": "one tag", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
const REGISTRY_STATUS: &str = r#"{"status": {"host": "main.default.svc:5000", "version": "3"}}"#;

#[test]
fn unknown_fields_are_refused_by_kubectl() {
    on_server(
        "unknown_fields_are_refused_by_kubectl",
        |server| async move {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("object.yaml");
            let text = "apiVersion: coopery.dev/v1alpha1\nkind: Registry\nmetadata: {name: typo}\n\
                    spec: {managed: {storage: {emptyDir: {sizelimit: 1Gi}}}}\n";
            fs_err::write(&file, text).unwrap();
            let refused = server
                .cluster
                .kubectl(&["apply", "--validate=strict", "-f", file.to_str().unwrap()])
                .await
                .unwrap_err()
                .to_string();
            assert!(
                refused.contains(r#"unknown field "spec.managed.storage.emptyDir.sizelimit""#),
                "{refused}"
            );
        },
    );
}

#[test]
fn kubectl_explains_every_field_of_a_spec() {
    on_server(
        "kubectl_explains_every_field_of_a_spec",
        |server| async move {
            for kind in ["imagebuild", "imagemirror", "registry"] {
                let resource = format!("{kind}.spec");
                let text = server
                    .cluster
                    .kubectl(&["explain", &resource])
                    .await
                    .unwrap();
                assert!(!text.contains("<no description>"), "{text}");
            }
            let text = server
                .cluster
                .kubectl(&["explain", "imagebuild.spec.timeout"])
                .await
                .unwrap();
            assert!(text.contains("How long one build may take"), "{text}");
            assert!(text.contains("Default: 1h"), "{text}");
        },
    );
}
