//! A `BuildKit` daemon of a test or benchmark: the reference that the engine is compared with, and measured against.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// How long the daemon may take to answer.
const START: Duration = Duration::from_secs(60);

/// A running daemon, which ends with this value.
pub struct Buildkit {
    child: Child,
    programs: PathBuf,
    directory: PathBuf,
}

impl Buildkit {
    /// Starts a daemon of the `programs` of `make peers` that keeps everything below `directory`. It speaks to
    /// `registry` without TLS.
    ///
    /// # Errors
    /// When the programs are missing, or it does not answer.
    pub fn start(
        programs: &Path,
        directory: &Path,
        registry: Option<&str>,
    ) -> anyhow::Result<Self> {
        fs_err::create_dir_all(directory)?;
        let config = directory.join("buildkitd.toml");
        let plain = registry.map_or(String::new(), |name| {
            format!("[registry.\"{name}\"]\n  http = true\n")
        });
        let text = format!(
            "root = \"{root}/root\"\n[grpc]\n  address = [\"{socket}\"]\n[worker.oci]\n  enabled = true\n  binary = \"{runc}\"\n  \
             networkMode = \"host\"\n[worker.containerd]\n  enabled = false\n{plain}",
            root = directory.display(),
            socket = socket(directory),
            runc = programs.join("runc").display(),
        );
        fs_err::write(&config, text)?;
        let log = fs_err::File::create(directory.join("buildkitd.log"))?.into_file();
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new(programs.join("buildkitd"))
            .arg("--config")
            .arg(config)
            .env("PATH", format!("{}:{path}", programs.display()))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("buildkitd: run `make peers`")?;
        let daemon = Self {
            child,
            programs: programs.to_owned(),
            directory: directory.to_owned(),
        };
        let begin = Instant::now();
        while !daemon
            .buildctl()
            .args(["debug", "workers"])
            .output()?
            .status
            .success()
        {
            anyhow::ensure!(begin.elapsed() < START, "buildkitd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    /// The process of the daemon.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its client, told where it listens.
    pub fn buildctl(&self) -> Command {
        let mut command = Command::new(self.programs.join("buildctl"));
        command.args(["--addr", &socket(&self.directory)]);
        command
    }

    /// The client's build of `context` with the built-in frontend; options and output are the caller's.
    pub fn build(&self, context: &Path) -> Command {
        let mut command = self.buildctl();
        command.args([
            "build",
            "--progress",
            "plain",
            "--frontend",
            "dockerfile.v0",
        ]);
        for name in ["context", "dockerfile"] {
            command.args(["--local", &format!("{name}={}", context.display())]);
        }
        command
    }
}

impl Drop for Buildkit {
    fn drop(&mut self) {
        // SIGTERM lets it unmount what it mounted.
        if let Some(id) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn socket(directory: &Path) -> String {
    format!("unix://{}/socket", directory.display())
}
