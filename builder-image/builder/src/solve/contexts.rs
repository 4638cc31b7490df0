//! The files that a build is offered: its context, and those of named contexts.

use std::sync::Arc;

use crate::context::BuildContext;
use crate::graph::ContextId;
use crate::named_context::ContextFiles;

/// All contexts of a build. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Contexts {
    /// The build context.
    pub build: Arc<BuildContext>,
    /// Named ones, in the order of the graph.
    pub named: Arc<[Arc<ContextFiles>]>,
}

impl Contexts {
    /// One of them.
    pub(super) fn get(&self, id: ContextId) -> &Arc<BuildContext> {
        match id {
            ContextId::Build => &self.build,
            ContextId::Named(position) => &self.named[position].context,
        }
    }
}
