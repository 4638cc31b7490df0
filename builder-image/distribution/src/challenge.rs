//! What a registry demands when it answers 401: the parser of `WWW-Authenticate` (RFC 9110, section 11.6.1) and the
//! rules for token servers ("realms") that it may name. Pure.

use http::{HeaderMap, header};
use url::{Host, Url};

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer(Bearer),
}

/// The demand for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    /// Scopes, separated by spaces.
    pub(crate) scope: Option<String>,
}

impl Challenge {
    /// The challenge to answer among those of an answer: a token rather than a password.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut found = None;
        for value in headers.get_all(header::WWW_AUTHENTICATE) {
            for (scheme, parameters) in parse(value.to_str().unwrap_or_default()) {
                let get = |name: &str| {
                    let mut all = parameters.iter();
                    all.find(|(key, _)| key == name).map(|(_, v)| v.clone())
                };
                if scheme.eq_ignore_ascii_case("bearer") {
                    if let Some(realm) = get("realm") {
                        return Some(Self::Bearer(Bearer {
                            realm,
                            service: get("service"),
                            scope: get("scope").filter(|scope| !scope.is_empty()),
                        }));
                    }
                } else if scheme.eq_ignore_ascii_case("basic") {
                    found = Some(Self::Basic);
                }
            }
        }
        found
    }
}

type Parameters = Vec<(String, String)>;

/// The challenges in one header value. What is malformed ends the reading; what came before it counts.
fn parse(value: &str) -> Vec<(&str, Parameters)> {
    let mut challenges: Vec<(&str, Parameters)> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word = token(rest);
        if word.is_empty() {
            return challenges;
        }
        let after = rest[word.len()..].trim_start();
        match after.strip_prefix('=') {
            Some(after) if !challenges.is_empty() => {
                let Some((text, after)) = parameter_value(after.trim_start()) else {
                    return challenges;
                };
                if let Some((_, parameters)) = challenges.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), text));
                }
                rest = after;
            }
            Some(_) => return challenges,
            None => {
                challenges.push((word, Vec::new()));
                rest = &rest[word.len()..];
            }
        }
    }
}

fn token(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(c))
        .unwrap_or(text.len());
    &text[..end]
}

fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries leave out the quotes around URLs.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// The token server that `registry` (any URL of it) names as `realm`, if it may be asked.
///
/// It must be an absolute http or https URL without a user in it, not plain HTTP for a registry that has TLS, and must
/// belong to the registry: the same host, or one of the same domain (`auth.docker.io` for `registry-1.docker.io`).
///
/// # Errors
/// Why it is not asked.
pub(crate) fn realm_url(registry: &Url, realm: &str) -> Result<Url, &'static str> {
    let url = Url::parse(realm).map_err(|_| "it names a token server by a malformed URL")?;
    match (registry.scheme(), url.scheme()) {
        ("https" | "http", "https") | ("http", "http") => {}
        ("https", "http") => return Err("it names a token server without TLS"),
        _ => return Err("it names a token server that is neither http nor https"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it names a token server with a user in its URL");
    }
    let tied = match (registry.host(), url.host()) {
        (Some(Host::Domain(a)), Some(Host::Domain(b))) => same_domain(a, b),
        (a, b) => a.is_some() && a == b,
    };
    if tied {
        Ok(url)
    } else {
        Err("it names a token server of a foreign domain")
    }
}

/// Whether two hosts are the same or have the same owner, as far as names tell: the last two labels are equal, three
/// where the second is as short as those of public suffixes (`co.uk`). Names of private networks have no owner in them.
fn same_domain(a: &str, b: &str) -> bool {
    const PRIVATE: [&str; 8] = [
        "cluster",
        "home",
        "internal",
        "intranet",
        "lan",
        "local",
        "localhost",
        "svc",
    ];
    let (a, b) = (a.trim_end_matches('.'), b.trim_end_matches('.'));
    if a == b {
        return true;
    }
    let labels = |host: &str| -> Vec<String> { host.rsplit('.').map(str::to_owned).collect() };
    let (a, b) = (labels(a), labels(b));
    let needed = match a.as_slice() {
        [top, ..] if PRIVATE.contains(&top.as_str()) => return false,
        [top, second, ..] if top.len() == 2 && second.len() <= 3 => 3,
        _ => 2,
    };
    a.len() >= needed && b.len() >= needed && a[..needed] == b[..needed]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer(Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        })
    }

    #[test]
    fn challenges_are_parsed() {
        for (values, expected) in [
            (&[r#"Basic realm="r""#] as &[_], Some(Challenge::Basic)),
            (&["Basic"], Some(Challenge::Basic)),
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push""#],
                Some(bearer(
                    "https://a/t",
                    Some("s"),
                    Some("repository:a/b:pull,push"),
                )),
            ),
            (
                &[r#"bearer  Realm = "https://a/t" , error="invalid_token""#],
                Some(bearer("https://a/t", None, None)),
            ),
            (
                &[r#"Basic realm="x", Bearer realm="https://a/t",scope="""#],
                Some(bearer("https://a/t", None, None)),
            ),
            (
                &["Basic realm=x", "Bearer realm=https://a/t,service=s"],
                Some(bearer("https://a/t", Some("s"), None)),
            ),
            (
                &[r#"Bearer realm="https://a/\"t", service="a, b""#],
                Some(bearer("https://a/\"t", Some("a, b"), None)),
            ),
            (&["Negotiate abc=="], None),
            (&["Bearer"], None),
            (&[r#"Bearer realm="unterminated"#], None),
            (&[""], None),
            (&["=,=,"], None),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
    }

    #[test]
    fn realms_belong_to_the_registry() {
        for (registry, realm, allowed) in [
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io/token",
                true,
            ),
            ("https://ghcr.io", "https://ghcr.io/token", true),
            (
                "https://registry.gitlab.com",
                "https://gitlab.com/jwt/auth",
                true,
            ),
            ("https://host:5000", "https://host:5001/auth", true),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/auth", true),
            (
                "http://main.images.svc:5000",
                "http://main.images.svc:5000/auth/token",
                true,
            ),
            ("https://registry.a.co.uk", "https://auth.a.co.uk/t", true),
            ("https://registry.a.co.uk", "https://auth.b.co.uk/t", false),
            (
                "http://main.images.svc:5000",
                "http://main.other.svc:5000/auth",
                false,
            ),
            (
                "https://a.ns.svc.cluster.local",
                "https://b.ns.svc.cluster.local/t",
                false,
            ),
            ("https://quay.io", "https://evil.io/token", false),
            ("https://quay.io", "https://evil-quay.io/token", false),
            ("https://quay.io", "http://quay.io/token", false),
            ("https://quay.io", "https://user@quay.io/token", false),
            ("https://quay.io", "ftp://quay.io/token", false),
            ("https://quay.io", "/token", false),
            ("https://quay.io", "https://169.254.169.254/token", false),
            ("http://127.0.0.1:5000", "http://127.0.0.2:5000/", false),
            ("http://127.0.0.1:5000", "http://localhost:5000/", false),
            ("http://localhost:5000", "http://localhost:6000/", true),
        ] {
            let result = realm_url(&Url::parse(registry).unwrap(), realm);
            assert_eq!(result.is_ok(), allowed, "{registry} {realm}: {result:?}");
        }
    }
}
