//! What refers to an image: signatures, attestations, SBOMs (distribution specification 1.1, "Listing Referrers"), by the
//! referrers API or, where a registry lacks it, by the fallback tag, and the names that cosign gave them before.
//!
//! The fallback tag is read, changed and written, which registries know no condition for: the writer reads it again, and
//! should be the only one of its repository.

use bytes::Bytes;
use http::HeaderMap;
use oci::{Descriptor, Digest, Document, Index, Manifest, MediaType, Repository, Tag};

use crate::{Client, Error, RawManifest, Result, http::protocol, pages::Pages};

/// Referrers of one image that are accepted, so that a hostile registry ends.
const MAX_REFERRERS: usize = 10_000;

/// How often a fallback tag is written where others write it at the same time.
const FALLBACK_WRITES: usize = 5;

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

/// What cosign keeps under a tag that it makes of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CosignTag {
    /// Signatures, `sha256-<hex>.sig`.
    Signatures,
    /// Attestations, `sha256-<hex>.att`.
    Attestations,
    /// SBOMs, `sha256-<hex>.sbom`.
    Sboms,
}

impl CosignTag {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Signatures, Self::Attestations, Self::Sboms];

    /// The tag of what is kept of `digest`.
    ///
    /// # Panics
    /// Never: algorithm, hexadecimal digits and the suffix are a tag.
    pub fn of(self, digest: &Digest) -> Tag {
        let suffix = match self {
            Self::Signatures => "sig",
            Self::Attestations => "att",
            Self::Sboms => "sbom",
        };
        // The hexadecimal digits of sha512 leave no room for more than these.
        let hex: String = digest.hex().chars().take(112).collect();
        let tag = format!("{}-{hex}.{suffix}", digest.algorithm().as_str()).parse();
        tag.expect("algorithm, hexadecimal digits and a suffix are a tag")
    }
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

    /// Lists `entries` under the fallback tag of `subject`, beside what is listed there.
    ///
    /// # Errors
    /// Those of pull and push; [`Error::Protocol`] when the tag names something else than a list, or when others who write
    /// it leave no entry of ours in it.
    pub async fn add_to_fallback(
        &self,
        repository: &Repository,
        subject: &Digest,
        entries: &[Descriptor],
    ) -> Result<()> {
        let name = repository.tagged(fallback_tag(subject));
        let action = format!("list referrers of {repository}@{subject}");
        for _ in 0..FALLBACK_WRITES {
            let there = match self.manifest(&name).await {
                Ok(there) => Some(there),
                Err(Error::NotFound { .. }) => None,
                Err(error) => return Err(error),
            };
            let Some(merged) = merged(there.as_ref(), entries, &action)? else {
                return Ok(());
            };
            self.put_manifest(&name, &MediaType::OciIndex, merged)
                .await?;
        }
        Err(protocol(
            &action,
            "others write its fallback tag at the same time",
        ))
    }

    /// As [`Self::referrers`], of a registry that is known to lack the API.
    pub(crate) async fn fallback(
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

/// The list under a fallback tag with `entries` in it; `None` where all of them are.
fn merged(
    there: Option<&RawManifest>,
    entries: &[Descriptor],
    action: &str,
) -> Result<Option<Bytes>> {
    let document = there.map(RawManifest::document).transpose();
    let mut index = match document {
        Ok(None) => Index::new(Vec::new()),
        Ok(Some(Document::Index(index))) => index,
        Ok(Some(Document::Manifest(_))) => {
            return Err(protocol(action, "its fallback tag names no list"));
        }
        Err(source) => {
            return Err(Error::Document {
                action: action.to_owned(),
                source,
            });
        }
    };
    let before = index.manifests.len();
    for entry in entries {
        if index.manifests.iter().all(|has| has.digest != entry.digest) {
            index.manifests.push(entry.clone());
        }
    }
    if index.manifests.len() == before {
        return Ok(None);
    }
    index.media_type = Some(MediaType::OciIndex);
    let bytes = serde_json::to_vec(&index).map_err(|source| Error::Document {
        action: action.to_owned(),
        source: source.into(),
    })?;
    Ok(Some(bytes.into()))
}

/// How `manifest` is listed among the referrers of its subject, and that subject; `None` where it has none.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn referrer(manifest: &RawManifest) -> Result<Option<(Digest, Descriptor)>> {
    let document = manifest.document().map_err(|source| Error::Document {
        action: format!("read manifest {}", manifest.digest),
        source,
    })?;
    let (subject, artifact_type, annotations) = match document {
        Document::Manifest(Manifest {
            subject,
            artifact_type,
            config,
            annotations,
            ..
        }) => {
            let of_config = || config.media_type.as_str().to_owned();
            (
                subject,
                Some(artifact_type.unwrap_or_else(of_config)),
                annotations,
            )
        }
        Document::Index(index) => (index.subject, index.artifact_type, index.annotations),
    };
    Ok(subject.map(|subject| {
        let mut entry = manifest.descriptor();
        entry.artifact_type = artifact_type;
        entry.annotations = annotations;
        (subject.digest, entry)
    }))
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
    fn cosign_names_what_it_keeps_of_a_digest() {
        let digest = Digest::of(b"");
        let tags: Vec<_> = CosignTag::ALL.map(|kind| kind.of(&digest)).to_vec();
        for (tag, suffix) in tags.iter().zip(["sig", "att", "sbom"]) {
            assert_eq!(tag.as_str(), format!("sha256-{}.{suffix}", digest.hex()));
        }
        let long: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert!(CosignTag::Sboms.of(&long).as_str().len() <= 128);
    }

    #[test]
    fn lists_are_merged_not_overwritten() {
        let entry = |text: &str| Descriptor::of(MediaType::OciManifest, text.as_bytes());
        let raw = |media_type: MediaType, bytes: Bytes| RawManifest {
            media_type,
            digest: Digest::of(&bytes),
            bytes,
        };
        let mut index = Index::new(vec![entry("theirs")]);
        index.annotations.insert("a".into(), "b".into());
        let bytes = Bytes::from(serde_json::to_vec(&index).unwrap());
        let there = raw(MediaType::OciIndex, bytes);
        let ours = [entry("ours"), entry("theirs")];
        let merged_once = merged(Some(&there), &ours, "list").unwrap().unwrap();
        let after: Index = serde_json::from_slice(&merged_once).unwrap();
        assert_eq!(after.manifests, [entry("theirs"), entry("ours")]);
        assert_eq!(after.annotations, index.annotations);
        let again = raw(MediaType::OciIndex, merged_once);
        assert_eq!(merged(Some(&again), &ours, "list").unwrap(), None);

        let other = Manifest::new(entry("config"), Vec::new());
        let bytes = Bytes::from(serde_json::to_vec(&other).unwrap());
        let other = raw(MediaType::OciManifest, bytes);
        assert!(merged(Some(&other), &ours, "list").is_err());
    }

    #[test]
    fn an_entry_tells_what_the_manifest_says() {
        let subject = Descriptor::of(MediaType::OciManifest, b"subject");
        let config = Descriptor::of("application/x.config".into(), b"{}");
        let mut manifest = Manifest::new(config, Vec::new());
        for (subject, artifact_type, expected) in [
            (None, None, None),
            (Some(subject.clone()), None, Some("application/x.config")),
            (Some(subject), Some("a/b"), Some("a/b")),
        ] {
            manifest.subject = subject.clone();
            manifest.artifact_type = artifact_type.map(str::to_owned);
            manifest.annotations = [("k".to_owned(), "v".to_owned())].into();
            let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
            let raw = RawManifest {
                media_type: MediaType::OciManifest,
                digest: Digest::of(&bytes),
                bytes,
            };
            let found = referrer(&raw).unwrap();
            let Some((about, entry)) = found else {
                assert_eq!(expected, None);
                continue;
            };
            assert_eq!(Some(about), subject.map(|subject| subject.digest));
            assert_eq!(entry.artifact_type.as_deref(), expected);
            assert_eq!(entry.annotations, manifest.annotations);
            assert_eq!(entry.digest, raw.digest);
        }
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
