//! Lists that registries give page by page (tags, referrers): the `Link` header (RFC 8288) and the loop over it, which
//! neither leaves the registry nor runs for ever.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderMap, Method, header};
use oci::{Repository, Tag};
use url::Url;

use crate::{
    Client, Error, Result,
    client::{Access, Ask},
    http::protocol,
};

/// The largest page of a list.
const MAX_PAGE: u64 = 4 * 1024 * 1024;
/// Tags asked for at once: the most that the large registries give.
const PAGE: usize = 1000;
/// Pages of one list, however small they are.
const MAX_PAGES: usize = 20_000;
/// Pages one after another without an entry.
const MAX_EMPTY_PAGES: usize = 16;

/// A list on its way.
pub(crate) struct Pages {
    client: Client,
    repository: Repository,
    action: String,
    accept: Option<header::HeaderValue>,
    /// `None` after the last page.
    next: Option<Url>,
    seen: HashSet<Url>,
    empty: usize,
}

/// What a page holds.
pub(crate) struct Page<T> {
    pub(crate) entries: Vec<T>,
    pub(crate) headers: HeaderMap,
}

impl Pages {
    pub(crate) fn new(
        client: &Client,
        repository: &Repository,
        first: Url,
        action: String,
    ) -> Self {
        Self {
            client: client.clone(),
            repository: repository.clone(),
            action,
            accept: None,
            next: Some(first),
            seen: HashSet::new(),
            empty: 0,
        }
    }

    /// The media type that is asked for.
    pub(crate) fn accept(mut self, media_type: &'static str) -> Self {
        self.accept = Some(header::HeaderValue::from_static(media_type));
        self
    }

    /// The next page, read by `parse`; `None` after the last one.
    pub(crate) async fn next<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Option<Vec<T>>,
    ) -> Result<Option<Page<T>>> {
        let Some(url) = self.next.take() else {
            return Ok(None);
        };
        if !self.seen.insert(url.clone()) {
            return Err(protocol(&self.action, "its pages lead in a circle"));
        }
        if self.seen.len() > MAX_PAGES || self.empty > MAX_EMPTY_PAGES {
            return Err(protocol(&self.action, "its pages have no end"));
        }
        let (headers, body) = match self.get(&url).await {
            Ok(page) => page,
            // Some registries refuse a number of entries that is larger than what they give; their own choice will do.
            Err(Error::Refused { status: 400, .. }) if self.seen.len() == 1 && has_count(&url) => {
                let mut url = url.clone();
                url.set_query(None);
                self.get(&url).await?
            }
            Err(error) => return Err(error),
        };
        self.next = next_page(&headers, &url)
            .transpose()
            .map_err(|problem| protocol(&self.action, problem))?;
        let entries =
            parse(&body).ok_or_else(|| protocol(&self.action, "its list is malformed"))?;
        self.empty = if entries.is_empty() {
            self.empty + 1
        } else {
            0
        };
        Ok(Some(Page { entries, headers }))
    }

    async fn get(&self, url: &Url) -> Result<(HeaderMap, Bytes)> {
        let mut ask = Ask::new(
            Method::GET,
            url.clone(),
            &self.repository,
            Access::Pull,
            &self.action,
        );
        if let Some(accept) = &self.accept {
            ask.headers.insert(header::ACCEPT, accept.clone());
        }
        self.client
            .send_for_body(&ask, MAX_PAGE, |headers, body| Ok((headers.clone(), body)))
            .await
    }
}

impl Client {
    /// The tags of `repository` in the registry's order (which is lexical at best), page by page, so that a repository of
    /// any number of tags needs the memory of one page. Ends after the first error.
    ///
    /// A list is complete only where the stream ended without an error.
    pub fn tag_pages(
        &self,
        repository: &Repository,
    ) -> impl Stream<Item = Result<Vec<Tag>>> + Send + 'static + use<> {
        let local = self.local_tags(repository);
        if let Some(local) = local {
            return local.left_stream();
        }
        let action = format!("list tags of {repository}");
        let pages = self.url(repository, "tags/list").map(|mut url| {
            url.set_query(Some(&format!("n={PAGE}")));
            Pages::new(self, repository, url, action)
        });
        futures::stream::try_unfold(pages, |pages| async {
            let mut pages = pages?;
            let page = pages.next(parse_tags).await?;
            Ok(page.map(|page| (page.entries, Ok(pages))))
        })
        .right_stream()
    }

    /// The tags of `repository`, all pages of them.
    ///
    /// # Errors
    /// [`Error::TooLarge`] with more than `limit` tags; [`Error::Protocol`] where pages lead to other servers or in circles.
    pub async fn tags(&self, repository: &Repository, limit: usize) -> Result<Vec<Tag>> {
        use futures::TryStreamExt;
        let mut pages = std::pin::pin!(self.tag_pages(repository));
        let mut tags = Vec::new();
        while let Some(page) = pages.try_next().await? {
            tags.extend(page);
            if tags.len() > limit {
                return Err(Error::TooLarge {
                    action: format!("list tags of {repository}"),
                    limit: limit as u64,
                });
            }
        }
        Ok(tags)
    }
}

fn parse_tags(body: &[u8]) -> Option<Vec<Tag>> {
    #[derive(serde::Deserialize)]
    struct Body {
        tags: Option<Vec<String>>,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    // A tag that breaks the grammar cannot be asked for.
    let tags = body.tags.unwrap_or_default();
    Some(tags.iter().filter_map(|tag| tag.parse().ok()).collect())
}

fn has_count(url: &Url) -> bool {
    url.query_pairs().any(|(name, _)| name == "n")
}

/// The URL of the next page (`rel="next"`), which must be of the same server.
fn next_page(headers: &HeaderMap, base: &Url) -> Option<Result<Url, &'static str>> {
    let target = headers
        .get_all(header::LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(next_target)?;
    let Ok(url) = base.join(target) else {
        return Some(Err("its next page has a malformed URL"));
    };
    let url = crate::http::behind_tls(url, base);
    Some(if url.origin() == base.origin() {
        Ok(url)
    } else {
        Err("its next page is on another server")
    })
}

fn next_target(link: &str) -> Option<&str> {
    let mut rest = link;
    loop {
        let start = rest.find('<')?;
        let end = start + rest[start..].find('>')?;
        let target = &rest[start + 1..end];
        let parameters = &rest[end + 1..];
        let parameters_end = parameters.find(",<").or_else(|| parameters.find(", <"));
        let (parameters, after) = parameters.split_at(parameters_end.unwrap_or(parameters.len()));
        let is_next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.trim().eq_ignore_ascii_case("rel")
                && value
                    .trim()
                    .trim_matches('"')
                    .split(' ')
                    .any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_pages_are_of_the_same_server() {
        let base = Url::parse("https://h/v2/a/b/tags/list?n=1000").unwrap();
        let ok = |url: &str| Some(Ok(Url::parse(url).unwrap()));
        let elsewhere = Some(Err("its next page is on another server"));
        for (link, expected) in [
            (
                r#"</v2/a/b/tags/list?last=x&n=2>; rel="next""#,
                ok("https://h/v2/a/b/tags/list?last=x&n=2"),
            ),
            (
                "<list?last=y>;rel=next",
                ok("https://h/v2/a/b/tags/list?last=y"),
            ),
            (
                "<?next_page=opaque%3D%3D>;rel=next",
                ok("https://h/v2/a/b/tags/list?next_page=opaque%3D%3D"),
            ),
            (
                r#"<https://h/a>; rel="prev", <https://h/b>; rel="next last""#,
                ok("https://h/b"),
            ),
            (r#"<https://h/a>; rel="prev""#, None),
            // A registry behind a proxy that ends TLS for it.
            (r#"<http://h/b>; rel="next""#, ok("https://h/b")),
            (r#"<http://evil/b>; rel="next""#, elsewhere.clone()),
            (r#"<https://h:444/b>; rel="next""#, elsewhere.clone()),
            (r#"<//evil/b>; rel="next""#, elsewhere.clone()),
            (r#"<https://h.evil/b>; rel="next""#, elsewhere.clone()),
            ("nonsense", None),
            ("<", None),
        ] {
            let headers = HeaderMap::from_iter([(header::LINK, link.parse().unwrap())]);
            assert_eq!(next_page(&headers, &base), expected, "{link}");
        }
    }

    #[test]
    fn lists_of_tags_are_parsed() {
        let tags = |body: &str| parse_tags(body.as_bytes()).map(|tags| tags.len());
        for (body, expected) in [
            (r#"{"name":"a","tags":["1","2"]}"#, Some(2)),
            (r#"{"name":"a","tags":null}"#, Some(0)),
            (r#"{"name":"a"}"#, Some(0)),
            (r#"{"tags":["ok",".not","also not"]}"#, Some(1)),
            (r#"{"tags":"1"}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(tags(body), expected, "{body}");
        }
    }
}
