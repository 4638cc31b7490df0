//! What is to be built of a source as strings become types. Pure.

use crds::image_build::{Dockerfile, DockerfileContext};
use protocol::{DockerfileSpec, NamedContext};

use super::source::inner_path;
use super::{Checked, invalid};

/// Room for Dockerfile, arguments and labels in the request: annotations hold 256 KiB together.
const MAX_DOCKERFILE_BYTES: usize = 200 * 1024;

/// A file for RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSpec {
    /// The id that RUN names.
    pub id: String,
    /// The Secret.
    pub secret: String,
    /// The key in it.
    pub key: String,
}

/// The secrets of a build.
pub(super) fn secrets(dockerfile: Option<&Dockerfile>) -> Vec<SecretSpec> {
    let secrets = dockerfile.map(|dockerfile| dockerfile.secrets.as_slice());
    secrets
        .unwrap_or_default()
        .iter()
        .map(|secret| SecretSpec {
            id: secret.id.clone(),
            secret: secret.secret_ref.name.clone(),
            key: secret.secret_ref.key.clone(),
        })
        .collect()
}

pub(super) fn dockerfile(dockerfile: Option<&Dockerfile>) -> Checked<DockerfileSpec> {
    let Some(dockerfile) = dockerfile else {
        return Ok(DockerfileSpec::default());
    };
    if dockerfile.path.is_some() && dockerfile.inline.is_some() {
        return Err(invalid(
            "spec.dockerfile needs at most one of path and inline",
        ));
    }
    let read = DockerfileSpec {
        path: dockerfile
            .path
            .as_deref()
            .map(|path| inner_path("spec.dockerfile.path", path))
            .transpose()?
            .unwrap_or_default(),
        inline: dockerfile.inline.clone(),
        target: dockerfile.target.clone(),
        build_args: dockerfile.build_args.clone(),
        labels: dockerfile.labels.clone(),
        no_cache: dockerfile.no_cache.unwrap_or(false),
        contexts: contexts(&dockerfile.contexts)?,
        platforms: platforms(&dockerfile.platforms)?,
        ..DockerfileSpec::default()
    };
    let size = serde_json::to_string(&read).map_or(0, |json| json.len());
    if size > MAX_DOCKERFILE_BYTES {
        return Err(invalid(format!(
            "spec.dockerfile has {size} bytes as JSON, the most is {MAX_DOCKERFILE_BYTES}: put the Dockerfile into a ConfigMap or a repository"
        )));
    }
    Ok(read)
}

fn contexts(contexts: &[DockerfileContext]) -> Checked<Vec<NamedContext>> {
    contexts
        .iter()
        .enumerate()
        .map(|(index, context)| {
            let image: oci::Reference = context.image.parse().map_err(|error| {
                invalid(format!("spec.dockerfile.contexts[{index}].image: {error}"))
            })?;
            Ok(NamedContext {
                name: context.name.clone(),
                image: image.or_latest().to_string(),
            })
        })
        .collect()
}

fn platforms(platforms: &[String]) -> Checked<Vec<String>> {
    let mut read: Vec<String> = Vec::new();
    for (index, text) in platforms.iter().enumerate() {
        let field = format!("spec.dockerfile.platforms[{index}]");
        let platform: oci::Platform = text
            .parse()
            .map_err(|error| invalid(format!("{field}: {error}")))?;
        let platform = platform.to_string();
        if read.contains(&platform) {
            return Err(invalid(format!("{field}: {platform} is there twice")));
        }
        read.push(platform);
    }
    Ok(read)
}
