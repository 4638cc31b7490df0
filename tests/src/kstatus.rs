//! What a tool that knows kstatus concludes from a resource: the oracle of the tests, not the operator's own opinion.

use crds::{Condition, ImageBuild, ImageMirror, Registry, condition};
use kube::Resource;

/// Status of a resource in the words of kstatus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kstatus {
    /// The operator has not seen this generation, or works on it.
    InProgress,
    /// Nothing will change until somebody changes something.
    Failed,
    /// The status is what the spec asks for.
    Current,
}

/// A resource with conditions.
pub trait Conditioned: Resource {
    /// Its conditions; none before the first reconcile.
    fn conditions(&self) -> &[Condition];
    /// The generation that its status speaks of.
    fn observed_generation(&self) -> Option<i64>;
}

macro_rules! conditioned {
    ($($kind:ty),*) => {$(
        impl Conditioned for $kind {
            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map_or(&[], |status| &status.conditions)
            }

            fn observed_generation(&self) -> Option<i64> {
                self.status.as_ref().and_then(|status| status.observed_generation)
            }
        }
    )*};
}
conditioned!(ImageBuild, ImageMirror, Registry);

/// What kstatus says of `object`.
pub fn kstatus<K: Conditioned>(object: &K) -> Kstatus {
    let conditions = object.conditions();
    if object.observed_generation() != object.meta().generation
        || condition::is_true(conditions, "Reconciling")
    {
        Kstatus::InProgress
    } else if condition::is_true(conditions, "Stalled") {
        Kstatus::Failed
    } else if condition::is_true(conditions, "Ready") {
        Kstatus::Current
    } else {
        Kstatus::InProgress
    }
}

/// Whether `object` is Current.
pub fn is_current<K: Conditioned>(object: &K) -> bool {
    kstatus(object) == Kstatus::Current
}

/// Reason of the condition `Ready`; empty where it is absent.
pub fn reason<K: Conditioned>(object: &K) -> &str {
    condition::find(object.conditions(), "Ready").map_or("", |c| &c.reason)
}

/// Message of the condition `Ready`; empty where it is absent.
pub fn message<K: Conditioned>(object: &K) -> &str {
    condition::find(object.conditions(), "Ready").map_or("", |c| &c.message)
}
