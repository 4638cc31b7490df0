//! The path of a file in an image: absolute, normalised, and unable to leave the root. Pure text; symbolic links are
//! the business of [`crate::tree::Tree::resolve`].

use std::{
    cmp::Ordering,
    ffi::OsStr,
    fmt,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// A path below the root of an image, without `.`, `..`, empty components or a trailing slash.
///
/// `..` at the root stays at the root, as `/..` does. Paths are bytes, as the kernel has them. The order is by component,
/// so a directory comes before everything in it, and everything in it comes before its next sibling.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct ImagePath {
    /// The components joined by `/`; empty for the root.
    relative: Box<[u8]>,
}

impl ImagePath {
    /// The root directory.
    pub fn root() -> Self {
        Self::default()
    }

    /// Normalises `text`; whether it begins with a slash makes no difference.
    pub fn new(text: impl AsRef<[u8]>) -> Self {
        Self::root().join(text)
    }

    /// `text` as seen from this directory: an absolute text replaces the path, `..` goes up by text.
    #[must_use]
    pub fn join(&self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let mut components: Vec<&[u8]> = if text.first() == Some(&b'/') {
            Vec::new()
        } else {
            self.bytes_of_components().collect()
        };
        for component in text.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    components.pop();
                }
                name => components.push(name),
            }
        }
        Self {
            relative: components.join(&b'/').into(),
        }
    }

    /// The entry `name` of this directory. A name with a slash is taken as a relative path.
    #[must_use]
    pub fn child(&self, name: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref().as_bytes();
        if name.contains(&b'/') || matches!(name, b"" | b"." | b"..") {
            return self.join([b"./", name].concat());
        }
        let mut relative = Vec::with_capacity(self.relative.len() + 1 + name.len());
        relative.extend_from_slice(&self.relative);
        if !relative.is_empty() {
            relative.push(b'/');
        }
        relative.extend_from_slice(name);
        Self {
            relative: relative.into(),
        }
    }

    /// The directory that holds this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self
            .relative
            .iter()
            .rposition(|&byte| byte == b'/')
            .unwrap_or(0);
        Some(Self {
            relative: self.relative[..end].into(),
        })
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&OsStr> {
        self.components().next_back()
    }

    /// The components from the root on.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &OsStr> {
        self.bytes_of_components().map(OsStr::from_bytes)
    }

    fn bytes_of_components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.relative
            .split(|&byte| byte == b'/')
            .filter(|component| !component.is_empty())
    }

    /// The directories above this entry, the root first; without the entry itself.
    pub fn ancestors(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut next = self.parent();
        while let Some(path) = next {
            next = path.parent();
            all.push(path);
        }
        all.reverse();
        all
    }

    /// How many components the path has; 0 for the root.
    pub fn depth(&self) -> usize {
        self.bytes_of_components().count()
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.relative.is_empty()
    }

    /// Whether this is `directory` or something below it.
    pub fn is_within(&self, directory: &Self) -> bool {
        directory.is_root()
            || self.relative == directory.relative
            || (self.relative.starts_with(&directory.relative)
                && self.relative.get(directory.relative.len()) == Some(&b'/'))
    }

    /// The bytes without a leading slash; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.relative
    }

    /// The path relative to the root, `.` for the root itself: what `openat` takes.
    pub fn as_relative(&self) -> &Path {
        if self.is_root() {
            Path::new(".")
        } else {
            Path::new(OsStr::from_bytes(&self.relative))
        }
    }

    /// The path as one writes it in an image, with the leading slash.
    pub fn to_absolute(&self) -> PathBuf {
        Path::new("/").join(OsStr::from_bytes(&self.relative))
    }
}

impl PartialOrd for ImagePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ImagePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes_of_components().cmp(other.bytes_of_components())
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.relative))
    }
}

impl fmt::Debug for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_normalised_and_stay_below_the_root() {
        for (text, expected) in [
            ("", "/"),
            ("/", "/"),
            (".", "/"),
            ("..", "/"),
            ("../../etc/passwd", "/etc/passwd"),
            ("/a//b/./c/", "/a/b/c"),
            ("a/../b", "/b"),
            ("a/../../b", "/b"),
            ("/a/..", "/"),
            (".../x", "/.../x"),
            ("a\\..\\b", "/a\\..\\b"),
        ] {
            assert_eq!(ImagePath::new(text).to_string(), expected, "{text}");
        }
    }

    #[test]
    fn joining_follows_the_text() {
        let base = ImagePath::new("/work/dir");
        for (text, expected) in [
            ("", "/work/dir"),
            (".", "/work/dir"),
            ("x", "/work/dir/x"),
            ("/x", "/x"),
            ("../x", "/work/x"),
            ("../../../x", "/x"),
        ] {
            assert_eq!(base.join(text).to_string(), expected, "{text}");
        }
        assert_eq!(base.child("x").to_string(), "/work/dir/x");
        assert_eq!(base.child("..").to_string(), "/work");
        assert_eq!(base.child("/etc").to_string(), "/work/dir/etc");
        assert_eq!(ImagePath::root().child("x").as_bytes(), b"x");
    }

    #[test]
    fn parents_names_and_containment() {
        let path = ImagePath::new("/a/b/c");
        assert_eq!(path.parent().unwrap().to_string(), "/a/b");
        assert_eq!(path.name().unwrap(), "c");
        assert_eq!(ImagePath::new("a").parent(), Some(ImagePath::root()));
        assert_eq!(ImagePath::root().parent(), None);
        assert_eq!(path.ancestors(), ["/", "/a", "/a/b"].map(ImagePath::new));
        assert!(path.is_within(&ImagePath::new("/a")));
        assert!(path.is_within(&path));
        assert!(!ImagePath::new("/ab").is_within(&ImagePath::new("/a")));
        assert_eq!((path.depth(), ImagePath::root().depth()), (3, 0));
    }

    #[test]
    fn order_keeps_a_directory_and_its_contents_together() {
        let mut paths = ["/a-b", "/a/b", "/a", "/a.b", "/a/b/c", "/"].map(ImagePath::new);
        paths.sort();
        assert_eq!(
            paths.map(|path| path.to_string()),
            ["/", "/a", "/a/b", "/a/b/c", "/a-b", "/a.b"]
        );
    }

    proptest! {
        #[test]
        fn no_text_leaves_the_root(base in "[a-z/.]{0,12}", text in "[a-z/.]{0,24}") {
            let path = ImagePath::new(&base).join(&text);
            prop_assert!(path.components().all(|component| component != ".." && component != "."));
            prop_assert_eq!(&ImagePath::new(path.to_string()), &path);
            prop_assert_eq!(path.parent().map(|parent| parent.child(path.name().unwrap())), (!path.is_root()).then(|| path.clone()));
        }
    }
}
