//! What a caller chooses about a cluster, and where its files lie. No I/O.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Error, Result};

/// Where the node's programs see the state directory.
pub(crate) const NODE_STATE: &str = "/run/coopery/state";
/// Where the node's programs see the built programs.
pub(crate) const NODE_BIN: &str = "/run/coopery/bin";
/// Name of the one node.
pub const NODE_NAME: &str = "node";

/// How long a cluster lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// Until [`stop`](super::Cluster::stop), or until this process ends in whatever way.
    #[default]
    Process,
    /// Until it is stopped, by this or another process.
    Detached,
}

/// What a caller chooses about a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name among the clusters of this machine's cache directory.
    pub name: String,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Where programs (`bin`) and clusters (`clusters/<name>`) lie. Default: `$COOPERY_CACHE`, or `~/.cache/coopery`.
    pub cache: PathBuf,
    /// Where this cluster's state lies. Default: `clusters/<name>` in `cache`.
    pub base: Option<PathBuf>,
    /// How long to wait until it is ready. Default: 120 s.
    pub timeout: Duration,
    /// Whether kubelet accounts for and limits ephemeral storage. Default: true.
    pub storage_isolation: bool,
    /// A disk of their own for the volumes of pods. Default: none, they lie on the machine's.
    pub volumes_disk: Option<Disk>,
}

/// A small disk. The kubelet evicts pods when half of its inodes are used; it may be full to the last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its size in MiB.
    pub size: u32,
    /// How many files it can hold.
    pub inodes: u32,
}

impl Options {
    /// A cluster of that name that lives as long as this process.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            lifetime: Lifetime::default(),
            cache: cache_from(
                std::env::var_os("COOPERY_CACHE").map(PathBuf::from),
                std::env::home_dir(),
            ),
            base: None,
            timeout: Duration::from_secs(120),
            storage_isolation: true,
            volumes_disk: None,
        }
    }

    /// The same, to live until it is stopped.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.lifetime = Lifetime::Detached;
        self
    }

    /// Checks the name and where the files would lie.
    pub(crate) fn layout(&self) -> Result<Layout> {
        let well_formed = !self.name.is_empty()
            && self.name.len() <= 40
            && self
                .name
                .chars()
                .all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '-'))
            && !self.name.starts_with('-')
            && !self.name.ends_with('-');
        if !well_formed {
            return Err(Error::Name {
                name: self.name.clone(),
            });
        }
        let clusters = self
            .base
            .clone()
            .unwrap_or_else(|| self.cache.join("clusters"));
        for path in [&self.cache, &clusters] {
            let covered = ["/run", "/proc", "/sys", "/dev"];
            if !path.is_absolute() || covered.iter().any(|place| path.starts_with(place)) {
                return Err(Error::Cache { path: path.clone() });
            }
        }
        Ok(Layout {
            name: self.name.clone(),
            bin: self.cache.join("bin"),
            lock: clusters.join(format!(".{}.lock", self.name)),
            state: clusters.join(&self.name),
        })
    }
}

/// The cache directory that the environment asks for.
fn cache_from(setting: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    match setting {
        Some(path) if !path.as_os_str().is_empty() => path,
        _ => home
            .unwrap_or_else(|| PathBuf::from("/root"))
            .join(".cache/coopery"),
    }
}

/// Where the files of one cluster lie, as this process sees them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) name: String,
    pub(crate) bin: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) state: PathBuf,
}

impl Layout {
    pub(crate) fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.logs().join(format!("{component}.log"))
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.state.join("cluster.json")
    }

    pub(crate) fn certs_d(&self) -> PathBuf {
        self.state.join("certs.d")
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// A file of the state directory as the node's programs see it.
pub(crate) fn in_node(path: &str) -> String {
    Path::new(NODE_STATE).join(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for (name, accepted) in [
            ("main", true),
            ("e2e-2", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("a/b", false),
            ("..", false),
            ("Main", false),
            (&"a".repeat(41), false),
        ] {
            let options = Options {
                cache: "/cache".into(),
                ..Options::new(name)
            };
            assert_eq!(options.layout().is_ok(), accepted, "{name:?}");
        }
    }

    #[test]
    fn state_lies_outside_of_what_the_node_covers() {
        for (cache, accepted) in [
            ("/var/lib/c", true),
            ("/tmp/c", true),
            ("/run/c", false),
            ("relative", false),
            ("/runner", true),
        ] {
            let options = Options {
                cache: cache.into(),
                ..Options::new("main")
            };
            assert_eq!(options.layout().is_ok(), accepted, "{cache}");
        }
        let layout = Options {
            cache: "/cache".into(),
            ..Options::new("main")
        }
        .layout()
        .unwrap();
        assert_eq!(
            layout.log("etcd"),
            Path::new("/cache/clusters/main/logs/etcd.log")
        );
    }

    #[test]
    fn the_cache_is_the_setting_or_below_home() {
        assert_eq!(cache_from(Some("/c".into()), None), Path::new("/c"));
        assert_eq!(
            cache_from(Some(String::new().into()), Some("/home/u".into())),
            Path::new("/home/u/.cache/coopery")
        );
    }
}
