//! The files of a base or of a step, made ready as far as somebody needs them: unpacked for a command that runs, or only
//! listed for a step that never reads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::{Shared, Solve};
use crate::error::BaseError;
use crate::graph::{Action, BaseId, Filesystem, Graph, Input, Step, StepId};
use crate::snapshot::Snapshot;
use crate::wanted::Guess;

/// What somebody needs of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// What the tree looks like. Contents are there only by chance.
    Listing,
    /// Everything.
    Contents,
}

/// The files of a base image.
#[derive(Default)]
pub(super) struct BaseFiles {
    contents: OnceCell<Shared<Snapshot>>,
    listing: OnceCell<Shared<Snapshot>>,
    /// Whether somebody has asked for the contents, so that nobody else should fetch the layers for a listing.
    wanted: AtomicBool,
}

/// For each step whether a RUN stands on top of it, so that its files will be needed unpacked.
pub(super) fn below_run(graph: &Graph) -> Vec<bool> {
    let mut below = vec![false; graph.steps.len()];
    // A step depends on earlier ones only, so one pass from the last to the first sees all.
    for (number, step) in graph.steps.iter().enumerate().rev() {
        let runs = matches!(step.action, Action::Run(_));
        if let Filesystem::Step(StepId(lower)) = step.below {
            below[lower] |= runs || below[number];
        }
    }
    below
}

/// For each step whether it is a COPY whose files nobody needs but the image: then they are packed from where they are.
pub(super) fn copied_for_image(graph: &Graph) -> Vec<bool> {
    let (below_run, mut read) = (below_run(graph), vec![false; graph.steps.len()]);
    for input in graph.steps.iter().flat_map(Step::inputs) {
        for StepId(step) in graph.line(input).1 {
            read[step] = true;
        }
    }
    let steps = graph.steps.iter().zip(below_run.iter().zip(read));
    steps
        .map(|(step, (below_run, read))| {
            let copies = matches!(&step.action, Action::Copy(copy) if !copy.add);
            copies && !below_run && !read
        })
        .collect()
}

/// For each base the RUNs that stand on it with nothing but context below them, the lowest of each line: their keys are
/// found without looking into any image.
pub(super) fn runs_on(graph: &Graph, bases: usize) -> Vec<Vec<StepId>> {
    let mut runs = vec![Vec::new(); bases];
    'steps: for (number, step) in graph.steps.iter().enumerate() {
        if !matches!(step.action, Action::Run(_)) || !step.inputs().is_empty() {
            continue;
        }
        let mut below = step.below;
        while let Filesystem::Step(StepId(lower)) = below {
            let lower = &graph.steps[lower];
            if matches!(lower.action, Action::Run(_)) || !lower.inputs().is_empty() {
                continue 'steps;
            }
            below = lower.below;
        }
        if let Filesystem::Base(BaseId(base)) = below {
            runs[base].push(StepId(number));
        }
    }
    runs
}

/// For each base the files that may be copied from it, by the texts of the sources.
pub(super) fn guesses(graph: &Graph, bases: usize) -> Vec<Arc<[Guess]>> {
    let mut guesses = vec![Vec::new(); bases];
    for step in &graph.steps {
        if let Action::Copy(copy) = &step.action
            && let Input::Files(from) = copy.from
            && let (Some(BaseId(base)), _) = graph.line(from)
        {
            guesses[base].extend(copy.sources.iter().map(|source| Guess::of(source)));
        }
    }
    guesses.into_iter().map(Arc::from).collect()
}

impl Solve {
    /// The files of something, fetched, unpacked and executed as far as needed.
    pub(super) fn snapshot(
        &self,
        filesystem: Filesystem,
        need: Need,
    ) -> BoxFuture<'_, Shared<Snapshot>> {
        async move {
            match filesystem {
                Filesystem::Scratch => Ok(Snapshot::empty()),
                Filesystem::Base(id) => self.base_snapshot(id, need).await,
                Filesystem::Step(id) if need == Need::Contents => {
                    // Asked for by every step above: without this, each would ask all those below it again.
                    let contents = &self.nodes[id.0].contents;
                    let make = || async {
                        let below = self.snapshot(self.step(id).below, need);
                        let layer = async {
                            let layer = self.layer(id).await?;
                            layer.fetch(&self.engine).await?;
                            Ok(layer)
                        };
                        let (below, layer) = futures::try_join!(below, layer)?;
                        let directory = layer.directory(&self.engine, &below).await?;
                        Ok(below.with(directory))
                    };
                    contents.get_or_init(make).await.clone()
                }
                Filesystem::Step(id) => {
                    let below = self.snapshot(self.step(id).below, need);
                    let (below, layer) = futures::try_join!(below, self.layer(id))?;
                    if let Some(listing) = layer.listing(&self.engine).await {
                        return Ok(below.with_listing(listing));
                    }
                    let directory = layer.directory(&self.engine, &below).await?;
                    Ok(below.with(directory))
                }
            }
        }
        .boxed()
    }

    async fn base_snapshot(&self, id: BaseId, need: Need) -> Shared<Snapshot> {
        let files = &self.base_files[id.0];
        let bases = &self.engine.bases;
        if need == Need::Listing
            && !files.wanted.load(Ordering::Relaxed)
            && !bases.is_unpacked(&self.bases[id.0])
            && (bases.is_listed(&self.bases[id.0]) || !self.will_run_on(id).await)
        {
            let list = || self.fetch_base(id, Need::Listing);
            return files.listing.get_or_init(list).await.clone();
        }
        files.wanted.store(true, Ordering::Relaxed);
        let unpack = || self.fetch_base(id, Need::Contents);
        files.contents.get_or_init(unpack).await.clone()
    }

    /// Whether a RUN is about to need all files of the base: then nobody should fetch it once more for a listing.
    async fn will_run_on(&self, id: BaseId) -> bool {
        for run in &self.runs_on[id.0] {
            let keyed = self.keyed(*run).await;
            if keyed.is_ok_and(|keyed| keyed.record.is_none()) {
                return true;
            }
        }
        false
    }

    async fn fetch_base(&self, id: BaseId, need: Need) -> Shared<Snapshot> {
        let base = &self.bases[id.0];
        let bases = &self.engine.bases;
        let vertex = self.engine.progress.start(&self.labels[id.0]);
        let fetched = match need {
            Need::Contents => bases.snapshot(base).await,
            Need::Listing => match bases.listing(base, &self.guesses[id.0]).await {
                // What cannot be listed is unpacked, or what is wrong with it is found there.
                Err(BaseError::Unpack { .. }) => bases.snapshot(base).await,
                listed => listed,
            },
        };
        match fetched {
            Ok(snapshot) => {
                vertex.done();
                Ok(snapshot)
            }
            Err(source) => {
                vertex.failed(&source.to_string());
                Err(std::sync::Arc::new(self.base_error(id, source)))
            }
        }
    }
}
