//! What becomes of an image: each case of `tests/corpora/outputs` is built by both builders, and what they write must be the
//! same. A case has, besides what every case has:
//!
//! - `arguments`: with the outputs. `{out}` is the directory of what is written; standard output is the file `stdout` in it,
//!   where an output goes there.
//! - `buildctl`: the flags of BuildKit's client that say the same, where they are not those of the arguments.
//! - `expected`, for what BuildKit's client cannot do: only the engine builds, and writes what this file says (`UPDATE=1`
//!   prints it).
//! - `refused`: who refuses it in the first line (`both`, `engine`, `BuildKit`), and words of the engine's message.

use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;

use crate::builders::{Build, Builders, Goes};
use crate::case::{Case, flags};
use crate::without_meant;
use crate::written::Written;

/// Differences that are meant: the case, what the line of the difference contains, and why. `docs/build.md` lists them.
const MEANT: &[(&str, &str, &str)] = &[
    (
        "tar-tree",
        "/added",
        "a directory that only got another time is in no layer, and so not in the files of the image",
    ),
    ("tar-tree", "/dir", "as above"),
    ("docker-archive", ".buildx.build.ref", BUILDX),
    ("metadata-names", ".buildx.build.ref", BUILDX),
    ("oci-archive", ".buildx.build.ref", BUILDX),
    ("oci-index", ".buildx.build.ref", BUILDX),
    ("oci-no-name", ".buildx.build.ref", BUILDX),
    (
        "rewrite-timestamp",
        "buildkit/rewritten-timestamp",
        "a note of BuildKit for itself",
    ),
    (
        "rewrite-own-epoch",
        "buildkit/rewritten-timestamp",
        "as above",
    ),
];

const BUILDX: &str = "docker buildx writes it, BuildKit's own client does not";

/// What is wrong with a case.
pub(crate) fn check(builders: &Builders, case: &Case) -> anyhow::Result<Vec<String>> {
    let directory = builders.directory().join("cases").join(&case.name);
    let context = directory.join("context");
    case.prepare(&context)?;
    let run = Run {
        builders,
        case,
        context: &context,
    };
    let begin = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    // Layers of the reference come from its cache where another case has the same step.
    let begin = begin.as_secs().saturating_sub(3600);
    let read = |out: &Path| Written::read(out, begin, builders.base_layer());
    let (ours, theirs) = (directory.join("ours"), directory.join("theirs"));
    let refused = case.directory.join("refused");
    if refused.exists() {
        return run.refused(&fs_err::read_to_string(refused)?, &ours, &theirs);
    }
    run.engine(&ours).context("the engine fails")?;
    let expected = case.directory.join("expected");
    if expected.exists() {
        let time = format!("@{}", case.time);
        let built = read(&ours)?.render().replace(&time, "@context");
        if std::env::var_os("UPDATE").is_some() {
            fs_err::write(&expected, &built)?;
        }
        return Ok(unexpected(&fs_err::read_to_string(expected)?, &built));
    }
    run.buildkit(&theirs).context("BuildKit fails")?;
    let found = read(&ours)?.compare(&read(&theirs)?);
    Ok(without_meant(case, MEANT, found))
}

/// Lines of one that the other does not have.
fn unexpected(expected: &str, built: &str) -> Vec<String> {
    let lacking = |one: &str, other: &str, told: &str| -> Vec<String> {
        let lines = one
            .lines()
            .filter(|line| !other.lines().any(|o| o == *line));
        lines.map(|line| format!("{told}: {line}")).collect()
    };
    let mut found = lacking(built, expected, "not expected");
    found.extend(lacking(expected, built, "not there"));
    if found.is_empty() && built != expected {
        found.push("the lines have another order".into());
    }
    found
}

/// One case on its way.
struct Run<'a> {
    builders: &'a Builders,
    case: &'a Case,
    context: &'a Path,
}

impl Run<'_> {
    fn engine(&self, out: &Path) -> anyhow::Result<()> {
        let arguments = self.placed(out)?;
        let build = self.build(&arguments, out);
        self.builders.coopery(&build, true)?;
        // Where nothing else is written there, it is the digest.
        let stdout = out.join("stdout");
        if !fs_err::read(&stdout)?.starts_with(b"sha256:") {
            return Ok(());
        }
        Ok(fs_err::remove_file(stdout)?)
    }

    fn buildkit(&self, out: &Path) -> anyhow::Result<()> {
        let words = [("{out}", out.display().to_string())];
        let own = flags(&self.case.directory.join("buildctl"), &words)?;
        let arguments = self.placed(out)?;
        let build = self.build(&arguments, out);
        self.builders.buildkit(&build, own.as_deref())?;
        let stdout = out.join("stdout");
        if fs_err::metadata(&stdout)?.len() == 0 {
            fs_err::remove_file(stdout)?;
        }
        Ok(())
    }

    /// The arguments, for a new directory `out`.
    fn placed(&self, out: &Path) -> anyhow::Result<Vec<(String, String)>> {
        fs_err::create_dir(out)?;
        let directory = out.display().to_string();
        let arguments = self.case.arguments.iter();
        let placed =
            arguments.map(|(flag, value)| (flag.clone(), value.replace("{out}", &directory)));
        Ok(placed.collect())
    }

    fn build<'a>(&'a self, arguments: &'a [(String, String)], out: &'a Path) -> Build<'a> {
        Build {
            context: self.context,
            arguments,
            goes: Goes::AsSaid(out),
        }
    }

    /// Who builds it although it should be refused, and an engine that says something else.
    fn refused(&self, refused: &str, ours: &Path, theirs: &Path) -> anyhow::Result<Vec<String>> {
        let (who, words) = refused
            .split_once('\n')
            .context("`refused` has two lines")?;
        let mut found = Vec::new();
        match (who == "BuildKit", self.engine(ours)) {
            (false, Ok(())) => found.push("the engine builds it".to_owned()),
            (true, Err(error)) => found.push(format!("the engine refuses it: {error:#}")),
            (false, Err(error)) => {
                let told = format!("{error:#}");
                if !told.contains(words.trim()) {
                    found.push(format!("the engine says something else: {told}"));
                }
            }
            (true, Ok(())) => {}
        }
        match (who == "engine", self.buildkit(theirs)) {
            (false, Ok(())) => found.push("BuildKit builds it".to_owned()),
            (true, Err(error)) => found.push(format!("BuildKit refuses it: {error:#}")),
            _ => {}
        }
        Ok(found)
    }
}
