//! How many processes and threads a RUN may have, so that one that multiplies without end meets an error and takes nothing
//! else down. A pod can make no cgroups; two other things bound it:
//!
//! - each step is a namespace of processes, which since Linux 6.14 has a highest number of its own;
//! - before that, `RLIMIT_NPROC`, which counts all that its user has in the engine's user namespace. The kernel exempts the
//!   root of the machine from it, so it binds in pods and for ordinary users.

use std::io;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Resource, Rlimit};

use super::ResourceLimit;

/// As many processes and threads as a step may have at a time. podman gives a container a quarter of it.
pub const MAX_PROCESSES: u64 = 8192;

/// The name of the limit that counts processes of a user.
const NAME: &str = "RLIMIT_NPROC";

/// The highest `pid_max` that there is.
const HIGHEST: u64 = 1 << 22;

/// The first kernel where each namespace of processes has a `pid_max`; before, the file is that of the machine.
const FIRST: (u32, u32) = (6, 14);

/// Whether a namespace of processes can be bounded.
pub(super) fn is_available() -> bool {
    version(&rustix::system::uname().release().to_string_lossy()) >= Some(FIRST)
}

/// What a step with these limits is given to [`enter`]; `None` where the kernel cannot bound it.
pub(super) fn bound(limits: &[ResourceLimit]) -> Option<String> {
    is_available().then(|| highest(limits).to_string())
}

fn highest(limits: &[ResourceLimit]) -> u64 {
    let asked = limits.iter().find(|limit| limit.name == NAME);
    asked.map_or(MAX_PROCESSES, |limit| {
        limit.soft.clamp(MAX_PROCESSES, HIGHEST)
    })
}

/// `6.14` of `6.14.0-rc1-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// Bounds the namespace that this process is the first of, which has its own `/proc`. Only makes system calls, so it may be
/// called between fork and exec.
pub(super) fn enter(bound: &str) -> io::Result<()> {
    let file = open(
        c"/proc/sys/kernel/pid_max",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::io::write(&file, bound.as_bytes())?;
    Ok(())
}

/// The limits of a step: those that were asked for, and `RLIMIT_NPROC` where none was.
pub fn limited(given: &[ResourceLimit]) -> Vec<ResourceLimit> {
    let own = rustix::process::getrlimit(Resource::Nproc);
    with_processes(given, &own)
}

fn with_processes(given: &[ResourceLimit], own: &Rlimit) -> Vec<ResourceLimit> {
    let mut limits = given.to_vec();
    if !given.iter().any(|limit| limit.name == NAME) {
        // Nobody but the root of the machine may raise it.
        let bound = |limit: Option<u64>| limit.map_or(MAX_PROCESSES, |own| own.min(MAX_PROCESSES));
        limits.push(ResourceLimit {
            name: NAME.into(),
            soft: bound(own.current),
            hard: bound(own.maximum),
        });
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_their_version() {
        let rows = [
            ("6.14.0", true),
            ("6.13.9", false),
            ("5.15.0-91-generic", false),
            ("7.0-rc1", true),
            ("6.18.44-fc", true),
            ("6", false),
            ("", false),
        ];
        for (release, expected) in rows {
            assert_eq!(version(release) >= Some(FIRST), expected, "{release}");
        }
    }

    #[test]
    fn a_step_that_asks_for_more_gets_more() {
        let asked = |soft| ResourceLimit {
            name: NAME.into(),
            soft,
            hard: u64::MAX,
        };
        assert_eq!(highest(&[]), MAX_PROCESSES);
        for (soft, expected) in [(5, MAX_PROCESSES), (20_000, 20_000), (u64::MAX, HIGHEST)] {
            assert_eq!(highest(&[asked(soft)]), expected);
        }
    }

    #[test]
    fn a_limit_is_added_where_none_is_asked_for() {
        let limit = |soft, hard| ResourceLimit {
            name: "RLIMIT_NPROC".into(),
            soft,
            hard,
        };
        let own = |current, maximum| Rlimit { current, maximum };
        let rows = [
            (own(None, None), limit(MAX_PROCESSES, MAX_PROCESSES)),
            (own(Some(100), Some(200)), limit(100, 200)),
            (own(Some(100), None), limit(100, MAX_PROCESSES)),
            (
                own(Some(1 << 20), Some(1 << 20)),
                limit(MAX_PROCESSES, MAX_PROCESSES),
            ),
        ];
        for (own, expected) in rows {
            assert_eq!(with_processes(&[], &own), [expected]);
        }
        let files = ResourceLimit {
            name: "RLIMIT_NOFILE".into(),
            soft: 1,
            hard: 2,
        };
        let given = [limit(5, 6), files.clone()];
        assert_eq!(with_processes(&given, &own(None, None)), given);
        assert_eq!(with_processes(&[files], &own(None, None)).len(), 2);
    }
}
