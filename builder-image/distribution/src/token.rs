//! The token broker: exchanges credentials for short-lived bearer tokens (distribution, "Token Authentication
//! Specification" and its OAuth2 variant). One request for each token however many ask; tokens are kept until shortly
//! before they expire.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Method, header};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use crate::{
    Credentials, Error, ErrorCode, Outage, Result,
    http::{Call, HttpClient, Payload, protocol},
    retry::{Verdict, retry_after},
};

/// The lifetime of a token that names none (token specification, `expires_in`).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// Expired slots are dropped when there are more than this.
const SLOTS: usize = 1024;
const MAX_ANSWER: u64 = 1024 * 1024;

/// What a token is for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub(crate) realm: Url,
    pub(crate) service: Option<String>,
    /// The most important first: some token servers read no further.
    pub(crate) scopes: Vec<String>,
    pub(crate) credentials: Option<Credentials>,
}

#[derive(Clone)]
struct Token {
    value: HeaderValue,
    expires: Instant,
}

/// The token of one key, and how the last attempt to get it failed.
#[derive(Default)]
struct Kept {
    token: Option<Token>,
    /// The token that replaces the refresh token which we were given, where the server has sent one.
    refresh: Option<String>,
    failure: Option<(Instant, Refusal)>,
}

type Slot = Arc<tokio::sync::Mutex<Kept>>;

/// What of a failure is told to those who waited for the same token.
#[derive(Clone)]
enum Refusal {
    Unauthorized(Option<ErrorCode>),
    Unavailable(Outage, Option<Duration>),
}

impl Refusal {
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Unauthorized { code, .. } => Some(Self::Unauthorized(code.clone())),
            Error::Unavailable {
                outage,
                retry_after,
                ..
            } => Some(Self::Unavailable(outage.clone(), *retry_after)),
            _ => None,
        }
    }

    fn to_error(&self, action: &str, anonymous: bool) -> Error {
        match self.clone() {
            Self::Unauthorized(code) => Error::Unauthorized {
                action: action.to_owned(),
                anonymous,
                code,
            },
            Self::Unavailable(outage, retry_after) => Error::Unavailable {
                action: format!("{action}: token server"),
                outage,
                retry_after,
            },
        }
    }
}

/// The tokens of all registries.
#[derive(Default)]
pub(crate) struct TokenBroker {
    slots: Mutex<HashMap<TokenKey, Slot>>,
}

impl TokenBroker {
    /// The `Authorization` header for `key`: the kept one unless it is about to expire or is `rejected`.
    pub(crate) async fn header(
        &self,
        http: &HttpClient,
        key: &TokenKey,
        rejected: Option<&HeaderValue>,
        action: &str,
    ) -> Result<HeaderValue> {
        let slot = self.slot(key);
        let asked = Instant::now();
        let mut kept = slot.lock().await;
        if let Some(token) = &kept.token
            && token.expires > Instant::now()
            && rejected != Some(&token.value)
        {
            return Ok(token.value.clone());
        }
        // Who waited for a token that could not be got is told so: the server would say the same to each of them.
        if let Some((when, refusal)) = &kept.failure
            && *when > asked
        {
            return Err(refusal.to_error(action, key.credentials.is_none()));
        }
        match fetch(http, key, kept.refresh.as_deref(), action).await {
            Ok(answer) => {
                kept.failure = None;
                kept.refresh = answer.refresh.or(kept.refresh.take());
                let value = answer.token.value.clone();
                kept.token = Some(answer.token);
                Ok(value)
            }
            Err(error) => {
                kept.failure = Refusal::of(&error).map(|refusal| (Instant::now(), refusal));
                // A replacement that does not work may be older than what we were given.
                kept.refresh = None;
                Err(error)
            }
        }
    }

    /// Forgets the token that is sent as `header`. `false` where there is no such token.
    pub(crate) fn discard(&self, header: &HeaderValue) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().any(|slot| {
            // Who holds the lock is just getting another one.
            slot.try_lock().is_ok_and(|mut kept| {
                let is_it = kept.token.as_ref().is_some_and(|t| t.value == *header);
                if is_it {
                    kept.token = None;
                }
                is_it
            })
        })
    }

    fn slot(&self, key: &TokenKey) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() > SLOTS {
            let now = Instant::now();
            slots.retain(|_, slot| match slot.try_lock() {
                Ok(kept) => kept.token.as_ref().is_some_and(|t| t.expires > now),
                Err(_) => true,
            });
        }
        slots.entry(key.clone()).or_default().clone()
    }
}

async fn fetch(
    http: &HttpClient,
    key: &TokenKey,
    refresh: Option<&str>,
    action: &str,
) -> Result<Answer> {
    let mut attempt = 0;
    let mut form = match (refresh, &key.credentials) {
        (Some(token), Some(Credentials::Identity(_))) => Form::Refresh(token),
        (None, Some(Credentials::Identity(token))) => Form::Refresh(token),
        _ => Form::Query,
    };
    loop {
        let error = match fetch_once(http, key, form, action).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // Some servers know only the OAuth2 form.
        if let (Error::Refused { status: 405, .. }, Form::Query, Some(Credentials::Basic { .. })) =
            (&error, form, &key.credentials)
        {
            form = Form::Password;
            continue;
        }
        match http.retry.verdict(&error, attempt) {
            Verdict::Retry(pause) => tokio::time::sleep(pause).await,
            Verdict::GiveUp => return Err(error),
        }
        attempt += 1;
    }
}

async fn fetch_once(
    http: &HttpClient,
    key: &TokenKey,
    form: Form<'_>,
    action: &str,
) -> Result<Answer> {
    let call = request(key, form, action);
    let asked = Instant::now();
    let response = http.exchange(call).await?;
    let status = response.status();
    let after = retry_after(response.headers());
    let now = response.header(header::DATE).and_then(date);
    let body = response.bytes_bounded(MAX_ANSWER).await?;
    if status.is_success() {
        return parse(&body, asked, now)
            .ok_or_else(|| protocol(action, "its token server gave no token"));
    }
    let anonymous = key.credentials.is_none();
    let code = ErrorCode::of_body(&body);
    // Token servers answer 400 to refresh tokens that they do not know.
    Err(match status.as_u16() {
        400 | 401 | 403 | 404 => Error::Unauthorized {
            action: action.to_owned(),
            anonymous,
            code,
        },
        _ => {
            let action = format!("{action}: token server");
            Error::of_status(&action, status, code, anonymous, after)
        }
    })
}

/// How a token is asked for.
#[derive(Clone, Copy)]
enum Form<'a> {
    /// A GET with Basic, or without any credentials.
    Query,
    /// A POST that exchanges this refresh token.
    Refresh(&'a str),
    /// A POST with user and password in it.
    Password,
}

fn request<'a>(key: &TokenKey, form: Form<'_>, action: &'a str) -> Call<'a> {
    let mut url = key.realm.clone();
    let mut fields = form_urlencoded::Serializer::new(String::new());
    match (form, &key.credentials) {
        (Form::Refresh(token), _) => {
            fields
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token);
        }
        (Form::Password, Some(Credentials::Basic { username, password })) => {
            fields
                .append_pair("grant_type", "password")
                .append_pair("username", username)
                .append_pair("password", password);
        }
        _ => {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.service {
                query.append_pair("service", service);
            }
            for scope in &key.scopes {
                query.append_pair("scope", scope);
            }
            drop(query);
            let mut call = Call::new(Method::GET, url, action);
            call.authorization = key.credentials.as_ref().and_then(Credentials::header);
            return call;
        }
    }
    fields
        .append_pair("client_id", "coopery")
        .append_pair("scope", &key.scopes.join(" "));
    if let Some(service) = &key.service {
        fields.append_pair("service", service);
    }
    let mut call = Call::new(Method::POST, url, action);
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    call.headers.insert(header::CONTENT_TYPE, form_type);
    call.payload = Payload::Bytes(fields.finish().into());
    call
}

/// What a token server gave.
struct Answer {
    token: Token,
    refresh: Option<String>,
}

/// The token of an answer that was asked for at `asked` by our clock and sent at `now` by the server's.
fn parse(body: &[u8], asked: Instant, now: Option<Timestamp>) -> Option<Answer> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
        #[serde(default)]
        refresh_token: Option<String>,
        #[serde(default)]
        expires_in: Option<f64>,
        #[serde(default)]
        issued_at: Option<String>,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    let set = |text: Option<String>| text.filter(|text| !text.is_empty());
    let token = set(body.token).or(set(body.access_token))?;
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    let lifetime = match body.expires_in {
        Some(seconds) if seconds > 0.0 => Duration::from_secs_f64(seconds.min(86_400.0)),
        _ => DEFAULT_LIFETIME,
    };
    // A token that the server had lying around is older than its answer. Both times are the server's: our clock may be
    // wrong by hours.
    let issued: Option<Timestamp> = body.issued_at.and_then(|text| text.parse().ok());
    let age = now.zip(issued).map_or(0, |(now, issued)| {
        now.as_second().saturating_sub(issued.as_second())
    });
    let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
    Some(Answer {
        token: Token {
            value,
            expires: asked + usable(lifetime.saturating_sub(age)),
        },
        refresh: set(body.refresh_token),
    })
}

fn date(text: &str) -> Option<Timestamp> {
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(date.timestamp())
}

/// How long a token is used: requests take their time, so not to its last seconds.
fn usable(lifetime: Duration) -> Duration {
    lifetime.saturating_sub((lifetime / 4).min(Duration::from_secs(15)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_all_forms_are_read() {
        let asked = Instant::now();
        let now = date("Sun, 06 Nov 1994 08:49:37 GMT");
        for (body, expected) in [
            (r#"{"token":"a"}"#, Some(("Bearer a", 45))),
            (
                r#"{"access_token":"b","expires_in":300}"#,
                Some(("Bearer b", 285)),
            ),
            (
                r#"{"token":"","access_token":"b","expires_in":0}"#,
                Some(("Bearer b", 45)),
            ),
            (
                r#"{"token":"a","expires_in":1e99}"#,
                Some(("Bearer a", 86_385)),
            ),
            // Issued a minute before the server's now, whatever our clock says.
            (
                r#"{"token":"a","expires_in":300,"issued_at":"1994-11-06T08:48:37Z"}"#,
                Some(("Bearer a", 225)),
            ),
            (
                r#"{"token":"a","expires_in":300,"issued_at":"1994-11-06T10:00:00Z"}"#,
                Some(("Bearer a", 285)),
            ),
            (
                r#"{"token":"a","expires_in":300,"issued_at":"1970-01-01T00:00:00Z"}"#,
                Some(("Bearer a", 0)),
            ),
            (
                r#"{"token":"a","issued_at":"yesterday"}"#,
                Some(("Bearer a", 45)),
            ),
            (r#"{"token":"a\nb"}"#, None),
            (r#"{"token":null}"#, None),
            ("[]", None),
        ] {
            let parsed = parse(body.as_bytes(), asked, now);
            let shown = parsed.as_ref().map(|answer| {
                let token = &answer.token;
                (
                    token.value.to_str().unwrap(),
                    (token.expires - asked).as_secs(),
                )
            });
            assert_eq!(shown, expected, "{body}");
        }
        let rotated = br#"{"access_token":"a","refresh_token":"next"}"#;
        let refresh = parse(rotated, asked, None).unwrap().refresh;
        assert_eq!(refresh.as_deref(), Some("next"));
    }

    #[test]
    fn tokens_are_not_used_to_their_last_second() {
        for (lifetime, used) in [(60, 45), (20, 15), (300, 285)] {
            assert_eq!(usable(Duration::from_secs(lifetime)).as_secs(), used);
        }
    }

    #[test]
    fn identity_tokens_are_posted_and_passwords_are_not_in_urls() {
        let key = |credentials| TokenKey {
            realm: Url::parse("https://a/t?x=1").unwrap(),
            service: Some("s".into()),
            scopes: vec!["repository:a/b:pull".into(), "repository:c:pull".into()],
            credentials,
        };
        let basic = key(Some(Credentials::basic("u", "s3cret")));
        let call = request(&basic, Form::Query, "pull");
        assert_eq!(
            call.url.as_str(),
            "https://a/t?x=1&service=s&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull"
        );
        assert!(call.authorization.unwrap().is_sensitive());
        for (form, field) in [
            (
                Form::Password,
                "grant_type=password&username=u&password=s3cret&",
            ),
            (
                Form::Refresh("s3cret"),
                "grant_type=refresh_token&refresh_token=s3cret&",
            ),
        ] {
            let call = request(&basic, form, "pull");
            assert_eq!((call.method, call.url.query()), (Method::POST, Some("x=1")));
            assert!(call.authorization.is_none());
            let Payload::Bytes(body) = call.payload else {
                panic!("a form is posted");
            };
            let rest =
                "client_id=coopery&scope=repository%3Aa%2Fb%3Apull+repository%3Ac%3Apull&service=s";
            assert_eq!(body, format!("{field}{rest}"));
        }
        let anonymous = request(&key(None), Form::Query, "pull");
        assert!(anonymous.authorization.is_none());
    }
}
