//! The builders that are compared, and the world of one workload: registry, base, context, their directories.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tests::buildkit::Buildkit;
use tests::cluster::Options;
use tests::plain_registry::PlainRegistry;
use tests::stage::release_binary;

use crate::disk::Disk;
use crate::registry_log::pulled;
use crate::workload::{Case, Workload};
use crate::{machine, plain};
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
    /// `crane append` of a layer that was made before: no builder, but the least that anybody pulls.
    Crane,
}

impl Builder {
    /// How the table names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Coopery => "coopery",
            Self::Buildkit => "BuildKit",
            Self::Buildah => "buildah",
            Self::Crane => "crane append",
        }
    }

    /// The names of its processes, for their memory.
    const fn processes(self) -> &'static [&'static str] {
        match self {
            Self::Coopery => &["coopery"],
            Self::Buildkit => &["buildkitd", "buildctl"],
            Self::Buildah => &["buildah"],
            Self::Crane => &["crane"],
        }
    }
}

/// What one build took and left.
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) measured: Measured,
    /// Bytes of the base's layers that the registry sent.
    pub(crate) pulled: u64,
    /// The size of the largest blob, where the image is an archive: that of the layer.
    pub(crate) packed: Option<u64>,
}

/// The world of one workload. What runs ends before its directory goes.
pub(crate) struct Bench {
    buildkit: Option<Buildkit>,
    registry: PlainRegistry,
    workload: Workload,
    programs: PathBuf,
    base_archive: PathBuf,
    /// The layers of the base.
    base_layers: Vec<String>,
    has_buildah: bool,
    /// How many directories of builders were put aside.
    aside: usize,
    disk: Disk,
    /// Holds the disk.
    _directory: tempfile::TempDir,
}

impl Bench {
    /// Starts a registry with the base in it, and writes the context of `workload`.
    pub(crate) fn start(workload: Workload, layer: u64) -> anyhow::Result<Self> {
        let options = Options::new("bench");
        let programs = options.cache.join("bin");
        let directory = tempfile::tempdir_in("/var/tmp")?;
        let disk = Disk::make(directory.path())?;
        let registry = PlainRegistry::start_in(&programs, disk.path())?;
        let base = tests::debian_base::context(&options.cache, |text| eprintln!("{text}"))?;
        let mut bench = Self {
            buildkit: None,
            registry,
            workload,
            programs,
            base_archive: base.join("root.tar"),
            base_layers: Vec::new(),
            has_buildah: machine::buildah().is_some(),
            aside: 0,
            disk,
            _directory: directory,
        };
        let engine = bench.path("base-engine");
        run(Command::new(release_binary("coopery")?)
            .args(["build", "--push", "-t", &bench.base(), "--root"])
            .arg(&engine)
            .arg(base))?;
        fs_err::remove_dir_all(engine)?;
        bench.base_layers = bench.layers_of_base()?;
        bench.registry.asked()?;
        workload.write(&bench.context(), layer)?;
        if workload == Workload::LinkOnBase {
            run(Command::new("tar")
                .arg("-C")
                .arg(bench.context())
                .arg("-cf")
                .arg(bench.path("src.tar"))
                .arg("src"))?;
        }
        Ok(bench)
    }

    fn crane(&self) -> Command {
        Command::new(self.programs.join("crane"))
    }

    fn layers_of_base(&self) -> anyhow::Result<Vec<String>> {
        let output = self.crane().args(["manifest", &self.base()]).output()?;
        let manifest: oci::Manifest =
            serde_json::from_slice(&output.stdout).context("the manifest of the base")?;
        let layers = manifest.layers.into_iter();
        Ok(layers.map(|layer| layer.digest.to_string()).collect())
    }

    /// All that are there and have a part in `case`.
    pub(crate) fn builders(&self, case: Case) -> impl Iterator<Item = Builder> + use<> {
        let others = case != Case::Uncompressed;
        let crane = self.workload == Workload::LinkOnBase;
        let buildah = others && self.has_buildah && self.workload.without_buildah().is_none();
        [
            (Builder::Coopery, true),
            (Builder::Buildkit, others),
            (Builder::Buildah, buildah),
            (Builder::Crane, crane),
        ]
        .into_iter()
        .filter_map(|(builder, is_there)| is_there.then_some(builder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    /// The build context.
    pub(crate) fn context(&self) -> PathBuf {
        self.path("context")
    }

    fn base(&self) -> String {
        format!("{}/base/debian-gcc:bookworm", self.registry.host())
    }

    /// Makes the builder's directory as `case` wants it.
    pub(crate) fn prepare(&mut self, builder: Builder, case: Case) -> anyhow::Result<()> {
        if !case.is_cold() {
            return Ok(());
        }
        if builder == Builder::Buildkit {
            self.buildkit = None;
        }
        let root = self.path(builder.name());
        if root.exists() {
            // Removing many files slows down who makes files next: that is left for the end, where there is room.
            let aside = self.path(&format!("aside{}", self.aside));
            self.aside += 1;
            fs_err::rename(&root, &aside)?;
            if self.workload == Workload::LargeLayer {
                fs_err::remove_dir_all(aside)?;
            }
        }
        if builder == Builder::Buildkit {
            self.buildkit = Some(Buildkit::start(
                &self.programs,
                &root,
                Some(self.registry.host()),
            )?);
        }
        Ok(())
    }

    /// One build. Each run of a cold build pushes to a new repository, later ones of the same run to the same.
    pub(crate) fn build(
        &mut self,
        builder: Builder,
        case: Case,
        run_number: usize,
    ) -> anyhow::Result<Outcome> {
        let name = builder.name().to_ascii_lowercase().replace(' ', "-");
        let image = format!("{}/{name}/app{run_number}:1", self.registry.host());
        let archive = self.path(&format!("{name}.tar"));
        let mut command = match builder {
            Builder::Coopery => self.coopery(&image, &archive, case)?,
            Builder::Buildkit => self.buildkit(&image, &archive)?,
            Builder::Buildah => self.buildah(&image, &archive),
            Builder::Crane => {
                let mut crane = self.crane();
                crane.args([
                    "append",
                    "--base",
                    &self.base(),
                    "--new_tag",
                    &image,
                    "--new_layer",
                ]);
                crane.arg(self.path("src.tar"));
                crane
            }
        };
        let daemon = self.buildkit.as_ref().map(Buildkit::id);
        let daemon = daemon.filter(|_| builder == Builder::Buildkit);
        let measured =
            measured(&mut command, daemon, builder.processes()).with_context(|| case.name())?;
        let mut packed = None;
        if archive.exists() {
            packed = Some(largest_blob(&archive)?);
            fs_err::remove_file(archive)?;
        }
        Ok(Outcome {
            measured,
            pulled: pulled(&self.registry.asked()?, &self.base_layers),
            packed,
        })
    }

    fn coopery(&self, image: &str, archive: &Path, case: Case) -> anyhow::Result<Command> {
        let mut command = Command::new(release_binary("coopery")?);
        command.args(["build", "--build-arg", &format!("BASE={}", self.base())]);
        if self.workload.is_pushed() {
            command.args(["--push", "-t", image]);
        } else {
            command.arg("-o");
            let compression = if case == Case::Uncompressed {
                "uncompressed"
            } else {
                "gzip"
            };
            command.arg(format!(
                "type=oci,compression={compression},dest={}",
                archive.display()
            ));
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
            self.disk.path(),
        )
    }
}

/// The size of the largest file of an archive.
fn largest_blob(archive: &Path) -> anyhow::Result<u64> {
    let mut largest = 0;
    let file = fs_err::File::open(archive)?;
    for entry in tar::Archive::new(file).entries_with_seek()? {
        largest = largest.max(entry?.size());
    }
    Ok(largest)
}
