//! Values of the flags of `coopery build` that have a grammar of their own.

use std::str::FromStr;

use oci::{Reference, Tag};

use crate::context::remote::RemoteContext;
use crate::named_context::NamedContext;

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

/// `NAME=oci-layout://DIRECTORY[:TAG|@DIGEST]`, `NAME=docker-image://IMAGE`, `NAME=target:STAGE`, `NAME=URL` or
/// `NAME=DIRECTORY`
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
        } else if let Some(stage) = source.strip_prefix("target:") {
            NamedContext::Stage(stage.to_owned())
        } else {
            match RemoteContext::of(source) {
                Some(RemoteContext::Stdin) => {
                    return Err("standard input is no context with a name".into());
                }
                Some(remote) => NamedContext::Remote(remote),
                None if source.contains("://") || source.starts_with("input:") => {
                    return Err(format!(
                        "`{source}` is not supported: expected a directory, a git or http URL, docker-image://IMAGE, oci-layout://DIRECTORY[:TAG] or target:STAGE"
                    ));
                }
                None => NamedContext::Directory(source.into()),
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_images_files_or_stages() {
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
            (
                "a::linux/arm64=../dir",
                NamedContext::Directory("../dir".into()),
            ),
            ("a=target:b", NamedContext::Stage("b".into())),
            (
                "a=https://h/x.git#v1",
                NamedContext::Remote(RemoteContext::Git("https://h/x.git#v1".into())),
            ),
            (
                "a=https://h/x.tar",
                NamedContext::Remote(RemoteContext::Http("https://h/x.tar".into())),
            ),
        ] {
            assert_eq!(
                text.parse::<NamedContextArg>().unwrap().source,
                expected,
                "{text}"
            );
        }
        for text in [
            "a",
            "=oci-layout://x",
            "a=-",
            "a=input:x",
            "a=ftp://h/x",
            "a=docker-image://A",
        ] {
            assert!(text.parse::<NamedContextArg>().is_err(), "{text}");
        }
    }
}
