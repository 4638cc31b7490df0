//! Writes the CustomResourceDefinitions into a folder, or with `--check` says which files are stale.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let check = std::env::args().any(|a| a == "--check");
    let folder = std::env::args()
        .skip(1)
        .find(|a| !a.starts_with("--"))
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let mut failed = false;
    for (name, definition) in crds::definition::definitions() {
        let path = folder.join(name);
        let yaml = crds::definition::to_yaml(&definition);
        if check {
            if fs_err::read_to_string(&path).ok().as_deref() != Some(yaml.as_str()) {
                eprintln!("{} is stale: run `make generate`", path.display());
                failed = true;
            }
        } else if let Err(error) = fs_err::write(&path, yaml) {
            eprintln!("{error}");
            failed = true;
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
