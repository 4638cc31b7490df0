//! What can go wrong with an embedded cluster, each with what to do about it.

use std::path::PathBuf;

/// An embedded cluster could not be started, used or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, mounts and cgroups need root.
    #[error("an embedded cluster needs root: this process runs as user {uid}")]
    NotRoot {
        /// The effective user.
        uid: u32,
    },
    /// Programs are not built.
    #[error("not built: {}; run tests/cluster/build cluster", programs.join(", "))]
    NotBuilt {
        /// Names of the missing programs.
        programs: Vec<String>,
    },
    /// A cluster name that cannot be one.
    #[error(
        "cluster name {name:?} must be 1 to 40 characters of a-z, 0-9 and -, and begin and end with a letter or digit"
    )]
    Name {
        /// The name given.
        name: String,
    },
    /// The cache directory lies where the node's own mounts go.
    #[error("{} cannot hold a cluster: it must be an absolute path outside /run, /proc, /sys and /dev; set COOPERY_CACHE", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
    },
    /// A cluster of that name runs.
    #[error(
        "cluster {name} already runs (or is being stopped): `cluster down --name {name}`, or another name"
    )]
    AlreadyRuns {
        /// Its name.
        name: String,
    },
    /// No cluster of that name runs.
    #[error("cluster {name} does not run: `cluster up --name {name}` starts it")]
    DoesNotRun {
        /// Its name.
        name: String,
    },
    /// A program that was run to its end failed.
    #[error("{command} failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// A component ended by itself.
    #[error("{component} ended ({status}); end of {}:\n{tail}", log.display())]
    Died {
        /// Its name.
        component: String,
        /// How it ended.
        status: String,
        /// Its whole log.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// A condition did not come in time.
    #[error("waited {seconds} s in vain for {condition}: {last}\n{tails}")]
    Timeout {
        /// What was awaited.
        condition: &'static str,
        /// How long, in seconds.
        seconds: u64,
        /// What the last look at it said.
        last: String,
        /// The last lines of the components' logs.
        tails: String,
    },
    /// The namespaces could not be made.
    #[error("namespaces of the cluster could not be made: {reason}")]
    Namespace {
        /// What the keeper said.
        reason: String,
    },
    /// The cluster did not end in time.
    #[error("cluster {name} has not ended {seconds} s after it was told to; see {}", log.display())]
    NotStopped {
        /// Its name.
        name: String,
        /// How long, in seconds.
        seconds: u64,
        /// The keeper's log.
        log: PathBuf,
    },
    /// Files.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Certificates.
    #[error("certificates could not be made")]
    Certificate(#[from] rcgen::Error),
    /// The API server refused a request of the harness.
    #[error("the API server refused a request of the harness")]
    Kube(#[from] kube::Error),
    /// The kubeconfig could not be used.
    #[error("the kubeconfig could not be used")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A document could not be written or read as JSON.
    #[error("not the JSON that was expected")]
    Json(#[from] serde_json::Error),
}

/// Result of the harness.
pub type Result<T, E = Error> = std::result::Result<T, E>;
