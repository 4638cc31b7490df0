//! Which URLs a source may have. Pure: where a name leads is judged when a connection is made.

use url::Url;

/// A URL that is refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("source URL `{shown}` is refused: {problem}")]
pub struct UrlError {
    /// The URL without anything secret.
    shown: String,
    problem: &'static str,
}

/// Checks the URL of a git repository: `https:` with a host and nothing that git could take for something else. `http:`
/// only where `plain_http` allows it.
///
/// # Errors
/// What is wrong with it, without quoting credentials.
pub fn check_git_url(text: &str, plain_http: bool) -> Result<Url, UrlError> {
    let refuse = |problem| {
        Err(UrlError {
            shown: shown(text),
            problem,
        })
    };
    if text.starts_with('-') {
        return refuse("it looks like an option");
    }
    if text.split_once("::").is_some_and(|(helper, _)| {
        helper
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-')
    }) {
        return refuse("remote helpers of git are not used; write an https URL");
    }
    if text.starts_with('/') || text.starts_with('.') {
        return refuse("paths are no sources; write an https URL");
    }
    if is_scp_like(text) {
        return refuse("git over ssh is not supported here; write an https URL");
    }
    let url = check(text)?;
    match url.scheme() {
        "https" => {}
        "http" if plain_http => {}
        "http" => return refuse("git over plain http can be tampered with; write an https URL"),
        "ssh" | "git+ssh" | "ssh+git" => {
            return refuse("git over ssh is not supported here; write an https URL");
        }
        "file" => return refuse("files are no sources; write an https URL"),
        _ => return refuse("the protocol is not supported; write an https URL"),
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("the ref and the subdirectory have fields of their own");
    }
    Ok(url)
}

/// Checks the URL of an archive: `http:` or `https:`.
///
/// # Errors
/// What is wrong with it, without quoting credentials.
pub fn check_http_url(text: &str) -> Result<Url, UrlError> {
    let refuse = |problem| {
        Err(UrlError {
            shown: shown(text),
            problem,
        })
    };
    let url = check(text)?;
    match url.scheme() {
        "https" | "http" => Ok(url),
        "file" => refuse("files are no sources"),
        _ => refuse("only http and https are supported"),
    }
}

fn check(text: &str) -> Result<Url, UrlError> {
    let refuse = |problem| {
        Err(UrlError {
            shown: shown(text),
            problem,
        })
    };
    if text.len() > 2048 {
        return refuse("it is longer than 2048 characters");
    }
    if text
        .chars()
        .any(|character| character.is_control() || character == ' ' || character == '\\')
    {
        return refuse("it holds blanks, backslashes or control characters");
    }
    let Ok(url) = Url::parse(text) else {
        return refuse("it is not a URL");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("it holds credentials; put them into a Secret");
    }
    if matches!(url.scheme(), "http" | "https") && url.host_str().is_none_or(str::is_empty) {
        return refuse("it has no host");
    }
    Ok(url)
}

/// `user@host:path`, as ssh's copy program has it.
fn is_scp_like(text: &str) -> bool {
    let Some((before, _)) = text.split_once(':') else {
        return false;
    };
    !text.contains("://") && !before.contains('/') && (before.contains('@') || before.contains('.'))
}

/// The text as it may be shown: without what stands before `@` and after `?`, cut.
fn shown(text: &str) -> String {
    let without_query = text.split(['?', '#']).next().unwrap_or_default();
    let masked = match (without_query.find("://"), without_query.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}://***{}", &without_query[..scheme], &without_query[at..])
        }
        (None, Some(at)) => format!("***{}", &without_query[at..]),
        _ => without_query.to_owned(),
    };
    masked
        .chars()
        .filter(|character| !character.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn git_urls() {
        let rows: &[(&str, Option<&str>)] = &[
            ("https://git.example.com/team/app.git", None),
            ("https://git.example.com:8443/team/app", None),
            ("https://[2001:db8::1]/app.git", None),
            ("HTTPS://git.example.com/app", None),
            ("http://git.example.com/app.git", Some("plain http")),
            ("ext::sh -c id", Some("remote helpers")),
            ("ext::https://git.example.com/", Some("remote helpers")),
            ("fd::17", Some("remote helpers")),
            ("file:///etc", Some("files are no sources")),
            ("file::///etc", Some("remote helpers")),
            ("/etc", Some("paths")),
            ("./repository", Some("paths")),
            ("../x", Some("paths")),
            ("-oProxyCommand=id", Some("option")),
            ("--upload-pack=/bin/sh", Some("option")),
            ("ssh://git@git.example.com/app", Some("credentials")),
            ("ssh://git.example.com/app", Some("ssh")),
            ("git+ssh://git.example.com/app", Some("ssh")),
            ("git@git.example.com:team/app.git", Some("ssh")),
            ("git.example.com:team/app.git", Some("ssh")),
            ("git://git.example.com/app", Some("protocol")),
            ("ftp://git.example.com/app", Some("protocol")),
            ("https://user:pa55@git.example.com/app", Some("credentials")),
            ("https://pa55@git.example.com/app", Some("credentials")),
            (
                "https://git.example.com/app#main:sub",
                Some("fields of their own"),
            ),
            (
                "https://git.example.com/app?ref=main",
                Some("fields of their own"),
            ),
            ("https://", Some("not a URL")),
            ("https:///app", None),
            ("git.example.com/app", Some("not a URL")),
            ("", Some("not a URL")),
            ("https://git.example.com/a b", Some("blanks")),
            ("https://git.example.com/a\n--upload-pack=x", Some("blanks")),
            ("https:\\\\git.example.com\\app", Some("blanks")),
            ("javascript:alert(1)", Some("protocol")),
        ];
        for (text, expected) in rows {
            match (check_git_url(text, false), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(expected)) => {
                    assert!(error.to_string().contains(expected), "{text}: {error}");
                    assert!(!error.to_string().contains("pa55"), "{error}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        assert!(check_git_url("http://127.0.0.1:1/app", true).is_ok());
        // Without two slashes the first part of the path is the host, for git as for us.
        assert_eq!(
            check_git_url("https:///app", false).unwrap().as_str(),
            "https://app/"
        );
    }

    #[test]
    fn archive_urls() {
        let rows: &[(&str, Option<&str>)] = &[
            ("https://example.com/app.tar.gz?token=1#x", None),
            ("http://example.com/app.tar", None),
            ("file:///etc/passwd", Some("files")),
            ("ftp://example.com/app.tar", Some("only http")),
            ("https://a:pa55@example.com/app.tar", Some("credentials")),
            ("example.com/app.tar", Some("not a URL")),
        ];
        for (text, expected) in rows {
            match (check_http_url(text), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(expected)) => {
                    assert!(error.to_string().contains(expected), "{text}: {error}");
                    assert!(!error.to_string().contains("pa55"), "{error}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
