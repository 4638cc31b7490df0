//! RUN: what a command sees of its snapshot, and the layer that it leaves. How a process is isolated and watched is in
//! [`crate::exec`]; the environment follows BuildKit.

use std::{
    net::IpAddr,
    os::unix::fs::{PermissionsExt, lchown},
    path::{Path, PathBuf},
};

use crate::{
    account::{self, RunUser},
    diff::layer_of_run,
    exec::{
        Container, ExecError, ExitStatus, Identity, Job, Mount, MountAccess, Runtime, Stream,
        execute, limited,
    },
    graph::Surroundings,
    layer::LayerDir,
    secret::Redactor,
    snapshot::Snapshot,
    step::mount::{Place, settle},
    tree::{ImagePath, Tree},
};

pub use super::mount::{MountSource, StepMount};

/// The host name of a step, unless another is asked for.
pub const HOSTNAME: &str = "buildkitsandbox";

/// Where commands are found when the environment does not say.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where scripts are put that are not part of the image.
const SCRIPTS: &str = "/dev/pipes";

/// How much more likely than the engine a step is to be killed when memory runs out.
const OOM_SCORE: i32 = 250;

/// A command to run.
#[derive(Clone, Debug, Default)]
pub struct RunSpec {
    /// The program and its arguments, the shell included.
    pub args: Vec<String>,
    /// `NAME=value` in order: what the image and the build set, proxies included. `PATH` and `HOME` are added when absent.
    pub env: Vec<String>,
    /// The working directory, absolute; made for the user when it is absent.
    pub cwd: String,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// A program that is put at `/dev/pipes/NAME` for the time of the step: name and content.
    pub script: Option<(String, String)>,
    /// Whether the step has the network of the build, or none.
    pub network: bool,
    /// Host name ([`HOSTNAME`] when empty), hosts and limits.
    pub around: Surroundings,
    /// What is mounted.
    pub mounts: Vec<StepMount>,
}

impl RunSpec {
    /// Takes the secrets of the step out of its output.
    pub fn redactor(&self) -> Redactor {
        Redactor::new(self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Secret { content, .. } => Some(content),
            _ => None,
        }))
    }
}

/// Runs `spec` on `base`. Its changes are left in the new directory `into`, which is a layer even when the command fails;
/// its output is handed on line by line. Blocking; `cancelled` is asked about twenty times a second.
///
/// # Errors
/// See [`ExecError`]. An exit code other than 0 is no error.
pub fn run(
    spec: &RunSpec,
    base: &Snapshot,
    into: &Path,
    runtime: &Runtime,
    cancelled: &dyn Fn() -> bool,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<(LayerDir, ExitStatus), ExecError> {
    let layers = settle(base)?;
    let user = resolve_user(&spec.user, base)?;
    let scratch = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(runtime.scratch())
        .map_err(ExecError::system("making a scratch directory"))?;
    let mut container = Container {
        args: spec.args.clone(),
        env: environment(&spec.env, user.home.as_deref()),
        cwd: working_directory(&spec.cwd, base)?,
        identity: Identity {
            uid: user.uid,
            gid: user.gid,
            additional_gids: user.groups,
        },
        hostname: if spec.around.hostname.is_empty() {
            HOSTNAME.to_owned()
        } else {
            spec.around.hostname.clone()
        },
        network: spec.network,
        mounts: Vec::new(),
        shm_size: spec.around.shm_size,
        limits: limited(&spec.around.limits),
        oom_score_adj: oom_score(
            &fs_err::read_to_string("/proc/self/oom_score_adj").unwrap_or_default(),
        ),
    };
    let stubs = prepare(spec, base, scratch.path(), &mut container)?;
    let place = Place {
        base,
        scratch: scratch.path(),
        stubs: &stubs,
    };
    let mounts = place.prepare(&spec.mounts, &mut container)?;
    make_upper(base, into).map_err(ExecError::system("making the layer of the step"))?;

    let lowers: Vec<PathBuf> = std::iter::once(stubs).chain(layers).collect();
    let job = Job {
        container: &container,
        lowers: &lowers,
        upper: into,
        scratch: scratch.path(),
        attachments: &mounts.attachments,
    };
    let status = execute(&job, runtime, cancelled, output)?;
    drop(mounts);
    scratch
        .close()
        .map_err(ExecError::system("removing the scratch directory"))?;
    Ok((layer_of_run(into, base).map_err(snapshot_error)?, status))
}

pub(super) fn snapshot_error(error: impl std::error::Error) -> ExecError {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    ExecError::Snapshot(text)
}

fn resolve_user(user: &str, base: &Snapshot) -> Result<RunUser, ExecError> {
    let passwd = super::account_file(base, account::PASSWD).map_err(snapshot_error)?;
    let group = super::account_file(base, account::GROUP).map_err(snapshot_error)?;
    account::run_user(user, &passwd, &group).map_err(|error| ExecError::User {
        user: user.to_owned(),
        problem: error.to_string(),
    })
}

/// The environment with what every process needs.
fn environment(given: &[String], home: Option<&str>) -> Vec<String> {
    let has = |name: &str| {
        given
            .iter()
            .any(|entry| entry.split_once('=').is_some_and(|(key, _)| key == name))
    };
    let mut all = given.to_vec();
    if !has("PATH") {
        all.push(DEFAULT_PATH.to_owned());
    }
    if !has("HOME") {
        all.push(format!(
            "HOME={}",
            home.filter(|home| !home.is_empty()).unwrap_or("/")
        ));
    }
    all
}

/// The working directory with links resolved. What the engine mounts is not entered: a path below `/proc` or `/dev` could
/// name a descriptor of the runtime and with it a directory outside of the root.
fn working_directory(cwd: &str, base: &Snapshot) -> Result<String, ExecError> {
    let refuse = |problem| ExecError::WorkingDirectory {
        path: cwd.to_owned(),
        problem,
    };
    let resolved = base.resolve(&ImagePath::new(cwd)).map_err(snapshot_error)?;
    let text = resolved
        .to_absolute()
        .into_os_string()
        .into_string()
        .map_err(|_| refuse("its name is not UTF-8"))?;
    let below = |directory: &str| resolved.is_within(&ImagePath::new(directory));
    if below("/proc") || (below("/dev") && text != "/dev" && !below("/dev/shm")) {
        return Err(refuse("it is not part of the image"));
    }
    Ok(text)
}

fn oom_score(own: &str) -> i32 {
    own.trim()
        .parse::<i32>()
        .unwrap_or(0)
        .saturating_add(OOM_SCORE)
        .clamp(-1000, 1000)
}

/// Makes the files that the step sees besides its image, and the lowest layer with the mount points that the image may
/// lack: so that nothing of them can end up in the layer of the step.
fn prepare(
    spec: &RunSpec,
    base: &Snapshot,
    scratch: &Path,
    container: &mut Container,
) -> Result<PathBuf, ExecError> {
    let system = ExecError::system("preparing the files of the step");
    let stubs = scratch.join("stubs");
    for directory in ["proc", "dev", "sys"] {
        fs_err::create_dir_all(stubs.join(directory)).map_err(&system)?;
    }
    let files = [
        ("/etc/hosts", hosts(&container.hostname, &spec.around.hosts)),
        (
            "/etc/resolv.conf",
            fs_err::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        ),
    ];
    for (path, text) in files {
        let resolved = base
            .resolve(&ImagePath::new(path))
            .map_err(snapshot_error)?;
        let mounted = |directory: &str| resolved.is_within(&ImagePath::new(directory));
        let Ok(destination) = resolved.to_absolute().into_os_string().into_string() else {
            continue;
        };
        if mounted("/proc") || mounted("/sys") || mounted("/dev") {
            continue;
        }
        let stub = stubs.join(resolved.as_relative());
        if let Some(parent) = stub.parent() {
            fs_err::create_dir_all(parent).map_err(&system)?;
        }
        fs_err::write(&stub, "").map_err(&system)?;
        let source = scratch.join(path.rsplit('/').next().unwrap_or(path));
        fs_err::write(&source, text).map_err(&system)?;
        fs_err::set_permissions(&source, PermissionsExt::from_mode(0o644)).map_err(&system)?;
        let access = MountAccess::File;
        container
            .mounts
            .push(Mount::bind(source, destination, access));
    }
    if let Some((name, content)) = &spec.script {
        let directory = scratch.join("pipes");
        fs_err::create_dir(&directory).map_err(&system)?;
        let file = directory.join(name.replace('/', "_"));
        fs_err::write(&file, content).map_err(&system)?;
        for path in [&directory, &file] {
            fs_err::set_permissions(path, PermissionsExt::from_mode(0o755)).map_err(&system)?;
        }
        // crun makes links of its own in /dev, so a script may be executed there.
        let access = MountAccess::Script;
        container
            .mounts
            .push(Mount::bind(directory, SCRIPTS.to_owned(), access));
    }
    Ok(stubs)
}

/// The text of `/etc/hosts`: the usual, and what the build adds.
fn hosts(hostname: &str, more: &[(String, IpAddr)]) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in more {
        text.extend([&address.to_string(), "\t", name, "\n"]);
    }
    text
}

/// The directory for the changes. The root of the overlay shows its owner and permissions, so they are those of the
/// snapshot's root.
pub(super) fn make_upper(base: &Snapshot, into: &Path) -> std::io::Result<()> {
    let root = base
        .lookup(&ImagePath::root())
        .map_err(std::io::Error::other)?;
    fs_err::create_dir(into)?;
    if let Some(root) = root {
        lchown(into, Some(root.uid), Some(root.gid))?;
        fs_err::set_permissions(into, PermissionsExt::from_mode(root.mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_process_has_is_added_once() {
        let given = |entries: &[&str]| entries.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rows: [(&[&str], Option<&str>, &[&str]); 4] = [
            (&[], None, &[DEFAULT_PATH, "HOME=/"]),
            (
                &["A=1"],
                Some("/root"),
                &["A=1", DEFAULT_PATH, "HOME=/root"],
            ),
            (
                &["PATH=/x", "HOME=/y"],
                Some("/root"),
                &["PATH=/x", "HOME=/y"],
            ),
            (&["PATH="], Some(""), &["PATH=", "HOME=/"]),
        ];
        for (entries, home, expected) in rows {
            assert_eq!(environment(&given(entries), home), given(expected));
        }
    }

    #[test]
    fn directories_of_the_runtime_are_not_entered() {
        let base = Snapshot::empty();
        for path in [
            "/proc",
            "/proc/self/fd/7",
            "/proc/../proc/1",
            "/dev/fd/7",
            "/dev/pts",
            "/dev/../dev/stdin",
        ] {
            let found = working_directory(path, &base);
            assert!(
                matches!(found, Err(ExecError::WorkingDirectory { .. })),
                "{path}: {found:?}"
            );
        }
        for (path, expected) in [
            ("", "/"),
            ("/", "/"),
            ("/a/../b/", "/b"),
            ("/dev", "/dev"),
            ("/dev/shm/x", "/dev/shm/x"),
            ("/process", "/process"),
        ] {
            assert_eq!(
                working_directory(path, &base).ok().as_deref(),
                Some(expected),
                "{path}"
            );
        }
    }

    #[test]
    fn a_step_is_killed_before_the_engine() {
        let rows = [
            ("0\n", 250),
            ("", 250),
            ("900\n", 1000),
            ("-998\n", -748),
            ("x", 250),
        ];
        for (own, expected) in rows {
            assert_eq!(oom_score(own), expected, "{own}");
        }
    }
}
