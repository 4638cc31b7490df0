//! Manifests of ImageMirrors as files: which of their documents are ImageMirrors, and what those say. Pure.
//!
//! What needs a cluster is left to who has one: Secrets, schedules and the account of what was written. A field that would have
//! to be honoured and is not known here is refused, and so is one that is misspelt.

use crds::image_mirror::{MirrorImage, MirrorVerify};
use serde::Deserialize;
use serde_json::Value;

use crate::quantity;

/// An ImageMirror that was read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its name, and its namespace where there is one.
    pub name: String,
    /// Its namespace.
    pub namespace: Option<String>,
    /// What it says.
    pub spec: Spec,
}

/// What an ImageMirror says, in so far as it can be done without a cluster.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// What is mirrored from.
    pub source: Side,
    /// What is mirrored to.
    pub destination: Side,
    /// What is mirrored.
    pub images: Vec<MirrorImage>,
    /// What is copied with the images.
    #[serde(default)]
    pub referrers: Option<Referrers>,
    /// Whose signatures images need. Who runs it has the keys: the Secrets are only named.
    #[serde(default)]
    pub verify: Option<MirrorVerify>,
    /// What a run keeps to.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// What becomes of tags that are not selected any more: without a cluster nothing, since nobody knows what was written.
    #[serde(default)]
    pub prune: Option<Value>,
    /// When a cluster would look at all that was mirrored.
    #[serde(default)]
    pub check: Option<Value>,
    /// When a cluster would look.
    #[serde(default)]
    pub interval: Option<String>,
    /// When a cluster would look.
    #[serde(default)]
    pub schedule: Option<String>,
    /// Whether a cluster would do nothing: who runs it by hand wants it done.
    #[serde(default)]
    pub suspend: Option<bool>,
}

impl Spec {
    /// Whether signatures, attestations and SBOMs are copied with the images: where nothing is said, when they are verified.
    pub fn copies_referrers(&self) -> bool {
        let wish = self.referrers.as_ref().and_then(|wish| wish.copy);
        wish.unwrap_or(self.verify.is_some())
    }
}

/// A source or a destination: exactly one of host, registry and archive.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Side {
    /// A registry.
    #[serde(default)]
    pub host: Option<String>,
    /// A Registry of the cluster.
    #[serde(default)]
    pub registry: Option<Named>,
    /// A directory or a file.
    #[serde(default)]
    pub archive: Option<ArchiveSide>,
    /// The credentials, which have another place outside of a cluster.
    #[serde(default)]
    pub secret_ref: Option<Named>,
    /// Path below which the repositories are; of a destination.
    #[serde(default)]
    pub prefix: Option<String>,
}

/// An object by its name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The name.
    pub name: String,
}

/// An archive of images.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArchiveSide {
    /// The claim that it is on; this machine where absent.
    #[serde(default)]
    pub persistent_volume_claim: Option<Named>,
    /// Where it is there. A path that ends in `.tar` is a file, another a layout directory.
    pub path: String,
}

/// What is copied with the images.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Referrers {
    /// Signatures, attestations and SBOMs.
    #[serde(default)]
    pub copy: Option<bool>,
}

/// What a run keeps to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Images that are worked on at the same time.
    #[serde(default)]
    pub concurrency: Option<usize>,
    /// Bytes of layers a second, a quantity.
    #[serde(default)]
    pub bytes_per_second: Option<String>,
}

/// Why a file is not one of ImageMirrors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct InvalidManifest {
    /// The line of the file, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

/// Reads all ImageMirrors of `text`: any number of YAML or JSON documents, and lists of them as `kubectl get` prints them.
///
/// # Errors
/// The first document that cannot be read, is of another kind, or says what cannot be done.
pub fn read_manifests(text: &str) -> Result<Vec<Manifest>, InvalidManifest> {
    let mut found = Vec::new();
    for (first, document) in documents(text) {
        let at = |line: usize, message: String| InvalidManifest {
            line: first + line,
            message,
        };
        let value: Value = serde_saphyr::from_str(&document).map_err(|error| {
            let line = error.location().map_or(0, |l| line_of(l.line()));
            let text = error.to_string();
            at(line, text.lines().next().unwrap_or_default().to_owned())
        })?;
        let kind_line = document.lines().position(|line| line.starts_with("kind:"));
        let refused = |message: String| at(kind_line.unwrap_or(0), message);
        let is_list = value["kind"] == "List" && value["apiVersion"] == "v1";
        let items = match &value["items"] {
            Value::Array(items) if is_list => items.as_slice(),
            _ => std::slice::from_ref(&value),
        };
        for item in items {
            found.push(manifest(item).map_err(refused)?);
        }
    }
    Ok(found)
}

fn line_of(line: impl TryInto<usize>) -> usize {
    line.try_into().unwrap_or(1).saturating_sub(1)
}

/// The documents of a stream that hold something, each with the number of its first line, from 1.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut all = vec![(1, String::new())];
    for (number, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            all.push((number + 2, String::new()));
        } else if let Some((_, document)) = all.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let has_content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    all.retain(|(_, document)| document.lines().any(has_content));
    all
}

fn manifest(value: &Value) -> Result<Manifest, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (version, kind) = (text(&value["apiVersion"]), text(&value["kind"]));
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "nothing".to_owned());
    if kind.as_deref() != Some("ImageMirror") {
        let kind = shown(&kind);
        return Err(format!("kind is {kind}: only ImageMirror can be run"));
    }
    if version.as_deref() != Some("coopery.dev/v1alpha1") {
        let version = shown(&version);
        return Err(format!("apiVersion is {version}, not coopery.dev/v1alpha1"));
    }
    let name = text(&value["metadata"]["name"]).ok_or("metadata.name is missing")?;
    let spec = &value["spec"];
    let read: Spec =
        serde_json::from_value(spec.clone()).map_err(|error| format!("`{name}`: spec: {error}"))?;
    let limits = read.limits.iter();
    let mut rates = limits.filter_map(|limits| limits.bytes_per_second.as_deref());
    if rates.any(|rate| quantity::bytes(rate).is_none()) {
        let field = "spec.limits.bytesPerSecond";
        return Err(format!("`{name}`: {field} is no quantity, as 50Mi is"));
    }
    if (read.verify.as_ref()).is_some_and(|verify| verify.keys.is_empty()) {
        return Err(format!("`{name}`: spec.verify.keys names no key"));
    }
    let verify = serde_json::to_value(&read.verify).unwrap_or_default();
    if let Some(field) = misspelt(&spec["verify"], &verify) {
        return Err(format!("`{name}`: unknown field spec.verify{field}"));
    }
    let images = serde_json::to_value(&read.images).unwrap_or_default();
    if let Some(field) = misspelt(&spec["images"], &images) {
        return Err(format!("`{name}`: unknown field spec.images{field}"));
    }
    Ok(Manifest {
        namespace: text(&value["metadata"]["namespace"]),
        spec: read,
        name,
    })
}

/// The first member of `written` that is not in what was read of it. Members without content are left out when something is
/// written, and mean nothing.
fn misspelt(written: &Value, read: &Value) -> Option<String> {
    match (written, read) {
        (Value::Object(written), _) => written.iter().find_map(|(key, value)| {
            let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            match read.get(key) {
                None if is_empty => None,
                None => Some(format!(".{key}")),
                Some(read) => misspelt(value, read).map(|below| format!(".{key}{below}")),
            }
        }),
        (Value::Array(written), Value::Array(read)) => {
            let pairs = written.iter().zip(read).enumerate();
            let mut pairs = pairs.map(|(at, (written, read))| (at, misspelt(written, read)));
            pairs.find_map(|(at, below)| below.map(|below| format!("[{at}]{below}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const HEAD: &str = "apiVersion: coopery.dev/v1alpha1\nkind: ImageMirror\n";

    fn mirror(name: &str, spec: &str) -> String {
        format!("{HEAD}metadata: {{name: {name}, namespace: team}}\nspec:\n{spec}")
    }

    const SPEC: &str = "  interval: 5m\n  source: {host: docker.io, secretRef: {name: hub}}\n  destination: {registry: {name: main}, prefix: m}\n  images:\n  - {name: a, repository: a, tags: {names: ['1']}, digests: []}\n";

    #[test]
    fn all_documents_of_a_file_are_read() {
        let text = format!(
            "# comment\n---\n{}---\n\n---\n{}",
            mirror("one", SPEC),
            mirror("two", SPEC)
        );
        let read = read_manifests(&text).unwrap();
        let names: Vec<_> = read.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(read[0].namespace.as_deref(), Some("team"));
        assert_eq!(read[0].spec.source.host.as_deref(), Some("docker.io"));
        assert_eq!(read[0].spec.destination.prefix.as_deref(), Some("m"));
        // What kubectl prints: with a status, and as a list.
        let object: Value = serde_saphyr::from_str(&mirror("one", SPEC)).unwrap();
        let mut with_status = object.clone();
        with_status["status"] = serde_json::json!({"observedGeneration": 1});
        let list =
            serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [object, with_status]});
        assert_eq!(read_manifests(&list.to_string()).unwrap().len(), 2);
        assert_eq!(read_manifests("\n# nothing\n").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_its_line() {
        let good = mirror("one", SPEC);
        let images = "  images:\n  - {name: a, repository: a, tags: {names: ['1'], semvr: x}}\n";
        let sides = "  source: {host: docker.io}\n  destination: {host: h.example}\n";
        for (text, line, expected) in [
            (
                format!("{good}---\napiVersion: v1\nkind: Secret\n"),
                12,
                "kind is Secret: only ImageMirror",
            ),
            ("a: 1\n".to_owned(), 1, "kind is nothing"),
            (
                good.replace("v1alpha1", "v9"),
                2,
                "apiVersion is coopery.dev/v9",
            ),
            (format!("{good}---\na: [\n"), 11, ""),
            (
                mirror("one", &format!("{sides}{images}")),
                2,
                "unknown field spec.images[0].tags.semvr",
            ),
            (
                mirror("one", &format!("{SPEC}  verify: {{keys: []}}\n")),
                2,
                "spec.verify.keys names no key",
            ),
            (
                mirror(
                    "one",
                    &format!(
                        "{SPEC}  verify: {{keys: [{{secretRef: {{name: a, key: b, kee: c}}}}]}}\n"
                    ),
                ),
                2,
                "unknown field spec.verify",
            ),
            (
                mirror(
                    "one",
                    &format!("{SPEC}  limits: {{bytesPerSecond: fast}}\n"),
                ),
                2,
                "bytesPerSecond",
            ),
            (
                mirror("one", &format!("{SPEC}  pruen: {{}}\n")),
                2,
                "unknown field `pruen`",
            ),
            (
                good.replace("secretRef", "secret"),
                2,
                "unknown field `secret`",
            ),
        ] {
            let error = read_manifests(&text).unwrap_err();
            assert!(error.message.contains(expected), "{error}");
            assert_eq!(error.line, line, "{error}");
        }
    }
}
