//! One process from its mounts to its exit code. A thread of its own enters new mount and process namespaces, mounts the
//! overlay there and starts crun as process 1 of them: killing crun kills everything that it started, and the mounts go
//! with the last process. Nothing is mounted where the rest of the engine could see it.
#![expect(unsafe_code, reason = "unshare and pre_exec have no safe interface")]

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Timespec, fcntl_setfl},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, pidfd_open},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{
    Attachment, Container, ExecError, ExitStatus, Runtime, Stream,
    attach::{Private, attach},
    landlock,
    lines::Lines,
    memory::OomCounter,
    mount::Overlay,
    process_limit, root, to_spec,
};

/// How often a running process is looked at for cancellation.
const TICK: Duration = Duration::from_millis(50);

/// How long output is waited for after the process ended. It is complete by then, unless the process handed its pipe to
/// somebody outside.
const DRAIN: Duration = Duration::from_secs(2);

/// A process and the tree that it runs on.
#[derive(Debug)]
pub struct Job<'a> {
    /// What to run.
    pub container: &'a Container,
    /// The layers as directories, the lowest first. The lowest should hold the mount points that the image may lack.
    pub lowers: &'a [PathBuf],
    /// An empty directory that takes the changes, on the file system of `scratch`.
    pub upper: &'a Path,
    /// A directory for this process alone, which the caller removes afterwards.
    pub scratch: &'a Path,
    /// What the mounts of the container show at [`super::attached`].
    pub attachments: &'a [Attachment],
}

/// Runs the process to its end and hands its output on, line by line without newlines. A working directory that is absent
/// is made, for the user of the process. `cancelled` is asked about twenty times a second.
///
/// # Errors
/// See [`ExecError`]. An exit code other than 0 is no error, unless the kernel killed something for lack of memory.
pub fn execute(
    job: &Job<'_>,
    runtime: &Runtime,
    cancelled: &dyn Fn() -> bool,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<ExitStatus, ExecError> {
    let counter = OomCounter::find();
    let killed_before = counter.as_ref().and_then(OomCounter::read);

    let spec = to_spec(job.container).map_err(|error| ExecError::Runtime {
        message: error.to_string(),
    })?;
    let json = serde_json::to_vec(&spec).map_err(|error| ExecError::Runtime {
        message: error.to_string(),
    })?;
    let pipe = || {
        pipe_with(PipeFlags::CLOEXEC)
            .map_err(|errno| ExecError::system("making a pipe")(errno.into()))
    };
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;

    let started = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("run-mounts".into())
            .spawn_scoped(scope, || start(job, runtime, &json, stdout_end, stderr_end))
            .map_err(ExecError::system("starting a thread"))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let mut child = Guard(started.child);
    let ended = watch(&mut child.0, &[stdout, stderr], cancelled, output);
    drop(child);
    started
        .stubs
        .remove_from(job.upper)
        .map_err(ExecError::system("removing mount points"))?;
    let ended = ended?;

    let code = ended
        .code()
        .unwrap_or_else(|| 128 + ended.signal().unwrap_or(0));
    if code == 0 {
        return Ok(ExitStatus { code });
    }
    let killed = counter.as_ref().and_then(OomCounter::read);
    if killed
        .zip(killed_before)
        .is_some_and(|(now, before)| now > before)
    {
        return Err(ExecError::OutOfMemory { code });
    }
    match runtime_error(&fs_err::read_to_string(job.scratch.join("crun.log")).unwrap_or_default()) {
        None => Ok(ExitStatus { code }),
        Some(message) if is_about_command(&message) => {
            let program = job.container.args.first().map_or("", String::as_str);
            // crun has written its message to the output of the step already, but often without saying about what.
            if !message.contains(program) {
                output(Stream::Stderr, format!("{program}: {message}").as_bytes());
            }
            Ok(ExitStatus { code: 127 })
        }
        Some(message) => Err(ExecError::Runtime { message }),
    }
}

/// Kills and reaps the child when nobody has waited for it.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

struct Started {
    child: Child,
    stubs: root::Stubs,
}

/// Runs in a thread that ends afterwards, because nothing else could use its namespaces and working directory.
fn start(
    job: &Job<'_>,
    runtime: &Runtime,
    json: &[u8],
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<Started, ExecError> {
    let system = |doing| {
        move |errno: Errno| ExecError::System {
            doing,
            source: errno.into(),
        }
    };
    // SAFETY: only this thread is affected, and it shares no descriptors table with the others afterwards that they would
    // miss: file descriptors stay shared, only mounts, working directory and the namespace of future children change.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS | UnshareFlags::NEWPID) }
        .map_err(system("entering new namespaces"))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(system("making mounts private"))?;
    let scratch = std::path::absolute(job.scratch)
        .map_err(ExecError::system("finding the scratch directory"))?;
    let overlay = Overlay {
        lowers: job.lowers,
        upper: Some(job.upper),
        scratch: &scratch,
    };
    overlay
        .prepare()
        .map_err(ExecError::system("preparing the overlay of the step"))?;
    overlay
        .mount()
        .map_err(ExecError::system("mounting the overlay of the step"))?;
    let root = root::Root::open(&overlay.target())
        .map_err(ExecError::system("opening the root of the step"))?;
    let stubs = root.missing_mount_points(job.container)?;
    root.ensure_working_directory(&job.container.cwd, &job.container.identity)?;
    drop(root);
    // The configuration holds what the process gets to know, secrets too: it stays in memory.
    let private = Private::mount(&scratch)
        .map_err(ExecError::system("mounting the private files of the step"))?;
    let config = private.path("config.json");
    fs_err::write(&config, json).map_err(ExecError::system(
        "writing the configuration of the container",
    ))?;
    for (index, attachment) in job.attachments.iter().enumerate() {
        attach(&scratch, index, attachment)?;
    }

    let mut command = Command::new(&runtime.crun);
    command
        .arg("--cgroup-manager=disabled")
        .arg("--root")
        .arg(private.path("state"))
        .arg("--log")
        .arg(scratch.join("crun.log"))
        .args(["--log-format=json", "run", "--bundle"])
        .arg(&scratch)
        .arg("--config")
        .arg(&config)
        .arg("step")
        .env_clear()
        .current_dir(&scratch)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    let own_sockets = landlock::own_abstract_sockets()
        .map_err(ExecError::system("confining the step to its own sockets"))?;
    let bound = process_limit::bound(&job.container.limits);
    // SAFETY: between fork and exec the closure only makes system calls with strings and descriptors that exist already.
    unsafe {
        // crun is process 1 of its namespace and finds the processes that it makes below a /proc of that namespace.
        command.pre_exec(move || {
            mount(
                c"proc",
                c"/proc",
                c"proc",
                MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
                None,
            )?;
            if let Some(bound) = &bound {
                // Where a policy keeps it read-only, RLIMIT_NPROC is left.
                let _ = process_limit::enter(bound);
            }
            match &own_sockets {
                Some(rules) => landlock::enter(rules.as_fd()),
                None => Ok(()),
            }
        });
    }
    let child = command
        .spawn()
        .map_err(ExecError::system("starting crun"))?;
    Ok(Started { child, stubs })
}

/// Reads output until the process and its pipes are at their end.
fn watch(
    child: &mut Child,
    pipes: &[OwnedFd; 2],
    cancelled: &dyn Fn() -> bool,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<std::process::ExitStatus, ExecError> {
    let system = |doing| {
        move |errno: Errno| ExecError::System {
            doing,
            source: errno.into(),
        }
    };
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a child has a process id");
    let ended = pidfd_open(pid, PidfdFlags::empty()).map_err(system("watching crun"))?;
    for pipe in pipes {
        fcntl_setfl(pipe, rustix::fs::OFlags::NONBLOCK).map_err(system("setting up a pipe"))?;
    }
    let mut sources = [
        (Stream::Stdout, pipes[0].as_fd()),
        (Stream::Stderr, pipes[1].as_fd()),
    ]
    .map(|(stream, pipe)| Some((stream, pipe)));
    let mut lines = [Lines::default(), Lines::default()];
    let mut status = None;
    let mut deadline = None;
    let mut stopped = false;
    let mut buffer = vec![0; 64 * 1024];
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(TICK.subsec_nanos()),
    };
    loop {
        if !stopped && status.is_none() && cancelled() {
            stopped = true;
            child
                .kill()
                .map_err(ExecError::system("killing the step"))?;
        }
        for (index, source) in sources.iter_mut().enumerate() {
            let Some((stream, pipe)) = *source else {
                continue;
            };
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => *source = None,
                Ok(count) => lines[index].push(&buffer[..count], &mut |line| output(stream, line)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(system("reading the output of the step")(errno)),
            }
        }
        if status.is_some()
            && (sources.iter().all(Option::is_none)
                || deadline.is_some_and(|at| Instant::now() >= at))
        {
            break;
        }
        let mut polled: Vec<PollFd<'_>> = sources
            .iter()
            .flatten()
            .map(|(_, pipe)| PollFd::from_borrowed_fd(*pipe, PollFlags::IN))
            .collect();
        if status.is_none() {
            polled.push(PollFd::new(&ended, PollFlags::IN));
        }
        match poll(&mut polled, Some(&tick)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(system("waiting for the step")(errno)),
        }
        if status.is_none()
            && let Some(found) = child
                .try_wait()
                .map_err(ExecError::system("waiting for crun"))?
        {
            status = Some(found);
            deadline = Some(Instant::now() + DRAIN);
        }
    }
    for (lines, stream) in lines.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
        lines.finish(&mut |line| output(stream, line));
    }
    match status {
        Some(_) if stopped => Err(ExecError::Cancelled),
        Some(status) => Ok(status),
        None => Err(ExecError::system("waiting for crun")(
            io::ErrorKind::Other.into(),
        )),
    }
}

/// The errors in crun's log: one JSON object a line, with `msg` and `level`.
fn runtime_error(log: &str) -> Option<String> {
    let mut messages: Vec<String> = log
        .lines()
        .filter_map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            if value.get("level").is_some_and(|level| level != "error") {
                return None;
            }
            Some(value.get("msg")?.as_str()?.to_owned())
        })
        .collect();
    // It says some things twice: where they happen, and where it gives up.
    messages.dedup();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// Whether crun failed because of the program that the step names, and not because of the machine.
fn is_about_command(message: &str) -> bool {
    message.starts_with("executable file")
        || message.starts_with("exec container process")
        || message.starts_with("open executable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_runtime_are_read_from_its_log() {
        let log = r#"{"msg":"executable file `nope` not found in $PATH: No such file or directory","level":"error","time":"2026"}
{"msg":"executable file `nope` not found in $PATH: No such file or directory","level":"error","time":"2026"}
{"msg":"a hint","level":"warning"}
not json"#;
        let message = runtime_error(log);
        assert_eq!(
            message.as_deref(),
            Some("executable file `nope` not found in $PATH: No such file or directory")
        );
        assert!(message.is_some_and(|message| is_about_command(&message)));
        assert_eq!(runtime_error(""), None);
        assert!(!is_about_command(
            "mount `proc` to `proc`: Operation not permitted"
        ));
    }
}
