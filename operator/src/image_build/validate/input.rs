//! What a build starts from besides its source, and when it is built anew, as strings become types. Pure.

use std::collections::BTreeMap;

use crds::image_build::{BuildOutput, Input, Rebuild, Trigger};

use super::{Checked, invalid};
use crate::schedule::Schedule;

/// The image of another ImageBuild, as a build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// The build argument.
    pub name: String,
    /// The ImageBuild, of the same namespace.
    pub build: String,
    /// What of it is the value.
    pub output: BuildOutput,
}

/// When an image that is there is built anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildSpec {
    /// The changes that start a build.
    pub triggers: Vec<Trigger>,
    /// The times at which one starts though nothing changed.
    pub schedule: Option<Schedule>,
}

impl RebuildSpec {
    /// Whether a change of this kind starts a build.
    pub fn follows(&self, trigger: Trigger) -> bool {
        self.triggers.contains(&trigger)
    }
}

pub(super) fn inputs(
    inputs: &[Input],
    build_args: &BTreeMap<String, String>,
) -> Checked<Vec<InputSpec>> {
    inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let field = format!("spec.inputs[{index}]");
            if build_args.contains_key(&input.name) {
                return Err(invalid(format!(
                    "{field}: {} is also in spec.dockerfile.buildArgs",
                    input.name
                )));
            }
            Ok(InputSpec {
                name: input.name.clone(),
                build: input.image_build.name.clone(),
                output: input.image_build.output().ok_or_else(|| {
                    invalid(format!("{field}.imageBuild.output must be image or digest"))
                })?,
            })
        })
        .collect()
}

pub(super) fn rebuild(rebuild: Option<&Rebuild>) -> Checked<RebuildSpec> {
    let triggers = Rebuild::triggers_of(rebuild)
        .ok_or_else(|| invalid("spec.rebuild.triggers may hold Source, BaseImage and Inputs"))?;
    let schedule = rebuild
        .and_then(|rebuild| rebuild.schedule.as_deref())
        .map(str::parse)
        .transpose()
        .map_err(|error| invalid(format!("spec.rebuild.schedule: {error}")))?;
    Ok(RebuildSpec { triggers, schedule })
}
