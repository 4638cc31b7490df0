//! The operator as a process on this machine that can be killed, paused and started again. It resolves the cluster's names
//! as a pod does. What it writes goes through whatever its kubeconfig names.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::wait::until;

/// Replaces the resolver's configuration for the program and nobody else; the process id stays.
const WITH_RESOLVER: &str = r#"mount --no-mtab --bind "$1" "$2"; shift 2; exec "$@""#;

/// How an operator is started.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// The program.
    pub program: PathBuf,
    /// What it knows of the API server.
    pub kubeconfig: PathBuf,
    /// The cluster's name server.
    pub name_server: IpAddr,
    /// The only namespace that it looks at.
    pub namespace: String,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Where its resolver configuration and its log lie; each process has a directory of its own.
    pub directory: PathBuf,
}

/// An operator, running or not. Dropping it kills the process, and so does the end of the thread that started it.
pub struct OperatorProcess {
    options: OperatorOptions,
    admin: SocketAddr,
    child: Mutex<Option<Child>>,
    starts: AtomicUsize,
    http: reqwest::Client,
}

impl OperatorProcess {
    /// An operator that does not run yet.
    ///
    /// # Errors
    /// Its directory cannot be written, or no port is free.
    pub fn new(options: OperatorOptions) -> anyhow::Result<Self> {
        fs_err::create_dir_all(&options.directory)?;
        let resolver = format!("nameserver {}\nsearch cluster.local\n", options.name_server);
        fs_err::write(options.directory.join("resolv.conf"), resolver)?;
        // The port is free a moment later too: nobody else takes ports of the kernel's choice at will.
        let admin = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        Ok(Self {
            options,
            admin,
            child: Mutex::new(None),
            starts: AtomicUsize::new(0),
            http: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    /// Starts it; it must not run.
    ///
    /// # Errors
    /// It runs, or cannot be started.
    pub async fn start(&self) -> anyhow::Result<()> {
        let mut child = self.child.lock().await;
        anyhow::ensure!(child.is_none(), "the operator runs already");
        *child = Some(self.spawn()?);
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?
            .into_file();
        let resolver = fs_err::canonicalize("/etc/resolv.conf")?;
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "setpriv",
                "--pdeathsig",
                "KILL",
                "sh",
                "-ec",
                WITH_RESOLVER,
                "sh",
            ])
            .arg(self.options.directory.join("resolv.conf"))
            .arg(resolver)
            .arg(&self.options.program)
            .arg("--kubeconfig")
            .arg(&self.options.kubeconfig)
            .args(["--namespace", &self.options.namespace])
            .args(["--admin-addr", &self.admin.to_string()])
            .args(&self.options.arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let child = command.spawn()?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        Ok(child)
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// It does not run.
    pub async fn crash(&self) -> anyhow::Result<()> {
        let mut child = self.child.lock().await;
        let mut running = child.take().context("the operator does not run")?;
        Ok(running.kill().await?)
    }

    /// As [`crash`](Self::crash), and starts it again; nobody sees it absent.
    ///
    /// # Errors
    /// It does not run, or cannot be started.
    pub async fn restart(&self) -> anyhow::Result<()> {
        let mut child = self.child.lock().await;
        let running = child.as_mut().context("the operator does not run")?;
        running.kill().await?;
        *child = Some(self.spawn()?);
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It does not run.
    pub async fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.lock().await;
        let id = child
            .as_ref()
            .and_then(Child::id)
            .context("the operator does not run")?;
        let pid = Pid::from_raw(id.cast_signed()).context("a process has an id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// How it ended by itself; none while it runs.
    ///
    /// # Errors
    /// Nobody started it.
    pub async fn try_ended(&self) -> anyhow::Result<Option<ExitStatus>> {
        let mut child = self.child.lock().await;
        let running = child.as_mut().context("the operator was not started")?;
        let status = running.try_wait()?;
        if status.is_some() {
            *child = None;
        }
        Ok(status)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It did not end within `limit`, or nobody started it.
    pub async fn ended(&self, limit: Duration) -> anyhow::Result<ExitStatus> {
        until("the operator to end", limit, || self.try_ended()).await
    }

    /// The most memory that it has had since it was started, in bytes.
    ///
    /// # Errors
    /// It does not run.
    pub async fn memory_peak(&self) -> anyhow::Result<u64> {
        let child = self.child.lock().await;
        let id = child.as_ref().and_then(Child::id);
        let id = id.context("the operator does not run")?;
        let status = fs_err::read_to_string(format!("/proc/{id}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        let kibibytes: u64 = peak.context("the kernel tells no peak")?.parse()?;
        Ok(kibibytes * 1024)
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        self.starts.load(Ordering::Relaxed)
    }

    /// Fails with the end of its log when it has ended by itself.
    ///
    /// # Errors
    /// It has.
    pub async fn check(&self) -> anyhow::Result<()> {
        let mut child = self.child.lock().await;
        if let Some(running) = child.as_mut()
            && let Some(status) = running.try_wait()?
        {
            anyhow::bail!("the operator ended with {status}:\n{}", self.log_tail());
        }
        Ok(())
    }

    /// Where it logs.
    pub fn log(&self) -> PathBuf {
        self.options.directory.join("operator.log")
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = fs_err::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// How many reconciles of each kind it has finished since it was started; none while it does not answer.
    pub async fn reconciles(&self) -> Option<BTreeMap<String, u64>> {
        let text = self.metrics().await?;
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("coopery_reconcile_total{kind=\"") else {
                continue;
            };
            let (kind, rest) = rest.split_once('"')?;
            let count: u64 = rest.rsplit(' ').next()?.parse().ok()?;
            *counts.entry(kind.to_owned()).or_insert(0) += count;
        }
        Some(counts)
    }

    /// Whether it leads (or needs no leader).
    pub async fn leads(&self) -> bool {
        let text = self.metrics().await.unwrap_or_default();
        text.lines().any(|line| line == "coopery_leader 1")
    }

    /// Waits until it leads.
    ///
    /// # Errors
    /// It does not for `limit`, or has ended.
    pub async fn until_leading(&self, limit: Duration) -> anyhow::Result<()> {
        until("the operator to lead", limit, || async {
            self.check().await?;
            Ok(self.leads().await.then_some(()))
        })
        .await
    }

    /// Waits until it has reached the API server: it leads or stands by.
    ///
    /// # Errors
    /// It has not for `limit`, or has ended.
    pub async fn until_ready(&self, limit: Duration) -> anyhow::Result<()> {
        until("the operator to be ready", limit, || async {
            self.check().await?;
            let answer = self.get("readyz").await;
            Ok(answer
                .filter(|answer| answer.status().is_success())
                .map(drop))
        })
        .await
    }

    async fn get(&self, path: &str) -> Option<reqwest::Response> {
        let url = format!("http://{}/{path}", self.admin);
        self.http
            .get(url)
            .timeout(Duration::from_secs(2))
            .send()
            .await
            .ok()
    }

    async fn metrics(&self) -> Option<String> {
        self.get("metrics").await?.text().await.ok()
    }
}
