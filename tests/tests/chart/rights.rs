//! What an account may do, as `kubectl auth can-i --list` prints it, and what the committed table says. Asks the API server only.

use std::collections::BTreeSet;

use anyhow::Context as _;
use serde::Deserialize;
use tests::cluster::Cluster;
use tests::stage::repository;

/// One resource and what may be done with it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Right {
    resource: String,
    names: BTreeSet<String>,
    verbs: BTreeSet<String>,
}

/// The table `operator/rbac.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Table {
    cluster_rules: Vec<Rule>,
    leader_rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// Where an operator asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// A namespace that it looks at.
    Watched,
    /// Its own namespace, which it also looks at.
    Own,
    /// Its own namespace, when it looks at another.
    OwnOnly,
    /// A namespace that it has nothing to do with.
    Elsewhere,
}

/// What the table gives an operator whose lease has that name.
pub(crate) fn of_table(place: Place, lease: &str) -> anyhow::Result<BTreeSet<Right>> {
    let text = fs_err::read_to_string(repository().join("operator/rbac.yaml"))?;
    let table: Table = serde_saphyr::from_str(&text.replace("coopery-operator", lease))?;
    let mut rules = Vec::new();
    if matches!(place, Place::Watched | Place::Own) {
        rules.extend(table.cluster_rules);
    }
    if matches!(place, Place::Own | Place::OwnOnly) {
        rules.extend(table.leader_rules);
    }
    let mut rights = BTreeSet::new();
    for rule in &rules {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                rights.insert(Right {
                    resource: with_group(resource, group),
                    names: rule.resource_names.iter().cloned().collect(),
                    verbs: rule.verbs.iter().cloned().collect(),
                });
            }
        }
    }
    Ok(rights)
}

/// `resource.group/subresource`, as kubectl writes it.
fn with_group(resource: &str, group: &str) -> String {
    if group.is_empty() {
        return resource.to_owned();
    }
    match resource.split_once('/') {
        Some((resource, subresource)) => format!("{resource}.{group}/{subresource}"),
        None => format!("{resource}.{group}"),
    }
}

/// What `account` (`namespace:name`) may do with resources of `namespace`, besides what every account may.
pub(crate) async fn of_account(
    cluster: &Cluster,
    account: &str,
    namespace: &str,
) -> anyhow::Result<BTreeSet<Right>> {
    let mut rights = list(cluster, account, namespace).await?;
    for common in list(cluster, "default:nobody-in-particular", namespace).await? {
        rights.remove(&common);
    }
    Ok(rights)
}

async fn list(
    cluster: &Cluster,
    account: &str,
    namespace: &str,
) -> anyhow::Result<BTreeSet<Right>> {
    let account = format!("--as=system:serviceaccount:{account}");
    let arguments = [
        "auth",
        "can-i",
        "--list",
        "--no-headers",
        "-n",
        namespace,
        &account,
    ];
    let text = cluster.kubectl(&arguments).await?;
    let mut rights = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with(' ')) {
        let columns: Vec<&str> = line.split(['[', ']']).collect();
        let [resource, _urls, _, names, _, verbs, ..] = columns[..] else {
            anyhow::bail!("`{line}` has not four columns");
        };
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        rights.insert(Right {
            resource: resource.trim().to_owned(),
            names: words(names),
            verbs: words(verbs),
        });
    }
    Ok(rights)
}

/// Fails where `account` may not do what the table says, or may do more.
pub(crate) async fn check(
    cluster: &Cluster,
    account: &str,
    lease: &str,
    namespace: &str,
    place: Place,
) -> anyhow::Result<()> {
    let (expected, found) = (
        of_table(place, lease)?,
        of_account(cluster, account, namespace)
            .await
            .with_context(|| format!("the rights of {account} in {namespace}"))?,
    );
    let missing: Vec<_> = expected.difference(&found).collect();
    let surplus: Vec<_> = found.difference(&expected).collect();
    anyhow::ensure!(
        missing.is_empty() && surplus.is_empty(),
        "{account} in {namespace} ({place:?}): missing {missing:#?}, surplus {surplus:#?}"
    );
    Ok(())
}
