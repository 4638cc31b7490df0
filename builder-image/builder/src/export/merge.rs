//! Several images in one directory: whether they can be there beside each other. It writes nothing.

use std::collections::HashMap;

use super::FilesError;
use crate::tree::{ImagePath, Tree};

/// Makes sure that no two of `trees`, each with the name of its platform, have the same file, or a file where the other has a
/// directory. Directories may be in all of them.
///
/// # Errors
/// [`FilesError::OfSeveral`] for the first that two have.
pub(super) fn check_disjoint(trees: &[(&str, &dyn Tree)]) -> Result<(), FilesError> {
    if trees.len() < 2 {
        return Ok(());
    }
    let mut seen = Seen::default();
    for (owner, (_, tree)) in trees.iter().enumerate() {
        seen.visit(trees, owner, *tree, &ImagePath::root())?;
    }
    Ok(())
}

/// What was met: of which tree it was first, and whether it is a directory.
#[derive(Default)]
struct Seen(HashMap<ImagePath, (usize, bool)>);

impl Seen {
    fn visit(
        &mut self,
        trees: &[(&str, &dyn Tree)],
        owner: usize,
        tree: &dyn Tree,
        directory: &ImagePath,
    ) -> Result<(), FilesError> {
        for (name, entry) in tree.read_dir(directory)? {
            let path = directory.child(&name);
            let is_directory = entry.is_directory();
            let first = *(self.0.entry(path.clone())).or_insert((owner, is_directory));
            if first.0 != owner && !(first.1 && is_directory) {
                return Err(FilesError::OfSeveral {
                    path,
                    first: trees[first.0].0.to_owned(),
                    second: trees[owner].0.to_owned(),
                });
            }
            if is_directory {
                self.visit(trees, owner, tree, &path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{all_owners, snapshot};

    #[test]
    fn only_directories_may_be_in_several() {
        let owners = all_owners()[0];
        let scratch = tempfile::tempdir().unwrap();
        for (number, (one, two, expected)) in [
            ("/bin/a = x", "/bin/b = x", None),
            ("/bin/a = x", "/bin/a = x", Some("/bin/a")),
            ("/bin/a = x", "/bin -> usr", Some("/bin")),
            ("/bin = x", "/bin/a = x", Some("/bin")),
        ]
        .into_iter()
        .enumerate()
        {
            let of = |name: &str, text: &str| {
                let root = scratch.path().join(format!("{number}-{name}"));
                fs_err::create_dir(&root).unwrap();
                snapshot(&[text], &root, owners)
            };
            let (one, two) = (of("one", one), of("two", two));
            let checked = check_disjoint(&[("linux/amd64", &one), ("linux/arm64", &two)]);
            let told = checked.err().map(|error| error.to_string());
            let names =
                expected.map(|path| format!("{path}: the images of linux/amd64 and linux/arm64"));
            match (told, names) {
                (Some(told), Some(names)) => assert!(told.starts_with(&names), "{told}"),
                (told, names) => assert_eq!(told, names),
            }
        }
    }
}
