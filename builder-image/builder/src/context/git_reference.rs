//! A git repository as people name it in a URL: `https://host/repository.git#ref:subdirectory`, or with a query
//! (`?ref=…&subdir=…`). Pure: what the ref stands for, the server says.

use protocol::GitRevision;

use super::ContextError;

/// What a URL says of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitReference {
    /// The repository, without query and fragment.
    pub url: String,
    /// Branch, tag, full ref or commit; the default branch where absent.
    pub reference: Option<String>,
    /// The beginning of the commit that the ref must stand for.
    pub commit: Option<String>,
    /// The directory inside the repository; empty for its top.
    pub subdirectory: String,
    /// Whether `.git` is asked for, or expressly not.
    pub keep_git_dir: Option<bool>,
}

impl GitReference {
    /// Reads a URL.
    ///
    /// # Errors
    /// When it is none, or its parts contradict each other.
    pub fn parse(text: &str) -> Result<Self, ContextError> {
        let refuse = |problem: String| ContextError::GitReference {
            url: text.split(['?', '#']).next().unwrap_or_default().to_owned(),
            problem,
        };
        let full = match text.strip_prefix("github.com/") {
            Some(rest) => format!("https://github.com/{rest}"),
            None => text.to_owned(),
        };
        let (rest, fragment) = full.split_once('#').unwrap_or((&full, ""));
        let (url, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut found = Self {
            url: url.to_owned(),
            reference: Some(reference.to_owned()).filter(|name| !name.is_empty()),
            commit: None,
            subdirectory: subdirectory.to_owned(),
            keep_git_dir: None,
        };
        let mut seen = Vec::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&key) {
                return Err(refuse(format!("`{key}` is given twice")));
            }
            if value.is_empty()
                && !matches!(&*key, "keep-git-dir" | "submodules" | "fetch-by-commit")
            {
                return Err(refuse(format!("`{key}` has no value")));
            }
            let reference = match &*key {
                "ref" => Some(value.to_string()),
                "tag" => Some(prefixed("refs/tags/", &value)),
                "branch" => Some(prefixed("refs/heads/", &value)),
                "subdir" if found.subdirectory.is_empty() || found.subdirectory == *value => {
                    found.subdirectory = value.to_string();
                    None
                }
                "subdir" => return Err(refuse("the subdirectory is given twice".into())),
                "commit" | "checksum" if found.commit.is_none() => {
                    found.commit = Some(value.to_string());
                    None
                }
                "commit" | "checksum" => return Err(refuse("the commit is given twice".into())),
                "keep-git-dir" => {
                    found.keep_git_dir = Some(switch(&key, &value).map_err(refuse)?);
                    None
                }
                // Without a name that is known, the commit itself is asked for.
                "fetch-by-commit" => {
                    switch(&key, &value).map_err(refuse)?;
                    None
                }
                "submodules" if !switch(&key, &value).map_err(refuse)? => None,
                "submodules" => {
                    return Err(refuse(
                        "submodules are not fetched: ADD each repository by itself".into(),
                    ));
                }
                "mtime" if value == "commit" => None,
                "mtime" => {
                    return Err(refuse(format!(
                        "`mtime={value}` is not supported: files have the time of the commit, so that equal commits are equal files"
                    )));
                }
                other => {
                    return Err(refuse(format!(
                        "`{other}` is not supported in its query; known are ref, tag, branch, subdir, commit, keep-git-dir, submodules, fetch-by-commit and mtime"
                    )));
                }
            };
            if let Some(reference) = reference {
                if found
                    .reference
                    .as_ref()
                    .is_some_and(|known| *known != reference)
                {
                    return Err(refuse("more than one ref is given".into()));
                }
                found.reference = Some(reference);
            }
            seen.push(key);
        }
        let hexadecimal =
            |text: &String| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !found.commit.as_ref().is_none_or(hexadecimal) {
            return Err(refuse("the commit is not hexadecimal".into()));
        }
        Ok(found)
    }

    /// Asks for the commit that begins with `checksum`.
    ///
    /// # Errors
    /// When that is none, or the URL names another one.
    pub fn require_commit(&mut self, checksum: &str) -> Result<(), ContextError> {
        let refuse = |problem: &str| {
            Err(ContextError::GitReference {
                url: self.url.clone(),
                problem: problem.to_owned(),
            })
        };
        let is_hexadecimal = checksum
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match &self.commit {
            _ if !is_hexadecimal || !(7..=64).contains(&checksum.len()) => {
                refuse("the checksum is no commit: write its hexadecimal digits, at least 7")
            }
            Some(commit) if !commit.starts_with(checksum) && !checksum.starts_with(commit) => {
                refuse("the URL and the checksum name different commits")
            }
            Some(commit) if commit.len() > checksum.len() => Ok(()),
            _ => {
                self.commit = Some(checksum.to_owned());
                Ok(())
            }
        }
    }

    /// The commit that is meant, by what the server offers: names of refs with their commits.
    ///
    /// # Errors
    /// When the server has no such ref, or it stands for another commit than the URL says.
    pub fn revision(&self, offered: &[(String, String)]) -> Result<GitRevision, ContextError> {
        let refuse = |problem: String| ContextError::GitReference {
            url: self.url.clone(),
            problem,
        };
        let commit_of = |name: &str| {
            let found = offered.iter().find(|(offered, _)| offered == name);
            found.map(|(_, commit)| commit.clone())
        };
        let name = self.reference.as_deref().unwrap_or("HEAD");
        let revision = if is_commit(name) {
            GitRevision {
                commit: name.to_owned(),
                reference: None,
            }
        } else {
            // As `git checkout` does: the name itself, a branch, a tag. A tag may be an object of its own.
            let candidates = [
                name.to_owned(),
                prefixed("refs/", name),
                prefixed("refs/heads/", name),
                prefixed("refs/tags/", name),
            ];
            let found = candidates.iter().find_map(|candidate| {
                let peeled = commit_of(&format!("{candidate}^{{}}"));
                Some((candidate, peeled.or_else(|| commit_of(candidate))?))
            });
            let Some((full, commit)) = found else {
                return Err(refuse(format!("it has no branch or tag `{name}`")));
            };
            GitRevision {
                commit,
                reference: Some(full.clone()).filter(|full| full.starts_with("refs/")),
            }
        };
        match &self.commit {
            Some(wanted) if !revision.commit.starts_with(wanted.as_str()) => Err(refuse(format!(
                "`{name}` is the commit {}, not {wanted}",
                revision.commit
            ))),
            _ => Ok(revision),
        }
    }
}

/// A value of the query that is true or false; true where it is left out.
fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("`{key}={value}` is neither true nor false")),
    }
}

fn prefixed(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The refs that a server advertises, in the format of gitprotocol-pack(5): lines with their length in front.
pub(super) fn advertised(body: &[u8]) -> Vec<(String, String)> {
    let mut refs = Vec::new();
    let mut rest = body;
    while let Some(length) = rest
        .get(..4)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| usize::from_str_radix(digits, 16).ok())
    {
        // 0000 ends a section.
        let Some(line) = rest.get(4..length.max(4)) else {
            break;
        };
        rest = &rest[length.max(4)..];
        let line = line.split(|&byte| byte == 0).next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        if let Some((commit, name)) = line.trim_end().split_once(' ')
            && is_commit(commit)
        {
            refs.push((name.to_owned(), commit.to_owned()));
        }
    }
    refs
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fmt::Write as _;

    use super::*;

    /// A URL; the repository, ref, commit and directory in it, or a part of the message.
    type Row = (
        &'static str,
        Result<(&'static str, &'static str, &'static str, &'static str), &'static str>,
    );

    #[test]
    fn urls_say_ref_and_directory() {
        let rows: &[Row] = &[
            ("https://h/a.git", Ok(("https://h/a.git", "", "", ""))),
            ("https://h/a.git#v1", Ok(("https://h/a.git", "v1", "", ""))),
            (
                "https://h/a.git#v1:sub/dir",
                Ok(("https://h/a.git", "v1", "", "sub/dir")),
            ),
            (
                "https://h/a.git#:sub",
                Ok(("https://h/a.git", "", "", "sub")),
            ),
            (
                "github.com/o/r#main",
                Ok(("https://github.com/o/r", "main", "", "")),
            ),
            (
                "https://h/a.git?ref=x&subdir=s",
                Ok(("https://h/a.git", "x", "", "s")),
            ),
            (
                "https://h/a.git?tag=v1&commit=abc",
                Ok(("https://h/a.git", "refs/tags/v1", "abc", "")),
            ),
            (
                "https://h/a.git?branch=refs/heads/m",
                Ok(("https://h/a.git", "refs/heads/m", "", "")),
            ),
            (
                "https://h/a.git?ref=x#x:s",
                Ok(("https://h/a.git", "x", "", "s")),
            ),
            ("https://h/a.git?ref=x#y", Err("more than one ref")),
            ("https://h/a.git?tag=x&branch=x", Err("more than one ref")),
            ("https://h/a.git?ref=x&ref=x", Err("`ref` is given twice")),
            (
                "https://h/a.git?subdir=a#:b",
                Err("subdirectory is given twice"),
            ),
            (
                "https://h/a.git?commit=a&checksum=b",
                Err("commit is given twice"),
            ),
            ("https://h/a.git?commit=xyz", Err("not hexadecimal")),
            ("https://h/a.git?ref=", Err("`ref` has no value")),
            (
                "https://h/a.git?submodules=true",
                Err("submodules are not fetched"),
            ),
            (
                "https://h/a.git?submodules=0&fetch-by-commit&mtime=commit",
                Ok(("https://h/a.git", "", "", "")),
            ),
            (
                "https://h/a.git?mtime=checkout",
                Err("`mtime=checkout` is not supported"),
            ),
            (
                "https://h/a.git?keep-git-dir=yes",
                Err("neither true nor false"),
            ),
            ("https://h/a.git?depth=1", Err("`depth` is not supported")),
        ];
        for (text, expected) in rows {
            match (GitReference::parse(text), expected) {
                (Ok(found), Ok((url, reference, commit, subdirectory))) => {
                    let option = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
                    let expected = GitReference {
                        url: (*url).into(),
                        reference: option(reference),
                        commit: option(commit),
                        subdirectory: (*subdirectory).into(),
                        keep_git_dir: None,
                    };
                    assert_eq!(found, expected, "{text}");
                }
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{text}: {error}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_checksum_is_the_beginning_of_the_commit() {
        for (url, checksum, expected) in [
            ("https://h/a.git", "0123456", Ok("0123456")),
            ("https://h/a.git?commit=01234567", "0123456", Ok("01234567")),
            ("https://h/a.git?commit=0123456", "01234567", Ok("01234567")),
            (
                "https://h/a.git?commit=f123456",
                "0123456",
                Err("different commits"),
            ),
            ("https://h/a.git", "012345", Err("at least 7")),
            ("https://h/a.git", "sha256:01", Err("at least 7")),
        ] {
            let mut wanted = GitReference::parse(url).unwrap();
            match (wanted.require_commit(checksum), expected) {
                (Ok(()), Ok(commit)) => assert_eq!(wanted.commit.as_deref(), Some(commit)),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, _) => panic!("{url} {checksum}: {found:?}"),
            }
        }
        let keeps = |url| GitReference::parse(url).unwrap().keep_git_dir;
        assert_eq!(keeps("https://h/a.git?keep-git-dir"), Some(true));
        assert_eq!(keeps("https://h/a.git?keep-git-dir=0"), Some(false));
    }

    #[test]
    fn refs_are_found_as_checkout_finds_them() {
        let commit = |digit: &str| digit.repeat(40);
        let lines = [
            format!("{} HEAD\0symref=HEAD:refs/heads/main\n", commit("1")),
            format!("{} refs/heads/main\n", commit("1")),
            format!("{} refs/heads/both\n", commit("2")),
            format!("{} refs/tags/both\n", commit("3")),
            format!("{} refs/tags/v1\n", commit("4")),
            format!("{} refs/tags/v1^{{}}\n", commit("5")),
            format!("{} refs/pull/1/head\n", commit("6")),
        ];
        let mut body = String::from("001e# service=git-upload-pack\n0000");
        for line in &lines {
            write!(body, "{:04x}{line}", line.len() + 4).unwrap();
        }
        body.push_str("0000");
        let offered = advertised(body.as_bytes());
        assert_eq!(offered.len(), lines.len());
        for (fragment, expected) in [
            ("", Ok(("1", None))),
            ("#main", Ok(("1", Some("refs/heads/main")))),
            ("#refs/heads/main", Ok(("1", Some("refs/heads/main")))),
            ("#heads/main", Ok(("1", Some("refs/heads/main")))),
            ("#both", Ok(("2", Some("refs/heads/both")))),
            ("?tag=both", Ok(("3", Some("refs/tags/both")))),
            ("#v1", Ok(("5", Some("refs/tags/v1")))),
            ("#pull/1/head", Ok(("6", Some("refs/pull/1/head")))),
            ("?tag=v1&commit=555", Ok(("5", Some("refs/tags/v1")))),
            ("?tag=v1&commit=444", Err("not 444")),
            ("#none", Err("no branch or tag `none`")),
        ] {
            let reference = GitReference::parse(&format!("https://h/a.git{fragment}")).unwrap();
            match (reference.revision(&offered), expected) {
                (Ok(found), Ok((digit, name))) => {
                    assert_eq!(
                        (found.commit, found.reference.as_deref()),
                        (commit(digit), name)
                    );
                }
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, _) => panic!("{fragment}: {found:?}"),
            }
        }
        let hash = GitReference::parse(&format!("https://h/a.git#{}", commit("a"))).unwrap();
        assert_eq!(hash.revision(&[]).unwrap().commit, commit("a"));
        for broken in [&b"zz"[..], b"0008abc", b"ffffx", b""] {
            assert_eq!(advertised(broken), []);
        }
    }
}
