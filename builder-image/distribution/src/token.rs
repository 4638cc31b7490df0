//! The token broker: exchanges credentials for short-lived bearer tokens (distribution, "Token Authentication
//! Specification" and its OAuth2 variant). One request for each token however many ask; tokens are kept until shortly
//! before they expire.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Method, header};
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

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

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
        let mut slot = slot.lock().await;
        if let Some(token) = slot.as_ref()
            && token.expires > Instant::now()
            && rejected != Some(&token.value)
        {
            return Ok(token.value.clone());
        }
        let token = fetch(http, key, action).await?;
        Ok(slot.insert(token).value.clone())
    }

    fn slot(&self, key: &TokenKey) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() > SLOTS {
            let now = Instant::now();
            slots.retain(|_, slot| match slot.try_lock() {
                Ok(token) => token.as_ref().is_some_and(|t| t.expires > now),
                Err(_) => true,
            });
        }
        slots.entry(key.clone()).or_default().clone()
    }
}

async fn fetch(http: &HttpClient, key: &TokenKey, action: &str) -> Result<Token> {
    let mut attempt = 0;
    loop {
        let error = match fetch_once(http, key, action).await {
            Ok(token) => return Ok(token),
            Err(error) => error,
        };
        match http.retry.verdict(&error, attempt) {
            Verdict::Retry(pause) => tokio::time::sleep(pause).await,
            Verdict::GiveUp => return Err(error),
        }
        attempt += 1;
    }
}

async fn fetch_once(http: &HttpClient, key: &TokenKey, action: &str) -> Result<Token> {
    let call = request(key, action);
    let asked = Instant::now();
    let response = http.exchange(call).await?;
    let status = response.status();
    let after = retry_after(response.headers());
    let body = response.bytes_bounded(MAX_ANSWER).await?;
    if status.is_success() {
        let token =
            parse(&body).ok_or_else(|| protocol(action, "its token server gave no token"))?;
        return Ok(Token {
            value: token.0,
            expires: asked + usable(token.1),
        });
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
        status @ 500..=599 => Error::Unavailable {
            action: format!("{action}: token server"),
            outage: Outage::Status(status),
            retry_after: after,
        },
        _ => Error::of_status(action, status, code, anonymous, after),
    })
}

/// A GET with Basic, or without any credentials; a POST where a refresh token is exchanged.
fn request<'a>(key: &TokenKey, action: &'a str) -> Call<'a> {
    let mut url = key.realm.clone();
    if let Some(Credentials::Identity(token)) = &key.credentials {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", token)
            .append_pair("client_id", "coopery")
            .append_pair("scope", &key.scopes.join(" "));
        if let Some(service) = &key.service {
            form.append_pair("service", service);
        }
        let mut call = Call::new(Method::POST, url, action);
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        call.headers.insert(header::CONTENT_TYPE, form_type);
        call.payload = Payload::Bytes(form.finish().into());
        return call;
    }
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &key.service {
            query.append_pair("service", service);
        }
        for scope in &key.scopes {
            query.append_pair("scope", scope);
        }
    }
    let mut call = Call::new(Method::GET, url, action);
    call.authorization = key.credentials.as_ref().and_then(Credentials::header);
    call
}

fn parse(body: &[u8]) -> Option<(HeaderValue, Duration)> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
        #[serde(default)]
        expires_in: Option<f64>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|t| !t.is_empty())?;
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    let lifetime = match answer.expires_in {
        Some(seconds) if seconds > 0.0 => Duration::from_secs_f64(seconds.min(86_400.0)),
        _ => DEFAULT_LIFETIME,
    };
    Some((value, lifetime))
}

/// How long a token is used: clocks differ and requests take their time, so not to its last seconds.
fn usable(lifetime: Duration) -> Duration {
    lifetime.saturating_sub((lifetime / 4).min(Duration::from_secs(15)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_all_forms_are_read() {
        for (body, expected) in [
            (r#"{"token":"a"}"#, Some(("Bearer a", 60))),
            (
                r#"{"access_token":"b","expires_in":300}"#,
                Some(("Bearer b", 300)),
            ),
            (
                r#"{"token":"","access_token":"b","expires_in":0}"#,
                Some(("Bearer b", 60)),
            ),
            (
                r#"{"token":"a","expires_in":1e99}"#,
                Some(("Bearer a", 86_400)),
            ),
            (r#"{"token":"a\nb"}"#, None),
            (r#"{"token":null}"#, None),
            ("[]", None),
        ] {
            let parsed = parse(body.as_bytes());
            let shown = parsed
                .as_ref()
                .map(|(v, l)| (v.to_str().unwrap(), l.as_secs()));
            assert_eq!(shown, expected, "{body}");
        }
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
        let call = request(&key(Some(Credentials::basic("u", "s3cret"))), "pull");
        assert_eq!(
            call.url.as_str(),
            "https://a/t?x=1&service=s&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull"
        );
        assert!(call.authorization.unwrap().is_sensitive());
        let call = request(&key(Some(Credentials::Identity("s3cret".into()))), "pull");
        assert_eq!((call.method, call.url.query()), (Method::POST, Some("x=1")));
        assert!(request(&key(None), "pull").authorization.is_none());
    }
}
