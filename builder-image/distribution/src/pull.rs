//! Reading from registries: what a tag stands for, manifests, and whether a blob is there. Lists are in `pages` and
//! `referrers`, blobs in `blob`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use oci::{
    Descriptor, Digest, Digester, Document, DocumentError, MAX_MANIFEST_BYTES, MediaType,
    Reference, Repository,
};

use crate::{
    Client, Error, Response, Result,
    client::{Access, Ask},
    local::not_found,
};

const DIGEST_HEADER: &str = "docker-content-digest";

/// A manifest or an index as it was served: its digest is that of these bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct RawManifest {
    /// What it was served as.
    pub media_type: MediaType,
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The document, at most 4 MiB.
    pub bytes: Bytes,
}

impl RawManifest {
    /// The document.
    ///
    /// # Errors
    /// When it is malformed, ambiguous, or something else than it was served as.
    pub fn document(&self) -> Result<Document, DocumentError> {
        Document::parse(&self.media_type, &self.bytes)
    }

    /// A document that was kept by its digest alone: its type is what it says of itself.
    pub fn kept(digest: Digest, bytes: Bytes) -> Self {
        Self {
            media_type: inner_media_type(&bytes),
            digest,
            bytes,
        }
    }

    /// Type, digest and size.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(
            self.media_type.clone(),
            self.digest.clone(),
            self.bytes.len() as u64,
        )
    }
}

impl Client {
    /// What `reference` stands for now, by a HEAD (a GET where the registry does not tell); `None` when there is nothing.
    ///
    /// The digest is the registry's word. Who pulls by it gets what it names, or an error.
    pub async fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>> {
        self.resolve_as(reference, Access::Pull).await
    }

    /// As [`Self::resolve`], with the rights that the push after it will need: some registries let nobody look into a
    /// repository that does not exist yet but those who may make it, and one token does for both.
    pub(crate) async fn resolve_to_push(
        &self,
        reference: &Reference,
    ) -> Result<Option<Descriptor>> {
        self.resolve_as(reference, Access::Push).await
    }

    async fn resolve_as(
        &self,
        reference: &Reference,
        access: Access,
    ) -> Result<Option<Descriptor>> {
        if let Some(local) = self.local(reference.repository().host()) {
            let found = local.manifest(reference).await?;
            return Ok(found.map(|manifest| manifest.descriptor()));
        }
        let action = format!("resolve {reference}");
        let response = self
            .send(&self.manifest_request(Method::HEAD, reference, access, &action)?)
            .await;
        match response {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => return Ok(None),
            Ok(response) if response.status() == StatusCode::OK => {
                if let Some(descriptor) = described(&response, reference) {
                    return Ok(Some(descriptor));
                }
            }
            // Not every registry answers to HEAD.
            Ok(response) if matches!(response.status().as_u16(), 400 | 405 | 501) => {}
            Ok(response) => {
                return Err(self
                    .failure(reference.repository(), &action, response)
                    .await);
            }
            Err(error) => return Err(error),
        }
        match self.manifest_as(reference, access).await {
            Ok(manifest) => Ok(Some(manifest.descriptor())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gets the manifest or index that `reference` names: at most 4 MiB, verified where the reference has a digest.
    pub async fn manifest(&self, reference: &Reference) -> Result<RawManifest> {
        self.manifest_as(reference, Access::Pull).await
    }

    async fn manifest_as(&self, reference: &Reference, access: Access) -> Result<RawManifest> {
        let action = format!("pull manifest {reference}");
        if let Some(local) = self.local(reference.repository().host()) {
            let found = local.manifest(reference).await?;
            return found.ok_or_else(|| not_found(action));
        }
        let ask = self.manifest_request(Method::GET, reference, access, &action)?;
        self.send_for_body(&ask, MAX_MANIFEST_BYTES, |headers, bytes| {
            let told = told_digest(headers);
            let expected = reference.digest().or(told.as_ref());
            let digest = match expected {
                Some(expected) => {
                    let mut digester = Digester::new(expected.algorithm());
                    digester.update(&bytes);
                    let found = digester.finish();
                    if found != *expected {
                        return Err(Error::DigestMismatch {
                            action: action.clone(),
                            expected: expected.clone(),
                            found,
                        });
                    }
                    found
                }
                None => Digest::of(&bytes),
            };
            Ok(RawManifest {
                media_type: media_type(headers).unwrap_or_else(|| inner_media_type(&bytes)),
                digest,
                bytes,
            })
        })
        .await
    }

    /// Whether `repository` has the blob `digest`.
    pub async fn blob_exists(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.find_blob(repository, digest).await?.is_some())
    }

    /// What `repository` says of the blob `digest`, by HEAD: `None` where it has none, else its size, where it tells.
    pub async fn find_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Option<u64>>> {
        let action = format!("look for blob {repository}@{digest}");
        if let Some(local) = self.local(repository.host()) {
            return Ok(local.blob(digest, 0).await?.map(|_| None));
        }
        let url = self.url(repository, &format!("blobs/{digest}"))?;
        let ask = Ask::new(Method::HEAD, url, repository, Access::Pull, &action);
        let response = self.send(&ask).await?;
        match response.status() {
            StatusCode::OK => Ok(Some(response.content_length())),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.failure(repository, &action, response).await),
        }
    }

    fn manifest_request<'a>(
        &self,
        method: Method,
        reference: &'a Reference,
        access: Access,
        action: &'a str,
    ) -> Result<Ask<'a>> {
        let repository = reference.repository();
        let path = format!("manifests/{}", reference.manifest_name());
        let url = self.url(repository, &path)?;
        let mut ask = Ask::new(method, url, repository, access, action);
        ask.headers = accept();
        Ok(ask)
    }
}

/// All four types, since registries answer 404 where the right one is not named.
fn accept() -> HeaderMap {
    let types = MediaType::MANIFESTS
        .map(|t| t.as_str().to_owned())
        .join(", ");
    let types = HeaderValue::try_from(types).expect("media types are header values");
    HeaderMap::from_iter([(header::ACCEPT, types)])
}

/// What the headers of an answer to HEAD say of the manifest, if they say all of it.
fn described(response: &Response, reference: &Reference) -> Option<Descriptor> {
    let digest = reference
        .digest()
        .cloned()
        .or_else(|| told_digest(response.headers()))?;
    let size = response.content_length().filter(|size| *size > 0)?;
    Some(Descriptor::new(
        media_type(response.headers())?,
        digest,
        size,
    ))
}

fn told_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DIGEST_HEADER)?.to_str().ok()?.parse().ok()
}

/// The media type that a manifest is served as, unless it is a general one.
fn media_type(headers: &HeaderMap) -> Option<MediaType> {
    let served = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let served = MediaType::from(served);
    let general = [
        "",
        "application/json",
        "application/octet-stream",
        "text/plain",
    ];
    (!general.contains(&served.as_str())).then_some(served)
}

/// The media type that a manifest names itself.
fn inner_media_type(bytes: &[u8]) -> MediaType {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        media_type: Option<MediaType>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice(bytes) {
        Ok(Probe {
            media_type: Some(named),
            ..
        }) => named,
        Ok(Probe {
            manifests: Some(_), ..
        }) => MediaType::OciIndex,
        _ => MediaType::OciManifest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_name_their_type_where_the_server_does_not() {
        for (json, expected) in [
            (
                r#"{"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#,
                MediaType::DockerManifest,
            ),
            (r#"{"manifests":[]}"#, MediaType::OciIndex),
            (r#"{"layers":[]}"#, MediaType::OciManifest),
            ("nonsense", MediaType::OciManifest),
        ] {
            assert_eq!(inner_media_type(json.as_bytes()), expected);
        }
    }

    #[test]
    fn all_four_types_are_accepted() {
        let accept = accept();
        let text = accept[header::ACCEPT].to_str().unwrap();
        assert_eq!(text.matches("application/vnd.").count(), 4);
    }
}
