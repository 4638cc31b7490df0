//! What a step takes out of layers that nobody has unpacked: the files that it copies or compares, and no others.

use std::sync::Arc;

use super::files::Need;
use super::{Shared, Solve, blocking};
use crate::error::BaseError;
use crate::graph::{BaseId, Filesystem};
use crate::layer::Picked;
use crate::snapshot::Snapshot;
use crate::step::copy::CopySpec;
use crate::step::{Lacking, LackingFiles, lacking};
use crate::wanted::Wanted;

impl Solve {
    /// The files of `from` with the contents of all that the sources of `spec` select; none where they cannot be had in this
    /// way. What is wrong with the sources is for who reads them to tell.
    pub(super) async fn picked(
        &self,
        from: Filesystem,
        spec: CopySpec,
    ) -> Shared<Option<Snapshot>> {
        let listed = self.snapshot(from, Need::Listing).await?;
        if listed.is_unpacked() {
            return Ok(Some(listed));
        }
        let tree = listed.clone();
        let wanted = blocking(move || lacking(&spec, &tree)).await?;
        self.pick(from, listed, wanted.unwrap_or_default()).await
    }

    /// `listed`, which are the files of `from`, with contents of more of its files; none where these cannot be had alone.
    pub(super) async fn pick(
        &self,
        from: Filesystem,
        mut listed: Snapshot,
        wanted: LackingFiles,
    ) -> Shared<Option<Snapshot>> {
        let (base, steps) = self.graph.line(from);
        let of_base = base.map_or(0, |BaseId(base)| self.bases[base].layers.len());
        for (layer, lacking) in wanted {
            let picked = match base.filter(|_| layer < of_base) {
                Some(base) => self.pick_of_base(base, layer, lacking).await?,
                None => match steps.get(layer - of_base) {
                    Some(step) => self.layer(*step).await?.pick(&self.engine, lacking).await,
                    None => None,
                },
            };
            match picked {
                Some(picked) => listed = listed.with_picked(layer, picked),
                None => return Ok(None),
            }
        }
        Ok(Some(listed))
    }

    async fn pick_of_base(
        &self,
        id: BaseId,
        position: usize,
        lacking: Lacking,
    ) -> Shared<Option<Vec<Arc<Picked>>>> {
        let wanted = Wanted {
            paths: lacking.paths,
            // Another COPY may need them next.
            guesses: self.guesses[id.0].clone(),
        };
        let (bases, base) = (&self.engine.bases, &self.bases[id.0]);
        let mut vertex = None;
        let begin = || vertex = Some(self.engine.progress.start(&self.labels[id.0]));
        let picked = bases.pick(base, position, &lacking.listing, &wanted, begin);
        let picked = picked.await;
        if let Some(vertex) = vertex {
            match &picked {
                Ok(_) => vertex.done(),
                Err(error) => vertex.failed(&error.to_string()),
            }
        }
        match picked {
            Ok(picked) => Ok(Some(picked)),
            // What is wrong with the layer is found where it is unpacked.
            Err(BaseError::Unpack { .. }) => Ok(None),
            Err(source) => Err(Arc::new(self.base_error(id, source))),
        }
    }
}
