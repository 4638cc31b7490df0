//! Signatures where they are kept: finds and verifies those of an image in its repository, and puts new ones there.

use bytes::Bytes;
use distribution::copy::Gate;
use distribution::{Client, CosignTag, Error, RawManifest};
use futures::{FutureExt, future::BoxFuture};
use oci::{Descriptor, Digest, Document, Manifest, MediaType, Reference, Repository};

use crate::bundle::{self, is_bundle};
use crate::key::{KeyError, PrivateKey, PublicKey};
use crate::{Problem, simple};

/// Signatures of one image that are looked at, in each form.
pub const MAX_SIGNATURES: usize = 100;
/// The largest bundle; the statement of a signature has some hundred bytes.
const MAX_BUNDLE: u64 = 256 * 1024;
/// The largest payload of the older form.
const MAX_PAYLOAD: u64 = 64 * 1024;

/// A key that is trusted, and what people call it.
#[derive(Debug, Clone)]
pub struct NamedKey {
    /// `secret/key`, or the name of a file.
    pub name: String,
    /// The key.
    pub key: PublicKey,
}

#[cfg(test)]
impl From<PublicKey> for NamedKey {
    fn from(key: PublicKey) -> Self {
        let name = "test".to_owned();
        Self { name, key }
    }
}

/// In which form a signature is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// A sigstore bundle that refers to the image, as cosign 3 does.
    #[default]
    Bundle,
    /// The tag `sha256-<hex>.sig`, as cosign did before.
    Tag,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// The name of the key.
    pub key: String,
    /// The form of the signature.
    pub form: Form,
}

/// Why an image is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no signature that counts.
    #[error("{image} has no valid signature by {keys}: {problem}")]
    Untrusted {
        /// The image, by digest.
        image: Reference,
        /// The keys that are trusted.
        keys: String,
        /// What is there instead.
        problem: String,
    },
    /// Its signatures cannot be read.
    #[error(transparent)]
    Registry(#[from] Error),
}

/// Verifies images with keys of which any will do.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Vec<NamedKey>,
}

/// What was found so far that does not count.
#[derive(Default)]
struct Seen {
    count: usize,
    last: Option<Problem>,
}

impl Seen {
    fn note(&mut self, problem: Problem) {
        self.count += 1;
        // That somebody else signed as well is less telling than what is wrong with ours.
        if self.last.is_none() || problem != Problem::OtherKey {
            self.last = Some(problem);
        }
    }

    fn describe(&self) -> String {
        match (&self.last, self.count) {
            (None, _) => "it has no signature at all".to_owned(),
            (Some(problem), 1) => problem.to_string(),
            (Some(problem), count) => format!("none of {count} counts, of one: {problem}"),
        }
    }
}

impl Verifier {
    /// A verifier that trusts `keys`. With none it trusts nothing.
    pub const fn new(keys: Vec<NamedKey>) -> Self {
        Self { keys }
    }

    /// The names of the keys.
    pub fn names(&self) -> String {
        let names: Vec<_> = self.keys.iter().map(|key| key.name.as_str()).collect();
        names.join(" or ")
    }

    /// Which key signed the image `digest` of `repository`.
    ///
    /// # Errors
    /// [`VerifyError::Untrusted`] when none did; [`VerifyError::Registry`] when that cannot be found out.
    pub async fn verify(
        &self,
        client: &Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<SignedBy, VerifyError> {
        let mut seen = Seen::default();
        let bundled = self.bundles(client, repository, digest, &mut seen).await?;
        let mut found = bundled.map(|key| (key, Form::Bundle));
        if found.is_none() {
            let tagged = self.tagged(client, repository, digest, &mut seen).await?;
            found = tagged.map(|key| (key, Form::Tag));
        }
        match found {
            Some((key, form)) => Ok(SignedBy {
                key: key.name.clone(),
                form,
            }),
            None => Err(VerifyError::Untrusted {
                image: repository.at(digest.clone()),
                keys: self.names(),
                problem: seen.describe(),
            }),
        }
    }

    /// The key of the first bundle that counts.
    async fn bundles(
        &self,
        client: &Client,
        repository: &Repository,
        image: &Digest,
        seen: &mut Seen,
    ) -> Result<Option<&NamedKey>, Error> {
        let referrers = client.referrers(repository, image, None).await?;
        // Not every list names the types of its entries.
        let may_be = |entry: &&Descriptor| {
            let artifact_type = entry.artifact_type.as_deref();
            entry.media_type.is_manifest() && artifact_type.is_none_or(is_bundle)
        };
        let candidates = referrers.manifests.iter().filter(may_be);
        for entry in candidates.take(MAX_SIGNATURES) {
            let name = repository.at(entry.digest.clone());
            let manifest = match client.manifest(&name).await {
                Ok(manifest) => manifest,
                // What is listed and gone is no signature.
                Err(Error::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            };
            let Some(layer) = bundle_of(&manifest) else {
                if entry.artifact_type.is_some() {
                    seen.note(Problem::Malformed("its manifest holds no bundle"));
                }
                continue;
            };
            let Some(bytes) = blob(client, repository, &layer, MAX_BUNDLE, seen).await? else {
                continue;
            };
            match bundle::verify(&bytes, image, &self.keys) {
                Ok(key) => return Ok(Some(key)),
                Err(problem) => seen.note(problem),
            }
        }
        Ok(None)
    }

    /// The key of the first signature under the tag that counts.
    async fn tagged(
        &self,
        client: &Client,
        repository: &Repository,
        image: &Digest,
        seen: &mut Seen,
    ) -> Result<Option<&NamedKey>, Error> {
        let Some(manifest) = tagged_manifest(client, repository, image).await? else {
            return Ok(None);
        };
        let Ok(Document::Manifest(manifest)) = manifest.document() else {
            seen.note(Problem::Malformed("its tag names no manifest"));
            return Ok(None);
        };
        let layers = manifest
            .layers
            .iter()
            .filter(|layer| simple::is_signature(layer));
        let mut is_empty = true;
        for layer in layers.take(MAX_SIGNATURES) {
            is_empty = false;
            let Some(bytes) = blob(client, repository, layer, MAX_PAYLOAD, seen).await? else {
                continue;
            };
            match simple::verify(layer, &bytes, image, &self.keys) {
                Ok(key) => return Ok(Some(key)),
                Err(problem) => seen.note(problem),
            }
        }
        if is_empty {
            seen.note(Problem::Malformed("its tag names no signature"));
        }
        Ok(None)
    }
}

impl Gate for Verifier {
    fn admit<'a>(
        &'a self,
        source: &'a Client,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.verify(source, repository, digest).await {
                Ok(by) => {
                    tracing::info!(%repository, %digest, key = by.key, "signature verified");
                    Ok(())
                }
                Err(VerifyError::Registry(error)) => Err(error),
                Err(untrusted) => Err(Error::Untrusted(untrusted.to_string())),
            }
        }
        .boxed()
    }
}

/// The one layer of a manifest that is a bundle.
fn bundle_of(manifest: &RawManifest) -> Option<Descriptor> {
    let Ok(Document::Manifest(document)) = manifest.document() else {
        return None;
    };
    let [layer] = <[Descriptor; 1]>::try_from(document.layers).ok()?;
    is_bundle(layer.media_type.as_str()).then_some(layer)
}

/// The bytes of a signature; `None` where they are too many or are not there.
async fn blob(
    client: &Client,
    repository: &Repository,
    layer: &Descriptor,
    limit: u64,
    seen: &mut Seen,
) -> Result<Option<Bytes>, Error> {
    match client.small_blob(repository, layer, limit).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::TooLarge { limit, .. }) => {
            seen.note(Problem::TooLarge(limit));
            Ok(None)
        }
        Err(Error::NotFound { .. }) => {
            seen.note(Problem::Malformed("its bytes are not there"));
            Ok(None)
        }
        Err(Error::DigestMismatch { .. } | Error::SizeMismatch { .. }) => {
            seen.note(Problem::Malformed("its bytes are others"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What is under the tag of the older form.
async fn tagged_manifest(
    client: &Client,
    repository: &Repository,
    image: &Digest,
) -> Result<Option<RawManifest>, Error> {
    let name = repository.tagged(CosignTag::Signatures.of(image));
    match client.manifest(&name).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why an image could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key does not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The registry does not take the signature.
    #[error(transparent)]
    Registry(#[from] Error),
    /// Something else is under the tag of signatures.
    #[error("the tag {0} names something else than signatures: delete it, or sign without it")]
    OtherTag(Reference),
}

/// Signs `image` of `repository` with `key`, and puts the signature there. `created` is the time, in RFC 3339. Gives the
/// manifest that holds the signature.
///
/// # Errors
/// Those of the registry.
pub async fn sign(
    client: &Client,
    repository: &Repository,
    image: &Descriptor,
    key: &PrivateKey,
    form: Form,
    created: &str,
) -> Result<Descriptor, SignError> {
    match form {
        Form::Bundle => sign_with_bundle(client, repository, image, key, created).await,
        Form::Tag => sign_with_tag(client, repository, image, key).await,
    }
}

async fn sign_with_bundle(
    client: &Client,
    repository: &Repository,
    image: &Descriptor,
    key: &PrivateKey,
    created: &str,
) -> Result<Descriptor, SignError> {
    let bytes = bundle::sign(&image.digest, key)?;
    let manifest = bundle::manifest(image, &bytes, created);
    let empty = Bytes::from_static(bundle::EMPTY);
    client
        .upload_bytes(repository, bundle::empty_type(), empty)
        .await?;
    client
        .upload_bytes(repository, bundle::BUNDLE_TYPE.into(), bytes)
        .await?;
    let bytes = to_bytes(&manifest)?;
    let mut entry = Descriptor::of(MediaType::OciManifest, &bytes);
    let name = repository.at(entry.digest.clone());
    let put = client
        .put_referrer(&name, &MediaType::OciManifest, bytes)
        .await?;
    entry.artifact_type = manifest.artifact_type;
    entry.annotations = manifest.annotations;
    if !put.is_listed {
        let entries = std::slice::from_ref(&entry);
        client
            .add_to_fallback(repository, &image.digest, entries)
            .await?;
    }
    Ok(entry)
}

async fn sign_with_tag(
    client: &Client,
    repository: &Repository,
    image: &Descriptor,
    key: &PrivateKey,
) -> Result<Descriptor, SignError> {
    let name = repository.tagged(CosignTag::Signatures.of(&image.digest));
    let there = match tagged_manifest(client, repository, &image.digest).await? {
        None => None,
        Some(there) => match there.document() {
            Ok(Document::Manifest(manifest)) => Some(manifest),
            _ => return Err(SignError::OtherTag(name)),
        },
    };
    let (layer, payload) = simple::sign(repository, &image.digest, key)?;
    client
        .upload_bytes(repository, layer.media_type.clone(), payload)
        .await?;
    let (manifest, config) = simple::manifest(there, layer);
    client
        .upload_bytes(repository, MediaType::OciConfig, config)
        .await?;
    let bytes = to_bytes(&manifest)?;
    let entry = Descriptor::of(MediaType::OciManifest, &bytes);
    client
        .put_manifest(&name, &MediaType::OciManifest, bytes)
        .await?;
    Ok(entry)
}

fn to_bytes(manifest: &Manifest) -> Result<Bytes, Error> {
    let bytes = serde_json::to_vec(manifest).map_err(|source| Error::Document {
        action: "write the manifest of a signature".into(),
        source: source.into(),
    })?;
    Ok(bytes.into())
}
