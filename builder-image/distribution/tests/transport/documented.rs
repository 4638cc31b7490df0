//! The table of hazards in `docs/transport.md`: the tests that it names exist, and no hazard is left out.

use std::path::Path;

/// The text of all Rust files below `directory`.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    for entry in fs_err::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs_err::read_to_string(path).unwrap());
        }
    }
    all
}

#[test]
fn every_hazard_has_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs_err::read_to_string(root.join("../../docs/transport.md")).unwrap();
    let code = sources(&root.join("src")) + &sources(&root.join("tests"));
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let named: Vec<_> = page
        .split(|c| !is_word(c))
        .filter(|word| word.matches('_').count() >= 4)
        .collect();
    assert!(named.len() > 30, "{}", named.len());
    for name in named {
        assert!(code.contains(&format!("fn {name}(")), "{name}");
    }
    let numbers: Vec<u32> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .flat_map(|cell| cell.split(", ").filter_map(|number| number.parse().ok()))
        .filter(|number| (1..=26).contains(number))
        .collect();
    assert_eq!(numbers, (1..=26).collect::<Vec<_>>());
}
