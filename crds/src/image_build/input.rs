//! What a build starts from besides its source, and when it is built anew.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The image of another ImageBuild, as a build argument.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// Name of the build argument: ARG must declare it.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_]*$')")
        .message("the name of an input is that of a build argument: letters, digits and '_', not beginning with a digit"))]
    pub name: String,
    /// The ImageBuild, and what of it is the value.
    pub image_build: BuildReference,
}

/// Names an ImageBuild of the same namespace and what of it is meant.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildReference {
    /// Name of the ImageBuild, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')")
        .message("name must be the name of an ImageBuild in the same namespace: lower case letters, digits, '-' and '.'"))]
    pub name: String,
    /// What of it is the value: image (default; host/path@sha256:..., as FROM takes it) or digest (sha256:...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self in ['image', 'digest']").message("output must be image or digest"))]
    pub output: Option<String>,
}

/// What of an ImageBuild is the value of an input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BuildOutput {
    /// `status.image`.
    Image,
    /// `status.digest`.
    Digest,
}

impl BuildReference {
    /// What is meant; `None` when the word is unknown to this version. Default: the image.
    pub fn output(&self) -> Option<BuildOutput> {
        match self.output.as_deref() {
            None | Some("image") => Some(BuildOutput::Image),
            Some("digest") => Some(BuildOutput::Digest),
            Some(_) => None,
        }
    }
}

/// When an image that is there is built anew.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebuild {
    /// Changes that start a build: Source (a commit, a ConfigMap), Inputs, and BaseImage (a tag that the Dockerfile names stands for another image; looked up every five minutes). Default: Source and Inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 3), inner(length(max = 16)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(t, t in ['Source', 'BaseImage', 'Inputs'])").message("rebuild.triggers may hold Source, BaseImage and Inputs")
    )]
    pub triggers: Option<Vec<String>>,
    /// Times at which a build starts though nothing changed. Default: none. Format: the five fields of cron, in UTC, for instance 0 4 * * 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9A-Za-z*,/#?-]+( +[0-9A-Za-z*,/#?-]+){4}$')")
        .message("schedule must be the five fields of cron: minute, hour, day of month, month, day of week"))]
    pub schedule: Option<String>,
}

/// A change that starts a build.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Trigger {
    /// A commit, a ConfigMap.
    Source,
    /// An image that the Dockerfile names.
    BaseImage,
    /// The image of another ImageBuild.
    Inputs,
}

impl Rebuild {
    /// The changes that start a build; `None` when one of the words is unknown to this version. Default: Source and Inputs.
    pub fn triggers_of(rebuild: Option<&Self>) -> Option<Vec<Trigger>> {
        let Some(words) = rebuild.and_then(|rebuild| rebuild.triggers.as_ref()) else {
            return Some(vec![Trigger::Source, Trigger::Inputs]);
        };
        let trigger = |word: &String| match word.as_str() {
            "Source" => Some(Trigger::Source),
            "BaseImage" => Some(Trigger::BaseImage),
            "Inputs" => Some(Trigger::Inputs),
            _ => None,
        };
        words.iter().map(trigger).collect()
    }
}
