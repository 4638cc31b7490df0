//! The socket of an SSH agent, forwarded to a process: whoever connects inside talks to the agent outside as the engine.
//! The bytes are handed on as they are. An agent asks who its peer is, and would refuse the ids of a user namespace.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// More connections at the same time are closed again.
const MAX_CONNECTIONS: usize = 32;

/// A forwarded agent. It ends, with all its connections, when the value is dropped.
#[derive(Debug)]
pub struct Agent {
    /// The socket that the process gets.
    pub socket: PathBuf,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// A connection and the two threads that hand its bytes on.
struct Connection {
    ends: [UnixStream; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Agent {
    /// Forwards the agent at `target` to a new socket `name` in `directory`, with these permissions and owner.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn forward(
        target: &Path,
        directory: &Path,
        name: &str,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> io::Result<Self> {
        // A socket's path has at most 107 bytes; this one is short wherever the directory is.
        let opened = fs_err::File::open(directory)?;
        let short = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
        let listener = UnixListener::bind(short)?;
        let socket = directory.join(name);
        lchown(&socket, Some(uid), Some(gid))?;
        fs_err::set_permissions(&socket, PermissionsExt::from_mode(mode))?;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let target = target.to_owned();
        let thread = std::thread::Builder::new()
            .name("ssh-agent".into())
            .spawn(move || serve(&listener, &stopped, &target))?;
        Ok(Self {
            socket,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &UnixListener, stopped: &OwnedFd, target: &Path) {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut polled = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => break,
        }
        if !polled[1].revents().is_empty() {
            break;
        }
        let Ok((inside, _)) = listener.accept() else {
            continue;
        };
        connections.retain(|connection| !connection.is_over());
        if connections.len() < MAX_CONNECTIONS {
            // An agent that is gone is what the process finds out by the end of its connection.
            let outside = UnixStream::connect(target);
            connections.extend(
                outside
                    .and_then(|outside| Connection::new(inside, outside))
                    .ok(),
            );
        }
    }
    for connection in connections {
        connection.end();
    }
}

impl Connection {
    fn new(inside: UnixStream, outside: UnixStream) -> io::Result<Self> {
        let mut connection = Self {
            ends: [inside.try_clone()?, outside.try_clone()?],
            threads: Vec::new(),
        };
        let ways = [
            (inside.try_clone()?, outside.try_clone()?),
            (outside, inside),
        ];
        for (mut from, mut to) in ways {
            let copy = move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            };
            let named = std::thread::Builder::new().name("ssh-agent".into());
            match named.spawn(copy) {
                Ok(thread) => connection.threads.push(thread),
                Err(error) => {
                    connection.end();
                    return Err(error);
                }
            }
        }
        Ok(connection)
    }

    fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    fn end(self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn bytes_are_handed_on_until_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("d".repeat(120));
        fs_err::create_dir(&long).unwrap();
        let target = directory.path().join("agent");
        let listener = UnixListener::bind(&target).unwrap();
        let agent = Agent::forward(&target, &long, "0", 0o600, (0, 0));
        let Ok(agent) = agent else {
            // Only root gives sockets away.
            assert!(!rustix::process::geteuid().is_root());
            return;
        };
        let directory = fs_err::File::open(&long).unwrap();
        let short = format!("/proc/self/fd/{}/0", directory.as_raw_fd());
        let mut pairs: Vec<_> = (0..3_u8)
            .map(|number| {
                let mut inside = UnixStream::connect(&short).unwrap();
                let (mut outside, _) = listener.accept().unwrap();
                inside.write_all(&[number; 5]).unwrap();
                let mut sent = [9; 5];
                outside.read_exact(&mut sent).unwrap();
                assert_eq!(sent, [number; 5]);
                outside.write_all(b"answer").unwrap();
                let mut answer = [0; 6];
                inside.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"answer");
                (inside, outside)
            })
            .collect();
        // One side ends, so the other does.
        let (inside, mut outside) = pairs.remove(0);
        drop(inside);
        assert_eq!(outside.read(&mut [0]).unwrap(), 0);
        // All end with the agent, whoever still holds them.
        drop(agent);
        for (mut inside, mut outside) in pairs {
            assert_eq!(inside.read(&mut [0]).unwrap(), 0);
            assert_eq!(outside.read(&mut [0]).unwrap(), 0);
        }
        // A process that another test starts has the listener for a moment, too.
        let begin = std::time::Instant::now();
        while UnixStream::connect(&short).is_ok() {
            assert!(begin.elapsed() < std::time::Duration::from_secs(20));
            std::thread::yield_now();
        }
    }
}
