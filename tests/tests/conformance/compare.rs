//! What two images differ in, as lines for people. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::entry::{Entry, Layer};
use crate::image::Image;

/// Every difference, ours first.
pub(crate) fn compare(ours: &Image, theirs: &Image) -> Vec<String> {
    let mut found = Vec::new();
    values("", &ours.config, &theirs.config, &mut found);
    if ours.layers.len() != theirs.layers.len() {
        let (ours, theirs) = (ours.layers.len(), theirs.layers.len());
        found.push(format!("layers: {ours} | {theirs}"));
    }
    for (position, (ours, theirs)) in ours.layers.iter().zip(&theirs.layers).enumerate() {
        entries(&format!("layer {position}"), ours, theirs, &mut found);
    }
    entries("tree", &ours.tree(), &theirs.tree(), &mut found);
    found
}

/// Differences of two layers, archives or directories.
pub(crate) fn entries(place: &str, ours: &Layer, theirs: &Layer, found: &mut Vec<String>) {
    let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        let (ours, theirs) = (ours.get(path), theirs.get(path));
        let agree = match (ours, theirs) {
            (Some(ours), Some(theirs)) => ours.agrees(theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        };
        if !agree {
            let text =
                |entry: Option<&Entry>| entry.map_or("absent".to_owned(), ToString::to_string);
            found.push(format!(
                "{place} /{path}: {} | {}",
                text(ours),
                text(theirs)
            ));
        }
    }
}

/// Differences of two documents.
pub(crate) fn values(place: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                let place = format!("{place}.{name}");
                let of = |members: &serde_json::Map<String, Value>| {
                    members.get(name).cloned().unwrap_or(Value::Null)
                };
                values(&place, &of(a), &of(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (position, (a, b)) in a.iter().zip(b).enumerate() {
                values(&format!("{place}[{position}]"), a, b, found);
            }
        }
        _ if ours != theirs => found.push(format!("config {place}: {ours} | {theirs}")),
        _ => {}
    }
}
