//! Which pod is whose: deterministic names, labels, and the recognition of own pods. The name is a function of the
//! owner, of what is made and of the attempt, so that creating a pod twice makes one pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use super::{
    ATTEMPT_ANNOTATION, COMMIT_ANNOTATION, ENVIRONMENT_ANNOTATION, GENERATION_ANNOTATION,
    ISOLATION_ANNOTATION, KEY_ANNOTATION, PART_ANNOTATION, PART_RETRIES_ANNOTATION,
    REASON_ANNOTATION, RETRIES_ANNOTATION,
};
use crate::plan::{UID_LABEL, is_owned_by};

/// The longest name of an owner that fits into the names of its pods.
const MAX_OWNER_NAME: usize = 52;
/// Characters of the hash in a pod's name.
const NAME_HASH: usize = 10;

/// What pods know of the resource that owns them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its uid: a resource of the same name that was made later is another owner.
    pub uid: String,
}

impl Owner {
    /// The owner that `object` is.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self {
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
        }
    }

    /// The selector of all its pods.
    pub fn selector(&self) -> String {
        format!("{UID_LABEL}={}", self.uid)
    }

    /// The name of the pod of `attempt` at `key`: a DNS label of at most 63 characters.
    pub fn pod_name(&self, key: &str, attempt: u32) -> String {
        self.named(&[&self.uid, key, &attempt.to_string()])
    }

    /// The same of the pod that does one part of it.
    pub fn part_name(&self, key: &str, attempt: u32, part: &Part) -> String {
        let (attempt, retries) = (attempt.to_string(), part.retries.to_string());
        self.named(&[&self.uid, key, &attempt, &part.name, &retries])
    }

    fn named(&self, parts: &[&str]) -> String {
        let hash = hash_hex(parts, NAME_HASH);
        let stem: String = self
            .name
            .chars()
            .take(MAX_OWNER_NAME)
            .map(|c| if c == '.' { '-' } else { c })
            .collect();
        format!("{stem}-{hash}")
    }
}

/// The first `length` hexadecimal digits of the SHA-256 of `parts`, framed so that no two lists of parts are alike.
pub fn hash_hex(parts: &[&str], length: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut text = hex::encode(hasher.finalize());
    text.truncate(length);
    text
}

/// What a pod makes and for the how manieth time; kept in its annotations so that a lost status can be rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Hash of what is made.
    pub key: String,
    /// Number of the attempt at it, from 0.
    pub number: u32,
    /// Automatic retries before it, since somebody last asked for one.
    pub retries: u32,
    /// Generation of the owner's spec.
    pub generation: i64,
    /// Why it was started.
    pub reason: String,
    /// The git commit, where there is one.
    pub commit: Option<String>,
    /// Hash of Secrets' versions and isolation.
    pub environment: String,
    /// Which part of it the pod does; none where it does all.
    pub part: Option<Part>,
}

/// What a pod does of an attempt that needs several, and for the how manieth time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The platform, or what else is done.
    pub name: String,
    /// Automatic retries before this pod.
    pub retries: u32,
}

/// Name and uid of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub name: String,
    /// The uid.
    pub uid: String,
}

impl Identity {
    /// The pod of which a status has name and uid.
    pub fn of(name: Option<&String>, uid: Option<&String>) -> Option<Self> {
        Some(Self {
            name: name?.clone(),
            uid: uid?.clone(),
        })
    }
}

impl Attempt {
    /// The annotations that say all this.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::from([
            (KEY_ANNOTATION.to_owned(), self.key.clone()),
            (ATTEMPT_ANNOTATION.to_owned(), self.number.to_string()),
            (RETRIES_ANNOTATION.to_owned(), self.retries.to_string()),
            (
                GENERATION_ANNOTATION.to_owned(),
                self.generation.to_string(),
            ),
            (REASON_ANNOTATION.to_owned(), self.reason.clone()),
            (ENVIRONMENT_ANNOTATION.to_owned(), self.environment.clone()),
        ]);
        if let Some(commit) = &self.commit {
            annotations.insert(COMMIT_ANNOTATION.to_owned(), commit.clone());
        }
        if let Some(part) = &self.part {
            annotations.insert(PART_ANNOTATION.to_owned(), part.name.clone());
            annotations.insert(PART_RETRIES_ANNOTATION.to_owned(), part.retries.to_string());
        }
        annotations
    }

    fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let get = |name: &str| annotations.get(name).map(String::as_str);
        Some(Self {
            key: get(KEY_ANNOTATION)?.to_owned(),
            number: get(ATTEMPT_ANNOTATION)?.parse().ok()?,
            retries: get(RETRIES_ANNOTATION)
                .and_then(|n| n.parse().ok())
                .unwrap_or(0),
            generation: get(GENERATION_ANNOTATION)
                .and_then(|n| n.parse().ok())
                .unwrap_or(0),
            reason: get(REASON_ANNOTATION).unwrap_or_default().to_owned(),
            commit: get(COMMIT_ANNOTATION).map(str::to_owned),
            environment: get(ENVIRONMENT_ANNOTATION).unwrap_or_default().to_owned(),
            part: match get(PART_ANNOTATION) {
                None => None,
                Some(name) => Some(Part {
                    name: name.to_owned(),
                    retries: get(PART_RETRIES_ANNOTATION)?.parse().ok()?,
                }),
            },
        })
    }

    /// The name of the pod of `owner` that makes this.
    pub fn pod_name(&self, owner: &Owner) -> String {
        match &self.part {
            None => owner.pod_name(&self.key, self.number),
            Some(part) => owner.part_name(&self.key, self.number, part),
        }
    }
}

/// A pod that is the operator's own.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedPod {
    /// Its name and uid.
    pub identity: Identity,
    /// What it makes.
    pub attempt: Attempt,
    /// When it was created.
    pub created: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The whole pod.
    pub pod: Pod,
}

impl ObservedPod {
    /// Recognises a pod of `owner`: owner reference or label name the owner's uid (or the status remembers the pod's
    /// uid, one of `known`, because somebody may have edited both), and the name is the one that follows from owner, key
    /// and attempt (annotations can be edited, names cannot).
    pub fn recognise(owner: &Owner, known: &[Identity], pod: Pod) -> Option<Self> {
        let identity = Identity {
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
        };
        let is_known = known.iter().any(|known| known.uid == identity.uid);
        if !is_owned_by(&pod.metadata, &owner.uid) && !is_known {
            return None;
        }
        let attempt = Attempt::read(pod.annotations())?;
        if attempt.pod_name(owner) != identity.name {
            return None;
        }
        Some(Self {
            identity,
            attempt,
            created: pod
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            pod,
        })
    }

    /// Whether the pod was to have a user namespace of its own and the API server's answer shows that it has none.
    pub fn lacks_user_namespace(&self) -> bool {
        let wanted = self
            .pod
            .annotations()
            .get(ISOLATION_ANNOTATION)
            .is_some_and(|mode| mode == "UserNamespace");
        let has = self
            .pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.host_users == Some(false));
        wanted && !has
    }

    /// When its node started it.
    pub fn started(&self) -> Option<Timestamp> {
        let status = self.pod.status.as_ref()?;
        status.start_time.as_ref().map(|time| time.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn owner() -> Owner {
        Owner {
            name: "app".into(),
            uid: "0d4a".into(),
        }
    }

    fn pod(owner: &Owner, attempt: &Attempt) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(owner.pod_name(&attempt.key, attempt.number));
        pod.metadata.uid = Some("p1".into());
        pod.metadata.annotations = Some(attempt.annotations());
        pod.metadata.owner_references = Some(vec![OwnerReference {
            uid: owner.uid.clone(),
            controller: Some(true),
            ..OwnerReference::default()
        }]);
        pod
    }

    fn attempt() -> Attempt {
        Attempt {
            key: "k".into(),
            number: 2,
            retries: 1,
            generation: 7,
            reason: "Source".into(),
            commit: Some("c".into()),
            environment: "e".into(),
            part: None,
        }
    }

    #[test]
    fn names_are_dns_labels_and_differ_by_owner_key_and_attempt() {
        let mut long = owner();
        long.name = format!("a.{}", "b".repeat(60));
        let name = long.pod_name("k", 0);
        assert_eq!(name.len(), 63);
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        );
        let other_uid = Owner {
            uid: "other".into(),
            ..owner()
        };
        let part_name = |name: &str, retries| {
            let name = name.to_owned();
            owner().part_name("k", 0, &Part { name, retries })
        };
        let names = [
            owner().pod_name("k", 0),
            owner().pod_name("k", 1),
            owner().pod_name("l", 0),
            part_name("linux/amd64", 0),
            part_name("linux/arm64", 0),
            part_name("linux/arm64", 1),
            other_uid.pod_name("k", 0),
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
        assert_eq!(owner().pod_name("k", 0), names[0]);
    }

    #[test]
    fn framing_tells_lists_of_parts_apart() {
        assert_ne!(hash_hex(&["ab", "c"], 16), hash_hex(&["a", "bc"], 16));
    }

    #[test]
    fn an_own_pod_is_recognised_with_what_it_makes() {
        let observed = ObservedPod::recognise(&owner(), &[], pod(&owner(), &attempt())).unwrap();
        assert_eq!(observed.attempt, attempt());
        assert!(!observed.deleting);
    }

    #[test]
    fn the_pod_of_a_part_is_recognised_with_its_part() {
        let mut made = attempt();
        made.part = Some(Part {
            name: "linux/arm64".into(),
            retries: 1,
        });
        let mut part = pod(&owner(), &made);
        part.metadata.name = Some(owner().part_name("k", 2, made.part.as_ref().unwrap()));
        let observed = ObservedPod::recognise(&owner(), &[], part.clone()).unwrap();
        assert_eq!(observed.attempt, made);
        let annotations = part.metadata.annotations.as_mut().unwrap();
        annotations.insert(PART_ANNOTATION.into(), "linux/amd64".into());
        assert_eq!(ObservedPod::recognise(&owner(), &[], part), None);
    }

    #[test]
    fn foreign_and_edited_pods_are_not_taken_over() {
        let mut foreign = pod(&owner(), &attempt());
        foreign.metadata.owner_references = None;
        assert_eq!(ObservedPod::recognise(&owner(), &[], foreign.clone()), None);
        // The status remembers its uid: only its reference was edited.
        let known = [Identity {
            name: foreign.metadata.name.clone().unwrap(),
            uid: "p1".into(),
        }];
        assert!(ObservedPod::recognise(&owner(), &known, foreign).is_some());

        let mut edited = pod(&owner(), &attempt());
        edited
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .insert(KEY_ANNOTATION.into(), "other".into());
        assert_eq!(ObservedPod::recognise(&owner(), &[], edited), None);
    }
}
