//! The build engine and the command line `coopery`.
//!
//! Text → AST (crate `dockerfile`) → [`graph`] of steps (pure) → [`solve`] (hit or execute) → [`image`] → [`export`].
//! What a step does to files is in [`step`]; how a layer looks on disk in [`snapshot`], [`unpack`], [`diff`] and [`layer`];
//! how a process is run in [`exec`]; where the context comes from in [`context`]. Registries are spoken to by the crate
//! `distribution` only. This crate knows nothing of Kubernetes: [`pod`] reads a request of the crate `protocol` and
//! answers with an outcome.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod account;
pub mod archive;
pub mod base;
pub mod build;
pub mod cache;
pub mod cache_key;
pub mod cache_mount;
pub mod cause;
pub mod cli;
pub mod context;
pub mod diff;
pub mod disk;
mod epoch;
pub mod error;
pub mod exec;
pub mod export;
#[cfg(test)]
mod fixture;
pub mod graph;
pub mod image;
mod image_path;
pub mod join;
pub mod layer;
pub mod lint;
mod memory_file;
pub mod named_context;
pub mod outcome;
pub mod pod;
pub mod progress;
mod resolve;
pub mod runtime;
pub mod secret;
pub mod shared_cache;
pub mod snapshot;
pub mod solve;
pub mod step;
pub mod tree;
pub mod unpack;
pub mod upkeep;
mod upper;
pub mod wanted;
