//! What is known of steps when a build is done, for the caches that are written of it.

use std::sync::Arc;

use super::files::Need;
use super::step_layer::StepLayer;
use super::{Shared, Solve};
use crate::cache::Packed;
use crate::cache_key::CacheKey;
use crate::cause::Trail;
use crate::graph::StepId;
use crate::layer::{Compression, Recipe};

/// A step whose result is known.
pub struct Solved {
    /// The key by content, then others under which it is found.
    pub keys: Vec<CacheKey>,
    /// The instruction.
    pub instruction: String,
    id: StepId,
    layer: Arc<StepLayer>,
}

impl Solved {
    /// When the step was executed.
    pub fn created(&self) -> &str {
        self.layer.created()
    }
}

impl Solve {
    /// The steps whose results are known: `all` of them, or those that make the layers of the target. To be asked when the
    /// build is done.
    ///
    /// # Errors
    /// When a step failed after all.
    pub fn solved(&self, all: bool) -> Shared<Vec<Solved>> {
        let target = self.target_steps();
        let mut solved = Vec::new();
        for number in 0..self.nodes.len() {
            let id = StepId(number);
            if !all && !target.contains(&id) {
                continue;
            }
            let Some(keyed) = self.nodes[number].keyed.get().cloned().transpose()? else {
                continue;
            };
            let layer = match (self.nodes[number].layer.get(), &keyed.record) {
                (Some(layer), _) => layer.clone()?,
                (None, Some(record)) => Arc::new(StepLayer::cached(record.clone(), &self.engine)),
                (None, None) => continue,
            };
            let keys = std::iter::once(&keyed.key).chain(&keyed.source_key);
            solved.push(Solved {
                keys: keys.cloned().collect(),
                instruction: self.graph.steps[number].instruction.clone(),
                id,
                layer,
            });
        }
        Ok(solved)
    }

    /// The layer of such a step as a blob.
    ///
    /// # Errors
    /// When it cannot be packed.
    pub async fn pack_solved(&self, step: &Solved, compression: Compression) -> Shared<Packed> {
        let recipe = Recipe {
            compression,
            clamp_mtime: None,
        };
        let below = self.snapshot(self.step(step.id).below, Need::Contents);
        step.layer.packed_by(&self.engine, recipe, below).await
    }

    /// What the inputs of such a step were, this time and earlier.
    pub fn trails_of(&self, step: &Solved) -> Vec<Trail> {
        let node = &self.nodes[step.id.0];
        let keyed = node.keyed.get().and_then(|keyed| keyed.as_ref().ok());
        let trail = keyed.map(|keyed| keyed.trail.clone());
        let mut trails: Vec<_> = trail.into_iter().collect();
        trails.extend(self.engine.cache.trails(&step.instruction));
        trails.extend(self.engine.imports.trails(&step.instruction));
        trails.retain(|trail| *trail != Trail::default());
        trails
    }

    /// The keys of the steps that make the layers of the target, bottom first.
    pub(crate) fn target_keys(&self) -> Vec<Vec<CacheKey>> {
        let nodes = self.target_steps().into_iter().map(|id| &self.nodes[id.0]);
        nodes
            .map(|node| {
                let keyed = node.keyed.get().and_then(|keyed| keyed.as_ref().ok());
                let keys = keyed.into_iter().flat_map(|keyed| {
                    let keys = std::iter::once(&keyed.key).chain(&keyed.source_key);
                    keys.cloned().collect::<Vec<_>>()
                });
                keys.collect()
            })
            .collect()
    }
}
