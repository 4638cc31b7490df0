//! The answer of a client to a registry's demand for authentication: what is remembered of the demand, which token or
//! password goes with a request, and the one repetition when that was not right.

use http::{HeaderValue, StatusCode};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};
use url::Url;

use crate::{
    Client, Credentials, Error, Response, Result,
    challenge::{Bearer, Challenge, realm_url},
    client::{Ask, Host, error_code},
    http::protocol,
    token::TokenKey,
};

/// How a registry wants to be authenticated to.
#[derive(Clone, Debug)]
pub(crate) enum Demand {
    /// No request was made yet.
    Unknown,
    Nothing,
    Basic,
    Token {
        realm: Url,
        service: Option<String>,
    },
}

impl Client {
    /// Sends `ask` with the authentication that is known to be wanted, and once more when another is demanded.
    pub(crate) async fn send_authenticated(&self, host: &Host, ask: &Ask<'_>) -> Result<Response> {
        let credentials = self.keychain.credentials(ask.repository);
        let scopes = ask.scopes();
        let (demand, discovery) = host.known_demand().await;
        let mut sent = self
            .authorization(&demand, &scopes, credentials.as_ref(), None, ask.action)
            .await?;
        let mut response = self.exchange(ask, sent.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            if let Some(mut discovery) = discovery {
                *discovery = Demand::Nothing;
            }
            return Ok(response);
        }
        // Once for what is demanded; a second time where the token turns out to lack a scope or to be outdated.
        let mut discovery = discovery;
        for _ in 0..2 {
            let Some(challenge) = Challenge::of(response.headers()) else {
                break;
            };
            let demanded = match challenge {
                Challenge::Basic => Demand::Basic,
                Challenge::Bearer(Bearer { realm, service, .. }) => Demand::Token {
                    realm: realm_url(&host.base, &realm)
                        .map_err(|problem| protocol(ask.action, problem))?,
                    service,
                },
            };
            match discovery.take() {
                Some(mut unknown) => *unknown = demanded.clone(),
                None => *host.demand.write().await = demanded.clone(),
            }
            let scopes = with_scopes(&scopes, Challenge::of(response.headers()));
            let next = self
                .authorization(
                    &demanded,
                    &scopes,
                    credentials.as_ref(),
                    sent.as_ref(),
                    ask.action,
                )
                .await?;
            if next.is_none() || next == sent {
                break;
            }
            response = self.exchange(ask, next.clone()).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            sent = next;
        }
        drop(discovery);
        let code = error_code(response).await;
        Err(Error::Unauthorized {
            action: ask.action.to_owned(),
            anonymous: credentials.is_none(),
            code,
        })
    }

    /// The `Authorization` header that answers `demand`; `rejected` is one that did not.
    async fn authorization(
        &self,
        demand: &Demand,
        scopes: &[String],
        credentials: Option<&Credentials>,
        rejected: Option<&HeaderValue>,
        action: &str,
    ) -> Result<Option<HeaderValue>> {
        let (realm, service) = match (demand, credentials) {
            (Demand::Unknown | Demand::Nothing, _) | (Demand::Basic, None) => return Ok(None),
            (Demand::Basic, Some(credentials))
            | (_, Some(credentials @ Credentials::Bearer(_))) => {
                return Ok(credentials.header());
            }
            (Demand::Token { realm, service }, _) => (realm, service),
        };
        let key = TokenKey {
            realm: realm.clone(),
            service: service.clone(),
            scopes: scopes.to_vec(),
            credentials: credentials.cloned(),
        };
        let header = self
            .tokens()
            .header(self.http(), &key, rejected, action)
            .await?;
        Ok(Some(header))
    }

    /// The authorization for a request that can be sent only once (its body is a stream), after the requests before it
    /// have taught what the registry demands.
    pub(crate) async fn prepared_authorization(
        &self,
        ask: &Ask<'_>,
    ) -> Result<Option<HeaderValue>> {
        let host = self.host(ask.repository.host())?;
        let demand = host.demand.read().await.clone();
        let credentials = self.keychain.credentials(ask.repository);
        self.authorization(
            &demand,
            &ask.scopes(),
            credentials.as_ref(),
            None,
            ask.action,
        )
        .await
    }
}

impl Host {
    /// What the registry demands. As long as that is unknown, one request at a time finds out, the others wait: it holds
    /// the second value until it knows.
    async fn known_demand(&self) -> (Demand, Option<OwnedRwLockWriteGuard<Demand>>) {
        let known: OwnedRwLockReadGuard<Demand> = self.demand.clone().read_owned().await;
        if !matches!(*known, Demand::Unknown) {
            return (known.clone(), None);
        }
        drop(known);
        let guard = self.demand.clone().write_owned().await;
        match &*guard {
            Demand::Unknown => (Demand::Unknown, Some(guard)),
            known => (known.clone(), None),
        }
    }
}

/// The scopes of a request and those that a challenge names besides.
fn with_scopes(scopes: &[String], challenge: Option<Challenge>) -> Vec<String> {
    let mut scopes = scopes.to_vec();
    if let Some(Challenge::Bearer(Bearer {
        scope: Some(named), ..
    })) = challenge
    {
        for scope in named.split_whitespace() {
            if !scopes.iter().any(|have| covers(have, scope)) && scopes.len() < 8 {
                scopes.push(scope.to_owned());
            }
        }
    }
    scopes
}

/// Whether the scope `have` (`repository:a:pull,push`) includes `wanted` (`repository:a:pull`).
fn covers(have: &str, wanted: &str) -> bool {
    match (have.rsplit_once(':'), wanted.rsplit_once(':')) {
        (Some((name, actions)), Some((wanted_name, wanted_actions))) => {
            name == wanted_name
                && wanted_actions
                    .split(',')
                    .all(|action| actions.split(',').any(|have| have == action))
        }
        _ => have == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_cover_each_other() {
        for (have, wanted, covered) in [
            ("repository:a:pull,push", "repository:a:pull", true),
            ("repository:a:pull", "repository:a:push,pull", false),
            ("repository:a:pull", "repository:b:pull", false),
            ("registry:catalog:*", "registry:catalog:*", true),
            ("x", "y", false),
        ] {
            assert_eq!(covers(have, wanted), covered, "{have} {wanted}");
        }
    }
}
