//! How often the kernel killed a process of this pod because memory ran out: a counter of the memory controller, of
//! version 1 (`memory.oom_control`) or 2 (`memory.events`) of cgroups. It limits nothing.

use std::path::{Path, PathBuf};

/// Where the counter is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OomCounter {
    file: PathBuf,
}

impl OomCounter {
    /// The counter of the cgroup that this process is in; `None` where the cgroup is not visible.
    pub(super) fn find() -> Option<Self> {
        let own = fs_err::read_to_string("/proc/self/cgroup").ok()?;
        Self::find_below(Path::new("/sys/fs/cgroup"), &own)
    }

    fn find_below(cgroups: &Path, own: &str) -> Option<Self> {
        candidates(own).into_iter().find_map(|candidate| {
            let counter = Self {
                file: cgroups.join(candidate),
            };
            counter.read().map(|_| counter)
        })
    }

    /// The count, from the start of the cgroup on.
    pub(super) fn read(&self) -> Option<u64> {
        parse_oom_kill(&fs_err::read_to_string(&self.file).ok()?)
    }
}

/// The files that may hold the counter, the best first. In a pod the cgroup of the pod is often mounted at the top
/// although `/proc/self/cgroup` shows a path.
fn candidates(own: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if path.split('/').any(|part| part == "..") {
            continue;
        }
        if controllers
            .split(',')
            .any(|controller| controller == "memory")
        {
            found.push(Path::new("memory").join(path).join("memory.oom_control"));
            found.push(Path::new("memory").join("memory.oom_control"));
        } else if controllers.is_empty() {
            found.push(Path::new(path).join("memory.events"));
            found.push("memory.events".into());
        }
    }
    found
}

fn parse_oom_kill(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn both_versions_are_found() {
        let rows = [
            (
                "4:memory:/pod/abc\n0::/\n",
                "memory/pod/abc/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                Some(3),
            ),
            (
                "4:memory:/pod/abc\n",
                "memory/memory.oom_control",
                "oom_kill 1\n",
                Some(1),
            ),
            (
                "0::/\n",
                "memory.events",
                "low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n",
                Some(2),
            ),
            ("0::/kubepods/x\n", "memory.events", "oom_kill 0\n", Some(0)),
            (
                "3:cpu,memory:/a\n",
                "memory/a/memory.oom_control",
                "oom_kill 5\n",
                Some(5),
            ),
            ("0::/../../x\n", "memory.events", "oom_kill 5\n", None),
            (
                "4:memory:/\n",
                "memory/memory.oom_control",
                "under_oom 0\n",
                None,
            ),
            ("", "memory.events", "oom_kill 5\n", None),
        ];
        for (own, file, text, expected) in rows {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(&path, text).unwrap();
            let found =
                OomCounter::find_below(directory.path(), own).and_then(|counter| counter.read());
            assert_eq!(found, expected, "{own} {file}");
        }
    }
}
