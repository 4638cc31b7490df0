//! `.dockerignore`: which files of a context are offered to the build. Text and names only; walking the context is done in
//! the module above. The rules are those of BuildKit: patterns as in Go's `filepath.Match` with `**`, `!` takes files back,
//! the last pattern that matches decides, and what matches a directory matches everything below it.

use super::pattern::{Pattern, PatternError};

/// The name of the file at the top of the context.
pub const NAME: &str = ".dockerignore";

/// The name of the file that wins over [`NAME`] for one Dockerfile.
pub fn name_for(dockerfile: &str) -> String {
    format!("{dockerfile}{NAME}")
}

/// The file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerignoreError {
    /// A line is no pattern.
    #[error("line {line} of {NAME}: {source}")]
    Pattern {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: PatternError,
    },
    /// A line is `!` alone.
    #[error("line {line} of {NAME}: `!` without a pattern")]
    NothingExcepted {
        /// Counted from 1.
        line: usize,
    },
}

/// The patterns of a `.dockerignore`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dockerignore {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    /// The pattern began with `!`.
    excepts: bool,
}

/// Which rules matched a directory: what is below it is decided with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    rules: Vec<bool>,
}

impl Dockerignore {
    /// Reads the text of a `.dockerignore`.
    ///
    /// # Errors
    /// The first line that is not a pattern.
    pub fn parse(text: &str) -> Result<Self, DockerignoreError> {
        let mut rules = Vec::new();
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
        for (line, content) in (1..).zip(lines) {
            let content = content.trim_end_matches('\r');
            let trimmed = content.trim();
            if content.starts_with('#') || trimmed.is_empty() {
                continue;
            }
            let (excepts, name) = match trimmed.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, trimmed),
            };
            if name.is_empty() {
                return Err(DockerignoreError::NothingExcepted { line });
            }
            let pattern = Pattern::parse_ignore(&clean(name))
                .map_err(|source| DockerignoreError::Pattern { line, source })?;
            rules.push(Rule { pattern, excepts });
        }
        Ok(Self { rules })
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the file or directory `path` (relative, with slashes) is ignored, and what to hand in for what is below it.
    /// `above` is what this gave for the directory that holds it; the default at the top.
    pub fn matches(&self, path: &str, above: &Matched) -> (bool, Matched) {
        let mut ignored = false;
        let mut rules = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            // A rule that would change nothing is not looked at, and does not count for what is below either.
            let matched = above.rules.get(index).copied().unwrap_or(false)
                || (rule.excepts == ignored && rule.pattern.matches(path));
            rules.push(matched);
            if matched {
                ignored = !rule.excepts;
            }
        }
        (ignored, Matched { rules })
    }

    /// Whether something below the ignored directory `path` can be offered all the same.
    pub fn may_except_below(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        self.rules
            .iter()
            .filter(|rule| rule.excepts)
            .any(|rule| match rule.pattern.literal() {
                None => true,
                Some(literal) => {
                    let literal = format!("{literal}/");
                    literal.starts_with(&inside) || inside.starts_with(&literal)
                }
            })
    }
}

/// The pattern as Go's `filepath.Clean` leaves it, relative to the context.
fn clean(name: &str) -> String {
    let absolute = name.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(last) if *last != ".." => {
                    parts.pop();
                }
                _ if absolute => {}
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        if absolute { "/" } else { "." }.to_owned()
    } else {
        parts.join("/")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Whether `path` is ignored, deciding about every directory above it first.
    fn ignored(text: &str, path: &str) -> bool {
        let dockerignore = Dockerignore::parse(text).unwrap();
        let mut above = Matched::default();
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        let mut decided = false;
        for end in ends {
            (decided, above) = dockerignore.matches(&path[..end], &above);
        }
        decided
    }

    #[test]
    fn which_files_are_ignored() {
        let rows: &[(&str, &str, bool)] = &[
            // One pattern.
            ("", "file", false),
            ("file", "file", true),
            ("file", "dir/file", false),
            ("**", "file", true),
            ("**/", "file", true),
            ("**", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "dir", false),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir3/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**file", "dirfile", true),
            ("**/file", "dir/file", true),
            ("**/file", "dir/dirfile", false),
            ("**file", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("**/**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abc/def", false),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("dist/*.whl", "dist/proxy.py-2.4.0+g08-py3.whl", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "aXb", false),
            ("*", "dir/file", true),
            ("*/*", "file", false),
            ("*/*", "dir/sub/file", true),
            // Text around patterns.
            ("# comment\nfile", "file", true),
            (" # a pattern", "# a pattern", true),
            ("\\#file", "#file", true),
            ("\n\n  file  \n", "file", true),
            ("\u{feff}file", "file", true),
            ("file\r\nother\r\n", "file", true),
            ("/file", "file", true),
            ("./dir/../file/", "file", true),
            ("../file", "file", false),
            ("/", "file", false),
            (".", "file", false),
            // Exceptions, and the last match.
            ("docs\n!docs/README.md", "docs/README.md", false),
            ("docs/\n!docs/README.md", "docs/README.md", false),
            ("docs/*\n!docs/README.md", "docs/README.md", false),
            ("docs\n!docs/README.md", "docs/other.md", true),
            ("!file.go\n*.go", "file.go", true),
            ("*.go\n!file.go", "file.go", false),
            ("*.go\n! file.go", "file.go", false),
            ("**\n!util/docker/web", "util/docker/web/foo", false),
            (
                "**\n!util/docker/web\nutil/docker/web/foo",
                "util/docker/web/foo",
                true,
            ),
            ("**\n!dist/*.whl", "dist/x.whl", false),
            ("*\n!src", "src/deep/file", false),
            ("*\n!src\n**/*.o", "src/deep/file.o", true),
            ("*\n!/src/", "src/file", false),
            ("a\n!a/b\na/b/c\n!a/b/c/d", "a/b/c/d/e", false),
            ("a\n!a/b\na/b/c\n!a/b/c/d", "a/b/c/x", true),
            // An exception for a directory that was not ignored says nothing about what is in it.
            ("**/*.md\n!docs", "docs/a.md", true),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                "README-secret.md",
                true,
            ),
            (
                "*.md\nREADME-secret.md\n!README*.md",
                "README-secret.md",
                false,
            ),
        ];
        for (text, path, expected) in rows {
            assert_eq!(ignored(text, path), *expected, "{text:?} {path:?}");
        }
    }

    #[test]
    fn lines_that_are_no_patterns() {
        let error = |text: &str| Dockerignore::parse(text).unwrap_err().to_string();
        assert_eq!(
            error("a\n[\n"),
            "line 2 of .dockerignore: syntax error in pattern \"[\""
        );
        assert_eq!(error("!"), "line 1 of .dockerignore: `!` without a pattern");
        assert_eq!(
            error("# x\n!  \n"),
            "line 2 of .dockerignore: `!` without a pattern"
        );
    }

    #[test]
    fn directories_that_need_no_look() {
        let rows = [
            ("node_modules", "node_modules", false),
            ("**\n!src/main", "src", true),
            ("**\n!src/main", "src/main", true),
            ("**\n!src", "src/main", true),
            ("**\n!src/main", "source", false),
            ("**\n!**/*.rs", "anything", true),
        ];
        for (text, path, expected) in rows {
            assert_eq!(
                Dockerignore::parse(text).unwrap().may_except_below(path),
                expected,
                "{text:?} {path}"
            );
        }
    }
}
