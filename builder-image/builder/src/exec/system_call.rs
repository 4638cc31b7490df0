//! System calls that a RUN is refused: a seccomp section for the OCI runtime. Pure; the runtime turns it into a filter.
//!
//! It refuses what docker's default profile refuses a container without added capabilities, and BuildKit's RUN with it, by
//! naming that, not by naming all that is allowed: the filter stays short, so that it costs a start and a call next to
//! nothing. What it keeps away is the kernel's surface. What a RUN may do to files, processes and devices is decided by its
//! namespaces and capabilities, which hold without any filter, also for calls that are newer than this list.
//!
//! Allowed although docker refuses them: calls that only concern the process itself or what it could trace anyway
//! (`personality`, `mbind` and other placement of memory), because builds use them and nobody else notices.
//! <https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config-linux.md#seccomp>

use oci_spec::{
    OciSpecError,
    runtime::{
        Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
        LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
    },
};

/// "Operation not permitted", as root without a capability gets it.
const NOT_PERMITTED: u32 = libc::EPERM.unsigned_abs();
/// "Function not implemented": programs fall back to an older call.
const NOT_IMPLEMENTED: u32 = libc::ENOSYS.unsigned_abs();

/// Refused whatever their arguments are.
const REFUSED: [&[&str]; 9] = [
    // Keys of the kernel are kept for a user, not for a container.
    &["add_key", "keyctl", "request_key"],
    // Programs in the kernel, its counters, and what made many a way into it.
    &[
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
    ],
    // Files by a number instead of a path, and of other processes.
    &["fanotify_init", "lookup_dcookie", "open_by_handle_at"],
    // Other processes' descriptors and what they share.
    &["kcmp", "pidfd_getfd"],
    // The kernel itself.
    &[
        "acct",
        "create_module",
        "delete_module",
        "finit_module",
        "get_kernel_syms",
        "init_module",
        "kexec_file_load",
        "kexec_load",
        "query_module",
        "quotactl",
        "quotactl_fd",
        "reboot",
        "swapoff",
        "swapon",
        "syslog",
        "vhangup",
    ],
    // The clock of the machine.
    &["clock_settime", "clock_settime64", "settimeofday", "stime"],
    // Mounts and namespaces: a RUN has its own already, and new ones open most of the kernel to it.
    &[
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "mount",
        "mount_setattr",
        "move_mount",
        "open_tree",
        "pivot_root",
        "setns",
        "umount",
        "umount2",
        "unshare",
    ],
    // Hardware.
    &["ioperm", "iopl", "vm86", "vm86old"],
    // Of old kernels.
    &["_sysctl", "nfsservctl", "sysfs", "uselib", "ustat"],
];

/// What `clone` may not be asked for: each is a namespace.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The section of the runtime's configuration.
pub(super) fn to_seccomp() -> Result<LinuxSeccomp, OciSpecError> {
    let refused = REFUSED.concat();
    let mut rules = vec![refuse(&refused, NOT_PERMITTED, None)?];
    for flag in NAMESPACES {
        let flag = u64::from(flag.unsigned_abs());
        let asked = argument(flag, LinuxSeccompOperator::ScmpCmpMaskedEq, Some(flag))?;
        rules.push(refuse(&["clone"], NOT_PERMITTED, Some(asked))?);
    }
    // Its flags are in memory, where a filter cannot look.
    rules.push(refuse(&["clone3"], NOT_IMPLEMENTED, None)?);
    // The host of a virtual machine listens on these, and no network namespace keeps them apart.
    let machine = u64::from(libc::AF_VSOCK.unsigned_abs());
    let machine = argument(machine, LinuxSeccompOperator::ScmpCmpEq, None)?;
    rules.push(refuse(&["socket"], NOT_PERMITTED, Some(machine))?);
    let section = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(architectures())
        .syscalls(rules);
    section.build()
}

fn refuse(
    names: &[&str],
    errno: u32,
    argument: Option<LinuxSeccompArg>,
) -> Result<LinuxSyscall, OciSpecError> {
    let rule = LinuxSyscallBuilder::default()
        .names(names.iter().map(ToString::to_string).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(errno);
    match argument {
        Some(argument) => rule.args(vec![argument]).build(),
        None => rule.build(),
    }
}

/// The first argument of a call.
fn argument(
    value: u64,
    operator: LinuxSeccompOperator,
    value_two: Option<u64>,
) -> Result<LinuxSeccompArg, OciSpecError> {
    let argument = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(value)
        .op(operator);
    match value_two {
        Some(value_two) => argument.value_two(value_two).build(),
        None => argument.build(),
    }
}

/// What the kernel of this machine executes; the runtime refuses calls of any other kind.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_builds_need_is_not_refused() {
        let section = serde_json::to_value(to_seccomp().unwrap()).unwrap();
        assert_eq!(section["defaultAction"], "SCMP_ACT_ALLOW");
        let refused: Vec<&str> = section["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| rule.get("args").is_none())
            .flat_map(|rule| rule["names"].as_array().unwrap())
            .map(|name| name.as_str().unwrap())
            .collect();
        // apt's sandbox and downloads, dpkg, compilers, debuggers, sanitizers, emulators.
        for needed in [
            "chroot",
            "chown",
            "clone",
            "execve",
            "execveat",
            "fork",
            "mknod",
            "personality",
            "ptrace",
            "seccomp",
            "setxattr",
            "sync_file_range",
            "syncfs",
            "vfork",
            "name_to_handle_at",
            "process_vm_readv",
            "socket",
            "memfd_create",
            "copy_file_range",
            "statx",
            "landlock_restrict_self",
        ] {
            assert!(!refused.contains(&needed), "{needed}");
        }
        let mut once = refused.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), refused.len(), "a call is named twice");
        assert!(refused.contains(&"clone3") && refused.contains(&"keyctl"));
    }

    #[test]
    fn every_namespace_is_a_rule_of_clone() {
        let section = serde_json::to_value(to_seccomp().unwrap()).unwrap();
        let flags = section["syscalls"].as_array().unwrap().iter();
        let flags = flags
            .filter(|rule| rule["names"][0] == "clone")
            .map(|rule| {
                let argument = &rule["args"][0];
                assert_eq!(argument["op"], "SCMP_CMP_MASKED_EQ");
                assert_eq!(argument["value"], argument["valueTwo"]);
                argument["value"].as_u64().unwrap()
            })
            .fold(0, |all, flag| all | flag);
        assert_eq!(flags, 0x7e02_0000);
    }
}
