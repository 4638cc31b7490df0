//! What a source of ADD or COPY points at.

/// Where a source comes from. To be asked after expansion; before it, the answer for a word with variables is a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceLocation {
    /// A path or pattern in the build context, a stage or an image.
    Local,
    /// A file behind an `http://` or `https://` URL.
    Http,
    /// A git repository: `git://`, `ssh://`, `user@host:path`, or `http(s)://` with a path that ends in `.git`.
    Git,
}

impl SourceLocation {
    /// Classifies a source. `github.com/…` without a scheme is a path here, because nothing tells it from one.
    pub fn of(source: &str) -> Self {
        let web = source
            .strip_prefix("https://")
            .or_else(|| source.strip_prefix("http://"));
        if let Some(rest) = web {
            let path = rest.split(['?', '#']).next().unwrap_or_default();
            return if path.strip_suffix(".git").is_some() {
                Self::Git
            } else {
                Self::Http
            };
        }
        let scheme = ["git://", "ssh://"]
            .iter()
            .any(|scheme| source.starts_with(scheme));
        if scheme || is_scp_like(source) {
            Self::Git
        } else {
            Self::Local
        }
    }
}

/// `user@host:path`
fn is_scp_like(source: &str) -> bool {
    let Some((user, rest)) = source.split_once('@') else {
        return false;
    };
    let Some((host, _)) = rest.split_once(':') else {
        return false;
    };
    let all = |text: &str, extra: &[char]| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || extra.contains(&c))
    };
    all(user, &['-', '_']) && all(host, &['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        for (source, expected) in [
            ("a", SourceLocation::Local),
            ("./http://a", SourceLocation::Local),
            ("github.com/a/b", SourceLocation::Local),
            ("a@b", SourceLocation::Local),
            ("a.git", SourceLocation::Local),
            ("file:///a", SourceLocation::Local),
            ("http://a/b", SourceLocation::Http),
            ("https://a/b.tar.gz?x=.git", SourceLocation::Http),
            ("https://a/b.git", SourceLocation::Git),
            ("https://a/b.git#v1:sub", SourceLocation::Git),
            ("https://a/b.git?ref=v1", SourceLocation::Git),
            ("git://a/b", SourceLocation::Git),
            ("ssh://git@a/b", SourceLocation::Git),
            ("git@github.com:a/b.git", SourceLocation::Git),
        ] {
            assert_eq!(SourceLocation::of(source), expected, "{source}");
        }
    }
}
