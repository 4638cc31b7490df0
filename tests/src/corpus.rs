//! The checklist of the Dockerfile language in `corpora/rows.yaml`: what each row says, whether the engine supports it, and
//! what proves that. Reads the table and looks proofs up; builds nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;

use crate::stage::repository;

/// One row of the checklist.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name.
    pub id: String,
    /// What it belongs to.
    pub section: String,
    /// What is to hold, as one sentence.
    pub says: String,
    /// Why the engine refuses it, where it does so on purpose.
    #[serde(default)]
    pub refused: Option<String>,
    /// What shows it: a case (`images/NAME`, `invalid/NAME`, `expected/NAME`) or a test (`FILE::FUNCTION`, the file as
    /// seen from the top of the repository, or from `builder-image`).
    #[serde(default)]
    pub proof: Vec<String>,
}

impl Row {
    /// Names of the cases among its proofs.
    pub fn cases(&self) -> impl Iterator<Item = &str> {
        self.proof
            .iter()
            .map(String::as_str)
            .filter(|proof| !proof.contains("::"))
    }
}

/// Where the cases are.
pub fn corpora() -> PathBuf {
    repository().join("tests/corpora")
}

/// All rows, in the order of the table.
///
/// # Errors
/// When the table cannot be read, or two rows have one name.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let text = fs_err::read_to_string(corpora().join("rows.yaml"))?;
    let rows: Vec<Row> = serde_saphyr::from_str(&text).context("rows.yaml")?;
    let mut ids = BTreeSet::new();
    for row in &rows {
        anyhow::ensure!(ids.insert(&row.id), "row {} is there twice", row.id);
    }
    Ok(rows)
}

/// Names of rows that nothing proves.
pub fn uncovered(rows: &[Row]) -> Vec<&str> {
    let bare = rows.iter().filter(|row| row.proof.is_empty());
    bare.map(|row| row.id.as_str()).collect()
}

/// Whether a proof exists: the directory of a case, or the function in its file.
///
/// # Errors
/// What is missing.
pub fn look_up(proof: &str) -> anyhow::Result<()> {
    let Some((file, function)) = proof.split_once("::") else {
        let dockerfile = corpora().join(proof);
        anyhow::ensure!(dockerfile.is_dir(), "there is no case {proof}");
        return Ok(());
    };
    let root = repository();
    let found = [root.join(file), root.join("builder-image").join(file)]
        .into_iter()
        .find(|path| path.is_file());
    let path = found.with_context(|| format!("there is no file {file}"))?;
    let text = fs_err::read_to_string(path)?;
    anyhow::ensure!(
        text.contains(&format!("fn {function}(")),
        "there is no test {function} in {file}"
    );
    Ok(())
}

/// The rows as a table of Markdown, as `docs/dockerfile.md` has it.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut section = "";
    for row in rows {
        if row.section != section {
            section = &row.section;
            write!(
                text,
                "\n### {section}\n\n| Row | What holds | Supported | Proof |\n|---|---|---|---|\n"
            )
            .expect("writing to a string never fails");
        }
        let supported = match (&row.refused, row.proof.is_empty()) {
            (Some(reason), _) => format!("refused: {reason}"),
            (None, true) => "not yet".into(),
            (None, false) => "yes".into(),
        };
        let proof: Vec<_> = row.proof.iter().map(|proof| format!("`{proof}`")).collect();
        writeln!(
            text,
            "| {} | {} | {supported} | {} |",
            row.id,
            row.says.replace('|', "\\|"),
            proof.join(", ")
        )
        .expect("writing to a string never fails");
    }
    text
}
