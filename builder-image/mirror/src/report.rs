//! The report of a mirror: which tags it has written and with what, and what failed. It is kept beside the images as an
//! OCI artifact whose layers are lists of one JSON object a line, compressed. Lists end where a hash of the name says, so
//! that one more tag changes one of them and leaves the others as they are.
//!
//! It holds what this mirror wrote and nothing that others did: what may be deleted follows from it. Pure.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use distribution::copy::Platforms;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use jiff::Timestamp;
use oci::{Descriptor, Digest, Document, Manifest, MediaType, Platform, Tag};
use serde::{Deserialize, Serialize};

/// What the manifest of a report says that it is.
const ARTIFACT_TYPE: &str = "application/vnd.coopery.report.v1";
/// The types of its layers.
const WRITTEN_TYPE: &str = "application/vnd.coopery.report.written.v1.jsonl+gzip";
const FAILED_TYPE: &str = "application/vnd.coopery.report.failed.v1.jsonl+gzip";
/// The configuration of an artifact that needs none (image-spec, manifest.md, "Guidance for an Empty Descriptor").
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";
/// The annotation with the unique id of the resource that the report is of.
const OWNER: &str = "dev.coopery.report.owner";
/// The annotations with the numbers of lines.
const WRITTEN: &str = "dev.coopery.report.written";
const FAILED: &str = "dev.coopery.report.failed";
/// The annotation with a layer's name as a file.
const TITLE: &str = "org.opencontainers.image.title";
/// A list ends at one name of so many, and after so many at the latest.
const LINES: u64 = 2048;
const MAX_LINES: usize = 4 * 2048;
/// The largest list that is read, compressed and not, in bytes.
pub const MAX_LAYER_BYTES: u64 = 16 * 1024 * 1024;
const MAX_LIST_BYTES: u64 = 64 * 1024 * 1024;
/// Failures that are kept, and the longest.
const MAX_FAILED: usize = 10_000;
const MAX_MESSAGE_BYTES: usize = 1024;
/// A failure that nobody has met for so long is forgotten: the tag is not mirrored any more.
const FORGOTTEN_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);

/// A tag of the destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Path of the repository, without the host.
    pub repository: Arc<str>,
    /// The tag.
    pub tag: Tag,
}

impl Place {
    /// The tag `tag` of the repository at `path`.
    pub fn new(path: &str, tag: Tag) -> Self {
        Self {
            repository: path.into(),
            tag,
        }
    }
}

impl std::fmt::Display for Place {
    /// `mirror/library/nginx:1.27`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag.as_str())
    }
}

/// What a tag was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The digest at the destination.
    pub digest: Digest,
    /// The repository that it was copied from, with its host.
    pub source: Arc<str>,
    /// The digest there.
    pub source_digest: Digest,
    /// Which platforms were copied.
    pub platforms: Platforms,
    /// When it was written.
    pub synced_at: Timestamp,
}

/// Why a tag could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What was to be copied.
    pub source: String,
    /// The kind of failure, as the protocol names it.
    pub reason: String,
    /// Why.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// The account of one mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    owner: String,
    written: BTreeMap<Place, Written>,
    failed: BTreeMap<Place, Failed>,
}

/// A report as an artifact.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// The manifest.
    pub manifest: Bytes,
    /// Its configuration and layers.
    pub blobs: Vec<(Descriptor, Bytes)>,
}

/// Why some bytes are no report of this mirror.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Not a manifest.
    #[error("its manifest cannot be read")]
    Manifest(#[from] oci::DocumentError),
    /// An artifact of another type, or of another resource.
    #[error("it is not the report of this mirror")]
    Foreign,
    /// Larger than any report.
    #[error("its list {0} is larger than those of a report")]
    TooLarge(Digest),
    /// Not compressed as it should be.
    #[error("its list {digest} cannot be decompressed")]
    Compression {
        /// The list.
        digest: Digest,
        /// What the decompressor found.
        source: std::io::Error,
    },
    /// A line that cannot be read.
    #[error("line {line} of its list {digest} cannot be read")]
    Line {
        /// The list.
        digest: Digest,
        /// From 1.
        line: usize,
        /// What the reader found.
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenLine<'a> {
    #[serde(borrow)]
    repository: std::borrow::Cow<'a, str>,
    tag: String,
    digest: Digest,
    source: std::borrow::Cow<'a, str>,
    source_digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platforms: Option<PlatformsLine>,
    synced_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlatformsLine {
    only: Vec<String>,
    rewrite: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FailedLine {
    repository: String,
    tag: String,
    source: String,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Report {
    /// A report of the resource with the unique id `owner` that says nothing yet.
    pub fn new(owner: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            written: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Whose it is.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.failed.is_empty()
    }

    /// What was written, by repository and tag.
    pub const fn written(&self) -> &BTreeMap<Place, Written> {
        &self.written
    }

    /// What failed, by repository and tag.
    pub const fn failed(&self) -> &BTreeMap<Place, Failed> {
        &self.failed
    }

    /// Notes that a tag was written.
    pub fn note_written(&mut self, place: Place, written: Written) {
        self.failed.remove(&place);
        self.written.insert(place, written);
    }

    /// Notes that a tag could not be written. What it was given before it still has.
    pub fn note_failed(&mut self, place: Place, mut failed: Failed) {
        let mut end = failed.message.len().min(MAX_MESSAGE_BYTES);
        while !failed.message.is_char_boundary(end) {
            end -= 1;
        }
        failed.message.truncate(end);
        if self.failed.len() < MAX_FAILED || self.failed.contains_key(&place) {
            self.failed.insert(place, failed);
        }
    }

    /// Notes that a tag is what it was to be, whoever wrote it.
    pub fn note_equal(&mut self, place: &Place) {
        self.failed.remove(place);
    }

    /// Forgets a tag that is gone, or that somebody else has written since.
    pub fn forget(&mut self, place: &Place) {
        self.written.remove(place);
        self.failed.remove(place);
    }

    /// Forgets failures that were not met again for a week.
    pub fn forget_old_failures(&mut self, now: Timestamp) {
        self.failed
            .retain(|_, failed| now.duration_since(failed.at) < FORGOTTEN_AFTER);
    }

    /// The report as an artifact: the same report gives the same bytes.
    #[expect(clippy::missing_panics_doc, reason = "it cannot panic")]
    pub fn to_artifact(&self) -> Artifact {
        let config = Descriptor::of(MediaType::from(EMPTY_TYPE), EMPTY);
        let mut blobs = vec![(config.clone(), Bytes::from_static(EMPTY))];
        let mut lists = Lists::new(WRITTEN_TYPE, "written");
        for (place, written) in &self.written {
            lists.add(place, &WrittenLine::of(place, written));
        }
        blobs.extend(lists.finish());
        let mut lists = Lists::new(FAILED_TYPE, "failed");
        for (place, failed) in &self.failed {
            lists.add(place, &FailedLine::of(place, failed));
        }
        blobs.extend(lists.finish());
        let layers = blobs[1..].iter().map(|(layer, _)| layer.clone()).collect();
        let mut manifest = Manifest::new(config, layers);
        manifest.artifact_type = Some(ARTIFACT_TYPE.to_owned());
        manifest.annotations = BTreeMap::from([
            (OWNER.to_owned(), self.owner.clone()),
            (WRITTEN.to_owned(), self.written.len().to_string()),
            (FAILED.to_owned(), self.failed.len().to_string()),
        ]);
        let manifest = serde_json::to_vec(&manifest).expect("a manifest has string keys");
        Artifact {
            manifest: manifest.into(),
            blobs,
        }
    }

    /// Reads the manifest of a report of `owner`: a report that says nothing, and the layers that [`Self::read_layer`]
    /// takes in.
    ///
    /// # Errors
    /// When it is no manifest, or that of something else.
    pub fn read_manifest(
        manifest: &[u8],
        owner: &str,
    ) -> Result<(Self, Vec<Descriptor>), ReportError> {
        let Document::Manifest(manifest) = Document::parse(&MediaType::OciManifest, manifest)?
        else {
            return Err(ReportError::Foreign);
        };
        let is_ours = manifest.artifact_type.as_deref() == Some(ARTIFACT_TYPE)
            && manifest.annotations.get(OWNER).map(String::as_str) == Some(owner);
        if !is_ours {
            return Err(ReportError::Foreign);
        }
        let known = [WRITTEN_TYPE, FAILED_TYPE];
        let layers: Vec<_> = manifest
            .layers
            .into_iter()
            .filter(|layer| known.contains(&layer.media_type.as_str()))
            .collect();
        match layers.iter().find(|layer| layer.size > MAX_LAYER_BYTES) {
            Some(layer) => Err(ReportError::TooLarge(layer.digest.clone())),
            None => Ok((Self::new(owner), layers)),
        }
    }

    /// Takes in a layer.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_layer(&mut self, layer: &Descriptor, bytes: &[u8]) -> Result<(), ReportError> {
        let digest = &layer.digest;
        let mut text = Vec::new();
        GzDecoder::new(bytes)
            .take(MAX_LIST_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|source| ReportError::Compression {
                digest: digest.clone(),
                source,
            })?;
        if text.len() as u64 > MAX_LIST_BYTES {
            return Err(ReportError::TooLarge(digest.clone()));
        }
        let lines = text.split(|byte| *byte == b'\n').enumerate();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
            let read = if layer.media_type.as_str() == FAILED_TYPE {
                serde_json::from_slice(line).and_then(|line: FailedLine| {
                    let (place, failed) = line.read()?;
                    self.failed.insert(place, failed);
                    Ok(())
                })
            } else {
                serde_json::from_slice(line).and_then(|line: WrittenLine<'_>| {
                    let (place, written) = line.read(self.written.last_key_value())?;
                    self.written.insert(place, written);
                    Ok(())
                })
            };
            read.map_err(|source| ReportError::Line {
                digest: digest.clone(),
                line: number + 1,
                source,
            })?;
        }
        Ok(())
    }

    /// The media type of a report's manifest.
    pub const fn media_type() -> MediaType {
        MediaType::OciManifest
    }
}

impl<'a> WrittenLine<'a> {
    fn of(place: &'a Place, written: &'a Written) -> Self {
        let platforms = match &written.platforms {
            Platforms::Whole => None,
            Platforms::Sparse(only) => Some((only, false)),
            Platforms::Rewrite(only) => Some((only, true)),
        };
        Self {
            repository: (&*place.repository).into(),
            tag: place.tag.as_str().to_owned(),
            digest: written.digest.clone(),
            source: (&*written.source).into(),
            source_digest: written.source_digest.clone(),
            platforms: platforms.map(|(only, rewrite)| PlatformsLine {
                only: only.iter().map(ToString::to_string).collect(),
                rewrite,
            }),
            synced_at: written.synced_at,
        }
    }

    /// The line's content; what it has in common with the line before is kept once.
    fn read(
        self,
        before: Option<(&Place, &Written)>,
    ) -> Result<(Place, Written), serde_json::Error> {
        let shared = |text: &str, before: Option<&Arc<str>>| match before {
            Some(before) if **before == *text => before.clone(),
            _ => Arc::from(text),
        };
        let platforms = match self.platforms {
            None => Platforms::Whole,
            Some(PlatformsLine { only, rewrite }) => {
                let only = only.iter().map(|text| text.parse::<Platform>());
                let only = only.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
                if rewrite {
                    Platforms::Rewrite(only)
                } else {
                    Platforms::Sparse(only)
                }
            }
        };
        let place = Place {
            repository: shared(&self.repository, before.map(|(place, _)| &place.repository)),
            tag: self.tag.parse().map_err(invalid)?,
        };
        let written = Written {
            digest: self.digest,
            source: shared(&self.source, before.map(|(_, written)| &written.source)),
            source_digest: self.source_digest,
            platforms,
            synced_at: self.synced_at,
        };
        Ok((place, written))
    }
}

impl FailedLine {
    fn of(place: &Place, failed: &Failed) -> Self {
        Self {
            repository: place.repository.to_string(),
            tag: place.tag.as_str().to_owned(),
            source: failed.source.clone(),
            reason: failed.reason.clone(),
            message: failed.message.clone(),
            at: failed.at,
        }
    }

    fn read(self) -> Result<(Place, Failed), serde_json::Error> {
        let place = Place {
            repository: self.repository.into(),
            tag: self.tag.parse().map_err(invalid)?,
        };
        let failed = Failed {
            source: self.source,
            reason: self.reason,
            message: self.message,
            at: self.at,
        };
        Ok((place, failed))
    }
}

fn invalid(error: impl std::fmt::Display) -> serde_json::Error {
    serde::de::Error::custom(error)
}

/// Lines on their way into layers.
struct Lists {
    media_type: &'static str,
    name: &'static str,
    text: GzEncoder<Vec<u8>>,
    lines: usize,
    done: Vec<(Descriptor, Bytes)>,
}

impl Lists {
    fn new(media_type: &'static str, name: &'static str) -> Self {
        Self {
            media_type,
            name,
            text: encoder(),
            lines: 0,
            done: Vec::new(),
        }
    }

    fn add(&mut self, place: &Place, line: &impl Serialize) {
        let mut line = serde_json::to_vec(line).expect("a line has string keys");
        line.push(b'\n');
        self.text.write_all(&line).expect("memory takes everything");
        self.lines += 1;
        if self.lines >= MAX_LINES || fingerprint(place).is_multiple_of(LINES) {
            self.end();
        }
    }

    fn end(&mut self) {
        let text = std::mem::replace(&mut self.text, encoder());
        let bytes = Bytes::from(text.finish().expect("memory takes everything"));
        let mut layer = Descriptor::of(MediaType::from(self.media_type), &bytes);
        let title = format!("{}-{:04}.jsonl.gz", self.name, self.done.len());
        layer.annotations.insert(TITLE.to_owned(), title);
        self.done.push((layer, bytes));
        self.lines = 0;
    }

    fn finish(mut self) -> Vec<(Descriptor, Bytes)> {
        if self.lines > 0 {
            self.end();
        }
        self.done
    }
}

fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::default())
}

/// Eight bytes of the hash of a place, which stand for it.
pub(crate) fn fingerprint(place: &Place) -> u64 {
    let hash = Digest::of(place.to_string().as_bytes());
    let hash = hash.to_sha256().unwrap_or_default();
    hash.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests;
