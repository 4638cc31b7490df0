//! RUN: what it becomes once its words are expanded, and the mounts that it sees.

use std::net::IpAddr;

use dockerfile::{
    CommandForm, Diagnostic, Instruction, Mount, MountSpec, MountType, Network, Run, RunCommand,
    Scope as _, Sharing,
};

use crate::exec::ResourceLimit;

use super::instruction::{Outcome, absolute, summary};
use super::stage::{Builder, argument};
use super::{Action, ContextId, Filesystem, Input};

/// The mode of a secret that says none, as the reference frontend has it.
const SECRET_MODE: u32 = 0o400;

/// The mode of an agent's socket that says none.
const SOCKET_MODE: u32 = 0o600;

/// The mode of a cache that names an owner but no mode.
const CACHE_MODE: u32 = 0o755;

/// What all RUN steps of a build have around them, besides what the Dockerfile says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The host name.
    pub hostname: String,
    /// Whether steps that say nothing have the network of the build.
    pub network: bool,
    /// More lines of `/etc/hosts`: name and address.
    pub hosts: Vec<(String, IpAddr)>,
    /// Size of `/dev/shm` in bytes; 64 MiB where absent.
    pub shm_size: Option<u64>,
    /// Resource limits.
    pub limits: Vec<ResourceLimit>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            network: true,
            hosts: Vec::new(),
            shm_size: None,
            limits: Vec::new(),
        }
    }
}

/// A RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAction {
    /// Program and arguments, the shell included.
    pub args: Vec<String>,
    /// Environment in order, `NAME=value`, without proxies and secrets.
    pub env: Vec<String>,
    /// Directory to start in, absolute.
    pub cwd: String,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// A program that is put at `/dev/pipes/NAME` for the time of the step: name and content.
    pub script: Option<(String, String)>,
    /// Whether the step has a network.
    pub network: bool,
    /// What is mounted, in the order of the flags.
    pub mounts: Vec<RunMount>,
}

impl RunAction {
    /// The other file systems that the step reads, in the order of its mounts.
    pub fn inputs(&self) -> Vec<Filesystem> {
        let of = |mount: &RunMount| mount.input()?.from.files();
        self.mounts.iter().filter_map(of).collect()
    }
}

/// One `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMount {
    /// Where it is seen, absolute; absent for a secret that is only a variable.
    pub target: Option<String>,
    /// Whether writing is refused.
    pub read_only: bool,
    /// What is mounted.
    pub kind: RunMountKind,
}

impl RunMount {
    /// The files that the mount shows or begins with.
    pub fn input(&self) -> Option<&Selected> {
        match &self.kind {
            RunMountKind::Bind(selected) => Some(selected),
            RunMountKind::Cache(cache) => cache.seed.as_ref(),
            _ => None,
        }
    }
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunMountKind {
    /// Files; what is written is discarded.
    Bind(Selected),
    /// A directory that outlives the build.
    Cache(CacheMount),
    /// A directory in memory.
    Tmpfs {
        /// Its bound in bytes.
        size: Option<u64>,
    },
    /// A secret.
    Secret(SecretMount),
    /// The socket of an agent.
    Ssh(SshMount),
}

/// A path in some files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// In which files.
    pub from: Input,
    /// The path, absolute.
    pub path: String,
}

/// `type=cache`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// Its name, with the name space of the build.
    pub id: String,
    /// What a new one begins with; nothing where absent.
    pub seed: Option<Selected>,
    /// The directory in it that is mounted, absolute.
    pub path: String,
    /// Who may use it at the same time.
    pub sharing: Sharing,
    /// Owner and mode of a new one, where they were asked for.
    pub owner: Option<FileOwner>,
}

/// `type=secret`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretMount {
    /// Its name.
    pub id: String,
    /// The variable that holds it.
    pub env: Option<String>,
    /// Whether the step fails without it.
    pub required: bool,
    /// Owner and mode of the file.
    pub owner: FileOwner,
}

/// `type=ssh`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshMount {
    /// The name of the agent.
    pub id: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// Owner and mode of the socket.
    pub owner: FileOwner,
}

/// Owner and permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOwner {
    /// Permission bits.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl FileOwner {
    fn of(mount: &Mount, mode: u32) -> Self {
        Self {
            mode: mount.mode.unwrap_or(mode) & 0o7777,
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
        }
    }
}

impl Builder<'_> {
    pub(super) fn run(&mut self, position: usize, instruction: &Instruction, run: &Run) -> Outcome {
        let mut script = None;
        let args = match run.command_to_execute() {
            RunCommand::Exec(args) => args,
            RunCommand::Shell(line) => CommandForm::Shell(line).to_args(&self.shell()),
            RunCommand::File { name, content } => {
                let path = format!("/dev/pipes/{name}");
                script = Some((name, content));
                CommandForm::Shell(path).to_args(&self.shell())
            }
        };
        let created_by = format!("RUN {}{} # buildkit", self.history_args(), args.join(" "));
        let mut text = instruction.source.clone();
        if let Some(first) = run.heredocs.first() {
            text.extend([" (", &summary(&first.content), ")"]);
        }
        let mut mounts = Vec::with_capacity(run.mounts.len());
        for (index, spec) in run.mounts.iter().enumerate() {
            let from = self.source(position, index);
            mounts.push(self.mount(spec, from, &mounts)?);
        }
        let mut env = self.state.variables.to_env();
        let agent = mounts.iter().find_map(|mount| match mount.kind {
            RunMountKind::Ssh(_) => mount.target.as_deref(),
            _ => None,
        });
        if let Some(agent) = agent.filter(|_| self.state.variables.get("SSH_AUTH_SOCK").is_none()) {
            env.push(format!("SSH_AUTH_SOCK={agent}"));
        }
        let action = Action::Run(RunAction {
            args,
            env,
            cwd: absolute(&self.state.config.working_dir, ""),
            user: self.state.config.user.clone(),
            script,
            network: match run.network.as_ref().map(|network| network.value) {
                Some(Network::None) => false,
                _ => self.plan.options.surroundings.network,
            },
            mounts,
        });
        self.step(instruction, action, created_by, &text);
        Ok(())
    }

    /// Expands one mount; `before` are those before it.
    fn mount(&self, spec: &MountSpec, from: Input, before: &[RunMount]) -> Outcome<RunMount> {
        let mount = spec.expand(self.plan.dockerfile.escape, &self.state.variables)?;
        let path = absolute("/", mount.source.as_deref().unwrap_or_default());
        let own = |target: &str| absolute(&self.state.config.working_dir, target);
        let given = given(mount.target.as_deref());
        let mut target = Some(own(given.unwrap_or_default()));
        let kind = match mount.kind {
            MountType::Bind => RunMountKind::Bind(Selected { from, path }),
            MountType::Tmpfs => RunMountKind::Tmpfs { size: mount.size },
            MountType::Cache => {
                let name = given.unwrap_or_default();
                RunMountKind::Cache(self.cache_mount(&mount, name, from, path))
            }
            MountType::Secret => {
                let secret = secret_mount(&mount);
                target = match (given, &secret.env) {
                    (Some(target), _) => Some(own(target)),
                    (None, Some(_)) => None,
                    (None, None) => Some(format!("/run/secrets/{}", base_name(&secret.id))),
                };
                RunMountKind::Secret(secret)
            }
            MountType::Ssh => {
                if mount.source.is_some() {
                    return Err(refused(spec, "a mount of type ssh takes no `source`"));
                }
                let agents = before
                    .iter()
                    .filter(|mount| matches!(mount.kind, RunMountKind::Ssh(_)));
                target = Some(match given {
                    Some(target) => own(target),
                    None => format!("/run/buildkit/ssh_agent.{}", agents.count()),
                });
                RunMountKind::Ssh(SshMount {
                    id: mount.id.clone().unwrap_or_else(|| "default".into()),
                    required: mount.required,
                    owner: FileOwner::of(&mount, SOCKET_MODE),
                })
            }
        };
        if let Some(target) = &target {
            check_target(spec, target)?;
        }
        Ok(RunMount {
            target,
            read_only: mount.read_only,
            kind,
        })
    }

    fn cache_mount(&self, mount: &Mount, name: &str, from: Input, path: String) -> CacheMount {
        let id = match given(mount.id.as_deref()) {
            Some(id) => id.to_owned(),
            None => clean(name),
        };
        let space = argument(self.plan, "BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default();
        // Without `from` a cache begins empty.
        let is_nothing = matches!(
            from,
            Input::Files(Filesystem::Scratch) | Input::Context(ContextId::Build)
        );
        let owned = mount.mode.is_some() || mount.uid.is_some() || mount.gid.is_some();
        // A directory inside has the owner that it has.
        let owner = (owned && path == "/").then(|| FileOwner::of(mount, CACHE_MODE));
        CacheMount {
            id: format!("{space}/{id}"),
            seed: (!is_nothing).then(|| Selected {
                from,
                path: path.clone(),
            }),
            path,
            sharing: mount.sharing.unwrap_or(Sharing::Shared),
            owner,
        }
    }
}

fn secret_mount(mount: &Mount) -> SecretMount {
    let id = given(mount.source.as_deref())
        .or(given(mount.id.as_deref()))
        .map_or_else(
            || base_name(mount.target.as_deref().unwrap_or_default()).to_owned(),
            str::to_owned,
        );
    SecretMount {
        id,
        env: mount.env.clone().filter(|env| !env.is_empty()),
        required: mount.required,
        owner: FileOwner::of(mount, SECRET_MODE),
    }
}

fn given(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
}

/// The default name of a cache: its target without superfluous parts, relative where it was written so.
fn clean(target: &str) -> String {
    let absolute = absolute("/", target);
    if target.starts_with('/') {
        absolute
    } else {
        absolute[1..].to_owned()
    }
}

/// Refuses targets that hide the image or what the engine itself mounts.
fn check_target(spec: &MountSpec, target: &str) -> Outcome {
    let within = |above: &str| {
        target == above
            || target
                .strip_prefix(above)
                .is_some_and(|r| r.starts_with('/'))
    };
    if target == "/" {
        return Err(refused(
            spec,
            "the root of the image is no target for a mount",
        ));
    }
    if within("/proc") || within("/sys") || target == "/dev" {
        let message = format!("{target} is the system's own, nothing can be mounted there");
        return Err(refused(spec, &message));
    }
    Ok(())
}

fn refused(spec: &MountSpec, message: &str) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(
        "invalid-mount",
        spec.word.span,
        format!("invalid mount: {message}"),
    ))
}
