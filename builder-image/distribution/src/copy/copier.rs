//! One run of copies: resolves, reads, plans, brings blobs and puts manifests, for several images at the same time.

use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt};
use oci::{Descriptor, Reference, Repository, Tag};
use tokio::sync::{Mutex, OnceCell, Semaphore};

use super::blobs::Blobs;
use super::image::{Image, Reading};
use super::ledger::Ledger;
use super::plan::Plan;
use super::referrers::Referring;
use super::{CopyOptions, CopyReport, Gate, Platforms};
use crate::{Client, Error, Pushed, RawManifest, Result};

/// The tag that a ledger has in its repository.
pub const LEDGER_TAG: &str = "v1";
/// How many blobs a run learns of before it keeps its ledger in the middle of the work: a run that is killed loses no
/// more. A run that learned of more than this also reads the ledger again before it writes, for what others wrote.
const CHECKPOINT: usize = 200;
/// Manifests of one rank that are put at the same time.
const PUTS: usize = 4;
/// How many images are looked at while one is worked on: that costs one small answer a side, and most are often unchanged.
const LOOKS: usize = 4;

/// A run of copies from one registry to another. What it learns of the destination holds for all of its images.
pub struct Copier {
    pub(super) source: Client,
    pub(super) destination: Client,
    pub(super) options: CopyOptions,
    pub(super) referring: Referring,
    ledger: Option<Repository>,
    /// Whether the ledger could be read, and so may be written.
    ledger_read: OnceCell<bool>,
    gate: Option<Arc<dyn Gate>>,
    blobs: Blobs,
    /// Images that may be worked on now.
    working: Semaphore,
    turns: Arc<Mutex<()>>,
    keeping: Mutex<()>,
}

/// An image to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What to copy: by digest where it is known already.
    pub from: Reference,
    /// Where to: one repository.
    pub to: Repository,
    /// The tags that it gets there, all of them after everything else. With none, it is there by its digest only.
    pub tags: Vec<Tag>,
    /// What the caller knows of the tags at the destination.
    pub found: Found,
    /// Which platforms of an index are copied.
    pub platforms: Platforms,
}

/// What is at the destination under the tags of a job, before it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Found {
    /// That is to be asked for.
    #[default]
    Unknown,
    /// Nothing.
    Nothing,
    /// Something else than is to be there, under some of them at least.
    Other,
}

impl Job {
    /// Copies the whole of `from` to the name `to`, unless it is that already.
    pub fn new(from: Reference, to: &Reference) -> Self {
        Self {
            from,
            to: to.repository().clone(),
            tags: to.tag().cloned().into_iter().collect(),
            found: Found::Unknown,
            platforms: Platforms::Whole,
        }
    }
}

/// What was found out about a job before its image is read.
struct Start {
    /// The image, by digest where that is known.
    from: Reference,
    /// The root, where it was read already.
    root: Option<RawManifest>,
    /// The tags to write.
    tags: Vec<Tag>,
    /// Whether nothing was there, so that what is not known of has to be sent.
    fresh: bool,
}

/// How an image is carried over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cargo<'a> {
    /// The tags to write; with none, it is there by its digest only.
    pub(super) tags: &'a [Tag],
    /// Whether nothing was there, so that what is not known of has to be sent.
    pub(super) fresh: bool,
    /// Whether what refers to it goes along.
    pub(super) referrers: bool,
}

impl Copier {
    /// A run that knows nothing of the destination.
    pub fn new(source: Client, destination: Client, options: CopyOptions) -> Self {
        Self {
            blobs: Blobs::new(source.clone(), destination.clone(), &options),
            working: Semaphore::new(options.images.max(1)),
            source,
            destination,
            options,
            referring: Referring::default(),
            ledger: None,
            ledger_read: OnceCell::new(),
            gate: None,
            turns: Arc::default(),
            keeping: Mutex::default(),
        }
    }

    /// The same, with the ledger that `repository` keeps for its registry: it is read when it may help, and
    /// [`Self::keep_ledger`] writes what was learned. Only repositories whose blobs all runs with this ledger may read
    /// should be copied to.
    #[must_use]
    pub fn with_ledger(mut self, repository: Repository) -> Self {
        self.ledger = Some(repository);
        self
    }

    /// The same, copying only what `gate` admits. It is asked before anything is written, and also for images that are there
    /// already: then the copy fails, and they stay.
    #[must_use]
    pub fn with_gate(mut self, gate: impl Gate + 'static) -> Self {
        self.gate = Some(Arc::new(gate));
        self
    }

    /// Copies all of `jobs`, several at the same time, and tells of each as it ends, with its position. One that fails
    /// does not keep the others from being copied, and while large ones are copied, others are found unchanged.
    pub fn copy_all<'a>(
        &'a self,
        jobs: &'a [Job],
    ) -> impl Stream<Item = (usize, Result<CopyReport>)> + Send + 'a {
        let all: Vec<_> = jobs
            .iter()
            .enumerate()
            .map(|(position, job)| async move { (position, self.copy(job).await) })
            .collect();
        futures::stream::iter(all).buffer_unordered(LOOKS * self.options.images.max(1))
    }

    /// Copies one image. When it fails, its tags are what they were before; blobs and untagged manifests may be left at the
    /// destination, where the next run finds them.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the source has no such image; [`Error::ForeignLayer`], [`Error::TooComplex`] and
    /// [`Error::PlatformMissing`] for images that are not copied; and those of pull and push.
    pub async fn copy(&self, job: &Job) -> Result<CopyReport> {
        let start = match self.start(job).await? {
            Ok(start) => start,
            Err(unchanged) if self.options.referrers => return self.refer(job, unchanged).await,
            Err(unchanged) => return Ok(unchanged),
        };
        // Never closed.
        let _working = self.working.acquire().await;
        let start = self.admitted(job, start).await?;
        let reading = self.reading(job);
        let image = match start.root {
            Some(root) => reading.read_below(job.from.repository(), root).await?,
            None => reading.read(&start.from).await?,
        };
        let mut report = CopyReport::of(image.root.descriptor());
        let cargo = Cargo {
            tags: &start.tags,
            fresh: start.fresh,
            referrers: self.options.referrers,
        };
        self.carry(job, &image, cargo, &mut report).await?;
        self.keep_at(CHECKPOINT).await;
        Ok(report)
    }

    /// Copies what refers to an image that is there already.
    async fn refer(&self, job: &Job, mut report: CopyReport) -> Result<CopyReport> {
        let root = job.from.repository().at(report.root.digest.clone());
        if job.platforms.rewrites() {
            // What refers to the index of the source does not refer to the one of the destination.
            return Ok(report);
        }
        let image = self.reading(job).read(&root).await?;
        self.copy_referrers(job, &image, false, &mut report).await?;
        report.unchanged = report.referrers == 0;
        self.keep_at(CHECKPOINT).await;
        Ok(report)
    }

    fn reading<'a>(&'a self, job: &'a Job) -> Reading<'a> {
        Reading {
            source: &self.source,
            platforms: &job.platforms,
            foreign_layers: self.options.foreign_layers,
            turns: &self.turns,
        }
    }

    /// Brings what an image consists of, and names it; whether the destination lists it as a referrer of its subject.
    pub(super) async fn carry(
        &self,
        job: &Job,
        image: &Image,
        cargo: Cargo<'_>,
        report: &mut CopyReport,
    ) -> Result<bool> {
        self.bring(job, image, cargo.fresh, report).await?;
        match self.name(job, image, cargo, report).await {
            // What was there a moment ago is gone: collected as garbage, or taken away. Once more, trusting nothing.
            Err(error) if is_blob_unknown(&error) => {
                tracing::info!(to = %job.to, "blobs that were there are gone, bringing them again");
                let blobs = image.blobs.iter().map(|blob| &blob.digest);
                self.blobs.with_known(|known| known.doubt(blobs, &job.to));
                self.bring(job, image, false, report).await?;
                self.name(job, image, cargo, report).await
            }
            named => named,
        }
    }

    /// Asks whether the image may be copied: the one of the source, whatever is written anew of it.
    async fn admitted(&self, job: &Job, mut start: Start) -> Result<Start> {
        let Some(gate) = &self.gate else {
            return Ok(start);
        };
        let repository = job.from.repository();
        let digest = match (&start.root, start.from.digest()) {
            (Some(root), _) => root.digest.clone(),
            (None, Some(digest)) => digest.clone(),
            (None, None) => {
                let root = self.source.manifest(&start.from).await?;
                start.root.insert(root).digest.clone()
            }
        };
        gate.admit(&self.source, repository, &digest).await?;
        Ok(start)
    }

    /// Looks at both sides as far as the caller has not; `Err` when there is nothing to do.
    async fn start(&self, job: &Job) -> Result<Result<Start, CopyReport>> {
        let mut start = Start {
            from: job.from.clone(),
            root: None,
            tags: job.tags.clone(),
            // A tag that moved shares most of its blobs with what it was.
            fresh: job.found != Found::Other,
        };
        if job.found != Found::Unknown {
            return Ok(Ok(start));
        }
        let mut present = Vec::new();
        for tag in &job.tags {
            let name = job.to.tagged(tag.clone());
            present.push(self.destination.resolve_to_push(&name).await?);
        }
        if present.iter().all(Option::is_none) {
            return Ok(Ok(start));
        }
        start.fresh = false;
        let wanted = if job.platforms.rewrites() {
            let root = self.source.manifest(&job.from).await?;
            let result = job.platforms.result_of(root.clone())?.descriptor();
            start.root = Some(root);
            result
        } else {
            let found = self.source.resolve(&job.from).await?;
            let found = found.ok_or_else(|| not_found(&job.from))?;
            start.from = start.from.pinned(found.digest.clone());
            found
        };
        let mut present = present.into_iter();
        start.tags.retain(|_| {
            let there: Option<Descriptor> = present.next().flatten();
            there.is_none_or(|there| there.digest != wanted.digest)
        });
        if start.tags.is_empty() {
            self.admitted(job, start).await?;
            return Ok(Err(CopyReport {
                unchanged: true,
                ..CopyReport::of(wanted)
            }));
        }
        Ok(Ok(start))
    }

    /// Brings the blobs that are missing.
    async fn bring(
        &self,
        job: &Job,
        image: &Image,
        fresh: bool,
        report: &mut CopyReport,
    ) -> Result<()> {
        let from = job.from.repository();
        let plan = || {
            self.blobs
                .with_known(|known| Plan::of(image, from, &job.to, known))
        };
        let mut todo = plan();
        if todo.is_in_the_dark() && self.read_ledger(&job.to).await {
            todo = plan();
        }
        let fresh = fresh || self.blobs.with_known(|known| known.has_seen(&job.to));
        let steps: Vec<_> = todo.blobs.iter().map(|step| step.blob.clone()).collect();
        let mut blobs = futures::stream::iter(steps)
            .map(|blob| async move {
                let done = self.blobs.bring(&blob, from, &job.to, fresh).await;
                done.map(|done| (done, blob.size))
            })
            .buffer_unordered(self.options.blobs.max(1));
        while let Some((done, size)) = blobs.try_next().await? {
            match done {
                Some(Pushed::Uploaded) => report.copied.add(size),
                Some(Pushed::Mounted) => report.mounted.add(size),
                None => {}
            }
        }
        Ok(())
    }

    /// Puts the manifests that are missing, then what refers to them, and then the root under its names; whether the
    /// destination lists it as a referrer of its subject.
    async fn name(
        &self,
        job: &Job,
        image: &Image,
        cargo: Cargo<'_>,
        report: &mut CopyReport,
    ) -> Result<bool> {
        let todo = self
            .blobs
            .with_known(|known| Plan::of(image, job.from.repository(), &job.to, known));
        for rank in todo.ranks {
            let rank: Vec<_> = rank.into_iter().cloned().collect();
            let mut puts = futures::stream::iter(rank)
                .map(|manifest| async move {
                    let name = job.to.at(manifest.digest.clone());
                    self.put(&manifest, name).await.map(|_| ())
                })
                .buffer_unordered(PUTS);
            while let Some(()) = puts.try_next().await? {
                report.manifests += 1;
            }
        }
        let is_tagged = !cargo.tags.is_empty();
        if cargo.referrers && is_tagged {
            self.copy_referrers(job, image, true, report).await?;
        }
        let tags = cargo.tags.iter();
        let mut names: Vec<_> = tags.map(|tag| job.to.tagged(tag.clone())).collect();
        if names.is_empty() {
            names.push(job.to.at(image.root.digest.clone()));
        }
        let mut is_listed = false;
        for name in names {
            is_listed = self.put(&image.root, name).await?;
            report.manifests += 1;
        }
        if cargo.referrers && !is_tagged {
            self.copy_referrers(job, image, false, report).await?;
        }
        Ok(is_listed)
    }

    /// Puts a manifest; whether the destination lists it as a referrer of its subject.
    pub(super) async fn put(&self, manifest: &RawManifest, name: Reference) -> Result<bool> {
        let (media_type, bytes) = (&manifest.media_type, manifest.bytes.clone());
        let put = self
            .destination
            .put_referrer(&name, media_type, bytes)
            .await?;
        self.blobs
            .with_known(|known| known.put(&manifest.digest, name.repository()));
        Ok(put.is_listed)
    }

    /// Reads the ledger unless that was done; whether there is one for the registry of `to`. A ledger that cannot be read
    /// is as if it were empty, and is not written.
    async fn read_ledger(&self, to: &Repository) -> bool {
        let Some(place) = self
            .ledger
            .as_ref()
            .filter(|place| place.host() == to.host())
        else {
            return false;
        };
        let read = async || match self.fetch_ledger(place).await {
            Ok(ledger) => {
                self.blobs.with_known(|known| known.merge(&ledger));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the ledger cannot be read");
                false
            }
        };
        self.ledger_read.get_or_init(read).await;
        true
    }

    async fn fetch_ledger(&self, place: &Repository) -> Result<Ledger> {
        match self.destination.manifest(&ledger_name(place)).await {
            Ok(manifest) => {
                Ok(Ledger::parse(&manifest.bytes, &place.to_string()).unwrap_or_default())
            }
            Err(Error::NotFound { .. }) => Ok(Ledger::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes what was learned of the destination, for the runs to come. Does nothing where that is nothing, and fails
    /// nothing: a ledger that cannot be written is told in the log.
    pub async fn keep_ledger(&self) {
        self.keep_at(1).await;
    }

    /// Keeps the ledger where at least `news` blobs were learned of since.
    async fn keep_at(&self, news: usize) {
        let Some(place) = &self.ledger else {
            return;
        };
        if self.ledger_read.get() != Some(&true) || self.news() < news {
            return;
        }
        let _alone = self.keeping.lock().await;
        let learned = self.news();
        if learned < news {
            return;
        }
        if learned >= CHECKPOINT
            && let Ok(others) = self.fetch_ledger(place).await
        {
            self.blobs.with_known(|known| known.merge(&others));
        }
        let scope = place.to_string();
        let bytes = self
            .blobs
            .with_known(|known| known.ledger().0.to_manifest(&scope));
        let name = ledger_name(place);
        match self
            .destination
            .put_manifest(&name, &Ledger::media_type(), bytes)
            .await
        {
            Ok(_) => self.blobs.with_known(|known| known.kept(learned)),
            Err(error) => tracing::warn!(%error, "the ledger cannot be written"),
        }
    }

    fn news(&self) -> usize {
        self.blobs.with_known(|known| known.ledger().1)
    }
}

impl std::fmt::Debug for Copier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copier")
            .field("options", &self.options)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

fn ledger_name(place: &Repository) -> Reference {
    place.tagged(LEDGER_TAG.parse().expect("it is a tag"))
}

fn not_found(reference: &Reference) -> Error {
    Error::NotFound {
        action: format!("pull manifest {reference}"),
        code: None,
    }
}

/// Whether the destination refused a manifest for what it refers to (distribution-spec, error codes).
fn is_blob_unknown(error: &Error) -> bool {
    let code = match error {
        Error::Refused { code, .. } | Error::NotFound { code, .. } => code.as_ref(),
        _ => None,
    };
    code.is_some_and(|code| {
        matches!(
            code.as_str(),
            "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN" | "MANIFEST_UNKNOWN"
        )
    })
}
