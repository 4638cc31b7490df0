//! The namespaces of a cluster: the keeper that holds them, and commands run in them.
//!
//! The keeper (`tests/cluster/keep.sh`) is the only owner of what outlives a
//! process: it makes namespaces, cgroups and the veth pair, and removes them when
//! PID 1 of the namespaces ends. PID 1 ends when this process does (its standard
//! input closes), unless the cluster is detached.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::options::{Layout, NODE_BIN};

const KEEP: &str = include_str!("../../cluster/keep.sh");
const NODE: &str = include_str!("../../cluster/node.sh");
const PATH: &str = "/run/coopery/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the keeper may take to make the namespaces, and to remove everything.
const KEEPER_SECONDS: u64 = 60;

/// A process by number and start, so that a number used again is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    started: u64,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        start_of(&stat).map(|started| Self { pid, started })
    }

    pub(crate) fn runs(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Sends it a signal, if it still is that process.
    pub(crate) fn signal(self, signal: Signal) {
        if self.runs()
            && let Some(pid) = i32::try_from(self.pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended since: that is what was wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Field 22 of `/proc/PID/stat`; `None` for a zombie, which has ended. Field 2 may hold anything.
fn start_of(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The node: where commands of the cluster run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) pid: u32,
}

impl Node {
    /// A command in the node's network, mount and process namespaces, with nothing of our environment.
    pub(crate) fn command<A: AsRef<str>>(self, program: &str, arguments: &[A]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.pid.to_string(),
                "--mount",
                "--net",
                "--pid",
                "--",
                program,
            ])
            .args(arguments.iter().map(AsRef::as_ref))
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .stdin(Stdio::null());
        command
    }

    /// A program that was built, by its name.
    pub(crate) fn built<A: AsRef<str>>(self, program: &str, arguments: &[A]) -> Command {
        self.command(&format!("{NODE_BIN}/{program}"), arguments)
    }
}

/// A command outside of the namespaces.
pub(crate) fn host_command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to its end; what it wrote on standard output.
pub(crate) async fn run(command: Command) -> Result<String> {
    let line = line_of(&command);
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Command {
            command: line,
            status: status_text(output.status),
            stderr: last_lines(&stderr, 40),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a person would type it, without the entering of namespaces.
pub(crate) fn line_of(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let begin = words
        .iter()
        .position(|word| word == "--")
        .filter(|_| words[0] == "nsenter")
        .map_or(0, |dashes| dashes + 1);
    words[begin..].join(" ")
}

pub(crate) fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// What the keeper made.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Child,
    /// Closing it ends the cluster.
    hold: Option<ChildStdin>,
    /// Name of everything of this cluster that has a name on the host.
    pub(crate) key: String,
    pub(crate) index: u8,
    pub(crate) process: Process,
    pub(crate) init: Process,
}

impl Keeper {
    /// Makes the namespaces. Blocks: a second, at worst a minute.
    pub(crate) fn start(layout: &Layout) -> Result<Self> {
        fs_err::create_dir_all(layout.logs())?;
        let log = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(layout.log("keeper"))?;
        let mut child = Command::new("setsid")
            .args([
                Path::new("bash"),
                Path::new("-c"),
                Path::new(KEEP),
                Path::new("keep"),
            ])
            .args([&layout.state, &layout.bin])
            .arg(NODE)
            .arg(&layout.lock)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log.into_parts().0))
            .spawn()?;
        let hold = child.stdin.take();
        let output = child.stdout.take().expect("standard output is a pipe");
        let (mut key, mut pid) = (None, None);
        let mut ready = false;
        for line in BufReader::new(output).lines() {
            let line = line?;
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                ["busy"] => {
                    child.wait()?;
                    return Err(Error::AlreadyRuns {
                        name: layout.name.clone(),
                    });
                }
                ["key", name, index] => {
                    key = Some(((*name).to_owned(), index.parse().unwrap_or(0)));
                }
                ["pid", number] => pid = number.parse().ok(),
                ["ready"] => {
                    ready = true;
                    break;
                }
                _ => {}
            }
        }
        let found = pid.and_then(Process::find).zip(Process::find(child.id()));
        match (key, found) {
            (Some((key, index)), Some((init, process))) if ready => Ok(Self {
                child,
                hold,
                key,
                index,
                process,
                init,
            }),
            _ => {
                drop(hold);
                child.wait()?;
                let log = fs_err::read_to_string(layout.log("keeper")).unwrap_or_default();
                Err(Error::Namespace {
                    reason: last_lines(&log, 10),
                })
            }
        }
    }

    /// Lets the cluster outlive this process.
    pub(crate) fn detach(&mut self) -> Result<()> {
        if let Some(mut hold) = self.hold.take() {
            hold.write_all(b"d")?;
        }
        Ok(())
    }

    /// Ends the cluster and waits until everything of it is removed. Blocks.
    pub(crate) fn stop(mut self, layout: &Layout) -> Result<()> {
        drop(self.hold.take());
        end(layout, self.init, || Ok(self.child.try_wait()?.is_some()))
    }
}

/// Ends the cluster of another process and waits until everything of it is removed. Blocks.
pub(crate) fn stop_other(layout: &Layout, keeper: Process, init: Process) -> Result<()> {
    end(layout, init, || Ok(!keeper.runs()))
}

impl Drop for Keeper {
    /// A cluster that was not stopped and not detached goes with its owner.
    fn drop(&mut self) {
        if self.hold.take().is_some() {
            let deadline = Instant::now() + Duration::from_secs(KEEPER_SECONDS);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn end(layout: &Layout, init: Process, mut ended: impl FnMut() -> Result<bool>) -> Result<()> {
    init.signal(Signal::TERM);
    let patience = Instant::now() + Duration::from_secs(5);
    let deadline = Instant::now() + Duration::from_secs(KEEPER_SECONDS);
    while !ended()? {
        if Instant::now() > deadline {
            return Err(Error::NotStopped {
                name: layout.name.clone(),
                seconds: KEEPER_SECONDS,
                log: layout.log("keeper"),
            });
        }
        if Instant::now() > patience {
            init.signal(Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_of_reads_past_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(start_of(&format!("7 (a b) c) {rest}")), Some(4242));
        assert_eq!(start_of(&format!("7 (x) Z{}", &rest[1..])), None);
        assert_eq!(start_of(""), None);
    }

    #[test]
    fn commands_are_shown_without_nsenter() {
        let node = Node { pid: 12 };
        assert_eq!(line_of(&node.command("ip", &["link"])), "ip link");
        assert_eq!(line_of(&host_command("ctr", &["--", "x"])), "ctr -- x");
    }

    #[test]
    fn a_process_is_found_once() {
        let here = Process::find(std::process::id());
        assert!(here.is_some_and(Process::runs));
        assert!(!here.is_some_and(|process| {
            Process {
                started: process.started + 1,
                ..process
            }
            .runs()
        }));
    }
}
