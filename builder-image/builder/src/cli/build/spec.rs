//! Values of the flags of `coopery build` that have a grammar of their own.

use std::path::PathBuf;
use std::str::FromStr;

use oci::{Reference, Tag};

use crate::base::NamedContext;
use crate::error::Error;
use crate::export::{Destination, Form, Output};

/// The name of an image, on which `--tag .` is a common slip.
pub(super) fn image_name(text: &str) -> Result<Reference, String> {
    let is_path = matches!(text, "." | "..")
        || ["./", "../", "/", "~"]
            .iter()
            .any(|start| text.starts_with(start));
    if is_path {
        return Err(
            "this is a directory, not the name of an image: give a name first, as in `--tag NAME .`"
                .into(),
        );
    }
    text.parse()
        .map_err(|error: oci::ReferenceError| error.to_string())
}

/// `KEY[=VALUE]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyValue {
    pub(super) key: String,
    pub(super) value: Option<String>,
}

impl KeyValue {
    pub(super) fn value_or_empty(&self) -> String {
        self.value.clone().unwrap_or_default()
    }
}

impl FromStr for KeyValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err("the name is missing".into());
        }
        Ok(Self {
            key: key.into(),
            value,
        })
    }
}

/// `NAME=oci-layout://DIRECTORY[:TAG|@DIGEST]` or `NAME=docker-image://IMAGE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedContextArg {
    pub(super) name: String,
    pub(super) source: NamedContext,
}

impl FromStr for NamedContextArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, source) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or("expected NAME=SOURCE")?;
        let source = if let Some(image) = source.strip_prefix("docker-image://") {
            let image: Reference = image
                .parse()
                .map_err(|error: oci::ReferenceError| error.to_string())?;
            NamedContext::Image(image.or_latest())
        } else if let Some(layout) = source.strip_prefix("oci-layout://") {
            layout_of(layout)
        } else {
            return Err(format!(
                "`{source}` is not supported: expected oci-layout://DIRECTORY[:TAG] or docker-image://IMAGE"
            ));
        };
        Ok(Self {
            name: name.to_owned(),
            source,
        })
    }
}

fn layout_of(text: &str) -> NamedContext {
    let (directory, image) = if let Some((directory, digest)) = text.split_once('@') {
        (directory, Some(digest))
    } else {
        match text.rsplit_once(':') {
            Some((directory, tag)) if tag.parse::<Tag>().is_ok() => (directory, Some(tag)),
            _ => (text, None),
        }
    };
    NamedContext::Layout {
        directory: directory.into(),
        image: image.map(str::to_owned),
    }
}

/// One `--output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OutputArg {
    /// Push, to these names instead of those of `--tag` where there are any.
    Push(Vec<Reference>),
    /// Write a file.
    File {
        form: Form,
        path: Option<PathBuf>,
        names: Vec<Reference>,
    },
}

impl FromStr for OutputArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut kind, mut dest, mut tar, mut push) = (None, None, true, false);
        let mut names = Vec::new();
        for field in text.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| {
                format!("`{field}` is not KEY=VALUE; for a file say type=oci,dest={field}")
            })?;
            match key {
                "type" => kind = Some(value),
                "dest" => dest = Some(value),
                "tar" => tar = boolean(value)?,
                "push" => push = boolean(value)?,
                // Several names stand in quotes in CSV, which a shell has taken away; each may also have its own field.
                "name" => {
                    let name: Reference = value
                        .parse()
                        .map_err(|e: oci::ReferenceError| e.to_string())?;
                    names.push(name.or_latest());
                }
                other => {
                    return Err(format!(
                        "`{other}` is not supported; known are type, dest, tar, push and name"
                    ));
                }
            }
        }
        let path = dest.filter(|dest| *dest != "-").map(PathBuf::from);
        match kind {
            Some("push" | "registry") => Ok(Self::Push(names)),
            Some("image") if push => Ok(Self::Push(names)),
            Some("image") => Err("type=image needs push=true: there is no image store yet".into()),
            Some("oci") if tar => Ok(Self::File {
                form: Form::OciArchive,
                path,
                names,
            }),
            Some("oci") if path.is_none() => {
                Err("type=oci with tar=false needs dest=DIRECTORY".into())
            }
            Some("oci") => Ok(Self::File {
                form: Form::OciDirectory,
                path,
                names,
            }),
            Some("docker") if tar => Ok(Self::File {
                form: Form::DockerArchive,
                path,
                names,
            }),
            Some("docker") => Err("type=docker is always an archive".into()),
            Some(other) => Err(format!(
                "type `{other}` is not supported; known are oci, docker and push"
            )),
            None => Err("the type is missing: expected type=oci, type=docker or type=push".into()),
        }
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("`{other}` is neither true nor false")),
    }
}

/// All places that the image goes to.
#[derive(Debug, Default)]
pub(super) struct Exports {
    pub(super) destinations: Vec<Destination>,
    pub(super) outputs: Vec<Output>,
    names: Vec<Reference>,
}

impl Exports {
    /// What `--output`, `--push` and `--tag` say together.
    pub(super) fn new(
        outputs: &[OutputArg],
        push: bool,
        tags: &[Reference],
    ) -> Result<Self, Error> {
        let mut exports = Self::default();
        let tags: Vec<_> = tags.iter().cloned().map(Reference::or_latest).collect();
        if let Some(name) = tags.iter().find(|name| name.digest().is_some()) {
            return Err(Error::Request(format!(
                "an image cannot be given the name {name}: it has a digest"
            )));
        }
        exports.names.clone_from(&tags);
        let push_flag = push.then(|| OutputArg::Push(Vec::new()));
        for output in outputs.iter().chain(&push_flag) {
            match output {
                OutputArg::Push(names) => {
                    let names = if names.is_empty() { &tags } else { names };
                    if names.is_empty() {
                        return Err(Error::Request(
                            "pushing needs a name: give one with --tag".into(),
                        ));
                    }
                    for name in names {
                        exports.push_to(name);
                    }
                }
                OutputArg::File { form, path, names } => exports.outputs.push(Output {
                    form: *form,
                    path: path.clone(),
                    names: if names.is_empty() {
                        tags.clone()
                    } else {
                        names.clone()
                    },
                }),
            }
        }
        if exports
            .outputs
            .iter()
            .filter(|output| output.path.is_none())
            .count()
            > 1
        {
            return Err(Error::Request(
                "only one output can be written to standard output".into(),
            ));
        }
        Ok(exports)
    }

    /// Names of one repository share one destination, so that nothing is sent there twice.
    fn push_to(&mut self, name: &Reference) {
        if !self.names.contains(name) {
            self.names.push(name.clone());
        }
        let known = self
            .destinations
            .iter()
            .position(|d| d.repository == *name.repository());
        let position = known.unwrap_or_else(|| {
            self.destinations.push(Destination {
                name: name.repository().to_string(),
                repository: name.repository().clone(),
                tags: Vec::new(),
            });
            self.destinations.len() - 1
        });
        let destination = &mut self.destinations[position];
        if let Some(tag) = name.tag().filter(|tag| !destination.tags.contains(tag)) {
            destination.tags.push(tag.clone());
        }
    }

    /// Whether the image goes nowhere.
    pub(super) fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.outputs.is_empty()
    }

    /// Whether standard output is taken.
    pub(super) fn to_stdout(&self) -> bool {
        self.outputs.iter().any(|output| output.path.is_none())
    }

    /// All names of the image.
    pub(super) fn names(&self) -> Vec<Reference> {
        self.names.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_layouts_or_images() {
        let layout = |directory: &str, image: Option<&str>| NamedContext::Layout {
            directory: directory.into(),
            image: image.map(str::to_owned),
        };
        for (text, expected) in [
            ("a=oci-layout:///tmp/x", layout("/tmp/x", None)),
            ("a=oci-layout://x:latest", layout("x", Some("latest"))),
            ("a=oci-layout:///a:b/c", layout("/a:b/c", None)),
            ("a=oci-layout://x@sha256:1", layout("x", Some("sha256:1"))),
            (
                "a=docker-image://alpine",
                NamedContext::Image("alpine:latest".parse().unwrap()),
            ),
        ] {
            assert_eq!(
                text.parse::<NamedContextArg>().unwrap().source,
                expected,
                "{text}"
            );
        }
        for text in ["a", "=oci-layout://x", "a=../dir", "a=docker-image://A"] {
            assert!(text.parse::<NamedContextArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn outputs_are_read_or_refused() {
        for (text, expected) in [
            ("type=oci,dest=a.tar", Ok((Form::OciArchive, Some("a.tar")))),
            ("type=oci", Ok((Form::OciArchive, None))),
            (
                "type=oci,tar=false,dest=d",
                Ok((Form::OciDirectory, Some("d"))),
            ),
            ("type=docker,dest=-", Ok((Form::DockerArchive, None))),
            (
                "type=oci,tar=false",
                Err("type=oci with tar=false needs dest=DIRECTORY"),
            ),
            (
                "type=local,dest=x",
                Err("type `local` is not supported; known are oci, docker and push"),
            ),
            (
                "dest=x",
                Err("the type is missing: expected type=oci, type=docker or type=push"),
            ),
            (
                "type=oci,compression=zstd",
                Err("`compression` is not supported; known are type, dest, tar, push and name"),
            ),
            (
                "x",
                Err("`x` is not KEY=VALUE; for a file say type=oci,dest=x"),
            ),
        ] {
            let found = text.parse::<OutputArg>();
            match (found, expected) {
                (Ok(OutputArg::File { form, path, .. }), Ok((wanted, at))) => {
                    assert_eq!((form, path), (wanted, at.map(PathBuf::from)), "{text}");
                }
                (Err(error), Err(wanted)) => assert_eq!(error, wanted),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn names_of_one_repository_share_a_destination() {
        let tags: Vec<Reference> = ["h:5000/a:1", "h:5000/a:2", "h:5000/b"]
            .map(|t| t.parse().unwrap())
            .to_vec();
        let exports = Exports::new(&[], true, &tags).unwrap();
        let shown: Vec<_> = exports
            .destinations
            .iter()
            .map(|d| format!("{} {:?}", d.repository, d.tags))
            .collect();
        assert_eq!(shown, ["h:5000/a [1, 2]", "h:5000/b [latest]"]);
        assert!(Exports::new(&[], true, &[]).is_err());
        assert!(Exports::new(&[], false, &[]).unwrap().is_empty());
    }
}
