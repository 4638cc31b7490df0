//! COPY, and ADD as far as it copies: what is asked for, and the layer that comes of it. Sources are found in
//! [`super::source`], entries written in [`write`]. The rules are those of BuildKit's `fsutil/copy`; where they surprise,
//! the table in the tests has a row.

mod write;

use std::path::{Path, PathBuf};

use dockerfile::Mode;
use oci::Digest;

use self::write::Copier;
use crate::{
    account,
    context::BuildContext,
    layer::{LayerDir, LentLayer, LentWriter, Owners, WriteLayer},
    snapshot::Snapshot,
    step::{StepError, add, owner_of},
    tree::{ImagePath, SharedTree, Timestamp, Tree},
    upper::Upper,
};

/// One COPY or ADD, with all variables expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySpec {
    /// What to copy, in order.
    pub sources: Vec<CopySource>,
    /// Where to, as it is written: a slash at its end, `.` and the empty text mean a directory.
    pub destination: String,
    /// The working directory, for a relative destination.
    pub workdir: String,
    /// `--chown`: `user[:group]`, names or numbers.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<Mode>,
    /// `--link`: the layer does not depend on what is below it.
    pub link: bool,
    /// `--parents`: the directories of a source are kept, from `/./` on if the source has it.
    pub parents: bool,
    /// `--exclude`: patterns as in `.dockerignore`, relative to each source.
    pub exclude: Vec<String>,
    /// Which archives are unpacked instead of copied.
    pub unpack: Unpack,
}

/// Which archives are unpacked instead of copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unpack {
    /// None: COPY, and ADD with `--unpack=false`.
    #[default]
    Never,
    /// Those of the context: ADD.
    Local,
    /// Downloaded ones, too: ADD with `--unpack`.
    All,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A path or pattern in the tree that is copied from; always taken from its root.
    Path(String),
    /// A document of the Dockerfile.
    Inline {
        /// The name of its file.
        name: String,
        /// The content.
        content: Vec<u8>,
    },
    /// A file that was downloaded.
    Download {
        /// The name of its file, from the URL.
        name: String,
        /// Where it is.
        file: PathBuf,
        /// The digest of its content.
        digest: Digest,
        /// When the server says that it was changed; 1970 if it does not, so that the layer depends on the file alone.
        mtime: Option<Timestamp>,
    },
    /// A git repository: its files are copied as those of a directory.
    Repository {
        /// How it is named.
        name: String,
        /// What its files are decided by: the commit above all.
        identity: String,
        /// Where its files are when the copy is made.
        directory: PathBuf,
    },
}

impl CopySpec {
    /// A COPY of `sources` to `destination` without flags, in the working directory `/`.
    pub fn new(
        sources: impl IntoIterator<Item = CopySource>,
        destination: impl Into<String>,
    ) -> Self {
        Self {
            sources: sources.into_iter().collect(),
            destination: destination.into(),
            workdir: "/".into(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::Never,
        }
    }

    /// The destination, and whether its text means a directory.
    fn destination(&self) -> (ImagePath, bool) {
        let text = self.destination.as_str();
        let is_directory = matches!(text, "" | ".") || text.ends_with('/') || text.ends_with("/.");
        (ImagePath::new(&self.workdir).join(text), is_directory)
    }
}

/// What a step on files works on.
#[derive(Clone, Copy, Debug)]
pub struct Onto<'a> {
    /// The tree below the new layer.
    pub base: &'a Snapshot,
    /// The time of what the step makes itself: missing directories, documents of the Dockerfile.
    pub created: Timestamp,
    /// Where the new layer keeps owners.
    pub owners: Owners,
}

/// Makes the layer of one COPY or ADD in the new directory `into`. Paths are looked up in `from`, which for the build
/// context has root as the owner of everything.
///
/// # Errors
/// [`StepError`]; the directory is then left for the caller to remove.
pub fn copy(
    spec: &CopySpec,
    from: &dyn Tree,
    onto: &Onto<'_>,
    into: &Path,
) -> Result<LayerDir, StepError> {
    let scratch = Snapshot::empty();
    let base = if spec.link { &scratch } else { onto.base };
    let upper = Upper::create(base, into, onto.owners)?;
    let repositories = repositories(spec)?;
    let copied = copy_into(upper, spec, from, &repositories, base, onto.created)?;
    Ok(copied.finish()?)
}

/// The files of the sources that are repositories.
fn repositories(spec: &CopySpec) -> Result<Vec<Option<BuildContext>>, StepError> {
    let opened = spec.sources.iter().map(|source| match source {
        CopySource::Repository { directory, .. } => BuildContext::open(directory).map(Some),
        _ => Ok(None),
    });
    let opened: Result<_, _> = opened.collect();
    opened.map_err(|error| StepError::Repository(Box::new(error)))
}

/// The layer of one COPY without a copy of its files, which are lent by `from`.
///
/// # Errors
/// [`StepError`], also where [`copy`] has none: then there are too many files to remember.
pub(crate) fn lend(
    spec: &CopySpec,
    from: &SharedTree,
    onto: &Onto<'_>,
) -> Result<LentLayer, StepError> {
    let scratch = Snapshot::empty();
    let base = if spec.link { &scratch } else { onto.base };
    let upper = Upper::over(base, LentWriter::new(from.clone()));
    let repositories = repositories(spec)?;
    let copied = copy_into(
        upper,
        spec,
        from.as_ref(),
        &repositories,
        base,
        onto.created,
    )?;
    Ok(copied.into_writer().finish()?)
}

/// Copies everything that `spec` says to `upper`, which is over `base`.
fn copy_into<'a, W: WriteLayer>(
    upper: Upper<'a, W>,
    spec: &'a CopySpec,
    from: &'a dyn Tree,
    repositories: &'a [Option<BuildContext>],
    base: &Snapshot,
    created: Timestamp,
) -> Result<Upper<'a, W>, StepError> {
    let owner = match &spec.chown {
        Some(chown) if spec.link && !account::is_numeric_owner(chown) => {
            return Err(StepError::NamedOwnerWithLink(chown.clone()));
        }
        Some(chown) => Some(owner_of(chown, base)?),
        None => None,
    };
    let mut copier = Copier::new(spec, from, owner, upper, created);
    for (source, repository) in spec.sources.iter().zip(repositories) {
        if let Some(files) = repository {
            copier.read_from(files);
            copier.path(spec, "/")?;
            copier.read_from(from);
        }
        match source {
            CopySource::Repository { .. } => {}
            CopySource::Path(text) => copier.path(spec, text)?,
            CopySource::Inline { name, content } => {
                let attributes = copier.file_attributes(0o644, created);
                copier.single(name, &attributes, &mut content.as_slice())?;
            }
            CopySource::Download {
                name, file, mtime, ..
            } => {
                let attributes =
                    copier.file_attributes(add::DOWNLOAD_MODE, mtime.unwrap_or_default());
                copier.download(spec, name, file, &attributes)?;
            }
        }
    }
    Ok(copier.into_upper())
}

#[cfg(test)]
mod tests;
