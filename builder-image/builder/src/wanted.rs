//! Which files of an image a build will read: for sure, once its layers are listed and paths are resolved; and by the text of
//! the sources alone, while a layer passes by for its listing. Pure: a guess that is wrong costs room or another look.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use crate::context::pattern::{Pattern, has_wildcard};
use crate::tree::ImagePath;

/// Directories that are links into `/usr` in most images of today.
const MERGED: [&str; 5] = ["bin", "sbin", "lib", "lib32", "lib64"];

/// The files of one layer whose contents are to be kept.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Those that will be read.
    pub paths: BTreeSet<ImagePath>,
    /// Those that may be read.
    pub guesses: Arc<[Guess]>,
}

impl Wanted {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.guesses.is_empty()
    }

    /// Whether the content of the file `path` is to be kept.
    pub fn takes(&self, path: &ImagePath) -> bool {
        self.paths.contains(path) || self.guesses.iter().any(|guess| guess.takes(path))
    }
}

/// What the source of a COPY names where no link is on the way, and everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess(Vec<Component>);

/// One component of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Component {
    Name(OsString),
    Pattern(Pattern),
}

impl Guess {
    /// What the source `text` may mean.
    pub fn of(text: &str) -> Self {
        let path = ImagePath::new(text);
        let mut components = Vec::new();
        for component in path.components() {
            if !has_wildcard(component) {
                components.push(Component::Name(component.to_owned()));
                continue;
            }
            let text = component.to_string_lossy();
            match Pattern::parse(&text) {
                // Of `--parents`: any number of directories.
                _ if text.contains("**") => break,
                Ok(pattern) => components.push(Component::Pattern(pattern)),
                Err(_) => break,
            }
        }
        Self(components)
    }

    fn takes(&self, path: &ImagePath) -> bool {
        if self.covers(&mut path.components()) {
            return true;
        }
        // What is named `/bin/x` is mostly in `/usr/bin`.
        let merged = match self.0.first() {
            Some(Component::Name(first)) => MERGED.iter().any(|name| *first == **name),
            _ => false,
        };
        let mut below = path.components();
        merged && below.next().is_some_and(|first| first == "usr") && self.covers(&mut below)
    }

    fn covers<'a>(&self, path: &mut impl Iterator<Item = &'a OsStr>) -> bool {
        self.0
            .iter()
            .all(|component| match (component, path.next()) {
                (_, None) => false,
                (Component::Name(name), Some(found)) => name == found,
                (Component::Pattern(pattern), Some(found)) => {
                    pattern.matches(&found.to_string_lossy())
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_names_itself_and_all_below_it() {
        for (source, path, taken) in [
            ("/usr/bin/tool", "/usr/bin/tool", true),
            ("usr/bin", "/usr/bin/tool", true),
            ("/usr/bin/", "/usr/bin/deep/tool", true),
            ("/usr/bin", "/usr/binary", false),
            ("/usr/bin/tool", "/usr/bin", false),
            ("/bin/tool", "/usr/bin/tool", true),
            ("/opt/tool", "/usr/opt/tool", false),
            ("/", "/any/thing", true),
            (".", "/any/thing", true),
            ("/lib/*.so", "/lib/a.so", true),
            ("/lib/*.so", "/usr/lib/a.so", true),
            ("/lib/*.so", "/lib/a.so.1", false),
            ("/lib*/x", "/lib64/x/y", true),
            ("/a/./b", "/a/b/c", true),
            ("/a/**/x", "/a/any/thing", true),
            ("/a/[", "/a/thing", true),
        ] {
            let wanted = Wanted {
                guesses: [Guess::of(source)].into(),
                ..Wanted::default()
            };
            assert_eq!(
                wanted.takes(&ImagePath::new(path)),
                taken,
                "{source} {path}"
            );
        }
    }

    #[test]
    fn what_is_known_is_wanted_and_nothing_else() {
        let path = ImagePath::new("/a/b");
        let wanted = Wanted {
            paths: [path.clone()].into(),
            ..Wanted::default()
        };
        assert!(wanted.takes(&path) && !wanted.takes(&ImagePath::new("/a")));
        assert!(!wanted.is_empty() && Wanted::default().is_empty());
    }
}
