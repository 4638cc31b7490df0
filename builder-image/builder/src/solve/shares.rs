//! What the graphs of one build have in common. Several platforms are solved at the same time, each with its own graph;
//! steps of equal keys, and images of equal layers, are work for one of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use oci::ChainId;
use tokio::sync::OnceCell;

use super::Shared;
use super::files::BaseFiles;
use super::step_layer::StepLayer;
use crate::cache_key::CacheKey;

/// What the graphs of one build have in common.
#[derive(Default)]
pub struct Shares {
    steps: Places<CacheKey, OnceCell<Shared<Arc<StepLayer>>>>,
    bases: Places<Option<ChainId>, BaseFiles>,
}

impl Shares {
    /// Forgets everything, so that a build may begin again.
    pub fn clear(&self) {
        self.steps.clear();
        self.bases.clear();
    }

    /// The place of the layer of the steps of one key.
    pub(super) fn step(&self, key: &CacheKey) -> Arc<OnceCell<Shared<Arc<StepLayer>>>> {
        self.steps.get(key)
    }

    /// The place of the files of the images whose layers are these.
    pub(super) fn base(&self, layers: Option<&ChainId>) -> Arc<BaseFiles> {
        self.bases.get(&layers.cloned())
    }
}

/// Places for what the first who comes makes and everybody gets.
struct Places<K, T>(Mutex<HashMap<K, Arc<T>>>);

impl<K, T> Default for Places<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T: Default> Places<K, T> {
    fn get(&self, key: &K) -> Arc<T> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(key.clone()).or_default().clone()
    }

    fn clear(&self) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.clear();
    }
}
