//! Both shapes of the builder pod, whole, and what Pod Security asks of each.

use super::*;
use crds::image_build::{Resources, Workspace};
use protocol::{MirrorRequest, Task};

fn attempt() -> Attempt {
    Attempt {
        key: "0123456789abcdef-fedcba9876543210".into(),
        number: 1,
        retries: 1,
        generation: 3,
        reason: "Source".into(),
        commit: Some("c".repeat(40)),
        environment: "e0".into(),
        part: None,
    }
}

fn meta() -> ObjectMeta {
    ObjectMeta {
        name: Some("app-0123456789".into()),
        namespace: Some("team".into()),
        ..ObjectMeta::default()
    }
}

fn request() -> Request {
    Request::new(Task::Mirror(MirrorRequest::default()))
}

#[test]
fn the_shape_with_a_user_namespace() {
    let options = PodOptions {
        resources: Some(Resources {
            requests: BTreeMap::from([("cpu".into(), Quantity("1".into()))]),
            limits: BTreeMap::from([("memory".into(), Quantity("4Gi".into()))]),
        }),
        workspace: Some(Workspace {
            size_limit: Some("20Gi".into()),
        }),
        node_selector: BTreeMap::from([("kubernetes.io/arch".into(), "amd64".into())]),
        runtime_class_name: Some("kata".into()),
        priority_class_name: Some("low".into()),
        ..PodOptions::default()
    };
    let pod = build_pod(&PodSpecInput {
        meta: meta(),
        attempt: &attempt(),
        request: &request(),
        isolation: Isolation::UserNamespace,
        settings: &BuilderSettings {
            image: "example.com/builder:1".into(),
            image_pull_policy: Some("IfNotPresent".into()),
            image_pull_secrets: vec!["pull".into()],
            network: Network::default(),
        },
        credentials: &["main-credentials".into(), "hub".into()],
        source_secret: Some("git"),
        source_config_map: None,
        source_claim: None,
        cache_claim: None,
        secrets: &[],
        timeout: Duration::from_secs(3600),
        options: &options,
    });
    insta::assert_yaml_snapshot!(pod);
}

#[test]
fn the_shape_that_executes_nothing() {
    let pod = build_pod(&PodSpecInput {
        meta: meta(),
        attempt: &attempt(),
        request: &request(),
        isolation: Isolation::NoRun,
        settings: &BuilderSettings {
            image: "example.com/builder:1".into(),
            ..BuilderSettings::default()
        },
        credentials: &["main-credentials".into()],
        source_secret: None,
        source_config_map: Some("site"),
        source_claim: None,
        cache_claim: None,
        secrets: &[],
        timeout: Duration::from_secs(60),
        options: &PodOptions::default(),
    });
    insta::assert_yaml_snapshot!(pod);
}

#[test]
fn request_credentials_are_where_the_pod_mounts_them() {
    assert_eq!(
        credential_paths(2),
        [
            "/run/coopery/credentials/0/.dockerconfigjson",
            "/run/coopery/credentials/1/.dockerconfigjson"
        ]
    );
}
