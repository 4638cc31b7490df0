//! What a run left in its namespace, without what differs between any two runs: the oracle that faults are compared by.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crds::{ImageBuild, ImageMirror, Registry};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::ListParams;
use kube::{Resource, ResourceExt};
use regex::{Captures, Regex};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tests::stage::{Stage, TestNamespace};

/// Times, unique ids, and hashes; a digest of content is told from other hashes.
static VOLATILE: LazyLock<Regex> = LazyLock::new(|| {
    let time = r"(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z)";
    let uid = r"(?P<uid>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})";
    let hash = r"(?P<digest>sha256:)?[0-9a-f]{10,}";
    Regex::new(&format!("{time}|{uid}|{hash}")).expect("it is a regular expression")
});

/// What a run left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EndState {
    /// Status of the resources.
    status: BTreeMap<String, Value>,
    /// Every object that was made for them: kind, name, owner, phase.
    objects: Vec<String>,
    /// How often a pod was ever created for each resource, by the API server's audit log.
    created: BTreeMap<String, usize>,
}

impl EndState {
    /// What is there now.
    pub(crate) async fn of(stage: &Stage, namespace: &TestNamespace) -> anyhow::Result<Self> {
        let mut status = BTreeMap::new();
        statuses::<Registry>(namespace, &mut status).await?;
        statuses::<ImageMirror>(namespace, &mut status).await?;
        statuses::<ImageBuild>(namespace, &mut status).await?;
        let mut objects = Vec::new();
        children::<Pod>(namespace, &mut objects).await?;
        children::<ReplicaSet>(namespace, &mut objects).await?;
        children::<Deployment>(namespace, &mut objects).await?;
        children::<Service>(namespace, &mut objects).await?;
        children::<Secret>(namespace, &mut objects).await?;
        children::<ConfigMap>(namespace, &mut objects).await?;
        children::<PersistentVolumeClaim>(namespace, &mut objects).await?;
        objects.sort();
        Ok(Self {
            status,
            objects,
            created: pods_created(stage, &namespace.name)?,
        })
    }

    /// The same without the digests of what was built, for builds whose bytes differ each time.
    pub(crate) fn without_digests(mut self) -> Self {
        for status in self.status.values_mut() {
            walk(status, &|text| text.replace("sha256:", ""));
            walk(status, &|text| masked(text));
            if let Some(fields) = status.as_object_mut() {
                fields.remove("size");
            }
        }
        self
    }

    /// How often a pod was created for each resource.
    pub(crate) fn created(&self) -> &BTreeMap<String, usize> {
        &self.created
    }

    /// The lines in which `other` differs: `-` is here alone, `+` there alone. Empty when they are the same.
    pub(crate) fn difference(&self, other: &Self) -> String {
        let lines = |state: &Self| -> Vec<String> {
            let text = serde_json::to_string_pretty(state).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        };
        let (here, there) = (lines(self), lines(other));
        let alone = |these: &[String], those: &[String], sign: char| -> Vec<String> {
            let missing = these.iter().filter(|line| !those.contains(line));
            missing.map(|line| format!("{sign} {line}")).collect()
        };
        let mut difference = alone(&here, &there, '-');
        difference.extend(alone(&there, &here, '+'));
        if difference.is_empty() && self != other {
            difference.push("other numbers of the same lines".to_owned());
        }
        difference.join("\n")
    }
}

async fn list<K>(namespace: &TestNamespace) -> anyhow::Result<Vec<K>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    Ok(namespace
        .api::<K>()
        .list(&ListParams::default())
        .await?
        .items)
}

/// The status of every resource of a kind.
async fn statuses<K>(
    namespace: &TestNamespace,
    into: &mut BTreeMap<String, Value>,
) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    for object in list::<K>(namespace).await? {
        let mut status = serde_json::to_value(&object)?["status"].take();
        walk(&mut status, &|text| {
            masked(&text.replace(&namespace.name, "NAMESPACE"))
        });
        forget_origins(&mut status);
        into.insert(format!("{} {}", K::kind(&()), object.name_any()), status);
    }
    Ok(())
}

/// Forgets where base images were taken from: from a mirror when it was synced before the build began, which is a matter of
/// time. What was taken is the same by its digest, which stays.
fn forget_origins(status: &mut Value) {
    let images = status.get_mut("baseImages").and_then(Value::as_array_mut);
    for image in images.into_iter().flatten() {
        if let Some(fields) = image.as_object_mut() {
            fields.remove("mirror");
        }
    }
}

/// Every object of a kind, but for what Kubernetes puts into each namespace.
async fn children<K>(namespace: &TestNamespace, into: &mut Vec<String>) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    for object in list::<K>(namespace).await? {
        let name = object.name_any();
        if name == "kube-root-ca.crt" {
            continue;
        }
        // The Deployment controller has hashes of its own, the ReplicaSet controller chance.
        let name = match object.labels().get("pod-template-hash") {
            Some(hash) => name.split(hash).next().unwrap_or_default().to_owned() + "*",
            None => masked(&name),
        };
        let owners: Vec<&str> = object
            .owner_references()
            .iter()
            .map(|o| o.kind.as_str())
            .collect();
        let phase = &serde_json::to_value(&object)?["status"]["phase"];
        let deleted = object
            .meta()
            .deletion_timestamp
            .as_ref()
            .map_or("", |_| ", being deleted");
        into.push(format!(
            "{} {name}, of {}, {}{deleted}",
            K::kind(&()),
            owners.join(" and "),
            phase.as_str().unwrap_or("-"),
        ));
    }
    Ok(())
}

/// How often pods were created in a namespace since the cluster started, by the name of the resource that they are of.
pub(crate) fn pods_created(
    stage: &Stage,
    namespace: &str,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let log = fs_err::read_to_string(stage.cluster.logs_dir().join("audit.log"))?;
    let mut created = BTreeMap::new();
    // Reading JSON takes longer than looking for two words.
    let word = format!("\"{namespace}\"");
    for line in log
        .lines()
        .filter(|line| line.contains(&word) && line.contains("\"create\""))
    {
        let event: Value = serde_json::from_str(line)?;
        let object = &event["objectRef"];
        if event["verb"] == "create"
            && object["resource"] == "pods"
            && object["subresource"].is_null()
            && object["namespace"] == namespace
            && event["responseStatus"]["code"] == 201
        {
            // Pods of a ReplicaSet have no name before they are created.
            if let Some(name) = object["name"].as_str() {
                let owner = name.rsplit_once('-').map_or(name, |(owner, _)| owner);
                *created.entry(owner.to_owned()).or_insert(0) += 1;
            }
        }
    }
    Ok(created)
}

/// Applies `change` to every text in `value`.
fn walk(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|field| walk(field, change)),
        _ => {}
    }
}

fn masked(text: &str) -> String {
    let mask = |found: &Captures<'_>| {
        if found.name("time").is_some() {
            "TIME".to_owned()
        } else if found.name("uid").is_some() {
            "UID".to_owned()
        } else if found.name("digest").is_some() {
            found[0].to_owned()
        } else {
            "*".to_owned()
        }
    };
    VOLATILE.replace_all(text, mask).into_owned()
}

#[test]
fn what_differs_between_runs_is_masked() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    for (text, expected) in [
        ("app-0123456789", "app-*"),
        ("2026-01-02T03:04:05Z", "TIME"),
        ("0d4a0d4a-1111-2222-3333-444455556666", "UID"),
        ("deadline", "deadline"),
        (&digest, &digest),
    ] {
        assert_eq!(masked(text), expected);
    }
}

#[test]
fn where_a_base_came_from_does_not_count() {
    let image = serde_json::json!({"reference": "a:1", "digest": "sha256:1"});
    let mut status = serde_json::json!({ "baseImages": [image], "digest": "sha256:2" });
    let expected = status.clone();
    status["baseImages"][0]["mirror"] = "b/a".into();
    forget_origins(&mut status);
    assert_eq!(status, expected);
}
