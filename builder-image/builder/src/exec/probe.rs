//! What a machine or pod lacks for running RUN in a user namespace of its own, each lack with a name and its remedy.
//! It only names things; finding out happens in `namespace`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{landlock, process_limit};

/// Something that the isolation of RUN needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Prerequisite {
    /// The kernel or a sysctl allows no user namespaces.
    UserNamespaces,
    /// A seccomp profile refuses `unshare` and `mount`.
    Seccomp,
    /// The full range of 65,536 ids can be mapped.
    IdMap,
    /// An ordinary user has no range of subordinate ids, or `newuidmap` is missing.
    SubordinateIds,
    /// Mounts can be made inside the user namespace.
    Mounts,
    /// A fresh `/proc` can be mounted.
    Proc,
    /// overlayfs can be mounted on the workspace.
    Overlay,
    /// The program crun.
    Crun,
    /// The program can start itself again: a single thread, a readable `/proc/self/exe`.
    Process,
}

impl Prerequisite {
    /// The stable name, used in the reason `IsolationUnavailable: <name>`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserNamespaces => "UserNamespaces",
            Self::Seccomp => "Seccomp",
            Self::IdMap => "IdMap",
            Self::SubordinateIds => "SubordinateIds",
            Self::Mounts => "Mounts",
            Self::Proc => "Proc",
            Self::Overlay => "Overlay",
            Self::Crun => "Crun",
            Self::Process => "Process",
        }
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::UserNamespaces => {
                "set user.max_user_namespaces > 0 (and kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0 where they exist) on the node"
            }
            Self::Seccomp => {
                "leave seccompProfile of the pod unset with the kubelet's seccompDefault off, or name a Localhost profile that allows clone, unshare and mount"
            }
            Self::IdMap => {
                "run the pod with hostUsers: false as root with the default capabilities SETUID, SETGID and SETFCAP"
            }
            Self::SubordinateIds => {
                "install newuidmap and newgidmap (package uidmap) and give the user 65536 ids in /etc/subuid and /etc/subgid"
            }
            Self::Mounts => {
                "use an AppArmor profile that allows mount, or none, for the builder pod"
            }
            Self::Proc => {
                "set procMount: Unmasked together with hostUsers: false on the builder container"
            }
            Self::Overlay => {
                "use kernel 5.11 or newer, and put the workspace on a file system that can hold an overlay (ext4, xfs, tmpfs; not overlay itself)"
            }
            Self::Crun => "install crun, or name it in COOPERY_CRUN",
            Self::Process => "report this as a bug",
        }
    }

    /// Every prerequisite, in the order in which it is tried.
    pub const ALL: [Self; 9] = [
        Self::Process,
        Self::UserNamespaces,
        Self::Seccomp,
        Self::IdMap,
        Self::SubordinateIds,
        Self::Mounts,
        Self::Proc,
        Self::Overlay,
        Self::Crun,
    ];
}

impl fmt::Display for Prerequisite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The isolation cannot be had: one missing prerequisite, what happened, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{prerequisite}: {detail}; {}", prerequisite.remedy())]
pub struct ProbeError {
    /// What is missing.
    pub prerequisite: Prerequisite,
    /// What was tried and how it failed.
    pub detail: String,
}

impl ProbeError {
    /// An error from what was tried.
    pub fn new(prerequisite: Prerequisite, detail: impl Into<String>) -> Self {
        Self {
            prerequisite,
            detail: detail.into(),
        }
    }
}

/// What `coopery exec-probe` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// Whether RUN can be isolated here.
    pub available: bool,
    /// The missing prerequisite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Prerequisite>,
    /// What was found out, in words; with the remedy where something is missing.
    pub message: String,
}

impl ProbeReport {
    /// The report of a probe that failed.
    pub fn missing(error: &ProbeError) -> Self {
        Self {
            available: false,
            missing: Some(error.prerequisite),
            message: error.to_string(),
        }
    }

    /// The report from inside the namespaces: everything is there, but for what the kernel is too old for.
    pub fn available() -> Self {
        let mut message =
            "RUN gets a user namespace with ids 0-65535, a fresh /proc and native overlayfs"
                .to_owned();
        if !landlock::is_available() {
            message.push_str("; abstract sockets of its network are within its reach (Linux 6.12 with Landlock keeps them apart)");
        }
        if !process_limit::is_available() {
            message.push_str(
                "; its processes are bounded by RLIMIT_NPROC only, which spares the root of the machine (Linux 6.14 bounds them)",
            );
        }
        Self {
            available: true,
            missing: None,
            message,
        }
    }
}

/// What the state of the machine says about a refused `clone` with a new user namespace. `errno` is what the kernel
/// answered; the rest are the contents of the files under `/proc` that decide about it.
pub(super) fn explain_refused_namespace(
    errno: rustix::io::Errno,
    max_user_namespaces: Option<&str>,
    unprivileged_clone: Option<&str>,
    status: &str,
) -> ProbeError {
    use rustix::io::Errno;
    let zero = |text: Option<&str>| text.map(str::trim) == Some("0");
    let filtered = status
        .lines()
        .filter_map(|line| line.strip_prefix("Seccomp:"))
        .any(|mode| mode.trim() == "2");
    if zero(max_user_namespaces) || matches!(errno, Errno::NOSPC | Errno::USERS) {
        ProbeError::new(
            Prerequisite::UserNamespaces,
            format!("no more user namespaces are allowed ({errno}; user.max_user_namespaces)"),
        )
    } else if zero(unprivileged_clone) {
        ProbeError::new(
            Prerequisite::UserNamespaces,
            "kernel.unprivileged_userns_clone is 0",
        )
    } else if filtered {
        ProbeError::new(
            Prerequisite::Seccomp,
            format!("a seccomp filter refuses a new user namespace ({errno})"),
        )
    } else {
        ProbeError::new(
            Prerequisite::UserNamespaces,
            format!("the kernel refuses a new user namespace ({errno})"),
        )
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_refused_namespace_is_explained() {
        let seccomp = "Name:\tx\nSeccomp:\t2\n";
        let plain = "Name:\tx\nSeccomp:\t0\n";
        let rows = [
            (
                Errno::NOSPC,
                Some("0\n"),
                None,
                plain,
                Prerequisite::UserNamespaces,
                "max_user",
            ),
            (
                Errno::NOSPC,
                Some("5\n"),
                None,
                plain,
                Prerequisite::UserNamespaces,
                "max_user",
            ),
            (
                Errno::PERM,
                Some("99"),
                Some("0\n"),
                plain,
                Prerequisite::UserNamespaces,
                "unprivileged_userns_clone",
            ),
            (
                Errno::PERM,
                Some("99"),
                Some("1\n"),
                seccomp,
                Prerequisite::Seccomp,
                "seccomp",
            ),
            (
                Errno::PERM,
                None,
                None,
                plain,
                Prerequisite::UserNamespaces,
                "refuses",
            ),
        ];
        for (errno, max, clone, status, prerequisite, word) in rows {
            let error = explain_refused_namespace(errno, max, clone, status);
            assert_eq!(error.prerequisite, prerequisite);
            assert!(error.detail.contains(word), "{error}");
            assert!(error.to_string().contains(prerequisite.remedy()));
        }
    }

    #[test]
    fn names_are_distinct() {
        for (index, one) in Prerequisite::ALL.iter().enumerate() {
            assert!(
                Prerequisite::ALL[index + 1..]
                    .iter()
                    .all(|other| one.as_str() != other.as_str())
            );
        }
    }
}
