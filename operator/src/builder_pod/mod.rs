//! What the pods of ImageBuild and ImageMirror have in common: names and annotations, their shape, what their state and
//! their outcome say. Pure values; creating and deleting pods is the work of `apply`.

pub mod identity;
pub mod outcome;
pub mod shape;
pub mod state;
mod view;

pub use identity::{Attempt, Identity, ObservedPod, Owner, Part};
pub use outcome::PodFailure;
pub use shape::{BuilderSettings, PodSpecInput, build_pod};
pub use state::{Ended, PodEvent, PodState};
pub use view::PodView;

/// Hash of what the pod makes; with the attempt and the owner's uid it gives the pod's name.
pub const KEY_ANNOTATION: &str = "coopery.dev/key";
/// Number of the attempt, from 0.
pub const ATTEMPT_ANNOTATION: &str = "coopery.dev/attempt";
/// Generation of the owner's spec.
pub const GENERATION_ANNOTATION: &str = "coopery.dev/generation";
/// Why the pod was started.
pub const REASON_ANNOTATION: &str = "coopery.dev/reason";
/// The git commit that is built.
pub const COMMIT_ANNOTATION: &str = "coopery.dev/commit";
/// Hash of the versions of the Secrets and of the isolation that the pod was started with.
pub const ENVIRONMENT_ANNOTATION: &str = "coopery.dev/environment";
/// How RUN is isolated; a pod that says `UserNamespace` and has none is deleted.
pub const ISOLATION_ANNOTATION: &str = "coopery.dev/isolation";
/// Automatic retries before this attempt, since somebody last asked for one.
pub const RETRIES_ANNOTATION: &str = "coopery.dev/retries";
/// Which part of an attempt the pod does: a platform, or the index.
pub const PART_ANNOTATION: &str = "coopery.dev/part";
/// Automatic retries of that part before this pod.
pub const PART_RETRIES_ANNOTATION: &str = "coopery.dev/part-retries";

/// The only container of a builder pod.
pub const CONTAINER: &str = "builder";
