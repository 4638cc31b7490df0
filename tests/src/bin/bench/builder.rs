//! The builders that are compared, and the world of one workload: registry, base, context, their directories.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Context as _;
use tests::buildkit::Buildkit;
use tests::cluster::Options;
use tests::stage::release_binary;

use crate::workload::{Case, Workload};
use crate::{await_true, machine, plain};
use tests::measure::{Measured, measured, run};

/// Who builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builder {
    /// Our engine: a fresh process each time.
    Coopery,
    /// A warm daemon, but in the cold case.
    Buildkit,
    /// A fresh process each time; left out where it is not installed.
    Buildah,
}

impl Builder {
    /// How the table names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Coopery => "coopery",
            Self::Buildkit => "BuildKit",
            Self::Buildah => "buildah",
        }
    }

    /// The names of its processes, for their memory.
    const fn processes(self) -> &'static [&'static str] {
        match self {
            Self::Coopery => &["coopery"],
            Self::Buildkit => &["buildkitd", "buildctl"],
            Self::Buildah => &["buildah"],
        }
    }
}

/// A process that ends with this value.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The world of one workload. What runs ends before its directory goes.
pub(crate) struct Bench {
    buildkit: Option<Buildkit>,
    _registry: Daemon,
    workload: Workload,
    programs: PathBuf,
    registry: String,
    base_archive: PathBuf,
    has_buildah: bool,
    directory: tempfile::TempDir,
}

impl Bench {
    /// Starts a registry with the base in it, and writes the context of `workload`.
    pub(crate) fn start(workload: Workload, layer: u64) -> anyhow::Result<Self> {
        let options = Options::new("bench");
        let programs = options.cache.join("bin");
        let directory = tempfile::tempdir_in("/var/tmp")?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let registry = format!("127.0.0.1:{port}");
        let config = directory.path().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: {registry}, secret: bench}}\n",
            directory.path().join("registry").display()
        );
        fs_err::write(&config, text)?;
        let log = fs_err::File::create(directory.path().join("registry.log"))?.into_file();
        let child = Command::new(programs.join("registry"))
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the registry: run `make cluster`")?;
        let daemon = Daemon(child);
        await_true("the registry", || {
            std::net::TcpStream::connect(&*registry).is_ok()
        })?;
        let base = tests::debian_base::context(&options.cache, |text| eprintln!("{text}"))?;
        let bench = Self {
            buildkit: None,
            _registry: daemon,
            workload,
            programs,
            registry,
            base_archive: base.join("root.tar"),
            has_buildah: machine::buildah().is_some(),
            directory,
        };
        let engine = bench.path("base-engine");
        run(Command::new(release_binary("coopery")?)
            .args(["build", "--push", "-t", &bench.base(), "--root"])
            .arg(&engine)
            .arg(base))?;
        fs_err::remove_dir_all(engine)?;
        workload.write(&bench.context(), layer)?;
        Ok(bench)
    }

    /// All that are there.
    pub(crate) fn builders(&self) -> impl Iterator<Item = Builder> + use<> {
        let buildah = self.has_buildah.then_some(Builder::Buildah);
        [Builder::Coopery, Builder::Buildkit]
            .into_iter()
            .chain(buildah)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The build context.
    pub(crate) fn context(&self) -> PathBuf {
        self.path("context")
    }

    fn base(&self) -> String {
        format!("{}/base/debian-gcc:bookworm", self.registry)
    }

    /// Makes the builder's directory as `case` wants it.
    pub(crate) fn prepare(&mut self, builder: Builder, case: Case) -> anyhow::Result<()> {
        if case != Case::Cold {
            return Ok(());
        }
        if builder == Builder::Buildkit {
            self.buildkit = None;
        }
        let root = self.path(builder.name());
        if root.exists() {
            fs_err::remove_dir_all(&root)?;
        }
        if builder == Builder::Buildkit {
            self.buildkit = Some(Buildkit::start(
                &self.programs,
                &root,
                Some(&self.registry),
            )?);
        }
        Ok(())
    }

    /// One build. Each run of a cold build pushes to a new repository, later ones of the same run to the same.
    pub(crate) fn build(
        &self,
        builder: Builder,
        case: Case,
        run_number: usize,
    ) -> anyhow::Result<Measured> {
        let name = builder.name().to_ascii_lowercase();
        let image = format!("{}/{name}/app{run_number}:1", self.registry);
        let archive = self.path(&format!("{name}.tar"));
        let mut command = match builder {
            Builder::Coopery => self.coopery(&image, &archive)?,
            Builder::Buildkit => self.buildkit(&image, &archive)?,
            Builder::Buildah => self.buildah(&image, &archive),
        };
        let daemon = self.buildkit.as_ref().map(Buildkit::id);
        let daemon = daemon.filter(|_| builder == Builder::Buildkit);
        let measured =
            measured(&mut command, daemon, builder.processes()).with_context(|| case.name())?;
        if archive.exists() {
            fs_err::remove_file(archive)?;
        }
        Ok(measured)
    }

    fn coopery(&self, image: &str, archive: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new(release_binary("coopery")?);
        command.args(["build", "--build-arg", &format!("BASE={}", self.base())]);
        if self.workload.is_pushed() {
            command.args(["--push", "-t", image]);
        } else {
            command.arg("-o");
            command.arg(format!("type=oci,dest={}", archive.display()));
        }
        command
            .arg("--root")
            .arg(self.path(Builder::Coopery.name()));
        command.arg(self.context());
        Ok(command)
    }

    fn buildkit(&self, image: &str, archive: &Path) -> anyhow::Result<Command> {
        let daemon = self.buildkit.as_ref().context("buildkitd is not running")?;
        let mut command = daemon.build(&self.context());
        command.args([
            "--opt",
            &format!("build-arg:BASE={}", self.base()),
            "--output",
        ]);
        command.arg(if self.workload.is_pushed() {
            format!("type=image,name={image},push=true")
        } else {
            format!("type=oci,dest={}", archive.display())
        });
        Ok(command)
    }

    /// buildah pushes by a command of its own; both count.
    fn buildah(&self, image: &str, archive: &Path) -> Command {
        let root = self.path(Builder::Buildah.name());
        let target = if self.workload.is_pushed() {
            format!("docker://{image}")
        } else {
            format!("oci-archive:{}", archive.display())
        };
        let policy = self.path("policy.json");
        // A missing policy is told by buildah itself.
        let _ = fs_err::write(
            &policy,
            "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}",
        );
        let script = "set -e; global=\"--root $1/root --runroot $1/run --storage-driver overlay\"; \
            buildah $global build --layers --isolation chroot --tls-verify=false --signature-policy \"$2\" --build-arg BASE=\"$3\" \
            -t \"$4\" \"$5\"; buildah $global push --tls-verify=false --signature-policy \"$2\" \"$4\" \"$6\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        command.arg(root).arg(policy).arg(self.base()).arg(image);
        command.arg(self.context()).arg(target);
        command
    }

    /// How long the workload's own commands take where nobody builds.
    pub(crate) fn plain(&self, commands: &str) -> anyhow::Result<Duration> {
        plain::plain(
            &self.base_archive,
            &self.context(),
            commands,
            self.directory.path(),
        )
    }
}
