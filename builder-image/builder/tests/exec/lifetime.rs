//! How processes end, and that nothing outlives them.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use builder::exec::ExecError;

use crate::{PART, WORKSPACE, bench::Bench, start_part};

pub(crate) fn cancelling_kills_everything(bench: &Bench) {
    let ready = AtomicBool::new(false);
    let started = Instant::now();
    let container = Bench::container(
        "sleep 9871 & (sleep 9872 &) ; trap '' TERM INT; echo ready; sleep 9873; sleep 9874",
    );
    let (result, ..) = bench.execute(
        &container,
        &|| ready.load(Ordering::Relaxed),
        &mut |_, line| {
            if line == b"ready" {
                ready.store(true, Ordering::Relaxed);
            }
        },
    );
    assert!(matches!(result, Err(ExecError::Cancelled)), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

pub(crate) fn what_runs_in_the_background_ends_with_the_step(bench: &Bench) {
    let started = Instant::now();
    let ran = bench.script("sleep 9875 & (trap '' HUP TERM; sleep 9876) & echo done");
    assert_eq!((ran.status.code, ran.stdout.as_str()), (0, "done\n"));
    assert!(started.elapsed() < Duration::from_secs(10));
}

pub(crate) fn a_panic_of_the_listener_leaves_nothing(bench: &Bench) {
    let container = Bench::container("echo x; sleep 9877");
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        bench.execute(&container, &|| false, &mut |_, _| {
            std::panic::resume_unwind(Box::new("listener"))
        })
    }));
    assert!(caught.is_err());
}

pub(crate) fn several_run_at_once(bench: &Bench) {
    std::thread::scope(|scope| {
        for index in 0..8 {
            scope.spawn(move || {
                let ran = bench.script(&format!(
                    "echo {index} > /etc/number; cat /etc/number; echo $$"
                ));
                assert_eq!(ran.stdout, format!("{index}\n1\n"));
            });
        }
    });
}

/// Whether a process with `argument` in its command line runs.
pub(crate) fn runs(argument: &str) -> bool {
    fs_err::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs_err::read(entry.ok()?.path().join("cmdline")).ok())
        .any(|cmdline| {
            cmdline
                .split(|byte| *byte == 0)
                .any(|word| word == argument.as_bytes())
        })
}

pub(crate) fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{what} did not happen in 20 s"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn killing_the_outermost_process_kills_everything(_: &Bench) {
    for (signal, code) in [
        (rustix::process::Signal::KILL, None),
        (rustix::process::Signal::TERM, Some(143)),
        (rustix::process::Signal::INT, Some(130)),
    ] {
        let mut child = start_part("sleeper")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        await_that("the step", || runs("98765"));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code);
        await_that("the end of the step", || !runs("98765"));
    }
}

pub(crate) fn exit_codes_pass_through_the_namespaces(_: &Bench) {
    for code in [0, 1, 42] {
        let status = start_part(&format!("exit {code}")).status().unwrap();
        assert_eq!(status.code(), Some(code));
    }
}

pub(crate) fn missing_prerequisites_have_names(_: &Bench) {
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let rows: [Row<'_>; 2] = [
        (
            "report",
            &[("COOPERY_CRUN", "/nowhere/crun")],
            "Crun: COOPERY_CRUN is /nowhere/crun",
        ),
        ("report on /proc", &[], "Process: making the workspace"),
    ];
    for (part, variables, expected) in rows {
        let output = start_part(part)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with(expected), "{text}");
    }
    // The ids are used up: a limit of the namespace that the test runs in.
    fs_err::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let output = start_part("report").output().unwrap();
    fs_err::write("/proc/sys/user/max_user_namespaces", "1000").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("UserNamespaces: no more user namespaces"),
        "{text}"
    );
}

/// A cgroup with little memory, below the one of this process; `None` where there is no writable memory controller of
/// version 1 (under version 2 the kernel kills the whole container, and nobody is left to report it).
pub(crate) fn small_cgroup() -> Option<PathBuf> {
    let own = fs_err::read_to_string("/proc/self/cgroup").ok()?;
    let path = own
        .lines()
        .find_map(|line| line.split_once(":memory:/"))?
        .1
        .to_owned();
    let cgroup = Path::new("/sys/fs/cgroup/memory")
        .join(path)
        .join(format!("exec-test-{}", std::process::id()));
    fs_err::create_dir(&cgroup).ok()?;
    fs_err::write(cgroup.join("memory.limit_in_bytes"), "100M").ok()?;
    Some(cgroup)
}

/// Runs in the process that the user started, because it needs the cgroups of the machine.
pub(crate) fn running_out_of_memory_is_recognised(workspace: &Path) {
    let name = "running_out_of_memory_is_recognised";
    let Some(cgroup) = small_cgroup() else {
        println!("test {name} ... left out, there is no writable memory cgroup of version 1");
        return;
    };
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec /proc/{}/exe",
        cgroup.display(),
        std::process::id()
    );
    let output = Command::new("/bin/sh")
        .args(["-c", &script])
        .env(PART, "memory")
        .env(WORKSPACE, workspace)
        .output()
        .unwrap();
    await_that("the end of the processes", || {
        fs_err::remove_dir(&cgroup).is_ok()
    });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        text, "Err(OutOfMemory { code: 137 })\nOk(ExitStatus { code: 137 })\n",
        "{output:?}"
    );
    println!("test {name} ... ok");
}
