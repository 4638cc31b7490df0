//! The checklist of the Dockerfile language: its proofs exist, and `docs/dockerfile.md` says what it says. Needs nothing.

use anyhow::Context as _;
use tests::corpus::{look_up, rows, table};
use tests::stage::repository;

const BEGIN: &str =
    "<!-- begin of rows: written by `UPDATE=1 cargo test -p tests --test corpus` -->\n";
const END: &str = "<!-- end of rows -->\n";

#[test]
fn what_rows_name_as_their_proof_exists() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for row in rows()? {
        for proof in &row.proof {
            missing.extend(
                look_up(proof)
                    .err()
                    .map(|error| format!("{}: {error}", row.id)),
            );
        }
    }
    anyhow::ensure!(missing.is_empty(), "{missing:#?}");
    Ok(())
}

#[test]
fn the_documentation_has_every_row_and_no_other() -> anyhow::Result<()> {
    let path = repository().join("docs/dockerfile.md");
    let text = fs_err::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).context("the rows begin nowhere")?;
    let (written, after) = rest.split_once(END).context("the rows end nowhere")?;
    let table = table(&rows()?);
    if std::env::var_os("UPDATE").is_some() {
        fs_err::write(path, format!("{before}{BEGIN}{table}{END}{after}"))?;
        return Ok(());
    }
    anyhow::ensure!(
        written == table,
        "docs/dockerfile.md is stale: run this test with UPDATE=1"
    );
    Ok(())
}
