//! Where expansion finds the values of variables.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

/// A set of variables. What is in it, and what shadows what, is decided by whoever implements it.
pub trait Scope {
    /// The value of `name`; `None` if it is unset, which is not the same as empty.
    fn get(&self, name: &str) -> Option<&str>;
}

/// The empty scope.
impl Scope for () {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

impl<S: Scope + ?Sized> Scope for &S {
    fn get(&self, name: &str) -> Option<&str> {
        (**self).get(name)
    }
}

impl<V: AsRef<str>> Scope for BTreeMap<String, V> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(AsRef::as_ref)
    }
}

impl<V: AsRef<str>, H: BuildHasher> Scope for HashMap<String, V, H> {
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(AsRef::as_ref)
    }
}

/// Pairs in order of assignment: the last one wins.
impl<K: AsRef<str>, V: AsRef<str>> Scope for [(K, V)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .rev()
            .find(|(key, _)| key.as_ref() == name)
            .map(|(_, value)| value.as_ref())
    }
}
