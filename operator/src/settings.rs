//! The command line of the operator, each flag also as an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Run the controllers of ImageBuild, ImageMirror and Registry
#[derive(Clone, Debug, Parser)]
#[command(name = "coopery-operator", version)]
pub struct Settings {
    /// Do something else than run the controllers
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Image of the builder pods
    #[arg(
        long,
        env = "COOPERY_BUILDER_IMAGE",
        default_value = "ghcr.io/coopery/builder:latest"
    )]
    pub builder_image: String,

    /// When nodes pull the image of the builder pods
    #[arg(
        long,
        env = "COOPERY_BUILDER_IMAGE_PULL_POLICY",
        value_enum,
        default_value_t = PullPolicy::IfNotPresent
    )]
    pub builder_image_pull_policy: PullPolicy,

    /// Secret with which nodes pull the image of the builder pods, in the namespace of each build or mirror (repeatable)
    #[arg(
        long = "builder-image-pull-secret",
        env = "COOPERY_BUILDER_IMAGE_PULL_SECRETS",
        value_delimiter = ','
    )]
    pub builder_image_pull_secrets: Vec<String>,

    /// Image of managed registries (CNCF distribution 3)
    #[arg(
        long,
        env = "COOPERY_REGISTRY_IMAGE",
        default_value = "docker.io/library/registry:3"
    )]
    pub registry_image: String,

    /// When nodes pull the image of managed registries
    #[arg(
        long,
        env = "COOPERY_REGISTRY_IMAGE_PULL_POLICY",
        value_enum,
        default_value_t = PullPolicy::IfNotPresent
    )]
    pub registry_image_pull_policy: PullPolicy,

    /// Secret with which nodes pull the image of managed registries, in the namespace of each Registry (repeatable)
    #[arg(
        long = "registry-image-pull-secret",
        env = "COOPERY_REGISTRY_IMAGE_PULL_SECRETS",
        value_delimiter = ','
    )]
    pub registry_image_pull_secrets: Vec<String>,

    /// Watch only this namespace
    #[arg(long, env = "COOPERY_NAMESPACE")]
    pub namespace: Option<String>,

    /// Use this kubeconfig instead of the pod's service account
    #[arg(long, env = "COOPERY_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "COOPERY_ADMIN_ADDR", default_value = "0.0.0.0:8080")]
    pub admin_addr: SocketAddr,

    /// Form of the log
    #[arg(long, env = "COOPERY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// What is logged, as a tracing filter
    #[arg(
        long,
        env = "COOPERY_LOG_LEVEL",
        default_value = "info,kube_client=warn"
    )]
    pub log_level: String,

    /// Objects of one kind that are reconciled at the same time
    #[arg(long, env = "COOPERY_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,

    /// Look at every object again after this time, though nothing changed
    #[arg(long, env = "COOPERY_RESYNC", default_value = "10m", value_parser = crds::parse_duration)]
    pub resync: Duration,

    /// Give up one look at an object after this time
    #[arg(long, env = "COOPERY_RECONCILE_TIMEOUT", default_value = "60s", value_parser = crds::parse_duration)]
    pub reconcile_timeout: Duration,

    /// Networks that builds and mirrors may reach though the network guard refuses them (CIDR, repeatable)
    #[arg(
        long = "allow-cidr",
        env = "COOPERY_ALLOW_CIDRS",
        value_delimiter = ','
    )]
    pub allow_cidrs: Vec<String>,

    /// File with CA certificates that builder pods and the operator trust besides their own (PEM)
    #[arg(long, env = "COOPERY_BUILDER_CA_FILE")]
    pub builder_ca_file: Option<PathBuf>,

    /// HTTP proxy of builder pods
    #[arg(long, env = "COOPERY_BUILDER_HTTP_PROXY")]
    pub builder_http_proxy: Option<String>,

    /// HTTPS proxy of builder pods
    #[arg(long, env = "COOPERY_BUILDER_HTTPS_PROXY")]
    pub builder_https_proxy: Option<String>,

    /// Hosts that builder pods reach without a proxy
    #[arg(long, env = "COOPERY_BUILDER_NO_PROXY")]
    pub builder_no_proxy: Option<String>,

    /// How the leader is elected
    #[command(flatten)]
    pub leader_election: LeaderElection,

    /// Name of the pod, for the lease and events
    #[arg(long, env = "POD_NAME", hide = true)]
    pub pod_name: Option<String>,
}

/// What else the program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print the table of reasons as Markdown
    Reasons,
}

/// How the leader is elected.
#[derive(Args, Clone, Debug)]
pub struct LeaderElection {
    /// Elect a leader before anything is done
    #[arg(long = "leader-election", env = "COOPERY_LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub enabled: bool,

    /// Name of the lease
    #[arg(
        long = "leader-election-lease",
        env = "COOPERY_LEADER_ELECTION_LEASE",
        default_value = "coopery-operator"
    )]
    pub lease: String,

    /// Namespace of the lease. Default: that of the pod
    #[arg(
        id = "leader_election_namespace",
        long = "leader-election-namespace",
        env = "POD_NAMESPACE",
        default_value = "default"
    )]
    pub namespace: String,

    /// Others may take the lease when it was not renewed for this time
    #[arg(long = "leader-election-lease-duration", env = "COOPERY_LEADER_ELECTION_LEASE_DURATION", default_value = "15s", value_parser = crds::parse_duration)]
    pub lease_duration: Duration,

    /// The leader gives up when it could not renew for this time; less than the lease's duration
    #[arg(long = "leader-election-renew-deadline", env = "COOPERY_LEADER_ELECTION_RENEW_DEADLINE", default_value = "10s", value_parser = crds::parse_duration)]
    pub renew_deadline: Duration,

    /// Time between attempts
    #[arg(long = "leader-election-retry-period", env = "COOPERY_LEADER_ELECTION_RETRY_PERIOD", default_value = "2s", value_parser = crds::parse_duration)]
    pub retry_period: Duration,
}

/// When nodes pull an image, in the words of Kubernetes. Never left to the default there, which is Always for the tag
/// latest: nodes may have the image and no way to pull it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    /// Each time a pod is started.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: the nodes have it.
    Never,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Settings {
    /// The settings of a command line without arguments, for tests; the environment still counts.
    ///
    /// # Panics
    /// Never: every flag has a default.
    pub fn defaults() -> Self {
        Self::parse_from(["coopery-operator"])
    }

    /// Name of this process: the pod's, and random digits so that a restarted container is another.
    pub fn identity(&self) -> String {
        let name = self.pod_name.as_deref().unwrap_or("coopery-operator");
        format!("{name}_{:08x}", rand::random::<u32>())
    }
}

impl PullPolicy {
    /// The word in a pod's spec.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl LeaderElection {
    /// What is wrong with the durations, if anything.
    pub fn violation(&self) -> Option<String> {
        if self.renew_deadline >= self.lease_duration {
            return Some(format!(
                "--leader-election-renew-deadline ({}s) must be less than --leader-election-lease-duration ({}s): \
                 the leader must have stopped when another may start",
                self.renew_deadline.as_secs(),
                self.lease_duration.as_secs()
            ));
        }
        if self.retry_period >= self.renew_deadline || self.retry_period.is_zero() {
            return Some(
                "--leader-election-retry-period must be more than zero and less than --leader-election-renew-deadline"
                    .to_owned(),
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Settings::command().debug_assert();
        assert_eq!(Settings::defaults().leader_election.violation(), None);
    }

    #[test]
    fn pull_policies_are_said_in_the_words_of_kubernetes() {
        for policy in PullPolicy::value_variants() {
            let flag = format!("--builder-image-pull-policy={}", policy.as_str());
            let settings = Settings::parse_from(["coopery-operator", &flag]);
            assert_eq!(settings.builder_image_pull_policy, *policy);
        }
        let settings = Settings::parse_from([
            "coopery-operator",
            "--builder-image-pull-secret=a",
            "--builder-image-pull-secret=b",
            "--registry-image-pull-secret=c",
        ]);
        assert_eq!(settings.builder_image_pull_secrets, ["a", "b"]);
        assert_eq!(settings.registry_image_pull_secrets, ["c"]);
    }

    #[test]
    fn durations_of_the_lease_are_ordered() {
        let parse = |arguments: &[&str]| {
            Settings::parse_from(
                std::iter::once("coopery-operator").chain(arguments.iter().copied()),
            )
            .leader_election
            .violation()
        };
        assert!(parse(&["--leader-election-renew-deadline=15s"]).is_some());
        assert!(parse(&["--leader-election-retry-period=10s"]).is_some());
        assert!(parse(&["--leader-election-lease-duration=60s"]).is_none());
    }
}
