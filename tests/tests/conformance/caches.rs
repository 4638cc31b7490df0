//! Caches of one builder that the other is given: BuildKit can make nothing of ours and goes on without it, and our engine
//! says whose a cache is that it leaves aside. Each keeps its own beside the other's.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::Context as _;
use tests::buildkit::Buildkit;
use tests::cluster::Options;
use tests::plain_registry::PlainRegistry;
use tests::stage::release_binary;

const DOCKERFILE: &str =
    "FROM {base} AS one\nCOPY a /a\nRUN cat a > /b\nFROM {base}\nCOPY --from=one /b /c\n";

/// What our engine says of BuildKit's cache.
const LEFT_ASIDE: &str = "it is a cache of BuildKit, which only BuildKit reads";

struct World {
    /// Ends before its directory goes.
    buildkit: Buildkit,
    registry: PlainRegistry,
    directory: tempfile::TempDir,
    program: PathBuf,
    machines: usize,
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let program = match std::env::var_os("COOPERY_PROGRAM") {
            Some(path) => path.into(),
            None => release_binary("coopery")?,
        };
        let programs = Options::new("conformance-caches").cache.join("bin");
        let directory = tempfile::tempdir_in("/var/tmp")?;
        let registry = PlainRegistry::start(&programs)?;
        let root = directory.path().join("buildkit");
        let buildkit = Buildkit::start(&programs, &root, Some(registry.host()))?;
        let mut world = Self {
            buildkit,
            registry,
            directory,
            program,
            machines: 0,
        };
        let base = world.name("base:1");
        let commands = "mkdir -p base/bin context && cp /bin/busybox base/bin/busybox && \
            for name in sh cat; do ln -s busybox base/bin/$name; done && echo a > context/a && \
            printf 'FROM scratch\\nCOPY bin /bin\\n' > base/Dockerfile";
        let mut shell = Command::new("sh");
        let made = shell
            .args(["-ec", commands])
            .current_dir(world.directory.path())
            .status()?;
        anyhow::ensure!(made.success());
        let dockerfile = DOCKERFILE.replace("{base}", &base);
        fs_err::write(world.path("context/Dockerfile"), dockerfile)?;
        world.coopery("base", &["--push", "-t", &base])?;
        Ok(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.host())
    }

    /// Builds with our engine, which knows nothing yet; what it says.
    fn coopery(&mut self, context: &str, flags: &[&str]) -> anyhow::Result<String> {
        self.machines += 1;
        let mut command = Command::new(&self.program);
        command.args(["build", "--progress", "plain", "--root"]);
        command.arg(self.path(&format!("machine{}", self.machines)));
        log_of(command.args(flags).arg(self.path(context)))
    }

    /// Builds with BuildKit, which has forgotten everything; what it says.
    fn buildkit(&self, flags: &[&str]) -> anyhow::Result<String> {
        log_of(self.buildkit.buildctl().args(["prune", "--all"]))?;
        log_of(self.buildkit.build(&self.path("context")).args(flags))
    }
}

fn log_of(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stderr, .. } =
        command.stdin(Stdio::null()).output().context("a builder")?;
    let log = String::from_utf8_lossy(&stderr).into_owned();
    anyhow::ensure!(status.success(), "{command:?}: {log}");
    Ok(log)
}

fn cached(log: &str) -> usize {
    log.lines().filter(|line| line.ends_with(" CACHED")).count()
}

/// Every name in the index of a layout.
fn names(layout: &Path) -> anyhow::Result<Vec<String>> {
    let index: serde_json::Value =
        serde_json::from_slice(&fs_err::read(layout.join("index.json"))?)?;
    let entries = index["manifests"].as_array().context("no manifests")?;
    let name = |entry: &serde_json::Value| {
        let name = &entry["annotations"]["org.opencontainers.image.ref.name"];
        name.as_str().unwrap_or_default().to_owned()
    };
    Ok(entries.iter().map(name).collect())
}

#[test]
fn each_leaves_the_others_cache_alone() -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "run as root: RUN needs it"
    );
    let mut world = World::new()?;
    let steps = 3;
    let image = world.name("app:1");

    // BuildKit is given ours: a cache of its own, and an image with a cache in it.
    let (ours, theirs) = (world.name("cache:ours"), world.name("cache:theirs"));
    let to = format!("type=registry,ref={ours},mode=max");
    world.coopery(
        "context",
        &[
            "--push",
            "-t",
            &image,
            "--cache-to",
            &to,
            "--cache-to",
            "type=inline",
        ],
    )?;
    for name in [&ours, &image] {
        let log = world.buildkit(&["--import-cache", &format!("type=registry,ref={name}")])?;
        anyhow::ensure!(cached(&log) == 0, "BuildKit finds steps in {name}: {log}");
    }

    // We are given theirs; the same flags with our cache find all.
    for form in ["", ",compression=zstd"] {
        let export = format!("type=registry,ref={theirs},mode=max{form}");
        world.buildkit(&["--export-cache", &export])?;
        for (name, expected) in [(&theirs, 0), (&ours, steps)] {
            let from = format!("type=registry,ref={name}");
            let log = world.coopery("context", &["--cache-from", &from])?;
            anyhow::ensure!(cached(&log) == expected, "{form} {name}: {log}");
            let told = log.contains(LEFT_ASIDE);
            anyhow::ensure!(told == (expected == 0), "{form} {name}: {log}");
        }
    }

    // One directory for both, with each form that BuildKit writes (a registry takes but one): each finds its own, also after
    // the other has written and removed what is old.
    let directory = world.path("shared");
    let shown = directory.display();
    let (into, from) = (
        format!("type=local,dest={shown}"),
        format!("type=local,src={shown}"),
    );
    for form in [",image-manifest=true", ",image-manifest=false"] {
        world.buildkit(&["--export-cache", &format!("{into},mode=max{form}")])?;
        let log = world.coopery("context", &["--cache-from", &from])?;
        anyhow::ensure!(log.contains(LEFT_ASIDE), "{form}: {log}");
    }
    let mine = format!("{into},mode=max,tag=mine");
    world.coopery("context", &["--cache-to", &mine])?;
    anyhow::ensure!(names(&directory)? == ["latest", "mine"]);
    let log = world.buildkit(&["--import-cache", &from])?;
    // It counts the base, too.
    anyhow::ensure!(cached(&log) >= steps, "BuildKit lost its cache: {log}");
    let log = world.coopery("context", &["--cache-from", &format!("{from},tag=mine")])?;
    anyhow::ensure!(cached(&log) == steps, "our cache is lost: {log}");
    Ok(())
}
