//! The API `coopery.dev/v1alpha1`: the kinds `ImageBuild`, `ImageMirror` and `Registry`.
//!
//! This crate holds types, their validation rules and small accessors. It has no client and decides
//! nothing; the YAML in `crds/*.yaml` is generated from it by `crdgen`. A field exists from the change
//! that honours it, and a default lives in an accessor, not in the schema: a schema default would show
//! up as drift in a GitOps tool.

#![expect(
    unreachable_pub,
    reason = "the KubeSchema derive repeats each struct inside a function"
)]

pub mod common;
pub mod condition;
pub mod definition;
pub mod image_build;
pub mod image_mirror;
pub mod registry;

pub use common::{InvalidDuration, LocalReference, parse_duration};
pub use condition::{Condition, ConditionStatus, Conditions};
pub use image_build::{ImageBuild, ImageBuildSpec, ImageBuildStatus};
pub use image_mirror::{ImageMirror, ImageMirrorSpec, ImageMirrorStatus};
pub use registry::{Registry, RegistrySpec, RegistryStatus};

/// The API group of the three kinds.
pub const GROUP: &str = "coopery.dev";
/// The served and stored version.
pub const VERSION: &str = "v1alpha1";
/// A changed value makes the operator look at the object again.
pub const REQUESTED_AT_ANNOTATION: &str = "reconcile.coopery.dev/requestedAt";
/// A changed value makes the operator build or sync again, though nothing changed.
pub const FORCE_AT_ANNOTATION: &str = "reconcile.coopery.dev/forceAt";
/// Names the build (an entry of `status.builds`) to cancel.
pub const CANCEL_ANNOTATION: &str = "reconcile.coopery.dev/cancel";
/// What Flux's command line writes; treated as [`REQUESTED_AT_ANNOTATION`].
pub const FLUX_REQUESTED_AT_ANNOTATION: &str = "reconcile.fluxcd.io/requestedAt";
