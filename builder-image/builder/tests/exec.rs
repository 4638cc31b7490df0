//! RUN for real: namespaces, overlay mounts and crun on this machine. It has a `main` of its own because entering the
//! user namespace starts the program again before any thread exists. Without root it says what it leaves out.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use builder::exec::{
    Bind, Container, Entered, ExecError, ExitStatus, Identity, Job, Runtime, Stream,
    enter_user_namespace, execute,
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
            "readlink",
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

    fn container(&self, script: &str) -> Container {
        Container {
            args: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: vec!["PATH=/bin".into(), "HOME=/root".into()],
            cwd: "/".into(),
            identity: Identity::default(),
            hostname: "buildkitsandbox".into(),
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
        self.run(&self.container(script))
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
    let mut container = bench.container("");
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

const TESTS: &[(&str, fn(&Bench))] = &[
    (
        "files_are_in_the_upper_directory",
        files_are_in_the_upper_directory,
    ),
    ("exit_codes_are_handed_on", exit_codes_are_handed_on),
];

fn main() {
    if !rustix::process::geteuid().is_root() {
        println!(
            "exec: left out, because mounting needs root or subordinate ids: {} tests",
            TESTS.len()
        );
        return;
    }
    let workspace = std::env::temp_dir().join("coopery-exec-test");
    let entered = match enter_user_namespace(&workspace) {
        Ok(entered) => entered,
        Err(error) => {
            println!("exec: IsolationUnavailable: {error}");
            std::process::exit(1);
        }
    };
    let bench = Bench::new(&entered, &workspace);
    for (name, test) in TESTS {
        let started = Instant::now();
        test(&bench);
        println!("test {name} ... ok ({} ms)", started.elapsed().as_millis());
    }
}
