//! Entering the user namespace that the engine works in. The program starts itself again: an outer process that stays
//! where it is and watches, an init inside that owns the namespaces and reaps, and the engine. When the outer one or the
//! init ends, the kernel kills everything below. It decides nothing about what runs inside.
//!
//! Inside there are 65,536 ids, root with all capabilities, own mounts, processes, System V IPC and host name; the network
//! is the one outside.
#![expect(
    unsafe_code,
    reason = "clone, exec and environment changes have no safe interface"
)]

use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStringExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    io::{Errno, FdFlags},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{
        DumpableBehavior, Pid, Signal, WaitOptions, set_dumpable_behavior,
        set_parent_process_death_signal, waitpid,
    },
};

use super::{
    id_map::{self, Range},
    mount as overlay,
    probe::{Prerequisite, ProbeError, explain_refused_namespace},
    supervise::{block_signals, supervise, unblock_signals},
};

/// Says to a process that this module started which part it plays: `init:<descriptor>` or `engine`.
const STAGE: &str = "COOPERY_STAGE";

/// Proof that this process is the engine inside its namespaces.
#[derive(Debug)]
pub struct Entered {
    /// The program that runs containers.
    pub crun: PathBuf,
}

/// Puts this process into a user namespace of its own. Must be called before any thread exists; the same arguments are
/// seen by every process that this starts, so call it at one place, after looking at the arguments and before anything
/// else has an effect.
///
/// In the process that the user started it returns only when the isolation cannot be had; else it waits for the engine
/// and exits with its code. In the engine it returns [`Entered`]. `workspace` is where layers will live: overlay mounts
/// are tried there, and it is created when it is absent.
///
/// # Errors
/// The first prerequisite that is missing. Nothing is left running then, and the process is as it was.
pub fn enter_user_namespace(workspace: &Path) -> Result<Entered, ProbeError> {
    match std::env::var(STAGE).ok().as_deref() {
        Some("engine") => engine(),
        Some(stage) => match stage.strip_prefix("init:").and_then(|fd| fd.parse().ok()) {
            Some(status) => init(status, workspace),
            None => outer(workspace),
        },
        None => outer(workspace),
    }
}

// The process that the user started.

fn outer(workspace: &Path) -> Result<Entered, ProbeError> {
    let own = |what: &str, error: io::Error| {
        ProbeError::new(Prerequisite::Process, format!("{what}: {error}"))
    };
    if fs_err::read_dir("/proc/self/task").map_or(1, Iterator::count) != 1 {
        return Err(ProbeError::new(
            Prerequisite::Process,
            "the user namespace must be entered before threads are started",
        ));
    }
    fs_err::create_dir_all(workspace).map_err(|error| own("making the workspace", error))?;
    let crun = super::find_crun()?;
    drop(crun);

    let (status_read, status_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| own("pipe", e.into()))?;
    let (go_read, go_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| own("pipe", e.into()))?;
    let image = Image::new(&format!("init:{}", status_write.as_raw_fd()));
    block_signals().map_err(|error| own("blocking signals", error))?;
    let restored = |error: ProbeError| {
        let _ = unblock_signals();
        error
    };

    let child = match clone_into_namespaces() {
        Ok(Some(child)) => child,
        Ok(None) => {
            drop(go_write);
            become_init(&image, &go_read, &status_write)
        }
        Err(errno) => {
            return Err(restored(explain_refused_namespace(
                errno,
                fs_err::read_to_string("/proc/sys/user/max_user_namespaces")
                    .ok()
                    .as_deref(),
                fs_err::read_to_string("/proc/sys/kernel/unprivileged_userns_clone")
                    .ok()
                    .as_deref(),
                &fs_err::read_to_string("/proc/self/status").unwrap_or_default(),
            )));
        }
    };
    drop((go_read, status_write));

    let failed = match write_maps(child) {
        Ok(()) => {
            // A child that is gone reports through its pipe, or by its end.
            let _ = rustix::io::write(&go_write, b"g");
            drop(go_write);
            let mut report = Vec::new();
            let read = File::from(status_read).read_to_end(&mut report);
            match (read, report.is_empty()) {
                (Ok(_), true) => None,
                (Ok(_), false) => Some(serde_json::from_slice(&report).unwrap_or_else(|_| {
                    ProbeError::new(Prerequisite::Process, String::from_utf8_lossy(&report))
                })),
                (Err(error), _) => Some(own("reading the report of the init", error)),
            }
        }
        Err(error) => {
            drop(go_write);
            Some(error)
        }
    };
    if let Some(error) = failed {
        let _ = waitpid(Some(child), WaitOptions::empty());
        return Err(restored(error));
    }
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    match supervise(child) {
        Ok(code) => std::process::exit(code),
        Err(error) => Err(own("waiting for the engine", error)),
    }
}

/// A child of this process, process 1 in new namespaces; `None` in the child.
fn clone_into_namespaces() -> Result<Option<Pid>, Errno> {
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWPID
        | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with a null stack this is fork: the child gets a copy of all memory. The process has
    // a single thread (checked by the caller), so no lock is held by a thread that the child lacks.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(flags),
            0_usize,
            0_usize,
            0_usize,
            0_usize,
        )
    };
    match i32::try_from(result) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Pid::from_raw(pid)),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// What the child executes, made before it exists.
struct Image {
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Image {
    fn new(stage: &str) -> Self {
        let text = |value: OsString| {
            CString::new(value.into_vec())
                .expect("the kernel hands over strings without a zero byte")
        };
        let environment = std::env::vars_os()
            .filter(|(name, _)| name != STAGE)
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                text(name)
            })
            .chain([text(format!("{STAGE}={stage}").into())])
            .collect();
        Self {
            arguments: std::env::args_os().map(text).collect(),
            environment,
        }
    }

    /// Replaces this process; returns only the error.
    fn execute(&self) -> io::Error {
        let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
            texts
                .iter()
                .map(|text| text.as_ptr())
                .chain([std::ptr::null()])
                .collect()
        };
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        // SAFETY: both arrays end with a null pointer and point to strings that live until the call returns.
        unsafe {
            libc::execve(
                c"/proc/self/exe".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
            );
        }
        io::Error::last_os_error()
    }
}

/// In the child: waits for the maps, then becomes the init. Ends the process when that fails.
fn become_init(image: &Image, go: &OwnedFd, status: &OwnedFd) -> ! {
    let run = || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let mut byte = [0];
        if rustix::io::read(go, &mut byte)? != 1 {
            // The outer process refused or is gone; it knows why.
            std::process::exit(1);
        }
        // New credentials would clear the death signal; the ids are those of root already, by the map.
        rustix::io::fcntl_setfd(status, FdFlags::empty())?;
        unblock_signals()?;
        Err(image.execute())
    };
    if let Err(error) = run() {
        let _ = rustix::io::write(status, error.to_string().as_bytes());
    }
    std::process::exit(1)
}

fn write_maps(child: Pid) -> Result<(), ProbeError> {
    if rustix::process::geteuid().is_root() {
        for name in ["uid_map", "gid_map"] {
            let refused = |detail: String| ProbeError::new(Prerequisite::IdMap, detail);
            let own = fs_err::read_to_string(format!("/proc/self/{name}"))
                .map_err(|error| refused(error.to_string()))?;
            let map = id_map::identity_map(&own)
                .ok_or_else(|| refused(format!("{name} of this pod has fewer than 65536 ids")))?;
            let path = format!("/proc/{}/{name}", child.as_raw_nonzero());
            let written = fs_err::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| file.write_all(map.as_bytes()));
            written.map_err(|error| refused(format!("writing {name} is refused ({error})")))?;
        }
        return Ok(());
    }
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let number = uid.to_string();
    let passwd = fs_err::read_to_string("/etc/passwd").unwrap_or_default();
    let name = id_map::name_of(&passwd, uid).unwrap_or(&number);
    for (program, file, own) in [
        ("newuidmap", "/etc/subuid", uid),
        ("newgidmap", "/etc/subgid", gid),
    ] {
        let text = fs_err::read_to_string(file).unwrap_or_default();
        let ranges = id_map::subordinate_map(&text, &[name, &number], own).ok_or_else(|| {
            ProbeError::new(
                Prerequisite::SubordinateIds,
                format!("{file} has no 65535 ids for the user {name}"),
            )
        })?;
        let output = Command::new(program)
            .arg(child.as_raw_nonzero().to_string())
            .args(ranges.into_iter().flat_map(Range::arguments))
            .output()
            .map_err(|error| {
                ProbeError::new(
                    Prerequisite::SubordinateIds,
                    format!("starting {program}: {error}"),
                )
            })?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            return Err(ProbeError::new(
                Prerequisite::SubordinateIds,
                format!("{program}: {}", message.trim()),
            ));
        }
    }
    Ok(())
}

// The init: process 1 of the namespaces.

fn init(status: i32, workspace: &Path) -> Result<Entered, ProbeError> {
    // SAFETY: the outer process left this descriptor open for us and told its number; nothing else uses it.
    let mut status = File::from(unsafe { OwnedFd::from_raw_fd(status) });
    let _ = rustix::io::fcntl_setfd(status.as_fd(), FdFlags::CLOEXEC);
    let started = prepare(workspace).and_then(|()| {
        let process = |error: io::Error| {
            ProbeError::new(
                Prerequisite::Process,
                format!("starting the engine: {error}"),
            )
        };
        block_signals().map_err(process)?;
        let mut arguments = std::env::args_os();
        let mut command = Command::new("/proc/self/exe");
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        // SAFETY: the closure only makes a system call that is safe between fork and exec.
        unsafe {
            command.pre_exec(unblock_signals);
        }
        command
            .args(arguments)
            .env(STAGE, "engine")
            .spawn()
            .map_err(process)
    });
    let child = match started {
        Ok(child) => child,
        Err(error) => {
            let json = serde_json::to_vec(&error).expect("plain values");
            let _ = status.write_all(&json);
            std::process::exit(1)
        }
    };
    drop(status);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let code = pid.map_or(Ok(255), supervise).unwrap_or(255);
    std::process::exit(code)
}

/// Makes the mounts that the engine needs, and tries those that it will make.
fn prepare(workspace: &Path) -> Result<(), ProbeError> {
    let mounts = |what: &str, errno: Errno| {
        ProbeError::new(Prerequisite::Mounts, format!("{what} is refused ({errno})"))
    };
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|errno| mounts("making mounts private", errno))?;
    mount(
        "proc",
        "/proc",
        "proc",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .map_err(|errno| {
        ProbeError::new(
            Prerequisite::Proc,
            format!("a fresh /proc cannot be mounted ({errno})"),
        )
    })?;
    hide_hybrid_cgroups().map_err(|errno| mounts("mounting a tmpfs", errno))?;
    overlay::try_overlay(workspace).map_err(|error| {
        ProbeError::new(
            Prerequisite::Overlay,
            format!(
                "an overlay cannot be mounted in {}: {error}",
                workspace.display()
            ),
        )
    })
}

/// crun refuses to run where both versions of cgroups are mounted, even when it is told to leave them alone. What it
/// looks at is hidden from it; the memory controller of version 1 stays readable.
fn hide_hybrid_cgroups() -> Result<(), Errno> {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    let unified = "/sys/fs/cgroup/unified";
    match rustix::fs::statfs(unified) {
        Ok(found) if u64::try_from(found.f_type) == Ok(CGROUP2_SUPER_MAGIC) => {
            mount("tmpfs", unified, "tmpfs", MountFlags::RDONLY, None)
        }
        _ => Ok(()),
    }
}

// The engine.

fn engine() -> Result<Entered, ProbeError> {
    // SAFETY: no other thread exists yet: this is called first in main.
    unsafe {
        std::env::remove_var(STAGE);
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| ProbeError::new(Prerequisite::Process, format!("prctl: {errno}")))?;
    // Directories that are made for steps must not depend on who started the engine.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(Entered {
        crun: super::find_crun()?,
    })
}
