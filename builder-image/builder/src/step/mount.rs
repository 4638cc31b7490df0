//! What RUN sees besides its image: `--mount`. It says where each mount is seen and what is to be made ready for it; how
//! that is done is in [`crate::exec`].

use std::path::{Path, PathBuf};

use super::run::snapshot_error;
use crate::{
    exec::{Agent, Attachment, Container, ExecError, Mount, MountAccess, attached},
    graph::FileOwner,
    layer::Owners,
    secret::Secret,
    snapshot::{Snapshot, settle_implied},
    tree::{ImagePath, Tree},
};

/// One mount of a step.
#[derive(Clone, Debug)]
pub struct StepMount {
    /// Where it is seen, absolute; absent for a secret that is only a variable.
    pub target: Option<String>,
    /// Whether writing is refused.
    pub read_only: bool,
    /// What is mounted.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Clone, Debug)]
pub enum MountSource {
    /// A path in a snapshot. What is written is discarded.
    Layers {
        /// The files.
        snapshot: Snapshot,
        /// The path in them.
        path: String,
    },
    /// A path in a directory of the engine, which keeps what is written.
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The path in it.
        path: String,
    },
    /// A directory in memory.
    Tmpfs {
        /// Its bound in bytes.
        size: Option<u64>,
    },
    /// A secret, as a file, a variable or both.
    Secret {
        /// What it holds.
        content: Secret,
        /// The variable.
        env: Option<String>,
        /// Owner and mode of the file.
        owner: FileOwner,
    },
    /// The socket of an agent.
    Agent {
        /// The socket outside.
        socket: PathBuf,
        /// Owner and mode of the socket inside.
        owner: FileOwner,
    },
}

/// Mounts that are ready to be made, and what must live as long as the process.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) attachments: Vec<Attachment>,
    pub(super) agents: Vec<Agent>,
}

/// Where mounts are made ready.
pub(super) struct Place<'a> {
    /// The image of the step.
    pub(super) base: &'a Snapshot,
    /// The directory of the step.
    pub(super) scratch: &'a Path,
    /// The lowest layer, with the mount points that the image lacks.
    pub(super) stubs: &'a Path,
}

impl Place<'_> {
    /// Adds `mounts` to the container.
    pub(super) fn prepare(
        &self,
        mounts: &[StepMount],
        container: &mut Container,
    ) -> Result<Prepared, ExecError> {
        let mut prepared = Prepared::default();
        // What is mounted below another mount comes after it.
        let mut ordered: Vec<&StepMount> = mounts.iter().collect();
        ordered.sort_by(|a, b| a.target.cmp(&b.target));
        let mut placed: Vec<(String, String)> = Vec::new();
        for mount in ordered {
            if let MountSource::Secret {
                content,
                env: Some(name),
                ..
            } = &mount.source
            {
                container.env.push(variable(name, content)?);
            }
            let Some(target) = &mount.target else {
                continue;
            };
            let destination = self.place(target, &placed, mount)?;
            placed.push((target.clone(), destination.clone()));
            let made = self.mount(mount, destination, &mut prepared)?;
            container.mounts.push(made);
        }
        Ok(prepared)
    }

    /// Where `target` is in the root, links followed, with a mount point where the image lacks one. What is below another
    /// mount is looked up by the runtime, in what that mount shows.
    fn place(
        &self,
        target: &str,
        placed: &[(String, String)],
        mount: &StepMount,
    ) -> Result<String, ExecError> {
        let below = |(above, at): &(String, String)| {
            let rest = target.strip_prefix(above.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{at}{rest}"))
        };
        if let Some(destination) = placed.iter().rev().find_map(below) {
            return Ok(destination);
        }
        let refuse = |problem| ExecError::MountTarget {
            path: target.to_owned(),
            problem,
        };
        let resolved = self
            .base
            .resolve(&ImagePath::new(target))
            .map_err(snapshot_error)?;
        let within = |directory: &str| resolved.is_within(&ImagePath::new(directory));
        if resolved.is_root() || within("/proc") || within("/sys") {
            return Err(refuse("it leads to what the system itself mounts"));
        }
        let destination = resolved
            .to_absolute()
            .into_os_string()
            .into_string()
            .map_err(|_| refuse("its name is not UTF-8"))?;
        if within("/dev") {
            return if destination == "/dev" {
                Err(refuse("it leads to what the system itself mounts"))
            } else {
                Ok(destination)
            };
        }
        let directory = mount.is_directory()?;
        match self.base.lookup(&resolved).map_err(snapshot_error)? {
            Some(entry) if entry.is_directory() != directory => Err(refuse(if directory {
                "it is not a directory in the image, and what is mounted there is one"
            } else {
                "it is a directory in the image, and what is mounted there is none"
            })),
            Some(_) => Ok(destination),
            None => {
                let stub = self.stubs.join(resolved.as_relative());
                let parent = stub.parent().unwrap_or(self.stubs);
                let made = fs_err::create_dir_all(if directory { &stub } else { parent });
                made.and_then(|()| {
                    if directory {
                        Ok(())
                    } else {
                        fs_err::write(&stub, "")
                    }
                })
                .map_err(ExecError::system("preparing a mount point"))?;
                Ok(destination)
            }
        }
    }

    fn mount(
        &self,
        mount: &StepMount,
        destination: String,
        prepared: &mut Prepared,
    ) -> Result<Mount, ExecError> {
        let access = if mount.read_only {
            MountAccess::Read
        } else {
            MountAccess::Write
        };
        let attachment = match &mount.source {
            MountSource::Tmpfs { size } => {
                let path = ImagePath::new(&destination);
                let known = self.base.lookup(&path).map_err(snapshot_error)?;
                return Ok(Mount::tmpfs(
                    destination,
                    *size,
                    known.map_or(0o1777, |entry| entry.mode),
                    mount.read_only,
                ));
            }
            MountSource::Agent { socket, owner } => {
                let directory = self.scratch.join("agents");
                let system = ExecError::system("forwarding the SSH agent");
                fs_err::create_dir_all(&directory).map_err(&system)?;
                let name = prepared.agents.len().to_string();
                let ids = (owner.uid, owner.gid);
                let agent = Agent::forward(socket, &directory, &name, owner.mode, ids);
                let agent = agent.map_err(&system)?;
                let made = Mount::bind(&agent.socket, destination, MountAccess::File);
                prepared.agents.push(agent);
                return Ok(made);
            }
            MountSource::Secret { content, owner, .. } => Attachment::Secret {
                content: content.clone(),
                mode: owner.mode,
                owner: (owner.uid, owner.gid),
            },
            MountSource::Directory { directory, path } => Attachment::Directory {
                directory: directory.clone(),
                path: path.clone(),
            },
            MountSource::Layers { snapshot, path } => {
                let lowers = settle(snapshot)?;
                let upper = if mount.read_only {
                    None
                } else {
                    let number = prepared.attachments.len();
                    let upper = self.scratch.join(format!("upper-{number}"));
                    super::run::make_upper(snapshot, &upper)
                        .map_err(ExecError::system("making a directory for a mount"))?;
                    Some(upper)
                };
                Attachment::Layers {
                    lowers,
                    upper,
                    path: path.clone(),
                }
            }
        };
        let source = attached(self.scratch, prepared.attachments.len());
        let access = match attachment {
            Attachment::Secret { .. } => MountAccess::File,
            _ => access,
        };
        prepared.attachments.push(attachment);
        Ok(Mount::bind(source, destination, access))
    }
}

impl StepMount {
    /// Whether a directory is seen, and not a file.
    fn is_directory(&self) -> Result<bool, ExecError> {
        Ok(match &self.source {
            MountSource::Layers { snapshot, path } => snapshot
                .stat(&ImagePath::new(path))
                .map_err(snapshot_error)?
                .is_none_or(|(_, entry)| entry.is_directory()),
            MountSource::Directory { .. } | MountSource::Tmpfs { .. } => true,
            MountSource::Secret { .. } | MountSource::Agent { .. } => false,
        })
    }
}

/// The directories of `snapshot`, the lowest first, made fit to be mounted.
pub(super) fn settle(snapshot: &Snapshot) -> Result<Vec<PathBuf>, ExecError> {
    let Some(layers) = snapshot.directories() else {
        return Err(ExecError::Snapshot("its layers are not unpacked".into()));
    };
    if layers.iter().any(|layer| layer.owners != Owners::OnDisk) {
        return Err(ExecError::Snapshot(
            "its layers were unpacked without owners, for a build without RUN".into(),
        ));
    }
    for (index, layer) in layers.iter().enumerate() {
        if layer.index().implied().next().is_some() {
            settle_implied(layer, &Snapshot::new(layers[..index].to_vec()))
                .map_err(snapshot_error)?;
        }
    }
    Ok(layers.iter().map(|layer| layer.path.clone()).collect())
}

/// `NAME=value`
fn variable(name: &str, secret: &Secret) -> Result<String, ExecError> {
    match std::str::from_utf8(secret.bytes()) {
        Ok(text) if !text.contains('\0') => Ok(format!("{name}={text}")),
        _ => Err(ExecError::SecretVariable {
            name: name.to_owned(),
        }),
    }
}
