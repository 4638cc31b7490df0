//! Looks up a branch or tag of a git repository by the reference discovery of the smart HTTP protocol
//! (gitprotocol-http, "Smart Clients"). It reads the list of references only: no objects, no other transport than
//! https, no local git.

use std::time::Duration;

use crate::reason::Reason;

/// The longest list of references that is read, in bytes.
pub const MAX_ADVERTISEMENT_BYTES: u64 = 4 * 1024 * 1024;
/// How long a lookup may take.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitRef {
    /// The head of a branch.
    Branch(String),
    /// A tag; an annotated one stands for the commit that it names.
    Tag(String),
    /// A commit in full, which needs no lookup.
    Commit(String),
}

impl GitRef {
    /// The full name, `refs/heads/main`; none for a commit.
    pub fn full_name(&self) -> Option<String> {
        match self {
            Self::Branch(name) => Some(format!("refs/heads/{name}")),
            Self::Tag(name) => Some(format!("refs/tags/{name}")),
            Self::Commit(_) => None,
        }
    }

    /// As people say it: `branch main`.
    pub fn describe(&self) -> String {
        match self {
            Self::Branch(name) => format!("branch {name}"),
            Self::Tag(name) => format!("tag {name}"),
            Self::Commit(hash) => format!("commit {hash}"),
        }
    }
}

/// User name and password for a git server. Not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct GitCredentials {
    /// The user name; some servers want any.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for GitCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitCredentials").finish_non_exhaustive()
    }
}

/// Why a lookup found no commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    /// The server does not let these credentials in, or wants some.
    #[error(
        "the git server answered {status}: check the user name and password in source.git.secretRef (a repository that does not exist can look the same)"
    )]
    Unauthorized {
        /// 401 or 403.
        status: u16,
    },
    /// There is no repository at the URL.
    #[error("the git server has no repository at this URL (404): check source.git.url")]
    RepositoryNotFound,
    /// The repository has no such branch or tag.
    #[error("the repository has no {0}: create it, or correct source.git.ref")]
    RevisionNotFound(String),
    /// Another answer than 200.
    #[error("the git server answered {status}: it is asked again")]
    Status {
        /// The HTTP status.
        status: u16,
    },
    /// No answer.
    #[error("the git server cannot be reached: {0}")]
    Unreachable(String),
    /// An address that the network guard does not let through.
    #[error("the address of the git server is refused: {0}")]
    AddressRefused(String),
    /// An answer, but not that of a git server with the smart protocol.
    #[error("the answer is not that of a git server ({0}): check source.git.url")]
    Malformed(&'static str),
    /// The list of references is longer than [`MAX_ADVERTISEMENT_BYTES`].
    #[error("the list of references is longer than 4 MiB: name a commit in source.git.ref")]
    TooLarge,
}

impl GitError {
    /// The reason that goes into conditions and metrics.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Unauthorized { .. } => Reason::SourceUnauthorized,
            Self::RepositoryNotFound => Reason::SourceNotFound,
            Self::RevisionNotFound(_) => Reason::RevisionNotFound,
            Self::Status { .. } | Self::Unreachable(_) => Reason::SourceUnavailable,
            Self::AddressRefused(_) => Reason::AddressRefused,
            Self::Malformed(_) | Self::TooLarge => Reason::SourceInvalid,
        }
    }

    /// Whether the machines are at fault, not what people wrote.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::Unreachable(_))
    }
}

/// The URL of the list of references of `repository`.
///
/// # Errors
/// When `repository` is not a plain `https:` URL: another scheme (`ext::`, `file:`), user name, query or fragment.
pub fn discovery_url(repository: &str) -> Result<url::Url, &'static str> {
    let mut url = url::Url::parse(repository).map_err(|_| "it is not a URL")?;
    if url.scheme() != "https" {
        return Err("only https is supported");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials belong into a Secret, named by secretRef");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has a query or a fragment");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it has no host");
    }
    let path = format!("{}/info/refs", url.path().trim_end_matches('/'));
    if path == "/info/refs" {
        return Err("it has no path");
    }
    url.set_path(&path);
    url.set_query(Some("service=git-upload-pack"));
    Ok(url)
}

/// Finds the commit of `wanted` in the list of references that a server sent.
///
/// # Errors
/// When the list is malformed, or does not have the reference.
pub fn find_commit(advertisement: &[u8], wanted: &GitRef) -> Result<String, GitError> {
    let name = match (wanted.full_name(), wanted) {
        (Some(name), _) => name,
        (None, GitRef::Commit(hash)) => return Ok(hash.clone()),
        (None, other) => return Err(GitError::RevisionNotFound(other.describe())),
    };
    let peeled = format!("{name}^{{}}");
    let mut found = None;
    for line in pkt_lines(advertisement)? {
        let Some((hash, rest)) = line.split_once(' ') else {
            return Err(GitError::Malformed("a reference without a name"));
        };
        if !is_commit(hash) {
            return Err(GitError::Malformed("a reference without a hash"));
        }
        let reference = rest.split('\0').next().unwrap_or(rest);
        if reference == peeled {
            return Ok(hash.to_owned());
        }
        if reference == name {
            found = Some(hash.to_owned());
        }
    }
    found.ok_or_else(|| GitError::RevisionNotFound(wanted.describe()))
}

/// Whether `text` is the full hash of a commit: 40 or 64 lower-case hexadecimal digits.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The references of an answer: pkt-lines after the announcement of the service, without their line ends.
fn pkt_lines(answer: &[u8]) -> Result<Vec<&str>, GitError> {
    let mut rest = answer;
    let mut lines = Vec::new();
    let mut announced = false;
    while !rest.is_empty() {
        let length = rest
            .get(..4)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .ok_or(GitError::Malformed("no length where a line begins"))?;
        if length == 0 {
            rest = &rest[4..];
            continue;
        }
        let line = rest
            .get(4..length)
            .ok_or(GitError::Malformed("a line that ends too early"))?;
        rest = &rest[length..];
        let line = std::str::from_utf8(line)
            .map_err(|_| GitError::Malformed("a line that is not UTF-8"))?
            .trim_end_matches('\n');
        if announced {
            // An empty repository has one line without a reference; shallow lines end the list.
            if !line.contains(" capabilities^{}") && !line.starts_with("shallow ") {
                lines.push(line);
            }
        } else if line == "# service=git-upload-pack" {
            announced = true;
        } else {
            return Err(GitError::Malformed("no announcement of the service"));
        }
    }
    if announced {
        Ok(lines)
    } else {
        Err(GitError::Malformed("an empty answer"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn pkt(line: &str) -> String {
        format!("{:04x}{line}\n", line.len() + 5)
    }

    fn advertisement(refs: &[(&str, &str)]) -> Vec<u8> {
        let mut text = format!("{}0000", pkt("# service=git-upload-pack"));
        for (index, (hash, name)) in refs.iter().enumerate() {
            let capabilities = if index == 0 {
                "\0multi_ack agent=git/2"
            } else {
                ""
            };
            text.push_str(&pkt(&format!("{hash} {name}{capabilities}")));
        }
        text.push_str("0000");
        text.into_bytes()
    }

    fn hash(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    #[test]
    fn branches_and_tags_are_found_by_their_full_name() {
        let (a, b, c, d) = (hash('a'), hash('b'), hash('c'), hash('d'));
        let list = advertisement(&[
            (&a, "HEAD"),
            (&a, "refs/heads/main"),
            (&b, "refs/heads/feature/main"),
            (&c, "refs/tags/main"),
            (&c, "refs/tags/v1"),
            (&d, "refs/tags/v1^{}"),
        ]);
        let find = |wanted| find_commit(&list, &wanted);
        assert_eq!(find(GitRef::Branch("main".into())), Ok(a));
        assert_eq!(find(GitRef::Branch("feature/main".into())), Ok(b));
        assert_eq!(find(GitRef::Tag("main".into())), Ok(c));
        assert_eq!(find(GitRef::Tag("v1".into())), Ok(d));
        assert_eq!(find(GitRef::Commit(hash('9'))), Ok(hash('9')));
        assert_eq!(
            find(GitRef::Branch("v1".into())),
            Err(GitError::RevisionNotFound("branch v1".into()))
        );
    }

    #[test]
    fn an_empty_repository_has_no_branch() {
        let list = advertisement(&[(&hash('0'), "capabilities^{}")]);
        assert_eq!(
            find_commit(&list, &GitRef::Branch("main".into())),
            Err(GitError::RevisionNotFound("branch main".into()))
        );
    }

    #[test]
    fn other_answers_are_not_taken_for_a_list() {
        let main = GitRef::Branch("main".into());
        for bytes in [
            &b""[..],
            b"<html>hello</html>",
            b"001e# service=git-upload-pack\n0000ffff",
            b"001f# service=git-receive-pack\n0000",
            b"001e# service=git-upload-pack\n00000008zz z",
            b"0003",
            b"-001",
        ] {
            assert!(
                matches!(find_commit(bytes, &main), Err(GitError::Malformed(_))),
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn only_plain_https_urls_are_asked() {
        assert_eq!(
            discovery_url("https://git.example.com/team/app.git/")
                .unwrap()
                .as_str(),
            "https://git.example.com/team/app.git/info/refs?service=git-upload-pack"
        );
        for refused in [
            "ext::sh -c id",
            "file:///etc",
            "/etc",
            "http://git.example.com/a",
            "ssh://git@git.example.com/a",
            "git@git.example.com:a",
            "https://user@git.example.com/a",
            "https://user:password@git.example.com/a",
            "https://git.example.com/",
            "https://git.example.com/a?x=1",
            "https://git.example.com/a#main:sub",
            "-oProxyCommand=id",
        ] {
            assert!(discovery_url(refused).is_err(), "{refused}");
        }
    }
}
