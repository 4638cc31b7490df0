//! A workspace with a busybox root, and what tests do with it.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use builder::exec::{
    Container, Entered, ExecError, ExitStatus, Identity, Job, Runtime, Stream, execute,
};

/// A workspace with a busybox root as its only layer.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) runtime: Runtime,
    pub(crate) layers: Vec<PathBuf>,
}

/// What one run left.
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) upper: PathBuf,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) _scratch: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(entered: &Entered, workspace: &Path) -> Self {
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

    pub(crate) fn container(script: &str) -> Container {
        Container {
            args: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: vec!["PATH=/bin".into(), "HOME=/root".into()],
            cwd: "/".into(),
            identity: Identity::default(),
            hostname: "buildkitsandbox".into(),
            network: true,
            mounts: Vec::new(),
            shm_size: None,
            limits: Vec::new(),
            oom_score_adj: 500,
        }
    }

    pub(crate) fn execute(
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
            attachments: &[],
        };
        let result = execute(&job, &self.runtime, cancelled, output);
        (result, upper, scratch)
    }

    pub(crate) fn run(&self, container: &Container) -> Ran {
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

    pub(crate) fn script(&self, script: &str) -> Ran {
        self.run(&Bench::container(script))
    }
}

pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    fs_err::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

/// Layers above the base in which `change` was made.
pub(crate) fn changed(bench: &Bench, change: impl FnOnce(&Path)) -> Bench {
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

pub(crate) fn whiteout(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// A root with nothing in it but busybox and what `change` makes.
pub(crate) fn bare(bench: &Bench, change: impl FnOnce(&Path)) -> Bench {
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

/// What must be the same before and after every test.
#[derive(Debug, PartialEq)]
pub(crate) struct Leftovers {
    pub(crate) mounts: Vec<String>,
    pub(crate) processes: usize,
    pub(crate) scratch: BTreeSet<String>,
}

impl Leftovers {
    pub(crate) fn look(bench: &Bench) -> Self {
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
            mounts: fs_err::read_to_string("/proc/self/mounts")
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect(),
            processes: processes(),
            scratch: names(bench.runtime.scratch()),
        }
    }
}
