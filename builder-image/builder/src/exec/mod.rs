//! Running the process of a RUN: namespaces, overlay mounts, crun by the OCI runtime specification. It knows layers only
//! as directories, and nothing of Dockerfiles; [`crate::step::run`] says what to run on which snapshot.
//!
//! The engine itself lives in a user namespace ([`enter_user_namespace`]); each process gets mount, process, IPC and UTS
//! namespaces of its own below it. Its mounts live in a mount namespace that ends with it, and everything it started is
//! killed with the init of its process namespace, so that nothing is left over however it ends.

mod agent;
mod attach;
mod descriptor;
mod foreign;
mod id_map;
mod landlock;
mod lines;
mod memory;
mod mount;
mod namespace;
mod oci_runtime;
pub mod probe;
mod process;
mod process_limit;
mod root;
mod supervise;
mod system_call;

use std::path::{Path, PathBuf};

pub use agent::Agent;
pub use attach::{Attachment, attached};
pub(crate) use descriptor::keep_open;
pub use foreign::can_execute;
pub use namespace::{Entered, enter_user_namespace};
pub use oci_runtime::{Container, Identity, Mount, MountAccess, ResourceLimit, to_spec};
pub use probe::{Prerequisite, ProbeError, ProbeReport};
pub use process::{Job, execute};
pub use process_limit::{MAX_PROCESSES, limited};

/// What containers are run with.
#[derive(Clone, Debug)]
pub struct Runtime {
    crun: PathBuf,
    scratch: PathBuf,
}

impl Runtime {
    /// A runtime for the engine that has `entered` its namespaces. Below `scratch`, which must be on the file system of the
    /// layers, every process gets a directory that is removed when it ends.
    pub fn new(entered: &Entered, scratch: impl Into<PathBuf>) -> Self {
        Self {
            crun: entered.crun.clone(),
            scratch: scratch.into(),
        }
    }

    /// The directory for what lives as long as one process.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }
}

/// Where a line of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code; 128 + n when signal n killed it.
    pub code: i32,
}

impl ExitStatus {
    /// Whether the code is 0.
    pub const fn success(self) -> bool {
        self.code == 0
    }
}

/// Why a process could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The kernel killed it, or a process that it started, because memory ran out.
    #[error(
        "killed because memory ran out (exit code {code}): raise the memory limit of the pod, or let the step use less"
    )]
    OutOfMemory {
        /// The exit code of the step.
        code: i32,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A directory that the engine mounts something on is not a directory in the image.
    #[error("{path} in the image is not a directory, so that nothing can be mounted there")]
    MountPoint {
        /// The path in the image.
        path: String,
    },
    /// What a mount shows is not there.
    #[error("`{path}` cannot be mounted: {source}")]
    MountSource {
        /// The path in the files that the mount shows.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A mount cannot be where it should be.
    #[error("nothing can be mounted at {path}: {problem}")]
    MountTarget {
        /// The path in the image.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A secret cannot be a variable.
    #[error("the secret for the variable {name} is no text, mount it as a file")]
    SecretVariable {
        /// The variable.
        name: String,
    },
    /// The working directory cannot be used.
    #[error("working directory {path}: {problem}")]
    WorkingDirectory {
        /// The path in the image.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The USER of the step does not exist in the image.
    #[error("user {user}: {problem}")]
    User {
        /// The value of USER.
        user: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The container runtime failed before the process began.
    #[error("crun: {message}")]
    Runtime {
        /// What crun wrote.
        message: String,
    },
    /// The snapshot could not be read.
    #[error("reading the snapshot of the step: {0}")]
    Snapshot(String),
    /// A system call failed.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// How it failed.
        source: std::io::Error,
    },
}

impl ExecError {
    pub(crate) fn system(doing: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}

/// Finds crun: what `COOPERY_CRUN` names, else the one that travels with this program, else the one on `PATH`.
fn find_crun() -> Result<PathBuf, ProbeError> {
    let missing = |detail: String| ProbeError::new(Prerequisite::Crun, detail);
    let usable = |path: &Path| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    if let Some(named) = std::env::var_os("COOPERY_CRUN") {
        let named = PathBuf::from(named);
        return if usable(&named) {
            Ok(named)
        } else {
            Err(missing(format!(
                "COOPERY_CRUN is {}, which is no program",
                named.display()
            )))
        };
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join("../lib/coopery/crun")));
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let directories = std::env::split_paths(&path);
    beside
        .into_iter()
        .chain(directories.map(|directory| directory.join("crun")))
        .find(|candidate| usable(candidate))
        .ok_or_else(|| missing("crun is neither beside this program nor on PATH".into()))
}
