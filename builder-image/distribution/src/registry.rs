//! What concerns a registry as a whole: whether it lets us in, which repositories it has, and its search.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use oci::{RegistryHost, Repository};
use serde::Deserialize;
use url::Url;

use crate::{
    Client, Error, Result,
    client::{Access, Ask},
    http::protocol,
};

/// The largest page of a catalog or a search.
const MAX_PAGE: u64 = 4 * 1024 * 1024;
/// Repositories asked for at once.
const PAGE: usize = 1000;
/// Where Docker Hub searches.
const HUB_SEARCH: &str = "https://index.docker.io/v1/search";

/// A repository that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    /// Its name within the registry.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// How many people like it.
    pub star_count: u64,
    /// Whether the registry's owner answers for it.
    pub is_official: bool,
    /// Whether it is built from a source repository.
    pub is_automated: bool,
}

impl Client {
    /// Asks `host` whether it lets us in, with the credentials that the keychain has for it.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when it does not.
    pub async fn check_access(&self, host: &RegistryHost) -> Result<()> {
        let action = format!("log in to {host}");
        let repository = any_repository(host);
        let url = self.host(host)?.base.clone();
        let ask = Ask::new(Method::GET, url, &repository, Access::Registry, &action);
        let response = self.send(&ask).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            _ => Err(self.failure(&repository, &action, response).await),
        }
    }

    /// The repositories of `host`, all pages of them (distribution, "Listing Repositories"). Not every registry tells.
    ///
    /// # Errors
    /// [`Error::TooLarge`] with more than `limit` repositories.
    pub async fn catalog(&self, host: &RegistryHost, limit: usize) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Option<Vec<String>>,
        }
        let action = format!("list the repositories of {host}");
        if let Some(local) = self.local(host) {
            let tags = local.tags().await?.into_iter();
            let paths: BTreeSet<String> = tags.map(|(path, _)| path).collect();
            return Ok(paths.into_iter().collect());
        }
        let repository = any_repository(host);
        let mut all: Vec<String> = Vec::new();
        loop {
            let mut url = self.host(host)?.base.clone();
            url.set_path("/v2/_catalog");
            url.query_pairs_mut().append_pair("n", &PAGE.to_string());
            if let Some(last) = all.last() {
                url.query_pairs_mut().append_pair("last", last);
            }
            let ask = Ask::new(Method::GET, url, &repository, Access::Catalog, &action);
            let response = self.send(&ask).await?;
            if response.status() != StatusCode::OK {
                return Err(self.failure(&repository, &action, response).await);
            }
            let is_last = !response.headers().contains_key(http::header::LINK);
            let body = response.bytes_bounded(MAX_PAGE).await?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|_| protocol(&action, "its list of repositories is malformed"))?;
            let page = page.repositories.unwrap_or_default();
            // A page that ends where the one before did would come again and again.
            let is_same = page.is_empty() || page.last() == all.last();
            all.extend(page);
            if all.len() > limit {
                let limit = limit as u64;
                return Err(Error::TooLarge { action, limit });
            }
            if is_last || is_same {
                return Ok(all);
            }
        }
    }

    /// Searches `host` for `term`, by the API of Docker Hub; `None` where it has none.
    pub async fn search(
        &self,
        host: &RegistryHost,
        term: &str,
        limit: usize,
    ) -> Result<Option<Vec<SearchResult>>> {
        #[derive(Deserialize)]
        struct Answer {
            results: Option<Vec<SearchResult>>,
        }
        let action = format!("search {host}");
        let mut url = if host.is_docker_hub() {
            Url::parse(HUB_SEARCH).map_err(|_| protocol(&action, "its URL is malformed"))?
        } else {
            let mut url = self.host(host)?.base.clone();
            url.set_path("/v1/search");
            url
        };
        url.query_pairs_mut()
            .append_pair("q", term)
            .append_pair("n", &limit.to_string());
        let credentials = self.keychain.credentials(&any_repository(host));
        let response = self.http().get(&url, credentials.as_ref()).await?;
        if response.status() != StatusCode::OK {
            return if host.is_docker_hub() {
                Err(self.failure(&any_repository(host), &action, response).await)
            } else {
                Ok(None)
            };
        }
        let body = response.bytes_bounded(MAX_PAGE).await?;
        // A registry that answers everything with its page for people has no search.
        let answer = serde_json::from_slice::<Answer>(&body).ok();
        Ok(answer.and_then(|answer| answer.results))
    }
}

/// Stands where a repository is asked for to find credentials: those of the whole registry.
fn any_repository(host: &RegistryHost) -> Repository {
    let repository = Repository::new(host.clone(), "library/any");
    // A host that leaves no room for a path is none of a registry that can be reached.
    repository.unwrap_or_else(|_| unreachable!("the path is valid, and hosts are short"))
}
