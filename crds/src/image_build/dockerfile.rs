//! Which Dockerfile is built and how.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{SecretKeyReference, string_map};

/// Which Dockerfile is built and how.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.path) && has(self.inline))").message("dockerfile needs at most one of path and inline"))]
pub struct Dockerfile {
    /// File of the context. Default: Dockerfile. Format: a relative path without `..`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(s, s == '..')")
        .message("path must be a relative path inside the context, without '..'"))]
    pub path: Option<String>,
    /// The Dockerfile itself. Default: none. At most 65536 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub inline: Option<String>,
    /// Stage that is built. Default: the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub target: Option<String>,
    /// Values of ARG by name. They can be seen in the image's history: no secrets. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 4096>")]
    #[x_kube(validation = Rule::new("self.all(k, k.matches('^[A-Za-z_][A-Za-z0-9_]*$'))")
        .message("the name of a build argument has letters, digits and '_', and does not begin with a digit"))]
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image, besides those of the Dockerfile. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map::<64, 4096>")]
    pub labels: BTreeMap<String, String>,
    /// Files for RUN --mount=type=secret, at most 16, by id. They get into no layer, history, cache or log. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".to_owned()]))]
    pub secrets: Vec<DockerfileSecret>,
    /// Platforms of the image, at most 8; several make an index. They are built in one pod, unless a RUN is for another processor than its node executes: then each has a pod on nodes of its architecture. Default: the platform of the node. Format: linux/amd64, linux/arm/v7.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 32)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(p, p.matches('^linux/[a-z0-9]+(/v[0-9]+)?$'))").message("a platform is linux/ and an architecture, for instance linux/arm64 or linux/arm/v7")
    )]
    pub platforms: Vec<String>,
    /// Images that stand for names in FROM, COPY --from and RUN --mount, at most 16, by name. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub contexts: Vec<DockerfileContext>,
    /// Runs every step, whatever the cache holds. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_cache: Option<bool>,
    /// Whether images that an ImageMirror of the namespace keeps in a Registry are taken from there. What it does not have is taken from where the name says. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_mirrors: Option<bool>,
}

/// A secret of a build.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DockerfileSecret {
    /// The id that RUN --mount=type=secret,id=... names.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$')")
        .message("id has letters, digits, '_', '.' and '-', and does not begin with '.' or '-'"))]
    pub id: String,
    /// The Secret and the key in it.
    pub secret_ref: SecretKeyReference,
}

/// An image that stands for a name in the Dockerfile.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DockerfileContext {
    /// The name that is replaced: of a stage, or of an image as the Dockerfile has it, for instance alpine:3.22.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9_./:@-]*$')")
        .message("the name of a context has letters, digits and _./:@-, and begins with a letter or digit"))]
    pub name: String,
    /// The image. Format: as in FROM, for instance registry.example.com/base:1 or with a digest.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9_./:@-]*$')")
        .message("image must be the name of an image as in FROM, for instance registry.example.com/base:1"))]
    pub image: String,
}
