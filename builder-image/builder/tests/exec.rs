//! RUN for real: namespaces, overlay mounts and crun on this machine. It has a `main` of its own because entering the
//! user namespace starts the program again before any thread exists. Where that is not possible it says what it leaves out and why.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use builder::exec::{
    Bind, Container, Entered, ExecError, ExitStatus, Identity, Job, Runtime, Stream,
    enter_user_namespace, execute,
};
use builder::{
    layer::LayerDir,
    snapshot::Snapshot,
    step::run::{RunSpec, run},
};

/// A workspace with a busybox root as its only layer.
struct Bench {
    directory: tempfile::TempDir,
    runtime: Runtime,
    layers: Vec<PathBuf>,
}

/// What one run left.
struct Ran {
    status: ExitStatus,
    upper: PathBuf,
    stdout: String,
    stderr: String,
    _scratch: tempfile::TempDir,
}

impl Bench {
    fn new(entered: &Entered, workspace: &Path) -> Self {
        let directory = tempfile::tempdir_in(workspace).unwrap();
        let root = directory.path().join("base");
        for path in ["bin", "tmp", "etc", "proc", "sys", "dev"] {
            fs_err::create_dir_all(root.join(path)).unwrap();
        }
        fs_err::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "id", "cat", "ls", "env", "sleep", "rm", "mkdir", "touch", "pwd", "true", "dd",
            "readlink", "chown", "mount", "hostname", "stat", "wc", "head", "tail", "seq", "tr",
            "grep",
        ] {
            fs_err::hard_link(root.join("bin/busybox"), root.join("bin").join(applet)).unwrap();
        }
        for (path, text) in [
            ("etc/hosts", ""),
            ("etc/resolv.conf", ""),
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ] {
            fs_err::write(root.join(path), text).unwrap();
        }
        let scratch = directory.path().join("scratch");
        fs_err::create_dir(&scratch).unwrap();
        Self {
            runtime: Runtime::new(entered, scratch),
            layers: vec![root],
            directory,
        }
    }

    fn container(script: &str) -> Container {
        Container {
            args: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: vec!["PATH=/bin".into(), "HOME=/root".into()],
            cwd: "/".into(),
            identity: Identity::default(),
            hostname: "buildkitsandbox".into(),
            network: true,
            binds: Vec::new(),
            oom_score_adj: 500,
        }
    }

    fn execute(
        &self,
        container: &Container,
        cancelled: &dyn Fn() -> bool,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> (Result<ExitStatus, ExecError>, PathBuf, tempfile::TempDir) {
        let scratch = tempfile::tempdir_in(self.runtime.scratch()).unwrap();
        let upper = tempfile::tempdir_in(self.directory.path()).unwrap().keep();
        fs_err::set_permissions(&upper, PermissionsExt::from_mode(0o755)).unwrap();
        let job = Job {
            container,
            lowers: &self.layers,
            upper: &upper,
            scratch: scratch.path(),
        };
        let result = execute(&job, &self.runtime, cancelled, output);
        (result, upper, scratch)
    }

    fn run(&self, container: &Container) -> Ran {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let (status, upper, scratch) = self.execute(container, &|| false, &mut |stream, line| {
            let into = match stream {
                Stream::Stdout => &mut stdout,
                Stream::Stderr => &mut stderr,
            };
            into.push_str(&String::from_utf8_lossy(line));
            into.push('\n');
        });
        Ran {
            status: status.unwrap(),
            upper,
            stdout,
            stderr,
            _scratch: scratch,
        }
    }

    fn script(&self, script: &str) -> Ran {
        self.run(&Bench::container(script))
    }
}

fn files_are_in_the_upper_directory(bench: &Bench) {
    let ran = bench.script("echo hello > /etc/greeting; rm /etc/passwd; echo out; echo err >&2");
    assert_eq!(ran.status.code, 0, "{}", ran.stderr);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(
        fs_err::read_to_string(ran.upper.join("etc/greeting")).unwrap(),
        "hello\n"
    );
    let whiteout = fs_err::symlink_metadata(ran.upper.join("etc/passwd")).unwrap();
    assert_eq!(whiteout.rdev(), 0);
    assert_eq!(whiteout.mode() & 0o170_000, 0o020_000);
    let names: BTreeSet<String> = names(&ran.upper);
    assert_eq!(names, BTreeSet::from(["etc".to_owned()]));
}

fn exit_codes_are_handed_on(bench: &Bench) {
    assert_eq!(bench.script("exit 3").status.code, 3);
    assert_eq!(bench.script("sh -c 'kill -9 $$'; exit $?").status.code, 137);
    let mut container = Bench::container("");
    container.args = vec!["nope".into()];
    let ran = bench.run(&container);
    assert_eq!(ran.status.code, 127, "{}", ran.stderr);
    assert!(ran.stderr.contains("nope"), "{}", ran.stderr);
    container.args = vec!["/etc/passwd".into()];
    let ran = bench.run(&container);
    assert_eq!(ran.status.code, 127, "{} {}", ran.status.code, ran.stderr);
}

fn names(directory: &Path) -> BTreeSet<String> {
    fs_err::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

fn nothing_of_the_engine_is_visible(bench: &Bench) {
    // A descriptor that is open over exec, as a careless library might leave it.
    let secret = bench.directory.path().join("secret");
    fs_err::write(&secret, "descriptor-secret").unwrap();
    let leaked = fs_err::File::open(&secret).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    assert!(std::env::var(SECRET).is_ok());
    let ran = bench.script(
        "ls -l /proc/self/fd; env; for p in /proc/[0-9]*; do cat $p/environ $p/cmdline; ls -l $p/fd $p/cwd $p/root; done; \
         cat /proc/*/fd/[3-9] 2>/dev/null; ls /proc | grep -c '^[0-9]'; true",
    );
    let all = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!all.contains("secret") && !all.contains("s3cr3t"), "{all}");
    assert!(!all.contains("exec-") && !all.contains("crun"), "{all}");
    assert!(!all.contains("CARGO") && !all.contains("COOPERY"), "{all}");
    let variables = bench.script("env");
    let found: BTreeSet<&str> = variables
        .stdout
        .lines()
        .filter_map(|line| line.split('=').next())
        .filter(|name| !["SHLVL", "PWD", "OLDPWD", "_"].contains(name))
        .collect();
    assert_eq!(
        found,
        BTreeSet::from(["HOME", "PATH"]),
        "{}",
        variables.stdout
    );
}

fn the_surroundings_are_those_of_a_container(bench: &Bench) {
    let rows = [
        ("hostname", "buildkitsandbox\n"),
        ("id -u; id -g", "0\n0\n"),
        ("echo $$", "1\n"),
        ("pwd", "/\n"),
        (
            "readlink /dev/fd; readlink /dev/ptmx",
            "/proc/self/fd\npts/ptmx\n",
        ),
        ("cat < /dev/stdin | wc -c", "0\n"),
        ("echo x > /dev/null && head -c 2 /dev/zero | wc -c", "2\n"),
        ("echo x > /dev/shm/x && cat /dev/shm/x", "x\n"),
        (
            "while read k v; do case $k in CapEff:|CapBnd:|NoNewPrivs:) echo $v;; esac; done < /proc/self/status",
            "00000000a80425fb\n00000000a80425fb\n0\n",
        ),
        (
            "wc -c < /proc/interrupts; ls /sys/firmware | wc -l",
            "0\n0\n",
        ),
        (
            "(echo 1 > /proc/sys/kernel/printk) 2>/dev/null || echo refused",
            "refused\n",
        ),
        (
            "(echo b > /proc/sysrq-trigger) 2>/dev/null || echo refused",
            "refused\n",
        ),
        (
            "(echo x > /sys/power/state) 2>/dev/null || echo refused",
            "refused\n",
        ),
        (
            "(mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/memory/x) 2>/dev/null || echo refused",
            "refused\n",
        ),
        (
            "mount -t tmpfs tmpfs /tmp 2>/dev/null || echo refused",
            "refused\n",
        ),
        ("umask", "0022\n"),
        (
            "touch /tmp/f && chown 1234:65535 /tmp/f && stat -c %u:%g /tmp/f",
            "1234:65535\n",
        ),
    ];
    for (script, expected) in rows {
        let ran = bench.script(script);
        assert_eq!(ran.stdout, expected, "{script}: {}", ran.stderr);
    }
}

fn ids_are_those_of_the_user(bench: &Bench) {
    let mut container = Bench::container(
        "id -u; id -g; id -G; touch /tmp/mine; echo err > /dev/stderr; (echo no > /etc/x) 2>/dev/null || echo refused",
    );
    container.identity = Identity {
        uid: 1000,
        gid: 100,
        additional_gids: vec![100, 7],
    };
    fs_err::set_permissions(
        bench.layers[0].join("tmp"),
        PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    let ran = bench.run(&container);
    assert_eq!(ran.stdout, "1000\n100\n100 7\nrefused\n");
    assert_eq!(ran.stderr, "err\n");
    let made = fs_err::metadata(ran.upper.join("tmp/mine")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 100));
}

fn hundreds_of_layers_can_be_stacked(bench: &Bench) {
    let mut deep = Bench {
        directory: tempfile::tempdir_in(bench.directory.path()).unwrap(),
        runtime: bench.runtime.clone(),
        layers: bench.layers.clone(),
    };
    for index in 0..498 {
        let layer = deep.directory.path().join(format!("sha256-{index:064}"));
        fs_err::create_dir(&layer).unwrap();
        fs_err::write(layer.join(format!("file-{index}")), "").unwrap();
        fs_err::write(layer.join("last"), index.to_string()).unwrap();
        deep.layers.push(layer);
        if index == 298 || index == 497 {
            let ran = deep.script("ls / | while read n; do case $n in file-*) echo $n;; esac; done | wc -l; cat /last");
            assert_eq!(
                ran.stdout,
                format!("{}\n{index}", index + 1) + "\n",
                "{}",
                ran.stderr
            );
        }
    }
    for index in 0..2 {
        let layer = deep.directory.path().join(format!("more-{index}"));
        fs_err::create_dir(&layer).unwrap();
        deep.layers.push(layer);
    }
    let (result, ..) = deep.execute(&Bench::container("true"), &|| false, &mut |_, _| {});
    assert!(
        matches!(result, Err(ExecError::System { .. })),
        "{result:?}"
    );
}

fn cancelling_kills_everything(bench: &Bench) {
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

fn what_runs_in_the_background_ends_with_the_step(bench: &Bench) {
    let started = Instant::now();
    let ran = bench.script("sleep 9875 & (trap '' HUP TERM; sleep 9876) & echo done");
    assert_eq!((ran.status.code, ran.stdout.as_str()), (0, "done\n"));
    assert!(started.elapsed() < Duration::from_secs(10));
}

fn a_panic_of_the_listener_leaves_nothing(bench: &Bench) {
    let container = Bench::container("echo x; sleep 9877");
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        bench.execute(&container, &|| false, &mut |_, _| {
            std::panic::resume_unwind(Box::new("listener"))
        })
    }));
    assert!(caught.is_err());
}

fn output_comes_line_by_line(bench: &Bench) {
    let ran =
        bench.script("seq 1 20000; head -c 40000 /dev/zero | tr '\\0' x; echo; echo -n end >&2");
    assert_eq!(
        ran.stdout
            .lines()
            .filter(|line| line.parse::<u32>().is_ok())
            .count(),
        20_000
    );
    let lengths: Vec<usize> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with('x'))
        .map(str::len)
        .collect();
    assert_eq!(lengths, [16_384, 16_384, 7_232]);
    assert_eq!(ran.stderr, "end\n");
}

fn a_working_directory_is_made_for_the_user(bench: &Bench) {
    let mut container = Bench::container("pwd; touch here");
    container.cwd = "/srv/app/data".into();
    container.identity = Identity {
        uid: 33,
        gid: 44,
        additional_gids: Vec::new(),
    };
    let ran = bench.run(&container);
    assert_eq!(ran.stdout, "/srv/app/data\n", "{}", ran.stderr);
    for path in ["srv", "srv/app", "srv/app/data"] {
        let made = fs_err::metadata(ran.upper.join(path)).unwrap();
        assert_eq!(
            (made.uid(), made.gid(), made.mode() & 0o7777),
            (33, 44, 0o755),
            "{path}"
        );
    }
    container.cwd = "/etc/passwd".into();
    let (result, ..) = bench.execute(&container, &|| false, &mut |_, _| {});
    assert!(
        matches!(result, Err(ExecError::WorkingDirectory { .. })),
        "{result:?}"
    );
}

/// Layers above the base in which `change` was made.
fn changed(bench: &Bench, change: impl FnOnce(&Path)) -> Bench {
    let directory = tempfile::tempdir_in(bench.directory.path()).unwrap();
    let layer = directory.path().join("layer");
    fs_err::create_dir(&layer).unwrap();
    change(&layer);
    let mut layers = bench.layers.clone();
    layers.push(layer);
    Bench {
        directory,
        runtime: bench.runtime.clone(),
        layers,
    }
}

fn whiteout(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn mount_points_that_a_layer_removed_are_not_left_behind(bench: &Bench) {
    let source = bench.directory.path().join("hosts");
    fs_err::write(&source, "127.0.0.1 localhost\n").unwrap();
    let removed = changed(bench, |layer| {
        fs_err::create_dir(layer.join("etc")).unwrap();
        whiteout(&layer.join("etc/hosts"));
        whiteout(&layer.join("sys"));
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs_err::File::open(layer.join("etc"))
            .unwrap()
            .into_parts()
            .0
            .set_modified(old)
            .unwrap();
    });
    let mut container = Bench::container("cat /etc/hosts; ls /sys | head -n 1");
    container.binds.push(Bind {
        source,
        destination: "/etc/hosts".into(),
    });
    let ran = removed.run(&container);
    assert_eq!(ran.stdout, "127.0.0.1 localhost\nblock\n", "{}", ran.stderr);
    assert!(!ran.upper.join("sys").exists());
    let etc = ran.upper.join("etc");
    assert!(etc.exists() && names(&etc).is_empty());
    assert_eq!(fs_err::metadata(&etc).unwrap().mtime(), 1_000_000_000);
}

fn mount_points_that_lead_elsewhere_are_refused(bench: &Bench) {
    for path in ["proc", "sys", "dev"] {
        let hostile = changed(bench, |layer| {
            whiteout(&layer.join(path));
            fs_err::remove_file(layer.join(path)).unwrap();
            std::os::unix::fs::symlink("/etc", layer.join(path)).unwrap();
        });
        let (result, ..) = hostile.execute(&Bench::container("true"), &|| false, &mut |_, _| {});
        assert!(
            matches!(&result, Err(ExecError::MountPoint { path: at }) if *at == format!("/{path}")),
            "{result:?}"
        );
    }
    let hostile = changed(bench, |layer| {
        fs_err::create_dir(layer.join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", layer.join("etc/hosts")).unwrap();
    });
    let mut container = Bench::container("cat /etc/hosts /etc/passwd");
    container.binds.push(Bind {
        source: "/etc/hostname".into(),
        destination: "/etc/hosts".into(),
    });
    let (result, ..) = hostile.execute(&container, &|| false, &mut |_, _| {});
    assert!(
        matches!(&result, Err(ExecError::MountPoint { path }) if path == "/etc/hosts"),
        "{result:?}"
    );
}

fn a_step_without_network_sees_no_interface(bench: &Bench) {
    let mut container = Bench::container(
        "ls /proc/self/net/dev && while read n rest; do echo $n; done < /proc/self/net/dev",
    );
    container.network = false;
    let ran = bench.run(&container);
    let interfaces: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|line| line.ends_with(':'))
        .collect();
    assert_eq!(interfaces, ["lo:"], "{}{}", ran.stdout, ran.stderr);
}

/// Runs a RUN on the layers of `bench`.
fn run_step(bench: &Bench, spec: &RunSpec) -> (Result<i32, ExecError>, PathBuf, String) {
    let layers = bench
        .layers
        .iter()
        .map(|path| Arc::new(LayerDir::open(path).unwrap()))
        .collect();
    let into = tempfile::tempdir_in(bench.directory.path())
        .unwrap()
        .keep()
        .join("layer");
    let mut text = String::new();
    let result = run(
        spec,
        &Snapshot::new(layers),
        &into,
        &bench.runtime,
        &|| false,
        &mut |_, line| {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        },
    );
    (result.map(|(_, status)| status.code), into, text)
}

fn shell(script: &str) -> RunSpec {
    RunSpec {
        args: vec!["/bin/sh".into(), "-c".into(), script.into()],
        cwd: "/".into(),
        network: true,
        ..RunSpec::default()
    }
}

/// A root with nothing in it but busybox and what `change` makes.
fn bare(bench: &Bench, change: impl FnOnce(&Path)) -> Bench {
    let bare = changed(bench, |layer| {
        fs_err::create_dir(layer.join("bin")).unwrap();
        for applet in names(&bench.layers[0].join("bin")) {
            fs_err::hard_link(
                bench.layers[0].join("bin/busybox"),
                layer.join("bin").join(applet),
            )
            .unwrap();
        }
        change(layer);
    });
    Bench {
        layers: bare.layers[1..].to_vec(),
        ..bare
    }
}

fn mount_points_are_not_part_of_the_layer(bench: &Bench) {
    let without = bare(bench, |_| {});
    let linked = bare(bench, |layer| {
        fs_err::create_dir_all(layer.join("real")).unwrap();
        std::os::unix::fs::symlink("real", layer.join("etc")).unwrap();
        std::os::unix::fs::symlink(
            "../run/systemd/resolve/stub-resolv.conf",
            layer.join("real/resolv.conf"),
        )
        .unwrap();
        fs_err::set_permissions(layer, PermissionsExt::from_mode(0o711)).unwrap();
    });
    for bench in [&without, &linked] {
        let (code, layer, text) = run_step(
            bench,
            &shell("cat /etc/hosts; cat /etc/resolv.conf > /dev/null && ls -d /proc/1 /dev/null"),
        );
        assert_eq!(code.unwrap(), 0, "{text}");
        assert!(
            text.starts_with("127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost"),
            "{text}"
        );
        assert!(names(&layer).is_empty(), "{:?}", names(&layer));
        let mode = |path: &Path| fs_err::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&layer), mode(bench.layers.last().unwrap()));
    }
    // What the step writes is.
    let (code, layer, text) = run_step(
        &linked,
        &shell(
            "echo 1 > /etc/file; mkdir -p /run/systemd/x; (echo x >> /etc/hosts) 2>/dev/null || echo refused",
        ),
    );
    assert_eq!((code.unwrap(), text.as_str()), (0, "refused\n"));
    assert_eq!(
        names(&layer),
        BTreeSet::from(["real".to_owned(), "run".to_owned()])
    );
    assert_eq!(
        names(&layer.join("real")),
        BTreeSet::from(["file".to_owned()])
    );
    assert_eq!(
        names(&layer.join("run/systemd")),
        BTreeSet::from(["x".to_owned()])
    );
}

fn a_step_is_run_as_its_user(bench: &Bench) {
    let image = changed(bench, |layer| {
        fs_err::create_dir(layer.join("etc")).unwrap();
        fs_err::write(
            layer.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:1001:1002::/home/app:/bin/sh\n",
        )
        .unwrap();
        fs_err::write(
            layer.join("etc/group"),
            "app:x:1002:\nextra:x:1003:app\nother:x:1004:\n",
        )
        .unwrap();
    });
    let rows = [
        ("", "0 0 [0] /root\n"),
        ("app", "1001 1002 [1002 1003] /home/app\n"),
        ("app:other", "1001 1004 [1004] /home/app\n"),
        ("1001", "1001 1002 [1002 1003] /home/app\n"),
        ("7:8", "7 8 [8] /\n"),
    ];
    for (user, expected) in rows {
        let spec = RunSpec {
            user: user.into(),
            ..shell("echo $(id -u) $(id -g) [$(id -G)] $HOME")
        };
        let (code, _, text) = run_step(&image, &spec);
        assert_eq!((code.unwrap(), text.as_str()), (0, expected), "{user}");
    }
    let spec = RunSpec {
        user: "nobody-here".into(),
        ..shell("true")
    };
    assert!(matches!(
        run_step(&image, &spec).0,
        Err(ExecError::User { .. })
    ));
}

fn scripts_and_working_directories_of_a_step(bench: &Bench) {
    let spec = RunSpec {
        args: vec!["/dev/pipes/EOF".into()],
        script: Some(("EOF".into(), "#!/bin/sh\npwd\necho $0 $A\n".into())),
        cwd: "/work/dir".into(),
        env: vec!["A=1".into(), "PATH=/bin".into()],
        ..shell("")
    };
    let (code, layer, text) = run_step(bench, &spec);
    assert_eq!(
        (code.unwrap(), text.as_str()),
        (0, "/work/dir\n/dev/pipes/EOF 1\n")
    );
    assert_eq!(names(&layer), BTreeSet::from(["work".to_owned()]));
    for cwd in ["/proc/self/fd/7", "/dev/fd/8"] {
        let spec = RunSpec {
            cwd: cwd.into(),
            ..shell("cat ../../etc/shadow")
        };
        assert!(
            matches!(
                run_step(bench, &spec).0,
                Err(ExecError::WorkingDirectory { .. })
            ),
            "{cwd}"
        );
    }
}

fn several_run_at_once(bench: &Bench) {
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

/// Starts this program again in the part `part`, inside the namespaces of the test.
fn start_part(part: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.env(PART, part);
    command
}

/// Whether a process with `argument` in its command line runs.
fn runs(argument: &str) -> bool {
    fs_err::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs_err::read(entry.ok()?.path().join("cmdline")).ok())
        .any(|cmdline| {
            cmdline
                .split(|byte| *byte == 0)
                .any(|word| word == argument.as_bytes())
        })
}

fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{what} did not happen in 20 s"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn killing_the_outermost_process_kills_everything(_: &Bench) {
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

fn exit_codes_pass_through_the_namespaces(_: &Bench) {
    for code in [0, 1, 42] {
        let status = start_part(&format!("exit {code}")).status().unwrap();
        assert_eq!(status.code(), Some(code));
    }
}

fn missing_prerequisites_have_names(_: &Bench) {
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
fn small_cgroup() -> Option<PathBuf> {
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
fn running_out_of_memory_is_recognised(workspace: &Path) {
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

/// What must be the same before and after every test.
#[derive(Debug, PartialEq)]
struct Leftovers {
    mounts: String,
    processes: usize,
    scratch: BTreeSet<String>,
}

impl Leftovers {
    fn look(bench: &Bench) -> Self {
        let processes = || {
            names(Path::new("/proc"))
                .iter()
                .filter(|name| name.parse::<u32>().is_ok())
                .count()
        };
        let wanted = 2;
        let started = Instant::now();
        while processes() != wanted && started.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
        Self {
            mounts: fs_err::read_to_string("/proc/self/mounts").unwrap(),
            processes: processes(),
            scratch: names(bench.runtime.scratch()),
        }
    }
}

/// The part that a process of this program plays; absent in the one that the user started.
const PART: &str = "COOPERY_TEST_PART";
/// The directory that all parts work in.
const WORKSPACE: &str = "COOPERY_TEST_WORKSPACE";
/// Must not be seen by any step.
const SECRET: &str = "COOPERY_TEST_SECRET";

type Test = (&'static str, fn(&Bench));

macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name)),*] };
}

const TESTS: &[Test] = tests![
    files_are_in_the_upper_directory,
    exit_codes_are_handed_on,
    nothing_of_the_engine_is_visible,
    the_surroundings_are_those_of_a_container,
    ids_are_those_of_the_user,
    hundreds_of_layers_can_be_stacked,
    cancelling_kills_everything,
    what_runs_in_the_background_ends_with_the_step,
    a_panic_of_the_listener_leaves_nothing,
    output_comes_line_by_line,
    a_working_directory_is_made_for_the_user,
    mount_points_that_a_layer_removed_are_not_left_behind,
    mount_points_that_lead_elsewhere_are_refused,
    a_step_without_network_sees_no_interface,
    mount_points_are_not_part_of_the_layer,
    a_step_is_run_as_its_user,
    scripts_and_working_directories_of_a_step,
    several_run_at_once,
    killing_the_outermost_process_kills_everything,
    exit_codes_pass_through_the_namespaces,
    missing_prerequisites_have_names,
];

fn enter(workspace: &Path) -> Entered {
    match enter_user_namespace(workspace) {
        Ok(entered) => entered,
        Err(error) => {
            println!("{error}");
            std::process::exit(1);
        }
    }
}

/// The process that the user started: tells whether the tests can be run, and runs them in a child.
fn supervise() -> i32 {
    let workspace = tempfile::tempdir().unwrap();
    let part = |part: &str| {
        let mut command = start_part(part);
        command.env(WORKSPACE, workspace.path());
        command
    };
    let probe = part("exit 0").output().unwrap();
    if !probe.status.success() {
        let reason = String::from_utf8_lossy(&probe.stdout).into_owned();
        println!(
            "exec: left out {} tests, because of {reason}",
            TESTS.len() + 1
        );
        return i32::from(rustix::process::geteuid().is_root());
    }
    running_out_of_memory_is_recognised(workspace.path());
    let status = part("tests")
        .args(std::env::args_os().skip(1))
        .env(SECRET, "s3cr3t")
        .status()
        .unwrap();
    // The owners of what the parts left can be ids of an ordinary user's range.
    let removed = part("clean up").status().unwrap();
    status.code().filter(|_| removed.success()).unwrap_or(1)
}

fn main() {
    let Ok(part) = std::env::var(PART) else {
        std::process::exit(supervise());
    };
    let workspace = PathBuf::from(std::env::var_os(WORKSPACE).unwrap());
    match part.as_str() {
        "tests" => run_tests(&workspace),
        "sleeper" => {
            let bench = Bench::new(&enter(&workspace), &workspace);
            let container = Bench::container("echo ready; sleep 98765");
            let (result, ..) = bench.execute(&container, &|| false, &mut |_, line| {
                println!("{}", String::from_utf8_lossy(line));
            });
            panic!("{result:?}");
        }
        "memory" => {
            let bench = Bench::new(&enter(&workspace), &workspace);
            for script in ["tail /dev/zero; exit $?", "sh -c 'kill -9 $$'; exit $?"] {
                let (result, ..) =
                    bench.execute(&Bench::container(script), &|| false, &mut |_, _| {});
                println!("{result:?}");
            }
        }
        "clean up" => {
            enter(&workspace);
            for name in names(&workspace) {
                fs_err::remove_dir_all(workspace.join(name)).unwrap();
            }
        }
        "report on /proc" => {
            enter(Path::new("/proc/nowhere"));
        }
        "report" => {
            enter(&workspace);
        }
        part => {
            let code = part.strip_prefix("exit ").unwrap().parse().unwrap();
            enter(&workspace);
            std::process::exit(code);
        }
    }
}

fn run_tests(workspace: &Path) {
    let entered = enter(workspace);
    let bench = Bench::new(&entered, workspace);
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let before = Leftovers::look(&bench);
        let started = Instant::now();
        test(&bench);
        let elapsed = started.elapsed().as_millis();
        assert_eq!(
            Leftovers::look(&bench),
            before,
            "{name} left something behind"
        );
        println!("test {name} ... ok ({elapsed} ms)");
    }
}
