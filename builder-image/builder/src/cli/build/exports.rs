//! All places that the image goes to: what `--output`, `--push`, `--load`, `--tag` and `--annotation` say together.

use std::path::Path;

use clap::Args;
use oci::Reference;

use super::annotation::AnnotationArg;
use super::output_arg::{Kind, OutputArg};
use crate::error::Error;
use crate::export::{Destination, Export, Form, Layers, Output, Settings};

/// The flags that say where the image goes.
#[derive(Args, Debug, Default)]
pub(super) struct ExportArgs {
    /// Where the image goes: type=registry, type=image (kept on this machine), type=oci,dest=FILE or
    /// type=oci,tar=false,dest=DIR (OCI layout), type=docker,dest=FILE (for docker load), type=local,dest=DIR and
    /// type=tar,dest=FILE (its files); docs/build.md has all attributes
    #[arg(short, long, value_name = "TYPE=…")]
    output: Vec<OutputArg>,
    /// Push the image to its names
    #[arg(long)]
    push: bool,
    /// Keep the image on this machine, in the OCI layout `images` below the directory of --root, as is done with an image
    /// that has a name and goes nowhere else
    #[arg(long)]
    load: bool,
    /// Make one layer of all that the build adds to its base
    #[arg(long)]
    squash: bool,
    /// Add an annotation to the manifest, or to what LEVEL names: manifest, index, manifest-descriptor, index-descriptor
    #[arg(long, value_name = "[LEVEL:]NAME=VALUE")]
    annotation: Vec<AnnotationArg>,
}

/// What the flags are about.
pub(super) struct About<'a> {
    /// The names of the image.
    pub(super) tags: &'a [Reference],
    /// The directory of this machine's images.
    pub(super) store: &'a Path,
}

/// All places that the image goes to.
#[derive(Debug, Default)]
pub(super) struct Exports {
    /// One for each form.
    pub(super) all: Vec<Export>,
    names: Vec<Reference>,
}

impl Exports {
    /// What the flags say together.
    pub(super) fn new(flags: &ExportArgs, about: &About<'_>) -> Result<Self, Error> {
        let refuse = |message: String| Err(Error::Request(message));
        let mut exports = Self::default();
        let tags: Vec<_> = about
            .tags
            .iter()
            .cloned()
            .map(Reference::or_latest)
            .collect();
        if let Some(name) = tags.iter().find(|name| name.digest().is_some()) {
            return refuse(format!(
                "an image cannot be given the name {name}: it has a digest"
            ));
        }
        exports.names.clone_from(&tags);
        for output in &outputs(flags, !tags.is_empty()) {
            let mut settings = output.settings.clone();
            if flags.squash {
                settings.layers = Layers::Squashed;
            }
            let annotations = &mut settings.documents.annotations.0;
            annotations.extend(flags.annotation.iter().flat_map(|flag| flag.0.clone()));
            if settings.documents.docker_types && !flags.annotation.is_empty() {
                if output.said_types {
                    return refuse(
                        "--annotation needs the media types of OCI: leave oci-mediatypes=false out"
                            .into(),
                    );
                }
                settings.documents.docker_types = false;
            }
            let names = match output.names.as_slice() {
                [] => tags.clone(),
                names => names.to_vec(),
            };
            for name in &names {
                if !exports.names.contains(name) {
                    exports.names.push(name.clone());
                }
            }
            exports.add(output, settings, names, about.store)?;
        }
        let to_stdout = exports.outputs().filter(|output| output.path.is_none());
        if to_stdout.count() > 1 {
            return refuse("only one output can be written to standard output".into());
        }
        Ok(exports)
    }

    fn add(
        &mut self,
        output: &OutputArg,
        settings: Settings,
        names: Vec<Reference>,
        store: &Path,
    ) -> Result<(), Error> {
        let export = self.of(settings);
        match &output.kind {
            Kind::None => {}
            Kind::Push { .. } if names.is_empty() => {
                return Err(Error::Request(
                    "pushing needs a name: give one with --tag".into(),
                ));
            }
            Kind::Push { by_digest } => {
                for name in &names {
                    push_to(&mut export.destinations, name, *by_digest);
                }
            }
            Kind::Store => export.outputs.push(Output {
                form: Form::Store,
                path: Some(store.to_owned()),
                names,
            }),
            Kind::File(form, path) => export.outputs.push(Output {
                form: *form,
                path: path.clone(),
                names,
            }),
        }
        Ok(())
    }

    /// The export of one form; outputs of the same form share the work.
    fn of(&mut self, settings: Settings) -> &mut Export {
        let known = self.all.iter().position(|known| known.settings == settings);
        let position = known.unwrap_or_else(|| {
            self.all.push(Export {
                settings,
                ..Export::default()
            });
            self.all.len() - 1
        });
        &mut self.all[position]
    }

    /// The files and directories that are written.
    pub(super) fn outputs(&self) -> impl Iterator<Item = &Output> {
        self.all.iter().flat_map(|export| &export.outputs)
    }

    /// Whether standard output is taken.
    pub(super) fn to_stdout(&self) -> bool {
        self.outputs().any(|output| output.path.is_none())
    }

    /// All names of the image.
    pub(super) fn names(&self) -> Vec<Reference> {
        self.names.clone()
    }
}

/// The outputs, with those that `--push` and `--load` ask for. As in docker, `--push` makes an image that `--output`
/// describes a pushed one, and an image with a name that goes nowhere else is kept on this machine.
fn outputs(flags: &ExportArgs, is_named: bool) -> Vec<OutputArg> {
    let mut outputs = flags.output.clone();
    let load = flags.load || is_named && outputs.is_empty() && !flags.push;
    if outputs.is_empty() && flags.squash && !flags.push && !load {
        outputs.push(OutputArg::plain(Kind::None));
    }
    if flags.push {
        let push = Kind::Push { by_digest: false };
        let is_push = |output: &OutputArg| matches!(output.kind, Kind::Push { .. });
        let is_described = |output: &OutputArg| output.kind == Kind::Store && !flags.load;
        if let Some(described) = outputs.iter().position(is_described) {
            outputs[described].kind = push;
        } else if !outputs.iter().any(is_push) {
            outputs.push(OutputArg::plain(push));
        }
    }
    if load && !outputs.iter().any(|output| output.kind == Kind::Store) {
        outputs.push(OutputArg::plain(Kind::Store));
    }
    outputs
}

/// Names of one repository share one destination, so that nothing is sent there twice.
fn push_to(destinations: &mut Vec<Destination>, name: &Reference, by_digest: bool) {
    let repository = name.repository();
    let known = destinations
        .iter()
        .position(|known| known.repository == *repository);
    let position = known.unwrap_or_else(|| {
        destinations.push(Destination {
            name: repository.to_string(),
            repository: repository.clone(),
            tags: Vec::new(),
        });
        destinations.len() - 1
    });
    let tags = &mut destinations[position].tags;
    if let Some(tag) = name.tag().filter(|tag| !by_digest && !tags.contains(tag)) {
        tags.push(tag.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Annotation, Level};

    /// What comes of flags, in short: one line for each form.
    fn exports(outputs: &[&str], push: bool, load: bool, tags: &[&str]) -> Result<String, String> {
        let outputs: Vec<OutputArg> = outputs.iter().map(|text| text.parse().unwrap()).collect();
        let tags: Vec<Reference> = tags.iter().map(|text| text.parse().unwrap()).collect();
        let flags = ExportArgs {
            output: outputs,
            push,
            load,
            ..ExportArgs::default()
        };
        let about = About {
            tags: &tags,
            store: Path::new("/images"),
        };
        let exports = Exports::new(&flags, &about);
        let exports = exports.map_err(|error| error.to_string())?;
        let shown = exports.all.iter().map(|export| {
            let pushed = export
                .destinations
                .iter()
                .map(|d| format!("push {} {:?}", d.repository, d.tags));
            let written = export.outputs.iter().map(|o| {
                let names: Vec<_> = o.names.iter().map(Reference::familiar).collect();
                let path = o
                    .path
                    .as_ref()
                    .map_or("-".into(), |p| p.display().to_string());
                format!("{:?} {path} {names:?}", o.form)
            });
            let all: Vec<_> = pushed.chain(written).collect();
            format!("{:?}: {}", export.settings.compression, all.join("; "))
        });
        Ok(shown.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn flags_work_together() {
        let gzip = "Gzip { level: 5 }";
        let zstd = "Zstd { level: 3 }";
        for (outputs, push, load, tags, expected) in [
            (&[][..], false, false, &[][..], String::new()),
            (
                &[],
                false,
                false,
                &["a"],
                format!("{gzip}: Store /images [\"a:latest\"]"),
            ),
            (
                &[],
                true,
                false,
                &["h:1/a:1", "h:1/a:2", "h:1/b"],
                format!("{gzip}: push h:1/a [1, 2]; push h:1/b [latest]"),
            ),
            (
                &[],
                false,
                true,
                &["a"],
                format!("{gzip}: Store /images [\"a:latest\"]"),
            ),
            (
                &["type=image,compression=zstd"],
                true,
                false,
                &["h:1/a"],
                format!("{zstd}: push h:1/a [latest]"),
            ),
            (
                &["type=image,compression=zstd"],
                true,
                true,
                &["h:1/a"],
                format!("{zstd}: Store /images [\"h:1/a:latest\"]\n{gzip}: push h:1/a [latest]"),
            ),
            (
                &[
                    "type=registry,name=h:1/x:2,push-by-digest=true",
                    "type=docker,dest=f",
                ],
                false,
                false,
                &["a"],
                format!("{gzip}: push h:1/x []\n{gzip}: DockerArchive f [\"a:latest\"]"),
            ),
            (&["type=cacheonly"], false, false, &[], format!("{gzip}: ")),
        ] {
            assert_eq!(
                exports(outputs, push, load, tags).as_ref(),
                Ok(&expected),
                "{outputs:?}"
            );
        }
        for (outputs, push, message) in [
            (&[][..], true, "pushing needs a name"),
            (&["type=oci", "type=tar"], false, "only one output"),
        ] {
            let error = exports(outputs, push, false, &[]).unwrap_err();
            assert!(error.contains(message), "{outputs:?}: {error}");
        }
    }

    #[test]
    fn annotations_are_those_of_all_outputs() {
        let annotation = Annotation {
            level: Level::Index,
            platform: None,
            key: "k".into(),
            value: "v".into(),
        };
        let flags = |outputs: &str| {
            let flags = ExportArgs {
                output: vec![outputs.parse().unwrap()],
                load: true,
                annotation: vec![AnnotationArg(vec![annotation.clone()])],
                ..ExportArgs::default()
            };
            let about = About {
                tags: &[],
                store: Path::new("/images"),
            };
            Exports::new(&flags, &about)
        };
        let both = flags("type=oci,dest=x").unwrap().all;
        assert_eq!(both.len(), 1);
        assert_eq!(
            both[0].settings.documents.annotations.0,
            std::slice::from_ref(&annotation)
        );
        assert_eq!(both[0].outputs.len(), 2);
        assert!(flags("type=oci,dest=x,oci-mediatypes=false").is_err());
        let docker = flags("type=docker,dest=x").unwrap().all;
        assert!(
            docker
                .iter()
                .all(|export| !export.settings.documents.docker_types)
        );
    }
}
