//! The OCI runtime configuration of one RUN: what the process sees and may do. Pure; who mounts the root and starts the
//! runtime is `process`.
//!
//! What docker gives a container, less what a nested user namespace cannot have: there is no network namespace (the
//! build uses the engine's network, unless it wants none), no cgroup (the pod's limits hold), and sysfs is the engine's, read-only.
//! <https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config.md>

use std::path::PathBuf;

use oci_spec::{
    OciSpecError,
    runtime::{
        Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder,
        LinuxNamespaceType, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
        ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
    },
};

use super::system_call;

/// The size of `/dev/shm` in bytes, as docker has it.
const SHM_SIZE: u64 = 64 << 20;

/// The ids that a process runs with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
}

/// Something that the process sees besides its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is seen: absolute in the root, with no symbolic link on the way.
    pub destination: String,
    kind: &'static str,
    source: PathBuf,
    options: Vec<String>,
}

/// What a process may do with a file or directory of the engine that it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountAccess {
    /// Read a file of ours.
    File,
    /// Read and execute a program of ours.
    Script,
    /// Read and execute files of an image.
    Read,
    /// Also write them.
    Write,
}

impl Mount {
    /// The file or directory `source` of the engine, an absolute path.
    pub fn bind(
        source: impl Into<PathBuf>,
        destination: impl Into<String>,
        access: MountAccess,
    ) -> Self {
        let options: &[&str] = match access {
            MountAccess::File => &["rbind", "ro", "nosuid", "nodev", "noexec"],
            MountAccess::Script => &["rbind", "ro", "nosuid", "nodev"],
            MountAccess::Read => &["rbind", "ro", "nodev"],
            MountAccess::Write => &["rbind", "rw", "nodev"],
        };
        Self {
            destination: destination.into(),
            kind: "none",
            source: source.into(),
            options: owned(options),
        }
    }

    /// A directory in memory, of at most `size` bytes, with the permission bits `mode`.
    pub fn tmpfs(
        destination: impl Into<String>,
        size: Option<u64>,
        mode: u32,
        read_only: bool,
    ) -> Self {
        let mut options = owned(&["nosuid", "nodev"]);
        options.push(format!("mode={mode:o}"));
        options.extend(size.map(|size| format!("size={size}")));
        if read_only {
            options.push("ro".into());
        }
        Self {
            destination: destination.into(),
            kind: "tmpfs",
            source: "tmpfs".into(),
            options,
        }
    }

    /// Whether `path` is seen in this mount.
    pub(super) fn covers(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.destination.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// A limit as `setrlimit` has it; `u64::MAX` is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
    /// `RLIMIT_NOFILE`
    pub name: String,
    /// What a process runs into.
    pub soft: u64,
    /// What it may raise the soft limit to.
    pub hard: u64,
}

/// What a container is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, all of it.
    pub env: Vec<String>,
    /// Absolute working directory, with no symbolic link on the way.
    pub cwd: String,
    /// Whose process it is.
    pub identity: Identity,
    /// Host name.
    pub hostname: String,
    /// Whether it uses the network of the engine; else it has a network namespace with nothing in it.
    pub network: bool,
    /// Seen besides the usual, in this order.
    pub mounts: Vec<Mount>,
    /// Size of `/dev/shm` in bytes; 64 MiB where absent.
    pub shm_size: Option<u64>,
    /// Resource limits.
    pub limits: Vec<ResourceLimit>,
    /// How much sooner than others the kernel kills it when memory runs out, -1000 to 1000.
    pub oom_score_adj: i32,
}

/// docker's default capabilities.
const CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Hidden, as docker hides them.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only, as in docker.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The configuration. The root is the directory `rootfs` of the bundle.
///
/// # Errors
/// Never for a container made of plain values: the builders of `oci-spec` want to be able to fail.
pub fn to_spec(container: &Container) -> Result<Spec, OciSpecError> {
    let capabilities: Capabilities = CAPABILITIES.into_iter().collect();
    let identity = &container.identity;
    // The group itself is among the supplementary ones, as containerd has it: else a process could drop it, and with it
    // what files deny to the group.
    let mut groups = identity.additional_gids.clone();
    if !groups.contains(&identity.gid) {
        groups.insert(0, identity.gid);
    }
    let user = UserBuilder::default()
        .uid(identity.uid)
        .gid(identity.gid)
        .umask(0o022_u32)
        .additional_gids(groups);
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(user.build()?)
        .args(container.args.clone())
        .env(container.env.clone())
        .cwd(container.cwd.clone())
        .capabilities(
            LinuxCapabilitiesBuilder::default()
                .bounding(capabilities.clone())
                .effective(capabilities.clone())
                .permitted(capabilities)
                .inheritable(Capabilities::new())
                .ambient(Capabilities::new())
                .build()?,
        )
        .no_new_privileges(false)
        .oom_score_adj(container.oom_score_adj)
        .rlimits(to_rlimits(&container.limits)?)
        .build()?;
    let namespaces = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
    ]
    .into_iter()
    .chain((!container.network).then_some(LinuxNamespaceType::Network))
    .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
    .collect::<Result<Vec<_>, _>>()?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .masked_paths(owned(&MASKED))
        .readonly_paths(owned(&READ_ONLY))
        .devices(Vec::new())
        .seccomp(system_call::to_seccomp()?)
        .build()?;
    linux.set_resources(None);
    SpecBuilder::default()
        .version("1.0.2")
        .hostname(container.hostname.clone())
        .root(
            RootBuilder::default()
                .path("rootfs")
                .readonly(false)
                .build()?,
        )
        .process(process)
        .mounts(to_mounts(container)?)
        .linux(linux)
        .build()
}

fn to_mounts(container: &Container) -> Result<Vec<oci_spec::runtime::Mount>, OciSpecError> {
    let shm = format!("size={}", container.shm_size.unwrap_or(SHM_SIZE));
    let usual: [(&str, &str, &str, &[&str]); 6] = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm],
        ),
        (
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        // Only a network namespace of its own would allow a new sysfs, and a bind mount must take along what lies on it.
        (
            "/sys",
            "none",
            "/sys",
            &["rbind", "nosuid", "noexec", "nodev", "rro"],
        ),
    ];
    let one = |destination: &str, kind: &str, source: PathBuf, options: Vec<String>| {
        MountBuilder::default()
            .destination(destination)
            .typ(kind)
            .source(source)
            .options(options)
            .build()
    };
    let usual = usual
        .into_iter()
        .map(|(destination, kind, source, options)| {
            one(destination, kind, source.into(), owned(options))
        });
    let more = container.mounts.iter().map(|mount| {
        let (source, options) = (mount.source.clone(), mount.options.clone());
        one(&mount.destination, mount.kind, source, options)
    });
    usual.chain(more).collect()
}

fn to_rlimits(limits: &[ResourceLimit]) -> Result<Vec<PosixRlimit>, OciSpecError> {
    limits
        .iter()
        .filter_map(|limit| Some((limit.name.parse::<PosixRlimitType>().ok()?, limit)))
        .map(|(kind, limit)| {
            PosixRlimitBuilder::default()
                .typ(kind)
                .soft(limit.soft)
                .hard(limit.hard)
                .build()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// As JSON, with the sets in order.
    fn json(container: &Container) -> serde_json::Value {
        let mut value = serde_json::to_value(to_spec(container).unwrap()).unwrap();
        let sets = value["process"]["capabilities"].as_object_mut().unwrap();
        for set in sets.values_mut() {
            set.as_array_mut().unwrap().sort_by_key(ToString::to_string);
        }
        // Those of this machine.
        value["linux"]["seccomp"]["architectures"].take();
        value
    }

    #[test]
    fn a_container() {
        let container = Container {
            args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
            env: vec!["PATH=/bin".into(), "HOME=/root".into()],
            cwd: "/src".into(),
            identity: Identity {
                uid: 1000,
                gid: 100,
                additional_gids: vec![100, 5],
            },
            hostname: "buildkitsandbox".into(),
            network: true,
            mounts: vec![
                Mount::bind("/scratch/hosts", "/etc/hosts", MountAccess::File),
                Mount::bind("/scratch/private/0", "/src", MountAccess::Write),
                Mount::tmpfs("/tmp", Some(1 << 20), 0o1777, false),
            ],
            shm_size: Some(1 << 20),
            limits: vec![ResourceLimit {
                name: "RLIMIT_NOFILE".into(),
                soft: 1024,
                hard: u64::MAX,
            }],
            oom_score_adj: 250,
        };
        insta::assert_json_snapshot!(json(&container));
    }

    #[test]
    fn nothing_that_a_pod_cannot_have() {
        let container = Container {
            args: vec!["true".into()],
            env: Vec::new(),
            cwd: "/".into(),
            identity: Identity::default(),
            hostname: "h".into(),
            network: true,
            mounts: Vec::new(),
            shm_size: None,
            limits: Vec::new(),
            oom_score_adj: 0,
        };
        let value = json(&container);
        let namespaces = value["linux"]["namespaces"].to_string();
        assert!(!namespaces.contains("network") && !namespaces.contains("cgroup"));
        assert!(value["linux"].get("resources").is_none());
        assert!(!value["mounts"].to_string().contains("sysfs"));
    }
}
