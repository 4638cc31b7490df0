//! The engine against BuildKit: every case of `tests/corpora` is built by both, and the images must be the same in
//! configuration, history, layers and tree; what must not build fails with both. As root, with the programs of
//! `make build peers`.
//!
//! What is newer than that BuildKit, or cannot be asked of it without a network, is in `expected`: only the engine builds it,
//! and the image must be as the file `expected` of the case says, which is written by hand (`UPDATE=1` prints it).
//! In `outputs` are cases of what becomes of an image; `outputs.rs` says how they are compared.
//! `tests/corpora/rows.yaml` says which row of the language each case shows; a row without a proof fails the run.
//! `COOPERY_CASES=a,b` runs the cases whose names contain one of these, `COOPERY_PROGRAM` names another `coopery`.
//!
//! `determinism` builds the cases in all ways that the engine has, beside no reference.
//!
//! A case is a directory with a Dockerfile and its context. Two files are not part of the context: `arguments` has one flag
//! a line (`--build-arg A=B`; `{url}` is the server of files, `{git}` that of the repository `app.git`, `{commit}` its tag `v1`), `setup` is a shell script run in the copied context, for
//! what git cannot keep.
#![expect(clippy::print_stderr, reason = "what is compared is worth a line")]

mod builders;
mod caches;
mod case;
mod compare;
mod determinism;
mod entry;
mod image;
mod outputs;
mod written;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use anyhow::Context as _;
use builders::{Build, Builders, Goes};
use case::{Case, cases};
use entry::CONTEXT_TIME;
use image::Image;

/// Differences that are meant: the case, what the line of the difference contains, and why.
const DELIBERATE: &[(&str, &str, &str)] = &[
    (
        "copy-xattr",
        "user.note",
        "the engine keeps extended attributes, BuildKit only capabilities",
    ),
    (
        "run-links",
        "/dir",
        "a file that got a second name is in the layer with both, BuildKit breaks the link",
    ),
    ("run-links", "/third", "as above"),
    ("run-rename-base-dir", "/dir/one", "as above"),
    (
        "run-mountpoints",
        "/dev",
        "no mount point of a RUN gets into its layer",
    ),
    (
        "copy-exclude",
        "/four/other.md",
        "a file that is a source can be excluded, as the reference's documentation has it",
    ),
    (
        "copy-parents",
        "/pivots/five.go",
        "nothing behind the pivot means everything, not nothing",
    ),
    (
        "run-limits",
        "/limits",
        "a step has a bound of processes, so that it can not take all of the machine's",
    ),
    (
        "contexts-directory-base",
        "config .history",
        "a stage from files has a line for them, where BuildKit shifts the lines of the steps",
    ),
    ("run-mountpoints", "/proc", "as above"),
    ("run-mountpoints", "/sys", "as above"),
];

/// What only BuildKit builds: the case, and why the engine refuses it.
const STRICTER: &[(&str, &str)] = &[
    ("cmd-bare", "an instruction without words is a mistake"),
    ("run-bare", "an instruction without words is a mistake"),
    (
        "copy-many-to-file",
        "BuildKit writes one file over the other",
    ),
    (
        "copy-wildcard-to-file",
        "BuildKit writes one file over the other",
    ),
    (
        "copy-parents-missing",
        "a path without wildcards must be there, as of syntax 1.23",
    ),
    ("onbuild-circular", "a trigger cannot need its own stage"),
    ("run-mknod", "a user namespace makes no devices"),
];

/// What only the engine builds: the case, and why.
const LENIENT: &[(&str, &str)] = &[
    (
        "copy-chown-name-scratch",
        "without /etc/passwd an unknown name is root, as with it",
    ),
    (
        "from-stage-upper-case",
        "names of stages have no case in COPY --from, nor in FROM",
    ),
];

/// Works on all cases, two at a time, and returns what is wrong by case.
fn each(
    cases: &[Case],
    work: impl Fn(&Case) -> anyhow::Result<Vec<String>> + Sync,
) -> BTreeMap<String, Vec<String>> {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = work(case).unwrap_or_else(|error| vec![format!("{error:#}")]);
                    if !found.is_empty() {
                        eprintln!("{}:\n    {}", case.name, found.join("\n    "));
                        let mut wrong = wrong.lock().expect("nobody panics with the lock");
                        wrong.insert(case.name.clone(), found);
                    }
                }
            });
        }
    });
    wrong.into_inner().expect("nobody panics with the lock")
}

/// What is wrong with a case that both must build.
fn differences(builders: &Builders, case: &Case) -> anyhow::Result<Vec<String>> {
    let directory = builders.directory().join("cases").join(&case.name);
    let context = directory.join("context");
    case.prepare(&context)?;
    let begin = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let (ours, theirs) = (directory.join("ours"), directory.join("theirs"));
    let with = |output| Build {
        context: &context,
        arguments: &case.arguments,
        goes: Goes::Layout(output),
    };
    builders
        .buildkit(&with(&theirs), None)
        .context("BuildKit fails")?;
    builders
        .coopery(&with(&ours), true)
        .context("the engine fails")?;
    // Layers of the reference come from its cache where another case has the same step, so now is since the start.
    let begin = begin.saturating_sub(3600);
    let read = |image| Image::read(image, begin, builders.base_layer());
    let found = compare::compare(&read(&ours)?, &read(&theirs)?);
    Ok(without_meant(case, DELIBERATE, found))
}

/// The differences that are not meant; a meant one that is gone is a difference of its own.
fn without_meant(case: &Case, meant: &[(&str, &str, &str)], mut found: Vec<String>) -> Vec<String> {
    for (_, part, reason) in meant.iter().filter(|(name, ..)| *name == case.name) {
        let before = found.len();
        found.retain(|line| !line.contains(part));
        if found.len() == before {
            found.push(format!(
                "there is no difference `{part}` any more ({reason})"
            ));
        }
    }
    found
}

/// What is wrong with a case that neither must build.
fn acceptance(builders: &Builders, case: &Case) -> anyhow::Result<Vec<String>> {
    let directory = builders.directory().join("cases").join(&case.name);
    let context = directory.join("context");
    case.prepare(&context)?;
    let (ours, theirs) = (directory.join("ours"), directory.join("theirs"));
    let with = |output| Build {
        context: &context,
        arguments: &case.arguments,
        goes: Goes::Layout(output),
    };
    let mut found = Vec::new();
    let mut expect = |who, built: bool, exceptions: &[(&str, &str)]| {
        let exception = exceptions.iter().find(|(name, _)| *name == case.name);
        match (built, exception) {
            (true, None) => found.push(format!("{who} builds it")),
            (false, Some((_, reason))) => found.push(format!("{who} refuses it ({reason})")),
            _ => {}
        }
    };
    expect(
        "BuildKit",
        builders.buildkit(&with(&theirs), None).is_ok(),
        STRICTER,
    );
    let built = builders.coopery(&with(&ours), true).is_ok();
    expect("the engine", built, LENIENT);
    if !built && ours.exists() {
        found.push("the engine leaves an image".to_owned());
    }
    Ok(found)
}

/// What is wrong with a case that only the engine builds.
fn expectation(builders: &Builders, case: &Case) -> anyhow::Result<Vec<String>> {
    let directory = builders.directory().join("cases").join(&case.name);
    let context = directory.join("context");
    case.prepare(&context)?;
    let ours = directory.join("ours");
    let build = Build {
        context: &context,
        arguments: &case.arguments,
        goes: Goes::Layout(&ours),
    };
    let begin = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    builders.coopery(&build, true).context("the engine fails")?;
    let begin = begin.as_secs().saturating_sub(3600);
    let built = Image::read(&ours, begin, builders.base_layer())?.render();
    let expected = case.directory.join("expected");
    if std::env::var_os("UPDATE").is_some() {
        fs_err::write(&expected, &built)?;
    }
    // Times of contexts are counted by case.
    let time = format!("@{}", case.time);
    let expected = fs_err::read_to_string(expected)?.replace("@context", &time);
    let lines = built
        .lines()
        .filter(|line| !expected.lines().any(|other| other == *line));
    let mut found: Vec<_> = lines.map(|line| format!("not expected: {line}")).collect();
    let lines = expected
        .lines()
        .filter(|line| !built.lines().any(|other| other == *line));
    found.extend(lines.map(|line| format!("not there: {line}")));
    if found.is_empty() && built != expected {
        found.push("the lines have another order".into());
    }
    Ok(found)
}

/// Rows that nothing proves, or only a case that failed.
fn unproved(wrong: &BTreeMap<String, Vec<String>>) -> anyhow::Result<Vec<String>> {
    let rows = tests::corpus::rows()?;
    let mut open: Vec<String> = Vec::new();
    for row in &rows {
        let holds = |proof: &String| {
            let name = proof.rsplit('/').next().unwrap_or_default();
            tests::corpus::look_up(proof).is_ok()
                && (proof.contains("::") || !wrong.contains_key(name))
        };
        if !row.proof.iter().any(holds) {
            open.push(row.id.clone());
        }
    }
    eprintln!(
        "conformance: {} of {} rows are uncovered",
        open.len(),
        rows.len()
    );
    Ok(open)
}

#[test]
fn the_engine_builds_what_buildkit_builds() -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "run as root: RUN needs it"
    );
    let builders = Builders::start()?;
    let words = builders.words()?;
    let images = cases("images", &words, CONTEXT_TIME)?;
    let invalid = cases("invalid", &words, CONTEXT_TIME + 1000)?;
    let mut wrong = each(&images, |case| differences(&builders, case));
    wrong.extend(each(&invalid, |case| acceptance(&builders, case)));
    let expected = cases("expected", &words, CONTEXT_TIME + 2000)?;
    wrong.extend(each(&expected, |case| expectation(&builders, case)));
    let outputs = cases("outputs", &words, CONTEXT_TIME + 4000)?;
    wrong.extend(each(&outputs, |case| outputs::check(&builders, case)));
    eprintln!(
        "conformance: {} images, {} errors and {} outputs compared, {} images beside files, {} differ",
        images.len(),
        invalid.len(),
        outputs.len(),
        expected.len(),
        wrong.len()
    );
    let open = unproved(&wrong)?;
    anyhow::ensure!(wrong.is_empty(), "{:?}", wrong.keys());
    anyhow::ensure!(open.is_empty(), "uncovered rows: {}", open.join(", "));
    Ok(())
}
