//! What a build costs: wall time, processor time, peak memory, bytes read and written, of its own processes and of a daemon
//! that works for it.

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// How often the memory of processes is looked at; each remembers its peak itself.
const LOOK: Duration = Duration::from_millis(20);

/// Ticks of processor time in a second, as `/proc` counts them.
const TICKS: u64 = 100;

/// What one build cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// From start to end.
    pub wall: Duration,
    /// User and system time of everything, commands of RUN included.
    pub cpu: Duration,
    /// The sum of the peaks of the builder's own processes, in bytes; commands of RUN are not among them, nor are copies of
    /// a process that have yet to execute another program: their memory is that of the one that they are copies of.
    pub memory: u64,
    /// Bytes that were asked for by reading, of files and else.
    pub read: u64,
    /// Bytes that were written to the disk.
    pub written: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes >> 20;
        write!(
            f,
            "{:6.2} s, {:6.2} s of processors, {:4} MiB peak, {:5} MiB read, {:5} MiB written",
            self.wall.as_secs_f64(),
            self.cpu.as_secs_f64(),
            mebibytes(self.memory),
            mebibytes(self.read),
            mebibytes(self.written)
        )
    }
}

/// What `/proc` says of one process and of those that it has waited for.
#[derive(Clone, Copy, Default)]
struct Counters {
    ticks: u64,
    read: u64,
    written: u64,
}

impl Counters {
    fn of(process: u32) -> Self {
        let stat = fs_err::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name in parentheses may hold anything; utime is the 12th field after it, then stime, cutime, cstime.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let times = fields.split(' ').skip(11).take(4);
        let io = fs_err::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
        let field = |name: &str| {
            let line = io.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or(0)
        };
        Self {
            ticks: times.filter_map(|time| time.parse::<u64>().ok()).sum(),
            read: field("rchar:"),
            written: field("write_bytes:"),
        }
    }
}

/// Runs `command` to its end and measures it, together with `daemon`, which works for it. Memory counts of processes whose
/// program has one of these `names`.
///
/// # Errors
/// When the command cannot be run or fails; the error has what it said.
pub fn measured(
    command: &mut Command,
    daemon: Option<u32>,
    names: &[&str],
) -> anyhow::Result<Measured> {
    let before = daemon.map(Counters::of).unwrap_or_default();
    if let Some(daemon) = daemon {
        // The peak begins anew (Documentation/filesystems/proc.rst, clear_refs).
        fs_err::write(format!("/proc/{daemon}/clear_refs"), "5")?;
    }
    let errors = tempfile::tempfile()?;
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.try_clone()?)
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let id = Pid::from_child(&child);
    let mut peaks = BTreeMap::new();
    loop {
        look(child.id(), daemon, names, &mut peaks);
        // The process stays to be asked what it cost.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if waitid(WaitId::Pid(id), options)?.is_some() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let wall = begin.elapsed();
    let own = Counters::of(child.id());
    let after = daemon.map(Counters::of).unwrap_or_default();
    let status = child.wait()?;
    if !status.success() {
        let mut errors = errors;
        std::io::Seek::rewind(&mut errors)?;
        let text = std::io::read_to_string(errors)?;
        anyhow::bail!("{command:?}: {text}");
    }
    let ticks = own.ticks + after.ticks.saturating_sub(before.ticks);
    Ok(Measured {
        wall,
        cpu: Duration::from_millis(ticks * 1000 / TICKS),
        memory: peaks.values().sum(),
        read: own.read + after.read.saturating_sub(before.read),
        written: own.written + after.written.saturating_sub(before.written),
    })
}

/// Of a process that was forked and has executed nothing since (`PF_FORKNOEXEC`, include/linux/sched.h).
const FORKED: u64 = 0x40;

/// Whether a process is a copy of another, about to execute something else.
fn is_copy(process: u32) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The flags are the seventh field after the name.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let flags = fields.split(' ').nth(6).and_then(|text| text.parse().ok());
    flags.is_none_or(|flags: u64| flags & FORKED != 0)
}

/// Notes the peaks of all processes below `root`, and of `daemon`, that run one of the programs `names`.
fn look(root: u32, daemon: Option<u32>, names: &[&str], peaks: &mut BTreeMap<u32, u64>) {
    let mut waiting = vec![root];
    waiting.extend(daemon);
    while let Some(process) = waiting.pop() {
        let status = fs_err::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let peak = field("VmHWM:").and_then(|text| {
            let number = text.trim().strip_suffix(" kB")?;
            number.parse::<u64>().ok()
        });
        // The name of a process that starts itself anew is no help, its program is.
        let program = fs_err::read_link(format!("/proc/{process}/exe")).unwrap_or_default();
        let name = program.file_name().and_then(std::ffi::OsStr::to_str);
        let counts = name.is_some_and(|name| names.contains(&name));
        if let Some(peak) = peak.filter(|_| counts && !is_copy(process)) {
            let known = peaks.entry(process).or_default();
            *known = (*known).max(peak * 1024);
        }
        // A process that has just ended has no tasks to list.
        let tasks = fs_err::read_dir(format!("/proc/{process}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs_err::read_to_string(task.path().join("children")).unwrap_or_default();
            waiting.extend(children.split(' ').filter_map(|id| id.parse::<u32>().ok()));
        }
    }
}

/// Runs `command` to its end, quietly.
///
/// # Errors
/// When it cannot be run or fails; the error has what it said.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {errors}");
    Ok(())
}
