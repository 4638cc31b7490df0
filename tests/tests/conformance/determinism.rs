//! Every case without RUN, built in each way that the engine has: with bases that are only listed and with bases that are
//! unpacked, without rights and in a user namespace, on one core and on all, cold and from the cache. The digest is the same.
//! Compares with nobody else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::Context as _;
use distribution::memory::MemoryRegistry;

use crate::builders::Builders;
use crate::case::{Case, cases};
use crate::each;
use crate::entry::CONTEXT_TIME;

/// Where the cases begin in time: no two tests date files alike.
const TIME: u64 = CONTEXT_TIME + 3000;

/// The moment of all builds, in seconds since 1970.
const EPOCH: &str = "1700000000";

/// How many cases without RUN there are at least; fewer were skipped by mistake.
const AT_LEAST: usize = 100;

/// How an engine without rights refuses a RUN.
const REFUSED: &str = "isolation mode NoRun";

/// A way to build.
struct Way {
    isolation: &'static str,
    /// Whether the base is unpacked before.
    unpacked: bool,
    /// The cores that it may use, as `taskset` has them; all of them where absent.
    cores: Option<&'static str>,
}

const WAYS: [Way; 3] = [
    Way {
        isolation: "no-run",
        unpacked: false,
        cores: Some("0"),
    },
    Way {
        isolation: "no-run",
        unpacked: true,
        cores: None,
    },
    Way {
        isolation: "user-namespace",
        unpacked: true,
        cores: None,
    },
];

/// The base image in a registry.
struct Base {
    /// `NAME@DIGEST`
    image: String,
    /// The context of a build of nothing but the base.
    plain: PathBuf,
}

impl Way {
    fn name(&self) -> String {
        let unpacked = if self.unpacked { "unpacked" } else { "listed" };
        format!("{} {unpacked}", self.isolation)
    }

    fn command(&self, builders: &Builders, base: &Base, root: &Path) -> Command {
        let program = builders.program();
        let mut command = match self.cores {
            None => Command::new(program),
            Some(cores) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cores]).arg(program);
                command
            }
        };
        command.args(["build", "--isolation", self.isolation, "--root"]);
        command.arg(root);
        let context = format!("base=docker-image://{}", base.image);
        command.args(["--build-context", &context]);
        command.env("SOURCE_DATE_EPOCH", EPOCH);
        command
    }

    /// Builds the case with `root` as the engine's directory; none where it needs a RUN. Returns the digest.
    fn build(
        &self,
        builders: &Builders,
        base: &Base,
        root: &Path,
        (case, context): (&Case, &Path),
    ) -> anyhow::Result<Option<String>> {
        let mut command = self.command(builders, base, root);
        Builders::with_arguments(&mut command, context, &case.arguments)?;
        let output = command.output()?;
        let log = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && log.contains(REFUSED) {
            return Ok(None);
        }
        anyhow::ensure!(output.status.success(), "{}: {log}", self.name());
        let digest = String::from_utf8(output.stdout)?.trim().to_owned();
        anyhow::ensure!(digest.starts_with("sha256:"), "no digest: {digest}");
        Ok(Some(digest))
    }

    /// Makes the engine's directory `root`.
    fn prepare(&self, builders: &Builders, base: &Base, root: &Path) -> anyhow::Result<()> {
        if self.unpacked {
            let tree = root.with_extension("tar");
            let mut command = self.command(builders, base, root);
            command.arg("-o");
            command.arg(format!("type=tar,dest={}", tree.display()));
            let output = command.arg(&base.plain).output()?;
            let log = String::from_utf8_lossy(&output.stderr);
            anyhow::ensure!(output.status.success(), "unpacking the base: {log}");
            fs_err::remove_file(tree)?;
        }
        Ok(())
    }
}

/// How many layers of images are unpacked in the engine's directory `root`: they are called by a digest alone.
fn unpacked(root: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs_err::read_dir(root.join("layers"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let name = name.strip_suffix(".recorded").unwrap_or(&name);
        count += usize::from(name.len() == 64);
    }
    Ok(count)
}

/// What differs between the ways to build a case.
fn differences(
    builders: &Builders,
    base: &Base,
    case: &Case,
    compared: &Mutex<Vec<String>>,
) -> anyhow::Result<Vec<String>> {
    let directory = builders.directory().join("determinism").join(&case.name);
    let context = directory.join("context");
    case.prepare(&context)?;
    let mut digests: Vec<(String, String)> = Vec::new();
    let mut found = Vec::new();
    for (number, way) in WAYS.iter().enumerate() {
        let root = directory.join(format!("root-{number}"));
        way.prepare(builders, base, &root)?;
        for time in ["cold", "cached"] {
            let built = way.build(builders, base, &root, (case, &context))?;
            let Some(digest) = built else {
                return Ok(Vec::new());
            };
            digests.push((format!("{time} {}", way.name()), digest));
        }
        match (way.unpacked, unpacked(&root)?) {
            (false, 0) | (true, 1..) => {}
            (_, layers) => found.push(format!("{}: {layers} layers are unpacked", way.name())),
        }
    }
    let distinct: BTreeSet<_> = digests.iter().map(|(_, digest)| digest).collect();
    if distinct.len() > 1 {
        found.extend(
            digests
                .iter()
                .map(|(way, digest)| format!("{way}: {digest}")),
        );
    }
    let mut compared = compared.lock().expect("nobody panics with the lock");
    compared.push(case.name.clone());
    fs_err::remove_dir_all(directory)?;
    Ok(found)
}

#[test]
fn every_way_to_build_gives_one_digest() -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "run as root: files of all owners are unpacked"
    );
    let builders = Builders::without_reference()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let registry = runtime.block_on(MemoryRegistry::start());
    let plain = builders.directory().join("plain");
    fs_err::create_dir(&plain)?;
    fs_err::write(plain.join("Dockerfile"), "FROM base\n")?;
    let name = format!("{}/base", registry.address());
    builders.push_base(&format!("{name}:1"), &plain)?;
    let manifest = registry.manifest("base", "1").context("no base")?;
    let base = Base {
        image: format!("{name}@{}", manifest.digest),
        plain,
    };
    let images = cases("images", &builders.words()?, TIME)?;
    let compared = Mutex::new(Vec::new());
    let wrong = each(&images, |case| {
        differences(&builders, &base, case, &compared)
    });
    let compared = compared.into_inner()?;
    eprintln!(
        "determinism: {} of {} images need no RUN and are compared, {} differ",
        compared.len(),
        images.len(),
        wrong.len()
    );
    anyhow::ensure!(wrong.is_empty(), "{:?}", wrong.keys());
    let all = std::env::var_os("COOPERY_CASES").is_none();
    anyhow::ensure!(
        !all || compared.len() >= AT_LEAST,
        "only {} cases were compared",
        compared.len()
    );
    Ok(())
}
