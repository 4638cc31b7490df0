//! The registries that are mirrored between: distribution 3 and 2, that of go-containerregistry, and ours in memory.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use distribution::memory::MemoryRegistry;
use oci::Repository;
use tests::wait::until;

/// A program, or ours in this process.
enum Running {
    Program(
        Child,
        #[expect(dead_code, reason = "it is removed at the end")] tempfile::TempDir,
    ),
    Memory(#[expect(dead_code, reason = "it ends at the end")] MemoryRegistry),
}

/// A registry that runs, until this is dropped.
pub(crate) struct Registry {
    /// How reports name it.
    pub(crate) name: &'static str,
    host: String,
    running: Running,
    /// Whether it takes an index whose children it does not all have.
    pub(crate) takes_sparse: bool,
}

impl Registry {
    /// The repository `path`.
    pub(crate) fn repository(&self, path: &str) -> anyhow::Result<Repository> {
        Ok(format!("{}/{path}", self.host).parse()?)
    }

    async fn program(
        name: &'static str,
        program: &Path,
        arguments: impl FnOnce(&Path, &str) -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let host = format!("127.0.0.1:{port}");
        let arguments = arguments(directory.path(), &host)?;
        let child = Command::new(program)
            .args(arguments)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{}: run `make judges`", program.display()))?;
        let registry = Self {
            name,
            host,
            running: Running::Program(child, directory),
            takes_sparse: false,
        };
        let address = &registry.host;
        until(name, Duration::from_secs(30), async || {
            Ok(tokio::net::TcpStream::connect(address).await.ok())
        })
        .await?;
        Ok(registry)
    }

    /// All of them, with the programs of `programs`.
    ///
    /// # Errors
    /// A program is not there, or does not listen.
    pub(crate) async fn all(programs: &Path) -> anyhow::Result<Vec<Self>> {
        let config = |more: &'static str| {
            move |directory: &Path, host: &str| {
                let path = directory.join("config.yml");
                let root = directory.join("data");
                let text = format!(
                    "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
                     http: {{addr: '{host}', secret: tests}}\n{more}",
                    root.display()
                );
                fs_err::write(&path, text)?;
                Ok(vec!["serve".to_owned(), path.display().to_string()])
            }
        };
        // What a managed Registry is configured with.
        let three = "validation: {manifests: {indexes: {platforms: none}, urls: {allow: ['^https?://']}}}\n";
        let two = "validation: {manifests: {urls: {allow: ['^https?://']}}}\n";
        let mut distribution3 =
            Self::program("distribution-3", &programs.join("registry"), config(three)).await?;
        distribution3.takes_sparse = true;
        let distribution2 = Self::program(
            "distribution-2",
            &programs.join("docker-registry"),
            config(two),
        )
        .await?;
        let crane = Self::program("crane", &programs.join("crane"), |_, host| {
            Ok(["registry", "serve", "--address", host]
                .map(str::to_owned)
                .to_vec())
        })
        .await?;
        let memory = MemoryRegistry::start().await;
        let memory = Self {
            name: "memory",
            host: memory.address().to_string(),
            running: Running::Memory(memory),
            takes_sparse: false,
        };
        Ok(vec![distribution3, distribution2, crane, memory])
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Running::Program(child, _) = &mut self.running {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
