//! A registry outside the cluster: the real program of CNCF distribution, with TLS and a user, on the host's end of the
//! cluster's network.

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use tokio::process::{Child, Command};

use crate::certificate::Authority;
use crate::wait::until;

/// User and password of an upstream that asks for them.
pub const CREDENTIALS: (&str, &str) = ("puller", "battery staple");

/// A running registry.
pub struct Upstream {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
    address: IpAddr,
    private: bool,
}

impl Upstream {
    /// Starts one on `address` as `registry.host.test`; with `private`, it asks for [`CREDENTIALS`].
    ///
    /// # Errors
    /// The program is not built, or does not come up.
    pub async fn start(
        program: &Path,
        authority: &Authority,
        address: IpAddr,
        private: bool,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        authority
            .server("registry.host.test", address)?
            .write(path, "tls")?;
        // The port is free a moment later too: nobody else binds this address.
        let port = TcpListener::bind((address, 0))?.local_addr()?.port();
        let (user, password) = CREDENTIALS;
        fs_err::write(
            path.join("htpasswd"),
            format!("{user}:{}\n", bcrypt::hash(password, 4)?),
        )?;
        let auth = if private {
            format!(
                "auth: {{htpasswd: {{realm: upstream, path: {}}}}}\n",
                path.join("htpasswd").display()
            )
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {data}}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: {address}:{port}\n  secret: tests\n  tls: {{certificate: {dir}/tls.crt, key: {dir}/tls.key}}\n{auth}",
            data = path.join("data").display(),
            dir = path.display(),
        );
        fs_err::write(path.join("config.yml"), config)?;
        let log = fs_err::File::create(path.join("log"))?.into_file();
        // The shell ends the program when its standard input closes: when this value is dropped, or this process ends in whatever
        // way, also by exit with the value in a static.
        let child = Command::new("sh")
            .args(["-c", r#""$0" serve "$1" & cat; kill $!"#])
            .arg(program)
            .arg(path.join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let upstream = Self {
            child,
            directory,
            port,
            address,
            private,
        };
        until(
            "the upstream registry to listen",
            Duration::from_secs(10),
            || async { Ok(tokio::net::TcpStream::connect((address, port)).await.ok()) },
        )
        .await?;
        Ok(upstream)
    }

    /// Its host in image names, as pods and the host's tools see it: `registry.host.test:port`.
    pub fn host(&self) -> String {
        format!("registry.host.test:{}", self.port)
    }

    /// Its host for programs on this machine, which do not resolve `host.test`.
    pub fn local_host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// A dockerconfigjson with its user, for the name that pods use.
    pub fn docker_config(&self) -> String {
        docker_config(&self.host(), CREDENTIALS)
    }

    /// Writes a docker configuration for programs on this machine; its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn local_docker_config(&self) -> anyhow::Result<PathBuf> {
        let path = self.directory.path().join("config.json");
        let text = if self.private {
            docker_config(&self.local_host(), CREDENTIALS)
        } else {
            "{}".to_owned()
        };
        fs_err::write(&path, text)?;
        Ok(path)
    }

    /// Stops the program, as if the machine had gone.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().await?;
        Ok(())
    }
}

/// A dockerconfigjson with one user of one host.
pub fn docker_config(host: &str, (user, password): (&str, &str)) -> String {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    serde_json::json!({"auths": {host: {"username": user, "password": password, "auth": auth}}})
        .to_string()
}
