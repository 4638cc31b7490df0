//! Resolving the base images of a build, in rounds: what an image brings by ONBUILD may need further stages and images.

use std::collections::BTreeMap;
use std::sync::Arc;

use dockerfile::Dockerfile;
use futures::future::try_join_all;
use oci::Platform;

use crate::base::{Base, Bases};
use crate::error::{BaseError, Error, Place, SourceFile};
use crate::graph::{self, BaseName, GraphError, Options, Plan, Triggers};
use crate::progress::Progress;

/// Where images are found, and who is told of it.
pub(crate) struct Images<'a> {
    /// Finds them.
    pub(crate) bases: &'a Bases,
    /// Tells people.
    pub(crate) progress: &'a Progress,
    /// The file that names them.
    pub(crate) file: &'a Arc<SourceFile>,
}

/// How a file is planned: for one target, or with all its stages.
pub(crate) type Planner = for<'d> fn(&'d Dockerfile, &'d Options) -> Result<Plan<'d>, GraphError>;

/// A file whose images are found.
pub(crate) struct Resolved {
    /// The file with the triggers of all bases.
    pub(crate) dockerfile: Dockerfile,
    /// The images of its plan, in order.
    pub(crate) bases: Vec<Arc<Base>>,
}

type Known = BTreeMap<(BaseName, Platform), Arc<Base>>;

/// Finds all images that a build of `dockerfile` needs. Each round plans anew and asks for what is new only; it ends
/// because every round but the last reaches a stage that the one before did not. Every plan passes `check` first.
///
/// # Errors
/// When the file cannot be planned or `check` refuses the plan, or an image cannot be had.
pub(crate) async fn resolve(
    images: &Images<'_>,
    dockerfile: &Dockerfile,
    options: &Options,
    planner: Planner,
    check: &(dyn Fn(&Plan<'_>) -> Result<(), Error> + Sync),
) -> Result<Resolved, Error> {
    let fail = |error| Error::graph(error, images.file);
    let mut known = Known::new();
    let mut triggers = Triggers::new();
    loop {
        let triggered = graph::with_triggers(dockerfile, options, &triggers).map_err(fail)?;
        let plan = planner(&triggered, options).map_err(fail)?;
        check(&plan)?;
        let bases = find(images, &plan, &mut known).await?;
        let configs: Vec<_> = bases.iter().map(|base| base.config.clone()).collect();
        let found = plan.triggers(&configs);
        if found == triggers {
            return Ok(Resolved {
                dockerfile: triggered,
                bases,
            });
        }
        triggers = found;
    }
}

/// Finds all images of the plan at the same time, but for those that are known.
async fn find(
    images: &Images<'_>,
    plan: &Plan<'_>,
    known: &mut Known,
) -> Result<Vec<Arc<Base>>, Error> {
    let before = &*known;
    let all = plan.bases.iter().map(|wanted| async move {
        let name = (wanted.name.clone(), wanted.platform.clone());
        if let Some(base) = before.get(&name) {
            return Ok((name, base.clone()));
        }
        let vertex =
            (images.progress).start(format!("[internal] load metadata for {}", wanted.name));
        match images.bases.resolve(&wanted.name, &wanted.platform).await {
            Ok(base) => {
                vertex.output(base.digest.as_str().as_bytes());
                if let Some(mirror) = &base.mirror {
                    vertex.output(format!("taken from the mirror {mirror}").as_bytes());
                }
                vertex.done();
                Ok((name, Arc::new(base)))
            }
            Err(source) => {
                vertex.failed(&source.to_string());
                Err(Error::Base {
                    place: Place {
                        file: images.file.clone(),
                        span: wanted.span,
                        instruction: wanted.label.clone(),
                    },
                    name: wanted.name.to_string(),
                    help: base_help(&source, wanted),
                    source: Box::new(source),
                })
            }
        }
    });
    let found = try_join_all(all).await?;
    let bases = found.iter().map(|(_, base)| base.clone()).collect();
    known.extend(found);
    Ok(bases)
}

/// What was probably meant, where the image cannot be had at all.
fn base_help(error: &BaseError, wanted: &graph::Base) -> Option<String> {
    let stage = wanted.similar_stage.as_ref()?;
    matches!(error, BaseError::NotFound | BaseError::Registry(_))
        .then(|| format!("did you mean the stage `{stage}`?"))
}
