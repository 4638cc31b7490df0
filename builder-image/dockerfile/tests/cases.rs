//! Walks `testdata`: every folder holds a `Dockerfile` and what it is `expected` to become. Under `invalid` that is the
//! rendered diagnostics, elsewhere the instructions, and the diagnostics if there are any.
//!
//! `UPDATE=1 cargo test -p dockerfile --test cases` rewrites the expected files.

mod dump;

use std::path::{Path, PathBuf};

use dockerfile::{Diagnostic, Parsed, check_expansions, parse, unsupported};

fn folders(root: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut folders: Vec<_> = fs_err::read_dir(root)
        .expect("the test data exists")
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.join("Dockerfile").exists())
        .collect();
    folders.sort();
    folders
}

fn rendered(diagnostics: &[Diagnostic], text: &str) -> String {
    diagnostics
        .iter()
        .map(|diagnostic| diagnostic.render("Dockerfile", text, false) + "\n\n")
        .collect()
}

/// Compares, or rewrites, and returns what differs.
fn compare(folder: &Path, actual: &str) -> Option<String> {
    let path = folder.join("expected");
    if std::env::var_os("UPDATE").is_some() {
        fs_err::write(&path, actual).expect("the expected file can be written");
        return None;
    }
    let expected = fs_err::read_to_string(&path).unwrap_or_default();
    (expected != actual).then(|| {
        format!(
            "{}\n--- expected\n{expected}\n--- actual\n{actual}",
            folder.display()
        )
    })
}

fn walk(root: &str, least: usize, describe: impl Fn(&str, Parsed) -> String) {
    let folders = folders(root);
    assert!(
        folders.len() >= least,
        "only {} cases in {root}",
        folders.len()
    );
    let differences: Vec<_> = folders
        .iter()
        .filter_map(|folder| {
            let text = fs_err::read_to_string(folder.join("Dockerfile"))
                .expect("the Dockerfile is readable");
            compare(folder, &describe(&text, parse("Dockerfile", &text)))
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn valid_files_become_instructions() {
    walk("testdata", 25, |text, parsed| {
        assert!(
            !parsed.has_errors(),
            "{}",
            rendered(&parsed.diagnostics, text)
        );
        let mut out = parsed
            .dockerfile
            .as_ref()
            .map(dump::dump)
            .unwrap_or_default();
        if !parsed.diagnostics.is_empty() {
            out += "\n";
            out += &rendered(&parsed.diagnostics, text);
        }
        out
    });
}

#[test]
fn invalid_files_are_explained() {
    walk("testdata/invalid", 40, |text, parsed| {
        let mut diagnostics = parsed.diagnostics;
        if let Some(dockerfile) = &parsed.dockerfile {
            diagnostics.extend(unsupported(dockerfile, None, |_| true));
            diagnostics.extend(check_expansions(dockerfile, |_| true));
        }
        assert!(
            diagnostics.iter().any(Diagnostic::is_error),
            "no error in:\n{text}"
        );
        rendered(&diagnostics, text)
    });
}
