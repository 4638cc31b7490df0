//! RUN steps with mounts: their keys, by what the mounts show, and what is mounted when they are executed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oci::Digest;

use super::execute::{Inputs, Work};
use super::files::Need;
use super::{Keyed, Shared, Solve, blocking};
use crate::cache_key::{CacheKey, Mounted};
use crate::cache_mount::{CacheName, Lease, lease};
use crate::cause::FileMarks;
use crate::error::StepFailure;
use crate::exec::ExecError;
use crate::graph::{
    CacheMount, ContextId, FileOwner, Input, RunAction, RunMount, RunMountKind, SecretMount,
    Selected, SshMount, Step,
};
use crate::secret::Secret;
use crate::snapshot::Snapshot;
use crate::step::copy::{CopySource, CopySpec, Onto, copy};
use crate::step::digest_path;
use crate::step::run::{MountSource, StepMount};
use crate::tree::{ImagePath, SharedTree, Timestamp, Tree};

/// What the mount of a step shows, found out for the key and used again when the step is executed.
pub(super) struct Shown {
    /// `None` for a context.
    files: Option<Snapshot>,
    digest: Digest,
}

/// Directories of caches in use.
pub(super) type Leases = Vec<(CacheName, Lease)>;

/// Parts of contexts as directories of their own: without what is ignored, and all of root's. By path.
pub(super) type ContextCopies = Mutex<BTreeMap<(ContextId, String), Arc<tempfile::TempDir>>>;

impl Solve {
    /// First by where the files of mounts come from, and only where that is new, by what is there.
    pub(super) async fn key_of_run(
        &self,
        step: &Step,
        run: &RunAction,
        below: &CacheKey,
    ) -> Shared<Keyed> {
        let (platform, around) = (&step.platform, &self.graph.surroundings);
        let key = |mounted: &[Mounted]| CacheKey::run(below, run, platform, around, mounted);
        let selected: Vec<&Selected> = run.mounts.iter().filter_map(RunMount::input).collect();

        let mut mounted = Vec::with_capacity(selected.len());
        let mut offered = Vec::with_capacity(selected.len());
        for selected in &selected {
            let found = match selected.from {
                Input::Files(from) => {
                    mounted.push(Mounted::Source(self.key_of(from).await?));
                    None
                }
                Input::Context(id) => {
                    let files = self.contexts.get(id).clone();
                    let found = self.digest_of(step, files, &selected.path).await?;
                    mounted.push(Mounted::Content(found.0.clone()));
                    Some(found)
                }
            };
            offered.push(found);
        }
        let source_key = mounted
            .iter()
            .any(|mounted| matches!(mounted, Mounted::Source(_)))
            .then(|| key(&mounted).0);
        if let Some(source_key) = &source_key
            // Of files that are made anew it is not yet known whether they are the same.
            && !selected.iter().filter_map(|selected| selected.from.files()).any(|from| self.is_forced(from))
            && let Some(record) = self.lookup(step, source_key)
        {
            return Ok(Keyed {
                source_key: Some(source_key.clone()),
                record: Some(record.clone()),
                ..Keyed::of(record.key)
            });
        }

        let mut shown = Vec::with_capacity(selected.len());
        let mut listings = Vec::new();
        for (selected, offered) in selected.iter().zip(offered) {
            let (files, (digest, listing)) = match (selected.from, offered) {
                (Input::Files(from), _) => {
                    let files = self.snapshot(from, Need::Contents).await?;
                    let tree = Arc::new(files.clone());
                    (
                        Some(files),
                        self.digest_of(step, tree, &selected.path).await?,
                    )
                }
                (Input::Context(_), found) => (
                    None,
                    found.expect("contexts were looked at for the first key"),
                ),
            };
            listings.push(listing);
            shown.push(Shown { files, digest });
        }
        let contents: Vec<_> = shown
            .iter()
            .map(|shown| Mounted::Content(shown.digest.clone()))
            .collect();
        let (key, mut trail) = key(&contents);
        if let (Some(listing), 1) = (listings.pop(), shown.len()) {
            trail.note_files(listing);
        }
        let record = self.lookup(step, &key);
        if let Some(source_key) = &source_key {
            self.record_as(source_key, record.as_ref())?;
        }
        Ok(Keyed {
            cause: self.cause(step, record.as_ref(), &trail),
            key,
            source_key,
            record,
            trail,
            shown,
            inputs: Inputs::default(),
        })
    }

    async fn digest_of(
        &self,
        step: &Step,
        files: SharedTree,
        path: &str,
    ) -> Shared<(Digest, FileMarks)> {
        let path = path.to_owned();
        let digest = blocking(move || digest_path(files.as_ref(), &path));
        digest
            .await?
            .map_err(|error| self.step_error(step, error.into(), String::new()))
    }
}

impl Work {
    /// What is mounted for `action`. The leases of caches must live as long as the step.
    pub(super) fn mounts(
        &self,
        action: &RunAction,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(Vec<StepMount>, Leases), StepFailure> {
        let mut shown = self.task.keyed.shown.iter();
        let mut mounts = Vec::new();
        let mut caches = Vec::new();
        for mount in &action.mounts {
            let shown = mount.input().map(|_| {
                let shown = shown.next();
                shown.expect("a step that is executed has looked at its mounts")
            });
            let source = match (&mount.kind, shown) {
                (RunMountKind::Bind(selected), Some(shown)) => {
                    Some(self.bind(selected, shown.files.as_ref())?)
                }
                (RunMountKind::Bind(_), None) => unreachable!("a bind mount has files"),
                (RunMountKind::Cache(cache), shown) => {
                    caches.push((mounts.len(), cache, shown));
                    // The directory comes below: caches are taken in one order by all steps.
                    Some(MountSource::Directory {
                        directory: PathBuf::new(),
                        path: cache.path.clone(),
                    })
                }
                (RunMountKind::Tmpfs { size }, _) => Some(MountSource::Tmpfs { size: *size }),
                (RunMountKind::Secret(secret), _) => {
                    self.secret(secret)?.map(|value| MountSource::Secret {
                        content: value.clone(),
                        env: secret.env.clone(),
                        owner: secret.owner,
                    })
                }
                (RunMountKind::Ssh(ssh), _) => self.agent(ssh)?,
            };
            mounts.extend(source.map(|source| StepMount {
                target: mount.target.clone(),
                read_only: mount.read_only,
                source,
            }));
        }
        let leases = self.lease(caches, &mut mounts, cancelled)?;
        Ok((mounts, leases))
    }

    fn bind(
        &self,
        selected: &Selected,
        files: Option<&Snapshot>,
    ) -> Result<MountSource, StepFailure> {
        let id = match (files, selected.from) {
            (Some(snapshot), _) => {
                return Ok(MountSource::Layers {
                    snapshot: snapshot.clone(),
                    path: selected.path.clone(),
                });
            }
            (None, Input::Context(id)) => id,
            (None, Input::Files(_)) => unreachable!("files of stages were made ready"),
        };
        // A name with a wildcard would be a pattern for the copy: its directory is copied instead.
        let plain = |part: &&str| !part.contains(['*', '?', '[', '\\']);
        let parts: Vec<&str> = selected.path.split('/').take_while(plain).collect();
        let copied = (id, parts.join("/"));
        let mut copies = self
            .task
            .context_copies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let copy = if let Some(copy) = copies.get(&copied) {
            copy.clone()
        } else {
            let scratch = self.engine.cache.scratch("context-");
            let scratch = Arc::new(scratch.map_err(|source| StepFailure::Io {
                doing: "making a directory for a mount",
                source,
            })?);
            let into = scratch.path().join("files");
            self.copy_into(self.task.contexts.get(id).as_ref(), &copied.1, &into)?;
            copies.insert(copied, scratch.clone());
            scratch
        };
        Ok(MountSource::Layers {
            snapshot: Snapshot::new(vec![Arc::new(
                crate::layer::LayerDir::open(copy.path().join("files"))
                    .map_err(crate::step::StepError::from)?,
            )]),
            path: selected.path.clone(),
        })
    }

    /// Copies `path` of `from` to the same path below the new directory `into`.
    fn copy_into(&self, from: &dyn Tree, path: &str, into: &Path) -> Result<(), StepFailure> {
        let nothing = Snapshot::empty();
        let onto = Onto {
            base: &nothing,
            created: Timestamp::from_seconds(self.task.epoch.unwrap_or_default()),
            owners: self.engine.owners,
        };
        let source = if path.is_empty() { "/" } else { path };
        let directory = from
            .stat(&ImagePath::new(source))
            .map_err(crate::step::StepError::from)?
            .is_some_and(|(_, entry)| entry.is_directory());
        let slash = if directory { "/" } else { "" };
        let spec = CopySpec::new(
            [CopySource::Path(source.to_owned())],
            format!("{path}{slash}"),
        );
        copy(&spec, from, &onto, into)?;
        Ok(())
    }

    fn secret(&self, mount: &SecretMount) -> Result<Option<&Secret>, StepFailure> {
        match self.engine.secrets.values.get(&mount.id) {
            None if mount.required => Err(StepFailure::NoSecret {
                id: mount.id.clone(),
            }),
            found => Ok(found),
        }
    }

    fn agent(&self, mount: &SshMount) -> Result<Option<MountSource>, StepFailure> {
        match self.engine.secrets.agents.get(&mount.id) {
            None if mount.required => Err(StepFailure::NoAgent {
                id: mount.id.clone(),
            }),
            found => Ok(found.map(|socket| MountSource::Agent {
                socket: socket.clone(),
                owner: mount.owner,
            })),
        }
    }

    /// Takes the directories of all caches of the step, each cache once, always in the same order: two steps never wait
    /// for each other.
    fn lease(
        &self,
        caches: Vec<(usize, &CacheMount, Option<&Shown>)>,
        mounts: &mut [StepMount],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Leases, StepFailure> {
        let name = |cache: &CacheMount, shown: Option<&Shown>| {
            let seed = cache.seed.as_ref().zip(shown);
            let seed = seed.map(|(seed, shown)| (&shown.digest, seed.path.as_str()));
            CacheName::new(&cache.id, seed, cache.owner.as_ref())
        };
        let mut named: Vec<_> = caches
            .into_iter()
            .map(|(index, cache, shown)| (name(cache, shown), index, cache, shown))
            .collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let mut leases = Leases::new();
        for (name, index, cache, shown) in named {
            if leases.last().is_none_or(|(taken, _)| *taken != name) {
                let mut fill = |path: &Path| self.fill(cache, shown, path);
                let root = self.engine.cache.root();
                self.engine.cache.claim_mount(&name.directory(root));
                let taken = lease(root, &name, cache.sharing, &mut fill, cancelled);
                let taken = taken.map_err(|error| match error.kind() {
                    io::ErrorKind::Interrupted => StepFailure::Exec(ExecError::Cancelled),
                    _ => StepFailure::Io {
                        doing: "taking the directory of a cache mount",
                        source: error,
                    },
                })?;
                leases.push((name, taken));
            }
            let directory = leases.last().map(|(_, lease)| lease.path.clone());
            if let MountSource::Directory {
                directory: known, ..
            } = &mut mounts[index].source
            {
                *known = directory.unwrap_or_default();
            }
        }
        Ok(leases)
    }

    /// Makes a new cache at `path`.
    fn fill(&self, cache: &CacheMount, shown: Option<&Shown>, path: &Path) -> io::Result<()> {
        let seed = cache.seed.as_ref().zip(shown);
        // An owner is asked for: then it is a fresh directory, as in BuildKit.
        match (seed, &cache.owner) {
            (Some((seed, shown)), None) => {
                let selected = if seed.path == "/" { "" } else { &seed.path };
                let files: &dyn Tree = match (&shown.files, seed.from) {
                    (Some(files), _) => files,
                    (None, Input::Context(id)) => self.task.contexts.get(id).as_ref(),
                    (None, Input::Files(_)) => unreachable!("files of stages were made ready"),
                };
                self.copy_into(files, selected, path)
                    .map_err(io::Error::other)
            }
            (_, owner) => {
                fs_err::create_dir(path)?;
                let FileOwner { mode, uid, gid } = owner.unwrap_or(FileOwner {
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                });
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
                let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
                fs_err::set_permissions(path, permissions)
            }
        }
    }
}
