//! A registry of this machine: the real program of CNCF distribution without TLS and users, and what it was asked for, by its
//! log of access.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// How long it may take to listen, or to write its log.
const LIMIT: Duration = Duration::from_secs(30);

/// A running registry, which ends with this value.
pub struct PlainRegistry {
    child: Child,
    host: String,
    directory: tempfile::TempDir,
    /// How many fences its log has.
    fences: usize,
}

/// A request that it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// GET, HEAD, …
    pub method: String,
    /// With the query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// How many bytes of content the answer had.
    pub bytes: u64,
}

impl PlainRegistry {
    /// Starts the `registry` of `programs` on loopback.
    ///
    /// # Errors
    /// The program is not built, or does not listen.
    pub fn start(programs: &Path) -> anyhow::Result<Self> {
        Self::start_on(programs, Ipv4Addr::LOCALHOST.into())
    }

    /// As [`start`](Self::start), with its data below the existing directory `within`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(programs: &Path, within: &Path) -> anyhow::Result<Self> {
        Self::run(programs, Ipv4Addr::LOCALHOST.into(), within)
    }

    /// As [`start`](Self::start), on an `address` of this machine.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_on(programs: &Path, address: IpAddr) -> anyhow::Result<Self> {
        Self::run(programs, address, Path::new("/var/tmp"))
    }

    fn run(programs: &Path, address: IpAddr, within: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir_in(within)?;
        let host = TcpListener::bind((address, 0))?.local_addr()?.to_string();
        let data = directory.path().join("data");
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: '{host}', secret: tests}}\n",
            data.display()
        );
        fs_err::write(&config, text)?;
        let log = fs_err::File::create(directory.path().join("log"))?.into_file();
        let child = Command::new(programs.join("registry"))
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the registry: run `make cluster`")?;
        let registry = Self {
            child,
            host,
            directory,
            fences: 0,
        };
        let begin = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            anyhow::ensure!(begin.elapsed() < LIMIT, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// Its host, in names of images.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What it was asked for since the last call.
    ///
    /// # Errors
    /// It does not answer, or its log cannot be read.
    pub fn asked(&mut self) -> anyhow::Result<Vec<Asked>> {
        // What was asked for before this request is in the log before it.
        self.fences += 1;
        let mut stream = TcpStream::connect(&self.host)?;
        let path = |number| format!("/v2/?fence={number}");
        let (last, this) = (path(self.fences - 1), path(self.fences));
        write!(
            stream,
            "GET {this} HTTP/1.1\r\nHost: fence\r\nConnection: close\r\n\r\n"
        )?;
        let begin = Instant::now();
        loop {
            let log = fs_err::read_to_string(self.directory.path().join("log"))?;
            let all: Vec<_> = log.lines().filter_map(Asked::read).collect();
            if let Some(end) = all.iter().position(|asked| asked.path == this) {
                let begin = all.iter().position(|asked| asked.path == last);
                let begin = begin.map_or(0, |last| last + 1);
                return Ok(all[begin..end].to_vec());
            }
            anyhow::ensure!(begin.elapsed() < LIMIT, "the registry writes no log");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for PlainRegistry {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Asked {
    /// A line of the log: `ADDRESS - - [TIME] "GET /v2/NAME/blobs/DIGEST HTTP/1.1" STATUS BYTES …`.
    fn read(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("] \"")?;
        let (request, rest) = rest.split_once("\" ")?;
        let mut words = request.split(' ');
        let mut answer = rest.split(' ');
        Some(Self {
            method: words.next()?.to_owned(),
            path: words.next()?.to_owned(),
            status: answer.next()?.parse().ok()?,
            bytes: answer.next()?.parse().ok()?,
        })
    }

    /// Whether it brought the blob `digest` here.
    pub fn downloads(&self, digest: &str) -> bool {
        self.method == "GET" && self.path.contains(&format!("/blobs/{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log_are_read() {
        let line = r#"127.0.0.1 - - [21/Nov/2026:18:00:00 +0000] "GET /v2/a/b/blobs/sha256:1?x=y HTTP/1.1" 206 70 "" "coopery""#;
        let asked = Asked::read(line).expect("it is a line of access");
        let told = (asked.method.as_str(), asked.status, asked.bytes);
        assert_eq!(told, ("GET", 206, 70));
        assert!(asked.downloads("sha256:1") && !asked.downloads("sha256:2"));
        assert_eq!(Asked::read("time=now level=error msg=\"GET /v2/\""), None);
    }
}
