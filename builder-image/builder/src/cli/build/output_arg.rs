//! `--output`: what it says of one output, with the attributes that docker buildx knows. Which outputs a build has, all
//! flags taken together, is the business of [`super::exports`].

use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci::Reference;

use super::annotation::Annotated;
use super::csv;
use crate::export::{Form, Settings};
use crate::layer::Compression;

/// One `--output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OutputArg {
    /// What is made.
    pub(super) kind: Kind,
    /// Names of its own, in place of those of `--tag`.
    pub(super) names: Vec<Reference>,
    /// In which form.
    pub(super) settings: Settings,
    /// Whether the media types were asked for.
    pub(super) said_types: bool,
}

/// What an output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing; the image stays in the cache.
    None,
    /// Pushed to its names.
    Push {
        /// By its digest alone, so that no tag is written.
        by_digest: bool,
    },
    /// Kept with the images of this machine.
    Store,
    /// Written to a file or directory; to standard output without a path.
    File(Form, Option<PathBuf>),
}

impl OutputArg {
    /// An output of `kind` that nothing more is said of.
    pub(super) fn plain(kind: Kind) -> Self {
        Self {
            kind,
            names: Vec::new(),
            settings: Settings::default(),
            said_types: false,
        }
    }
}

/// What the attributes say, as far as they were read.
#[derive(Default)]
struct Attributes {
    kind: Option<String>,
    dest: Option<String>,
    tar: Option<bool>,
    push: bool,
    by_digest: bool,
    compression: Option<String>,
    level: Option<i32>,
    docker_types: Option<bool>,
    names: Vec<Reference>,
    settings: Settings,
}

impl FromStr for OutputArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut attributes = Attributes::default();
        let fields = csv::fields(text)?;
        if let [path] = fields.as_slice()
            && !path.contains('=')
        {
            return short(path);
        }
        for field in fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(format!("`{field}` is not KEY=VALUE"));
            };
            let lower = key.to_ascii_lowercase();
            match Annotated::of_attribute(key) {
                Some(annotated) => {
                    let annotation = annotated?.with(value);
                    attributes.settings.documents.annotations.0.push(annotation);
                }
                None => attributes.set(lower.trim(), value)?,
            }
        }
        attributes.output()
    }
}

/// `-o DIRECTORY` or `-o -`, as docker has it.
fn short(path: &str) -> Result<OutputArg, String> {
    let kind = match path {
        "" => return Err("the output is empty".into()),
        "-" => Kind::File(Form::RootTar, None),
        _ if Path::new(path).extension().is_some_and(|end| end == "tar") => {
            return Err(format!(
                "`{path}` alone is a directory for the files of the image; for an archive of the image say type=oci,dest={path} or type=docker,dest={path}"
            ));
        }
        _ => Kind::File(Form::Files, Some(path.into())),
    };
    Ok(OutputArg::plain(kind))
}

impl Attributes {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "type" => self.kind = Some(value.to_owned()),
            "dest" => self.dest = Some(value.to_owned()),
            "tar" => self.tar = Some(boolean(key, value)?),
            "push" => self.push = boolean(key, value)?,
            "push-by-digest" => self.by_digest = boolean(key, value)?,
            "name" => {
                for name in value.split(',').filter(|name| !name.is_empty()) {
                    let name: Reference = name
                        .parse()
                        .map_err(|e: oci::ReferenceError| e.to_string())?;
                    self.names.push(name.or_latest());
                }
            }
            "compression" => self.compression = Some(value.to_owned()),
            "compression-level" => {
                let level = value.parse();
                self.level = Some(level.map_err(|_| format!("{key}: `{value}` is not a number"))?);
            }
            "force-compression" => self.settings.force_compression = boolean(key, value)?,
            "oci-mediatypes" => self.docker_types = Some(!boolean(key, value)?),
            "rewrite-timestamp" => self.settings.rewrite_timestamp = boolean(key, value)?,
            "source-date-epoch" if value.is_empty() => self.settings.epoch = None,
            "source-date-epoch" => {
                let epoch = value.parse();
                let wrong = |_| format!("{key}: `{value}` is not a number of seconds since 1970");
                self.settings.epoch = Some(epoch.map_err(wrong)?);
            }
            "platform-split" => self.settings.split_platforms = Some(boolean(key, value)?),
            _ => return other(key, value),
        }
        Ok(())
    }

    fn output(mut self) -> Result<OutputArg, String> {
        let explicit = self.compression.is_some() || self.level.is_some();
        self.settings.compression = compression(self.compression.as_deref(), self.level)?;
        let documents = &mut self.settings.documents;
        documents.docker_types = self.docker_types == Some(true);
        if documents.docker_types && !documents.annotations.0.is_empty() {
            return Err(
                "annotations need the media types of OCI: leave oci-mediatypes=false out".into(),
            );
        }
        let kind = self.kind()?;
        if matches!(kind, Kind::File(Form::DockerArchive, _)) && self.docker_types.is_none() {
            // Docker's types know no annotations.
            let documents = &mut self.settings.documents;
            documents.docker_types = documents.annotations.0.is_empty();
        }
        if matches!(kind, Kind::File(Form::Files | Form::RootTar, _)) {
            let of_documents = !self.settings.documents.annotations.0.is_empty()
                || self.docker_types.is_some()
                || self.settings.force_compression
                || explicit;
            if of_documents {
                return Err(
                    "types local and tar are files of the image: they have no compression, media types or annotations"
                        .into(),
                );
            }
        }
        Ok(OutputArg {
            kind,
            names: self.names,
            said_types: self.docker_types.is_some(),
            settings: self.settings,
        })
    }

    fn kind(&self) -> Result<Kind, String> {
        let path = self.dest.as_deref().filter(|dest| *dest != "-");
        let path = path.map(PathBuf::from);
        let tar = self.tar.unwrap_or(true);
        let file = |form| Ok(Kind::File(form, path.clone()));
        let push = Kind::Push {
            by_digest: self.by_digest,
        };
        let Some(kind) = &self.kind else {
            return Err("the type is missing: expected type=image, registry, oci, docker, local, tar or cacheonly".into());
        };
        let is_file = !matches!(kind.as_str(), "image" | "registry" | "push" | "cacheonly");
        if let Some(dest) = self.dest.as_ref().filter(|_| !is_file) {
            return Err(format!("type={kind} writes no file: leave dest={dest} out"));
        }
        if self.tar == Some(false) && kind != "oci" {
            return Err(format!("tar=false belongs to type=oci, not to type={kind}"));
        }
        match kind.as_str() {
            "registry" | "push" => Ok(push),
            "image" if self.push || self.by_digest => Ok(push),
            "image" => Ok(Kind::Store),
            "docker" if self.dest.is_none() => Ok(Kind::Store),
            "docker" => file(Form::DockerArchive),
            "oci" if tar => file(Form::OciArchive),
            "oci" if path.is_none() => Err("type=oci with tar=false needs dest=DIRECTORY".into()),
            "oci" => file(Form::OciDirectory),
            "local" if path.is_none() => Err("type=local needs dest=DIRECTORY".into()),
            "local" => file(Form::Files),
            "tar" => file(Form::RootTar),
            "cacheonly" => Ok(Kind::None),
            other => Err(format!(
                "type `{other}` is not supported; known are image, registry, oci, docker, local, tar and cacheonly"
            )),
        }
    }
}

/// Attributes that BuildKit has besides: those that ask for what is done anyway, and those that are refused with a reason.
fn other(key: &str, value: &str) -> Result<(), String> {
    let off = matches!(value, "false" | "0");
    let reason = match key {
        "unpack" | "oci-artifact" | "prefer-nondist-layers" | "name-canonical" if off => {
            return Ok(());
        }
        "store" => return Ok(()),
        "mode" if value == "copy" => return Ok(()),
        "mode" => "files that the image does not have are never deleted: name an empty directory",
        "registry.insecure" if off => return Ok(()),
        "registry.insecure" => "say --plain-http HOST for the registry",
        "unpack" => "there is no runtime here to unpack for",
        "oci-artifact" | "attestation-inline" | "attestation-prefix" => {
            "attestations are not made yet"
        }
        "prefer-nondist-layers" => "layers that may not be given out are never pushed",
        "name-canonical" => "the digest is printed, and is in --metadata-file",
        "dangling-name-prefix" => "images without a name are kept by their digests",
        _ => {
            "known are type, dest, tar, push, push-by-digest, name, compression, compression-level, force-compression, oci-mediatypes, annotation, rewrite-timestamp, source-date-epoch and platform-split"
        }
    };
    Err(format!("`{key}` is not supported: {reason}"))
}

pub(super) fn compression(name: Option<&str>, level: Option<i32>) -> Result<Compression, String> {
    let range = |name: &str, level: Option<i32>, from: i32, to: i32| match level {
        Some(level) if !(from..=to).contains(&level) => Err(format!(
            "compression-level={level}: {name} has levels from {from} to {to}"
        )),
        level => Ok(level),
    };
    match name {
        None | Some("gzip") => Ok(match range("gzip", level, 0, 9)? {
            Some(level) => Compression::Gzip {
                level: level.unsigned_abs(),
            },
            None => Compression::default(),
        }),
        Some("zstd") => Ok(Compression::Zstd {
            level: range("zstd", level, 1, 22)?.unwrap_or(3),
        }),
        Some("uncompressed") if level.is_some() => {
            Err("compression-level: without compression there is no level".into())
        }
        Some("uncompressed") => Ok(Compression::None),
        Some("estargz") => Err(
            "compression `estargz` is not supported: it serves runtimes that fetch files of an image lazily; use zstd or gzip"
                .into(),
        ),
        Some(other) => Err(format!(
            "compression `{other}` is not known; expected gzip, zstd or uncompressed"
        )),
    }
}

pub(super) fn boolean(key: &str, text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("{key}: `{other}` is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Annotation, Level};

    fn parse(text: &str) -> Result<OutputArg, String> {
        text.parse()
    }

    #[test]
    fn outputs_are_of_a_kind() {
        let file = |form, path: &str| Kind::File(form, (path != "-").then(|| path.into()));
        let push = |by_digest| Kind::Push { by_digest };
        for (text, expected) in [
            ("type=oci,dest=a.tar", file(Form::OciArchive, "a.tar")),
            ("type=oci", file(Form::OciArchive, "-")),
            ("type=oci,tar=false,dest=d", file(Form::OciDirectory, "d")),
            ("type=docker,dest=-", file(Form::DockerArchive, "-")),
            ("type=docker", Kind::Store),
            ("type=image", Kind::Store),
            ("type=image,push=true", push(false)),
            ("type=registry", push(false)),
            ("type=image,push-by-digest=true,name=a", push(true)),
            ("type=local,dest=d", file(Form::Files, "d")),
            ("type=tar,dest=-", file(Form::RootTar, "-")),
            ("type=cacheonly", Kind::None),
            ("out", file(Form::Files, "out")),
            ("-", file(Form::RootTar, "-")),
        ] {
            assert_eq!(parse(text).unwrap().kind, expected, "{text}");
        }
    }

    #[test]
    fn attributes_are_read_or_refused() {
        let gzip = |level| Compression::Gzip { level };
        for (text, expected) in [
            ("compression=gzip", Compression::default()),
            ("compression-level=9", gzip(9)),
            ("compression=zstd", Compression::Zstd { level: 3 }),
            (
                "compression=zstd,compression-level=19",
                Compression::Zstd { level: 19 },
            ),
            ("compression=uncompressed", Compression::None),
        ] {
            let found = parse(&format!("type=image,{text}")).unwrap();
            assert_eq!(found.settings.compression, expected, "{text}");
        }
        for (text, docker_types) in [
            ("type=oci,dest=f", false),
            ("type=oci,dest=f,oci-mediatypes=false", true),
            ("type=docker", false),
            ("type=docker,dest=f", true),
            ("type=docker,dest=f,oci-mediatypes=true", false),
            ("type=docker,dest=f,annotation.a=b", false),
        ] {
            let found = parse(text).unwrap().settings.documents;
            assert_eq!(found.docker_types, docker_types, "{text}");
        }
        let all = parse("type=image,\"name=a:1,b\",push=true,force-compression=true,oci-mediatypes=false,rewrite-timestamp=1,source-date-epoch=7,unpack=false").unwrap();
        assert_eq!(all.names.len(), 2);
        let settings = all.settings;
        assert!(settings.force_compression && settings.rewrite_timestamp);
        assert!(settings.documents.docker_types);
        assert_eq!(settings.epoch, Some(7));
        for (text, message) in [
            ("dest=x", "the type is missing"),
            ("type=oci,x", "`x` is not KEY=VALUE"),
            ("app.tar", "type=docker,dest=app.tar"),
            ("type=oci,tar=false", "needs dest=DIRECTORY"),
            ("type=docker,tar=false,dest=x", "belongs to type=oci"),
            ("type=local", "needs dest=DIRECTORY"),
            ("type=image,dest=x", "writes no file"),
            ("type=other", "type `other` is not supported"),
            ("type=oci,wrong=1", "`wrong` is not supported: known are"),
            ("type=oci,tar=maybe", "neither true nor false"),
            ("type=oci,compression=xz", "expected gzip, zstd"),
            ("type=oci,compression=estargz", "lazily"),
            ("type=oci,compression-level=10", "levels from 0 to 9"),
            (
                "type=oci,compression=zstd,compression-level=0",
                "from 1 to 22",
            ),
            ("type=local,dest=d,compression=zstd", "have no compression"),
            ("type=local,dest=d,mode=delete", "never deleted"),
            (
                "type=image,oci-mediatypes=false,annotation.a=b",
                "leave oci-mediatypes",
            ),
            ("type=image,source-date-epoch=now", "number of seconds"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn annotations_are_attributes() {
        let found = parse(
            "type=oci,annotation.a=1,annotation-index.b=2,annotation-manifest[linux/arm64].c=3,annotation-manifest-descriptor.d.e=4",
        );
        let found: Vec<_> = found.unwrap().settings.documents.annotations.0;
        let shown: Vec<_> = found
            .iter()
            .map(
                |Annotation {
                     level,
                     platform,
                     key,
                     value,
                 }| {
                    let platform = platform.as_ref().map(ToString::to_string);
                    (
                        *level,
                        platform.unwrap_or_default(),
                        key.as_str(),
                        value.as_str(),
                    )
                },
            )
            .collect();
        assert_eq!(
            shown,
            [
                (Level::Manifest, String::new(), "a", "1"),
                (Level::Index, String::new(), "b", "2"),
                (Level::Manifest, "linux/arm64".into(), "c", "3"),
                (Level::ManifestDescriptor, String::new(), "d.e", "4"),
            ]
        );
        assert!(parse("type=oci,annotation-wrong.a=1").is_err());
    }
}
