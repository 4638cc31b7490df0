//! Where a manifest mirrors from and to, on this machine: registries by their hosts, Registries of a cluster and claims by
//! what the flags say that they are here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use distribution::Client;
use mirror::manifest::{ArchiveSide, Side};
use oci::RegistryHost;

use crate::archive::{Archive, ArchiveForm, Naming, archive_host};
use crate::error::Error;

#[derive(Args, Debug, Default)]
pub(super) struct PlaceArgs {
    /// The host of a Registry that a manifest names
    #[arg(long, value_name = "NAME=HOST", value_parser = pair)]
    registry: Vec<(String, String)>,
    /// The directory that a claim is here
    #[arg(long, value_name = "NAME=DIR", value_parser = pair)]
    claim: Vec<(String, String)>,
}

/// The two halves of `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

/// One of the two sides, ready to be read or written.
pub(super) struct Opened {
    /// What answers for it.
    pub(super) host: RegistryHost,
    /// Whether it is a Registry, which keeps a ledger.
    pub(super) is_registry: bool,
    /// The archive, where it is one.
    pub(super) archive: Option<Arc<Archive>>,
}

impl PlaceArgs {
    /// Opens what is mirrored from.
    pub(super) fn source(&self, side: &Side) -> Result<Opened, Error> {
        if side.prefix.is_some() {
            return Err(Error::Request(
                "source has no prefix: name repositories whole".into(),
            ));
        }
        let open = |path: &Path| Ok(Archive::open(path, &std::env::temp_dir())?);
        self.open("source", side, archive_host(0), open)
    }

    /// Opens what is mirrored to. With `dry_run`, nothing is made: an archive that does not exist is an empty one.
    pub(super) fn destination(&self, side: &Side, dry_run: bool) -> Result<Opened, Error> {
        let open = |path: &Path| {
            let is_file = path.extension().is_some_and(|extension| extension == "tar");
            let form = if is_file {
                ArchiveForm::Oci
            } else {
                ArchiveForm::Layout
            };
            if !dry_run {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new("."));
                return Ok(Archive::create(form, path, Naming::Whole, parent)?);
            }
            let temporary = std::env::temp_dir();
            if path.exists() {
                Ok(Archive::open(path, &temporary)?)
            } else {
                Ok(Archive::empty(&temporary)?)
            }
        };
        self.open("destination", side, archive_host(1), open)
    }

    fn open(
        &self,
        field: &str,
        side: &Side,
        archive_host: RegistryHost,
        open: impl FnOnce(&Path) -> Result<Archive, Error>,
    ) -> Result<Opened, Error> {
        let refused = |message: String| Error::Request(format!("spec.{field}: {message}"));
        let parse = |host: &str| -> Result<RegistryHost, Error> {
            host.parse().map_err(|error| refused(format!("{error}")))
        };
        match (&side.host, &side.registry, &side.archive) {
            (Some(host), None, None) => Ok(Opened {
                host: parse(host)?,
                is_registry: false,
                archive: None,
            }),
            (None, Some(registry), None) => {
                let known: HashMap<_, _> = self.registry.iter().cloned().collect();
                let host = known.get(&registry.name).ok_or_else(|| {
                    let name = &registry.name;
                    refused(format!(
                        "where is the Registry `{name}`? say --registry {name}=HOST"
                    ))
                })?;
                Ok(Opened {
                    host: parse(host)?,
                    is_registry: true,
                    archive: None,
                })
            }
            (None, None, Some(archive)) => Ok(Opened {
                host: archive_host,
                is_registry: false,
                archive: Some(Arc::new(open(&self.path(archive).map_err(refused)?)?)),
            }),
            _ => Err(refused(
                "name exactly one of host, registry and archive".into(),
            )),
        }
    }

    /// Where an archive is on this machine.
    fn path(&self, archive: &ArchiveSide) -> Result<PathBuf, String> {
        let path = Path::new(&archive.path);
        let Some(claim) = &archive.persistent_volume_claim else {
            return Ok(path.to_owned());
        };
        let known: HashMap<_, _> = self.claim.iter().cloned().collect();
        let name = &claim.name;
        let top = known
            .get(name)
            .ok_or_else(|| format!("where is the claim `{name}`? say --claim {name}=DIR"))?;
        // A path on a claim does not leave it.
        let is_below = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_below {
            return Err(format!(
                "archive.path `{}` is not one within the claim",
                archive.path
            ));
        }
        let whole = Path::new(top).join(path);
        if leads_out(Path::new(top), &whole) {
            return Err(format!(
                "archive.path `{}` leads out of the claim by a symbolic link",
                archive.path
            ));
        }
        Ok(whole)
    }
}

/// Whether `path` below `top` leads to another place, as far as it exists. What nobody can resolve fails when it is opened.
fn leads_out(top: &Path, path: &Path) -> bool {
    let found = path
        .ancestors()
        .find_map(|path| fs_err::canonicalize(path).ok());
    match (fs_err::canonicalize(top), found) {
        (Ok(top), Some(found)) => !found.starts_with(&top),
        _ => false,
    }
}

impl Opened {
    /// `client`, which reaches this side as well.
    pub(super) fn serve(&self, client: &Client) -> Client {
        match &self.archive {
            Some(archive) => archive.serve(client, &self.host),
            None => client.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_on_claims_stay_on_them() {
        let args = PlaceArgs {
            claim: vec![("backup".into(), "/mnt".into())],
            ..PlaceArgs::default()
        };
        let path = |claim: Option<&str>, path: &str| {
            args.path(&ArchiveSide {
                persistent_volume_claim: claim.map(|name| mirror::manifest::Named {
                    name: name.to_owned(),
                }),
                path: path.to_owned(),
            })
        };
        assert_eq!(path(None, "/a/../b").unwrap(), Path::new("/a/../b"));
        assert_eq!(path(Some("backup"), "a/b").unwrap(), Path::new("/mnt/a/b"));
        let (claim, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), claim.path().join("link")).unwrap();
        fs_err::create_dir(claim.path().join("own")).unwrap();
        std::os::unix::fs::symlink("own", claim.path().join("inner")).unwrap();
        for (below, out) in [
            ("link/a", true),
            ("link", true),
            ("own/a/b", false),
            ("inner/a", false),
            ("a", false),
        ] {
            let found = leads_out(claim.path(), &claim.path().join(below));
            assert_eq!(found, out, "{below}");
        }
        for bad in ["../a", "/a", "a/../../b"] {
            assert!(path(Some("backup"), bad).is_err(), "{bad}");
        }
        assert!(
            path(Some("other"), "a")
                .unwrap_err()
                .contains("--claim other=DIR")
        );
    }
}
