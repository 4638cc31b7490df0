//! `--cache-to` and `--cache-from` of a registry, by the program itself against the real registry: a machine that has nothing
//! finds every step there, and what it downloads for that is documents, no layer. The registry's log of access is the witness.
//!
//! As root, with the programs of `make build cluster`; `COOPERY_PROGRAM` names another `coopery`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde_json::Value;
use tests::cluster::Options;
use tests::plain_registry::{Asked, PlainRegistry};
use tests::stage::release_binary;

/// Two stages on one base. `{base}` is its name.
const DOCKERFILE: &str = "FROM {base} AS build\nWORKDIR /src\nCOPY main .\nRUN cat main > out && echo built >> out\n\
    FROM {base}\nCOPY --from=build /src/out /app/out\nRUN echo done > /done\nCMD [\"cat\", \"/app/out\"]\n";

/// What may be executed of it.
const STEPS: usize = 5;

/// A registry with a base in it, and a context.
struct World {
    registry: PlainRegistry,
    directory: tempfile::TempDir,
    program: PathBuf,
    /// How many machines there were.
    machines: usize,
}

/// What a build told.
struct Told {
    /// The digest of the image.
    digest: String,
    /// Steps that the cache answered.
    cached: usize,
    /// Steps that it did not answer.
    missed: usize,
    /// What the registry was asked for.
    asked: Vec<Asked>,
}

impl World {
    fn new() -> anyhow::Result<Self> {
        anyhow::ensure!(
            rustix::process::geteuid().is_root(),
            "run as root: RUN needs it"
        );
        let program = match std::env::var_os("COOPERY_PROGRAM") {
            Some(path) => path.into(),
            None => release_binary("coopery")?,
        };
        let programs = Options::new("registry-cache").cache.join("bin");
        let mut world = Self {
            registry: PlainRegistry::start(&programs)?,
            directory: tempfile::tempdir_in("/var/tmp")?,
            program,
            machines: 0,
        };
        let base = world.path("base");
        fs_err::create_dir_all(&base)?;
        fs_err::copy("/bin/busybox", base.join("busybox"))?;
        fs_err::write(
            base.join("Dockerfile"),
            "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n",
        )?;
        let name = world.name("base:1");
        world.on_new_machine("base", &["--push", "-t", &name])?;
        fs_err::create_dir_all(world.path("context"))?;
        world.write("main", "main\n")?;
        let dockerfile = DOCKERFILE.replace("{base}", &name);
        world.write("Dockerfile", &dockerfile)?;
        Ok(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(fs_err::write(self.path("context").join(name), text)?)
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.host())
    }

    /// Builds with a cache and layers of its own, which are empty.
    fn on_new_machine(&mut self, context: &str, flags: &[&str]) -> anyhow::Result<Told> {
        self.machines += 1;
        let root = self.path(&format!("machine{}", self.machines));
        self.build(&root, context, flags)
    }

    fn build(&mut self, root: &Path, context: &str, flags: &[&str]) -> anyhow::Result<Told> {
        self.registry.asked()?;
        let output = Command::new(&self.program)
            .args(["build", "--progress", "json", "--root"])
            .arg(root)
            .args(flags)
            .arg(self.path(context))
            .stdin(Stdio::null())
            .output()
            .context("coopery")?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success(), "{flags:?}: {log}");
        let events: Vec<Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let count = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
        Ok(Told {
            digest: String::from_utf8(output.stdout)?.trim().to_owned(),
            cached: count("cached"),
            missed: count("missed"),
            asked: self.registry.asked()?,
        })
    }

    /// The layers of what `repository:tag` names.
    async fn layers(&self, repository: &str, tag: &str) -> anyhow::Result<Vec<String>> {
        let url = format!(
            "http://{}/v2/{repository}/manifests/{tag}",
            self.registry.host()
        );
        let accept = "application/vnd.oci.image.manifest.v1+json";
        let answer = reqwest::Client::new().get(url).header("Accept", accept);
        let manifest: oci::Manifest = serde_json::from_slice(&answer.send().await?.bytes().await?)?;
        let layers = manifest.layers.into_iter();
        Ok(layers.map(|layer| layer.digest.to_string()).collect())
    }
}

/// The layers that were downloaded.
fn downloaded<'a>(asked: &[Asked], layers: &'a [String]) -> Vec<&'a String> {
    let is_there = |layer: &&String| asked.iter().any(|asked| asked.downloads(layer));
    layers.iter().filter(is_there).collect()
}

#[tokio::test]
async fn a_machine_that_has_nothing_hits_all_and_downloads_no_layer() -> anyhow::Result<()> {
    // Whoever comes second may have chosen a provider already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut world = World::new()?;
    for mode in ["min", "max", "inline"] {
        let image = format!("app-{mode}");
        let name = world.name(&format!("{image}:1"));
        let (to, from) = if mode == "inline" {
            ("type=inline".to_owned(), name.clone())
        } else {
            let cache = world.name(&format!("cache:{mode}"));
            (format!("type=registry,ref={cache},mode={mode}"), cache)
        };
        // Each mode begins with steps that nobody has executed.
        world.write("main", &format!("main of {mode}\n"))?;
        let flags = ["--push", "-t", &name, "--cache-to", &to];
        let first = world.on_new_machine("context", &flags)?;
        anyhow::ensure!(
            first.cached == 0,
            "{mode}: {} steps are cached",
            first.cached
        );
        let mut layers = world.layers("base", "1").await?;
        layers.extend(world.layers(&image, "1").await?);
        if mode != "inline" {
            let cached = world.layers("cache", mode).await?;
            let expected = if mode == "min" { 2 } else { STEPS };
            anyhow::ensure!(cached.len() == expected, "{mode}: {cached:?}");
            layers.extend(cached);
        }

        // To where the image is, and to where nothing of it is.
        let elsewhere = world.name(&format!("{image}-elsewhere:1"));
        let from = format!("type=registry,ref={from}");
        for name in [&name, &elsewhere] {
            let mut flags = vec!["--push", "-t", name, "--cache-from", &from];
            if mode == "inline" {
                flags.extend(["--cache-to", "type=inline"]);
            }
            let second = world.on_new_machine("context", &flags)?;
            anyhow::ensure!(
                (second.cached, second.missed) == (STEPS, 0),
                "{mode}: {} steps are cached, {} missed",
                second.cached,
                second.missed
            );
            anyhow::ensure!(second.digest == first.digest, "{mode}: another image");
            let found = downloaded(&second.asked, &layers);
            anyhow::ensure!(found.is_empty(), "{mode}: downloaded {found:?}");
            // The log would show it: documents are downloaded.
            anyhow::ensure!(second.asked.iter().any(|asked| asked.downloads("sha256:")));
        }
        anyhow::ensure!(
            world
                .layers(&format!("{image}-elsewhere"), "1")
                .await?
                .len()
                == 4
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_changed_is_executed_on_what_lies_below_it() -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut world = World::new()?;
    let (name, cache) = (world.name("app:1"), world.name("cache:max"));
    let to = format!("type=registry,ref={cache},mode=max");
    let from = format!("type=registry,ref={cache}");
    world.on_new_machine("context", &["--push", "-t", &name, "--cache-to", &to])?;
    let of_cache = world.layers("cache", "max").await?;
    let base = world.layers("base", "1").await?;

    world.write("main", "changed\n")?;
    let flags = [
        "--push",
        "-t",
        &name,
        "--cache-from",
        &from,
        "--cache-to",
        &to,
    ];
    let changed = world.on_new_machine("context", &flags)?;
    // WORKDIR is what lies below the file that changed.
    anyhow::ensure!(
        (changed.cached, changed.missed) == (1, STEPS - 1),
        "{} steps are cached, {} missed",
        changed.cached,
        changed.missed
    );
    let found = downloaded(&changed.asked, &of_cache);
    anyhow::ensure!(found.len() <= 1, "downloaded {found:?} of the cache");
    let found = downloaded(&changed.asked, &base);
    anyhow::ensure!(
        found.len() == base.len(),
        "downloaded {found:?} of the base"
    );

    // The cache was written anew: it has what changed.
    let again = world.on_new_machine("context", &["-t", &name, "--push", "--cache-from", &from])?;
    anyhow::ensure!((again.cached, again.missed) == (STEPS, 0));
    anyhow::ensure!(again.digest == changed.digest);
    Ok(())
}
