//! The cases of `tests/corpora`: a Dockerfile with its context and flags, copied to where it is built. Nothing is built here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use tests::stage::repository;

/// The copied context: modes and times do not depend on how the repository was checked out.
const COPY: &str = r#"
set -eu
cp -R "$1/." "$2"
rm -f "$2/arguments" "$2/buildctl" "$2/setup" "$2/expected" "$2/refused"
find "$2" -type d -exec chmod 755 {} +
find "$2" -type f -perm -u+x -exec chmod 755 {} +
find "$2" -type f ! -perm -u+x -exec chmod 644 {} +
if [ -f "$1/setup" ]; then (cd "$2" && sh -eu "$1/setup"); fi
find "$2" -exec touch -h -d "@$3" {} +
"#;

/// One case, before anything was built.
pub(crate) struct Case {
    /// The name of its directory.
    pub(crate) name: String,
    /// When its files were changed, in seconds since 1970. No two cases have the same: the daemon would take files of
    /// equal size and time for those of the case before.
    pub(crate) time: u64,
    /// Where it is kept.
    pub(crate) directory: PathBuf,
    /// Its flags, with their values; empty where a flag has none.
    pub(crate) arguments: Vec<(String, String)>,
}

impl Case {
    fn read(directory: PathBuf, words: &[(&str, String)]) -> anyhow::Result<Self> {
        let name = directory
            .file_name()
            .context("no name")?
            .to_string_lossy()
            .into_owned();
        let arguments = flags(&directory.join("arguments"), words)?.unwrap_or_default();
        Ok(Self {
            name,
            time: 0,
            directory,
            arguments,
        })
    }

    /// Copies the context into the new directory `into`.
    pub(crate) fn prepare(&self, into: &Path) -> anyhow::Result<()> {
        fs_err::create_dir_all(into)?;
        let status = Command::new("sh")
            .args(["-c", COPY, "sh"])
            .args([&self.directory, into])
            .arg(self.time.to_string())
            .env("TZ", "UTC")
            .status()?;
        anyhow::ensure!(status.success(), "the context cannot be made");
        Ok(())
    }
}

/// The flags of a file, one a line; none where there is no such file.
pub(crate) fn flags(
    file: &Path,
    words: &[(&str, String)],
) -> anyhow::Result<Option<Vec<(String, String)>>> {
    if !file.exists() {
        return Ok(None);
    }
    let mut text = fs_err::read_to_string(file)?;
    for (word, value) in words {
        text = text.replace(word, value);
    }
    let lines = text.lines().filter(|line| !line.is_empty());
    let pairs = lines.map(|line| line.split_once(' ').unwrap_or((line, "")));
    let owned = pairs.map(|(flag, value)| (flag.to_owned(), value.to_owned()));
    Ok(Some(owned.collect()))
}

/// Everything in `corpora/KIND`, or what `COOPERY_CASES` names: parts of names, with commas.
pub(crate) fn cases(kind: &str, words: &[(&str, String)], from: u64) -> anyhow::Result<Vec<Case>> {
    let wanted = std::env::var("COOPERY_CASES").unwrap_or_default();
    let mut cases = Vec::new();
    for entry in fs_err::read_dir(repository().join("tests/corpora").join(kind))? {
        let case = Case::read(entry?.path(), words)?;
        if wanted.split(',').any(|part| case.name.contains(part)) {
            cases.push(case);
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    for (case, time) in cases.iter_mut().zip(from..) {
        case.time = time;
    }
    Ok(cases)
}
