//! What refers to an image: signatures, attestations, SBOMs (distribution specification 1.1, "Listing Referrers"), by the
//! referrers API or, where a registry lacks it, by the fallback tag. Read only: who writes the fallback tag must be the
//! only one, which this crate cannot know.

use http::HeaderMap;
use oci::{Descriptor, Digest, Document, Index, MediaType, Repository, Tag};

use crate::{Client, Error, Result, pages::Pages};

/// Referrers of one image that are accepted, so that a hostile registry ends.
const MAX_REFERRERS: usize = 10_000;

/// What refers to a manifest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Referrers {
    /// The manifests that name it as their subject, with artifact types and annotations.
    pub manifests: Vec<Descriptor>,
    /// Where that is known from.
    pub origin: ReferrersOrigin,
}

/// Where a registry keeps what refers to a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReferrersOrigin {
    /// The registry answers to the referrers API.
    Api,
    /// It does not, but has the fallback tag.
    FallbackTag,
    /// Neither: it does not answer, and nobody wrote the tag.
    #[default]
    Nowhere,
}

impl Client {
    /// What refers to `digest` in `repository`, of one artifact type or of all.
    ///
    /// # Errors
    /// Those of pulling; [`Error::TooComplex`] with more than ten thousand referrers.
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Referrers> {
        let action = format!("list referrers of {repository}@{digest}");
        let mut url = self.url(repository, &format!("referrers/{digest}"))?;
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut pages = Pages::new(self, repository, url, action.clone())
            .accept("application/vnd.oci.image.index.v1+json");
        let mut manifests = Vec::new();
        loop {
            let page = match pages.next(parse).await {
                Ok(page) => page,
                // Registries without the API answer 404, or refuse a path that they do not know.
                Err(error) if manifests.is_empty() && is_unknown_path(&error) => {
                    return self.fallback(repository, digest, artifact_type).await;
                }
                Err(error) => return Err(error),
            };
            let Some(page) = page else {
                return Ok(Referrers {
                    manifests,
                    origin: ReferrersOrigin::Api,
                });
            };
            let filtered = is_filtered(&page.headers);
            manifests.extend(
                page.entries
                    .into_iter()
                    .filter(|entry| filtered || is_wanted(entry, artifact_type)),
            );
            if manifests.len() > MAX_REFERRERS {
                return Err(Error::TooComplex {
                    action,
                    problem: "too many referrers",
                });
            }
        }
    }

    async fn fallback(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Referrers> {
        let reference = repository.tagged(fallback_tag(digest));
        let action = format!("list referrers of {repository}@{digest}");
        let index = match self.manifest(&reference).await {
            Ok(index) => index,
            Err(Error::NotFound { .. }) => return Ok(Referrers::default()),
            Err(error) => return Err(error),
        };
        let document = index
            .document()
            .map_err(|source| Error::Document { action, source })?;
        let manifests = match document {
            Document::Index(index) => index.manifests,
            // A tag that only looks like it.
            Document::Manifest(_) => return Ok(Referrers::default()),
        };
        Ok(Referrers {
            manifests: manifests
                .into_iter()
                .filter(|entry| is_wanted(entry, artifact_type))
                .collect(),
            origin: ReferrersOrigin::FallbackTag,
        })
    }
}

/// The tag under which a registry without the referrers API keeps the index of what refers to `digest`:
/// `sha256-<hex>`, cut to the length of tags (distribution specification 1.1, "Referrers Tag Schema").
///
/// # Panics
/// Never: algorithm and hexadecimal digits are a tag.
pub fn fallback_tag(digest: &Digest) -> Tag {
    let algorithm = digest.algorithm().as_str();
    let text: String = algorithm.chars().take(32).collect();
    let hex: String = digest.hex().chars().take(64).collect();
    let tag = format!("{text}-{hex}").parse();
    tag.expect("algorithm and hexadecimal digits are a tag")
}

fn parse(body: &[u8]) -> Option<Vec<Descriptor>> {
    let index: Index = serde_json::from_slice(body).ok()?;
    let is_index = index.media_type.is_none_or(|t| t == MediaType::OciIndex);
    is_index.then_some(index.manifests)
}

fn is_unknown_path(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::Refused {
                status: 400 | 405 | 501,
                ..
            }
    )
}

fn is_wanted(entry: &Descriptor, artifact_type: Option<&str>) -> bool {
    artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted))
}

/// Whether the registry filtered by artifact type itself.
fn is_filtered(headers: &HeaderMap) -> bool {
    headers
        .get_all("oci-filters-applied")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|name| name.trim() == "artifactType"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallback_tags_fit_the_grammar() {
        let digest = Digest::of(b"");
        let tag = fallback_tag(&digest);
        assert_eq!(tag.as_str(), format!("sha256-{}", digest.hex()));
        let long: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert_eq!(
            fallback_tag(&long).as_str(),
            format!("sha512-{}", "a".repeat(64))
        );
    }

    #[test]
    fn filters_are_announced_in_a_header() {
        for (value, expected) in [
            ("artifactType", true),
            ("annotations, artifactType", true),
            ("artifactTypes", false),
            ("", false),
        ] {
            let name = http::HeaderName::from_static("oci-filters-applied");
            let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
            assert_eq!(is_filtered(&headers), expected, "{value}");
        }
    }
}
