//! The generated definitions as the tests read them: which rules and bounds there are, and where a field lies. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value;

/// A rule, or a bound of the schema, of a field of a kind.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Constraint {
    /// The kind.
    pub(crate) kind: String,
    /// The field, with `[]` for items of a list and `{}` for values of a map; empty for the whole object.
    pub(crate) field: String,
    /// The message of a rule, or the keyword of a bound.
    pub(crate) what: String,
}

const BOUNDS: [&str; 7] = [
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "minimum",
    "maximum",
];

/// The schemas by kind.
static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let definitions = crds::definition::definitions().into_iter();
    let schemas = definitions.map(|(_, definition)| {
        let mut version = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        (
            definition.spec.names.kind,
            version["openAPIV3Schema"].take(),
        )
    });
    schemas.collect()
});

/// Every rule of every kind.
pub(crate) static RULES: LazyLock<BTreeSet<Constraint>> = LazyLock::new(rules);

fn rules() -> BTreeSet<Constraint> {
    all(|schema| {
        let rules = schema["x-kubernetes-validations"].as_array();
        rules
            .into_iter()
            .flatten()
            .map(|rule| rule["message"].as_str().unwrap().to_owned())
            .collect()
    })
}

/// Every bound of every field of a spec.
pub(crate) fn bounds() -> BTreeSet<Constraint> {
    all(|schema| {
        let bounds = BOUNDS
            .into_iter()
            .filter(|bound| schema[*bound].is_number());
        bounds.map(str::to_owned).collect()
    })
}

fn all(look: impl Fn(&Value) -> Vec<String>) -> BTreeSet<Constraint> {
    let mut found = BTreeSet::new();
    for (kind, schema) in SCHEMAS.iter() {
        walk("", schema, &mut |field, schema| {
            found.extend(look(schema).into_iter().map(|what| Constraint {
                kind: kind.clone(),
                field: field.to_owned(),
                what,
            }));
        });
    }
    found
}

/// Calls `visit` for the whole object and each field of the spec.
fn walk(field: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(field, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        match (field, name.as_str()) {
            ("", "spec") => walk("spec", property, visit),
            ("", _) => {}
            _ => walk(&format!("{field}.{name}"), property, visit),
        }
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&format!("{field}{mark}"), &schema[key], visit);
        }
    }
}

/// Every field of spec and status of `kind` that has no fields itself, without the `spec.` or `status.` before it.
pub(crate) fn leaves(kind: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in ["spec", "status"] {
        collect("", &SCHEMAS[kind]["properties"][part], &mut found);
    }
    found
}

fn collect(path: &str, schema: &Value, into: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (path, items) = (format!("{path}{name}"), &field["items"]);
        // Types of Kubernetes are not explained again.
        if name == "conditions" || name == "tolerations" {
            into.insert(path);
        } else if field["properties"].is_object() {
            collect(&format!("{path}."), field, into);
        } else if items["properties"].is_object() {
            collect(&format!("{path}[]."), items, into);
        } else {
            into.insert(path);
        }
    }
}

/// A field of an object, as a row names it: `spec.destinations[0].name`.
#[derive(Debug)]
pub(crate) struct Place {
    /// Its schema.
    pub(crate) schema: Value,
    /// As in [`Constraint::field`].
    pub(crate) field: String,
    /// As RFC 6901 writes it.
    pub(crate) pointer: String,
}

/// Finds `path` in the schema of `kind`.
pub(crate) fn place(kind: &str, path: &str) -> Place {
    let (mut schema, mut field, mut pointer) =
        (SCHEMAS[kind].clone(), String::new(), String::new());
    for token in path.replace('[', ".").replace(']', "").split('.') {
        let (next, mark) = if token.bytes().all(|byte| byte.is_ascii_digit()) {
            (schema["items"].take(), "[]".to_owned())
        } else if schema["properties"].is_object() {
            let dot = if field.is_empty() { "" } else { "." };
            (schema["properties"][token].take(), format!("{dot}{token}"))
        } else {
            (schema["additionalProperties"].take(), "{}".to_owned())
        };
        assert!(next.is_object(), "{kind}: there is no {path}");
        schema = next;
        field += &mark;
        pointer.push('/');
        pointer.push_str(token);
    }
    Place {
        schema,
        field,
        pointer,
    }
}

/// `field` of an answer of the API server in the form of [`Constraint::field`].
pub(crate) fn without_indexes(field: &str) -> String {
    if field == "<nil>" {
        return String::new();
    }
    let mut plain = String::new();
    let mut inside = false;
    for letter in field.chars() {
        match letter {
            '[' => inside = true,
            ']' => {
                inside = false;
                plain += "[]";
            }
            _ if inside => {}
            _ => plain.push(letter),
        }
    }
    plain
}
