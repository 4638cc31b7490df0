//! `--cache-from` and `--cache-to`, as docker buildx reads them.

use std::str::FromStr;

use clap::Args;
use oci::Reference;

use super::csv;
use super::output_arg::{boolean, compression};
use crate::error::Error;
use crate::export::{Export, Layers};
use crate::shared_cache::{CacheMode, CachePlace, CacheSource, CacheTarget, Imports, Wanted};

/// The name of a cache in a directory, where nobody gives it one.
const LATEST: &str = "latest";

/// Keys of `--cache-from` that mean something, by type.
const FROM_REGISTRY: [&str; 1] = ["ref"];
const FROM_LOCAL: [&str; 3] = ["src", "tag", "digest"];

/// Keys of `--cache-to` that mean something in all types but `inline`.
const TO_ANY: [&str; 7] = [
    "mode",
    "compression",
    "compression-level",
    "force-compression",
    "image-manifest",
    "oci-mediatypes",
    "ignore-error",
];

/// The flags of caches besides the engine's own.
#[derive(Args, Debug, Default)]
pub(super) struct CacheArgs {
    /// Ask another cache as well: type=registry,ref=NAME, type=local,src=DIR[,tag=…][,digest=…], or NAME, which may be an
    /// image with a cache in it
    #[arg(long, value_name = "NAME|TYPE=…")]
    cache_from: Vec<CacheFromArg>,
    /// Write a cache: type=registry,ref=NAME[,mode=max], type=local,dest=DIR[,mode=max] or type=inline (into the image);
    /// docs/cache.md has all attributes
    #[arg(long, value_name = "NAME|TYPE=…")]
    cache_to: Vec<CacheToArg>,
}

impl CacheArgs {
    /// The caches that are read.
    pub(super) fn imports(&self) -> Imports {
        let sources = self.cache_from.iter().flat_map(|from| from.0.clone());
        Imports::new(sources.collect())
    }

    /// The caches that are written, but for those in images.
    pub(super) fn targets(&self) -> Vec<CacheTarget> {
        let targets = self.cache_to.iter().flat_map(|to| to.0.clone());
        targets.flatten().collect()
    }

    /// Lets the images have caches in them, where that is asked for.
    pub(super) fn put_into(&self, exports: &mut [Export]) -> Result<(), Error> {
        if !self
            .cache_to
            .iter()
            .any(|to| to.0.iter().any(Option::is_none))
        {
            return Ok(());
        }
        for export in exports {
            let settings = &mut export.settings;
            let reason = if settings.rewrite_timestamp {
                "rewrite-timestamp=true changes the layers after they were made"
            } else if settings.layers == Layers::Squashed {
                "--squash leaves no layer of a step in the image"
            } else {
                settings.inline_cache = true;
                continue;
            };
            return Err(Error::Request(format!(
                "--cache-to type=inline: {reason}; write the cache with type=registry"
            )));
        }
        Ok(())
    }
}

/// One `--cache-from`: caches.
#[derive(Clone, Debug)]
struct CacheFromArg(Vec<CacheSource>);

/// One `--cache-to`: caches, none where it is in the image.
#[derive(Clone, Debug)]
struct CacheToArg(Vec<Option<CacheTarget>>);

/// A flag as it was written: names of images, or attributes in their order.
enum Written {
    Names(Vec<Reference>),
    Attributes {
        kind: String,
        others: Vec<(String, String)>,
    },
}

fn read(text: &str) -> Result<Written, String> {
    let fields = csv::fields(text)?;
    if fields.iter().all(|field| !field.contains('=')) {
        let names = fields.iter().map(|name| reference(name));
        return Ok(Written::Names(names.collect::<Result<_, _>>()?));
    }
    let mut kind = None;
    let mut others = Vec::new();
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("`{field}` is not KEY=VALUE"));
        };
        let key = key.trim().to_ascii_lowercase();
        if key == "type" {
            kind = Some(value.to_owned());
        } else {
            others.push((key, value.to_owned()));
        }
    }
    let kind = kind.ok_or("the type is missing: say type=registry,ref=NAME or type=local,…")?;
    Ok(Written::Attributes { kind, others })
}

fn reference(name: &str) -> Result<Reference, String> {
    let parsed: Result<Reference, _> = name.parse();
    Ok(parsed.map_err(|error| error.to_string())?.or_latest())
}

impl FromStr for CacheFromArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, others) = match read(text)? {
            Written::Names(names) => {
                return Ok(Self(names.into_iter().map(CacheSource::Registry).collect()));
            }
            Written::Attributes { kind, others } => (kind, others),
        };
        let source = match kind.as_str() {
            "registry" => {
                let mut name = None;
                for (key, value) in others {
                    match key.as_str() {
                        "ref" => name = Some(reference(&value)?),
                        _ => refuse(&kind, &key, &value, &FROM_REGISTRY)?,
                    }
                }
                CacheSource::Registry(name.ok_or("type=registry needs ref=NAME")?)
            }
            "local" => {
                let (mut path, mut tag, mut digest) = (None, None, None);
                for (key, value) in others {
                    match key.as_str() {
                        "src" => path = Some(value.into()),
                        "tag" => tag = Some(value),
                        "digest" => {
                            let parsed = value.parse();
                            digest = Some(parsed.map_err(|_| {
                                format!("digest: `{value}` is no digest; expected sha256:…")
                            })?);
                        }
                        _ => refuse(&kind, &key, &value, &FROM_LOCAL)?,
                    }
                }
                let wanted = match digest {
                    Some(digest) => Wanted::Digest(digest),
                    None => Wanted::Tag(tag.unwrap_or_else(|| LATEST.into())),
                };
                CacheSource::Directory {
                    path: path.ok_or("type=local needs src=DIRECTORY")?,
                    wanted,
                }
            }
            "inline" => {
                return Err(
                    "type=inline is where a cache is written to; it is read as the image: type=registry,ref=NAME"
                        .into(),
                );
            }
            other => return Err(unknown_type(other, &["registry", "local"])),
        };
        Ok(Self(vec![source]))
    }
}

impl FromStr for CacheToArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let target = |place| CacheTarget {
            place,
            mode: CacheMode::default(),
            compression: None,
            ignore_error: false,
        };
        let (kind, others) = match read(text)? {
            Written::Names(names) => {
                let targets = names.into_iter().map(CachePlace::Registry).map(target);
                return Ok(Self(targets.map(Some).collect()));
            }
            Written::Attributes { kind, others } => (kind, others),
        };
        let (place_key, more): (&str, &[&str]) = match kind.as_str() {
            "registry" => ("ref", &["ref"]),
            "local" => ("dest", &["dest", "tag", "prune"]),
            "inline" => return inline(&others),
            other => return Err(unknown_type(other, &["registry", "local", "inline"])),
        };
        let known: Vec<_> = more.iter().chain(&TO_ANY).copied().collect();
        let (mut place, mut tag, mut format, mut level) = (None, None, None, None);
        let mut mode = CacheMode::default();
        let (mut ignore_error, mut prune) = (false, true);
        for (key, value) in others {
            match key.as_str() {
                key if key == place_key => place = Some(value),
                "tag" if kind == "local" => tag = Some(value),
                "prune" if kind == "local" => prune = boolean(&key, &value)?,
                "mode" => mode = parse_mode(&value)?,
                "compression" => format = Some(value),
                "compression-level" => {
                    let number = value.parse();
                    level = Some(number.map_err(|_| format!("{key}: `{value}` is not a number"))?);
                }
                // Layers are made anew wherever their compression is another one.
                "force-compression" => _ = boolean(&key, &value)?,
                "ignore-error" => ignore_error = boolean(&key, &value)?,
                "image-manifest" | "oci-mediatypes" => {
                    if !boolean(&key, &value)? {
                        return Err(format!(
                            "{key}=false is not supported: a cache is an image manifest of OCI, which every registry keeps"
                        ));
                    }
                }
                _ => refuse(&kind, &key, &value, &known)?,
            }
        }
        let compression = match (&format, level) {
            (None, None) => None,
            (format, level) => Some(compression(format.as_deref(), level)?),
        };
        let place = match (kind.as_str(), place) {
            ("registry", Some(name)) => CachePlace::Registry(reference(&name)?),
            ("registry", None) => return Err("type=registry needs ref=NAME".into()),
            (_, Some(path)) => CachePlace::Directory {
                path: path.into(),
                tag: tag.unwrap_or_else(|| LATEST.into()),
                prune,
            },
            (_, None) => return Err("type=local needs dest=DIRECTORY".into()),
        };
        if matches!(&place, CachePlace::Registry(name) if name.digest().is_some()) {
            return Err("a cache is written to a tag, not to a digest".into());
        }
        Ok(Self(vec![Some(CacheTarget {
            mode,
            compression,
            ignore_error,
            ..target(place)
        })]))
    }
}

/// `type=inline`, which has nothing to say but its mode.
fn inline(others: &[(String, String)]) -> Result<CacheToArg, String> {
    for (key, value) in others {
        match key.as_str() {
            "mode" if parse_mode(value)? == CacheMode::Max => {
                return Err(
                    "mode=max: an image has its own layers only, so type=inline is mode=min; for all stages write the cache with type=registry,ref=NAME,mode=max"
                        .into(),
                );
            }
            "mode" => {}
            "ignore-error" => _ = boolean(key, value)?,
            _ => refuse("inline", key, value, &["mode", "ignore-error"])?,
        }
    }
    Ok(CacheToArg(vec![None]))
}

fn parse_mode(text: &str) -> Result<CacheMode, String> {
    match text {
        "min" => Ok(CacheMode::Min),
        "max" => Ok(CacheMode::Max),
        other => Err(format!("mode: `{other}` is neither min nor max")),
    }
}

/// A key that has no meaning in this type. What switches off something that is never done is accepted.
fn refuse(kind: &str, key: &str, value: &str, known: &[&str]) -> Result<(), String> {
    if key == "registry.insecure" && kind == "registry" {
        return if boolean(key, value)? {
            Err(
                "`registry.insecure` is not supported: say --plain-http HOST for the registry"
                    .into(),
            )
        } else {
            Ok(())
        };
    }
    let hint = match dockerfile::nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are {}", known.join(", ")),
    };
    Err(format!("`{key}` is not known in type={kind}: {hint}"))
}

fn unknown_type(kind: &str, known: &[&str]) -> String {
    let reason = match kind {
        "gha" => {
            "it is the private store of one CI service, which only its jobs reach: use type=registry,ref=NAME, or type=local with a directory that the job keeps"
        }
        "s3" | "azblob" => {
            "object stores are not spoken to: use type=registry,ref=NAME with a registry that keeps its blobs there"
        }
        _ => match dockerfile::nearest(kind, known.iter().copied()) {
            Some(near) => return format!("type `{kind}` is not known: did you mean `{near}`?"),
            None => return format!("type `{kind}` is not known; known are {}", known.join(", ")),
        },
    };
    format!("type `{kind}` is not supported: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Result<String, String> {
        let parsed: CacheFromArg = text.parse()?;
        let shown = parsed.0.iter().map(|source| match source {
            CacheSource::Registry(name) => format!("registry {name}"),
            other => other.to_string(),
        });
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    fn to(text: &str) -> Result<String, String> {
        let parsed: CacheToArg = text.parse()?;
        let shown = parsed.0.iter().map(|target| match target {
            None => "inline".to_owned(),
            Some(target) => format!(
                "{} {:?} {} {}",
                target.place,
                target.mode,
                target
                    .compression
                    .map_or("-".into(), |compression| compression.to_string()),
                target.ignore_error
            ),
        });
        Ok(shown.collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn sources_are_read_as_docker_reads_them() {
        let digest = oci::Digest::of(b"x").to_string();
        for (text, expected) in [
            ("h:1/a", "registry h:1/a:latest".to_owned()),
            (
                "h:1/a:x,h:1/b",
                "registry h:1/a:x registry h:1/b:latest".into(),
            ),
            ("type=registry,ref=h:1/a:c", "registry h:1/a:c".into()),
            (
                "type=registry,ref=h:1/a,registry.insecure=false",
                "registry h:1/a:latest".into(),
            ),
            ("type=local,src=d", "d:latest".into()),
            ("type=local,src=d,tag=x", "d:x".into()),
            (
                &format!("\"type=local\",src=d,digest={digest}"),
                format!("d@{digest}"),
            ),
        ] {
            assert_eq!(from(text).as_ref(), Ok(&expected), "{text}");
        }
        for (text, message) in [
            ("ref=a", "the type is missing"),
            ("type=registry", "needs ref=NAME"),
            ("type=registry,reff=a", "did you mean `ref`?"),
            (
                "type=registry,mode=max",
                "`mode` is not known in type=registry: known are ref",
            ),
            ("type=registry,ref=a,registry.insecure=true", "--plain-http"),
            ("type=local", "needs src=DIRECTORY"),
            ("type=local,src=d,dest=x", "`dest` is not known"),
            ("type=local,src=d,digest=x", "is no digest"),
            ("type=registri,ref=a", "did you mean `registry`?"),
            (
                "type=gha",
                "type `gha` is not supported: it is the private store",
            ),
            ("type=s3,region=x", "object stores are not spoken to"),
            ("type=azblob", "object stores are not spoken to"),
            ("type=inline", "read as the image"),
            ("type=local,src", "`src` is not KEY=VALUE"),
            ("UPPER/a", "lower"),
        ] {
            let error = from(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn targets_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("h:1/a", "h:1/a:latest Min - false"),
            (
                "type=registry,ref=h:1/a:c,mode=max,image-manifest=true,oci-mediatypes=true,compression=zstd,ignore-error=true",
                "h:1/a:c Max zstd-3 true",
            ),
            (
                "type=local,dest=d,tag=x,compression=gzip,compression-level=9,force-compression=true",
                "d:x Min gzip-9 false",
            ),
            ("type=inline", "inline"),
            ("type=inline,mode=min", "inline"),
            ("type=local,dest=d,prune=true", "d:latest Min - false"),
        ] {
            assert_eq!(to(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, expected) in [("", true), (",prune=false", false), (",prune=1", true)] {
            let parsed: CacheToArg = format!("type=local,dest=d{text}").parse().unwrap();
            let place = &parsed.0[0].as_ref().unwrap().place;
            let prunes = matches!(place, CachePlace::Directory { prune: true, .. });
            assert_eq!(prunes, expected, "{text}");
        }
        for (text, message) in [
            ("type=registry,mode=max", "needs ref=NAME"),
            ("type=registry,ref=h:1/a,mode=all", "neither min nor max"),
            (
                "type=registry,ref=h:1/a,image-manifest=false",
                "an image manifest of OCI",
            ),
            (
                "type=registry,ref=h:1/a,oci-mediatypes=false",
                "an image manifest of OCI",
            ),
            (
                "type=registry,ref=h:1/a,prune=true",
                "`prune` is not known in type=registry",
            ),
            (
                "type=registry,ref=h:1/a,tag=x",
                "`tag` is not known in type=registry",
            ),
            (
                "type=registry,ref=h:1/a,ignore-errors=true",
                "did you mean `ignore-error`?",
            ),
            (
                "type=registry,ref=h:1/a,compression=xz",
                "expected gzip, zstd",
            ),
            (
                &format!("type=registry,ref=h:1/a@{}", oci::Digest::of(b"x")),
                "not to a digest",
            ),
            ("type=local,src=d", "`src` is not known"),
            ("type=local", "needs dest=DIRECTORY"),
            (
                "type=inline,mode=max",
                "mode=max: an image has its own layers only",
            ),
            ("type=inline,ref=a", "`ref` is not known in type=inline"),
            ("type=gha,scope=x", "only its jobs reach"),
            ("type=inlin", "did you mean `inline`?"),
        ] {
            let error = to(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn an_image_has_a_cache_in_it_where_its_layers_are_those_of_the_steps() {
        let args = CacheArgs {
            cache_to: vec!["type=inline".parse().unwrap()],
            ..CacheArgs::default()
        };
        let mut exports = [Export::default()];
        args.put_into(&mut exports).unwrap();
        assert!(exports[0].settings.inline_cache && args.targets().is_empty());
        exports[0].settings.rewrite_timestamp = true;
        let error = args.put_into(&mut exports).unwrap_err().to_string();
        assert!(error.contains("rewrite-timestamp"), "{error}");
    }
}
