//! An embedded Kubernetes cluster: real components of one node, in namespaces of their own.
//!
//! [`Cluster::start`] makes network, mount and process namespaces, and starts in
//! them etcd, kube-apiserver, containerd, kube-controller-manager, kube-scheduler,
//! kube-proxy, CoreDNS and kubelet, all built beforehand by `tests/cluster/build`.
//! The host reaches the API server, every pod and every Service by address; the
//! cluster reaches the host's end of its veth pair, as any name below `host.test`,
//! and nothing else. Several run side by side. When the process that started a
//! cluster ends, in whatever way, the cluster ends, unless it is
//! [detached](Options::detached).
//!
//! It builds no programs and needs root.

mod archive;
mod certificates;
mod components;
mod error;
mod foreign;
mod namespace;
mod network;
mod options;
mod ready;
mod sandbox;
mod settings;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use archive::ImageArchive;
pub use error::{Error, Result};
pub use foreign::{FOREIGN_ARCHITECTURE, ForeignNode};
pub use network::Addresses;
pub use options::{Disk, Lifetime, NODE_NAME, Options};
pub use settings::HOST_DOMAIN;

use components::Components;
use namespace::{Keeper, Node, Process};
use options::Layout;
use ready::Watch;

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    record: Record,
    /// Held when this process started the cluster.
    owned: Option<(Keeper, Components)>,
}

/// What another process needs to know of a running cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    key: String,
    index: u8,
    keeper: Process,
    init: Process,
}

/// The reason why no cluster can be started here, if there is one: not root, or programs not built.
pub fn unavailable(options: &Options) -> Option<Error> {
    let layout = match options.layout() {
        Ok(layout) => layout,
        Err(error) => return Some(error),
    };
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Some(Error::NotRoot { uid: uid.as_raw() });
    }
    let programs: Vec<String> = components::PROGRAMS
        .iter()
        .filter(|name| !layout.program(name).exists())
        .map(|name| (*name).to_owned())
        .collect();
    (!programs.is_empty()).then_some(Error::NotBuilt { programs })
}

/// Whether a test that needs a cluster is to be left out, as this process is not root; says so on
/// standard error. Programs that are not built are no reason: the test fails and says what to run.
pub fn left_out(test: &str) -> bool {
    match unavailable(&Options::new("main")) {
        Some(reason @ Error::NotRoot { .. }) => {
            eprintln!("left out: {test}: {reason}");
            true
        }
        _ => false,
    }
}

impl Cluster {
    /// Starts a cluster and waits until its node is Ready, DNS answers, and pods can be made.
    ///
    /// When it fails, or when the future is dropped, nothing of the cluster is
    /// left but its logs.
    ///
    /// # Errors
    /// Not root, not built, a cluster of that name runs, a component died (with
    /// the end of its log), or the time of [`Options::timeout`] is over.
    pub async fn start(options: Options) -> Result<Self> {
        if let Some(error) = unavailable(&options) {
            return Err(error);
        }
        let begin = Instant::now();
        let layout = options.layout()?;
        let keeper = {
            let layout = layout.clone();
            blocking(move || Keeper::start(&layout)).await?
        };
        let record = Record {
            key: keeper.key.clone(),
            index: keeper.index,
            keeper: keeper.process,
            init: keeper.init,
        };
        let mut cluster = Self {
            layout,
            record,
            owned: Some((keeper, Components::default())),
        };
        match cluster.bring_up(&options, begin).await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                // The first error is the one to tell.
                let _ = cluster.stop().await;
                Err(error)
            }
        }
    }

    async fn bring_up(&mut self, options: &Options, begin: Instant) -> Result<()> {
        let (node, addresses) = (self.node(), self.addresses());
        let (layout, key) = (&self.layout, &self.record.key);
        let (keeper, components) = self.owned.as_mut().expect("start made them");
        fs_err::write(layout.record(), serde_json::to_vec_pretty(&self.record)?)?;
        certificates::write(layout, addresses)?;
        settings::write(layout, addresses, key, options)?;
        if let Some(disk) = options.volumes_disk {
            make_volumes_disk(node, disk).await?;
        }
        let pause = sandbox::pack(layout)?;
        network::connect(&node, key, addresses).await?;
        components.start(&components::FIRST, node, layout, addresses)?;

        let client = client_of(layout).await?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client without options can be built");
        let mut watch = Watch {
            layout,
            components,
            begin,
            timeout: options.timeout,
        };
        let socket = PathBuf::from(format!(
            "/proc/{}/root/run/containerd/containerd.sock",
            node.pid
        ));
        watch
            .until("containerd to listen", || {
                std::future::ready(connects(&socket))
            })
            .await?;
        import(node, &pause).await?;
        watch
            .until("the API server to be ready", || ready::api_ready(&client))
            .await?;
        watch
            .components
            .start(&components::SECOND, node, layout, addresses)?;
        watch
            .components
            .start(&components::THIRD, node, layout, addresses)?;
        ready::create_objects(&client).await?;
        for (condition, url) in ready::health_urls(addresses) {
            watch
                .until(condition, || ready::healthy(&http, &url))
                .await?;
        }
        watch
            .until("the default service account", || {
                ready::accounts_ready(&client)
            })
            .await?;
        watch
            .until("the node to be Ready", || ready::node_ready(&client))
            .await?;
        if options.lifetime == Lifetime::Detached {
            keeper.detach()?;
        }
        Ok(())
    }

    /// The running cluster of that name, started by another process.
    ///
    /// # Errors
    /// There is none.
    pub fn attach(options: &Options) -> Result<Self> {
        let layout = options.layout()?;
        let missing = || Error::DoesNotRun {
            name: layout.name.clone(),
        };
        let bytes = fs_err::read(layout.record()).map_err(|_| missing())?;
        let record: Record = serde_json::from_slice(&bytes)?;
        if !record.init.runs() {
            return Err(missing());
        }
        Ok(Self {
            layout,
            record,
            owned: None,
        })
    }

    /// The running cluster that `COOPERY_CLUSTER` names, or else a new one of this process.
    ///
    /// # Errors
    /// As [`attach`](Self::attach) and [`start`](Self::start).
    pub async fn attach_or_start(name: &str) -> Result<Self> {
        match std::env::var("COOPERY_CLUSTER") {
            Ok(running) if !running.is_empty() => Self::attach(&Options::new(running)),
            _ => Self::start(Options::new(name)).await,
        }
    }

    /// Ends every process of the cluster and removes everything but its logs.
    ///
    /// # Errors
    /// It has not ended within a minute.
    pub async fn stop(mut self) -> Result<()> {
        let (layout, record, owned) = (self.layout.clone(), self.record.clone(), self.owned.take());
        blocking(move || match owned {
            Some((keeper, mut components)) => {
                keeper.stop(&layout)?;
                components.wait()
            }
            None => namespace::stop_other(&layout, record.keeper, record.init),
        })
        .await
    }

    /// Fails with the end of its log when a component that this process started has died.
    ///
    /// # Errors
    /// One has.
    pub fn check(&mut self) -> Result<()> {
        match &mut self.owned {
            Some((_, components)) => components.check(&self.layout),
            None => Ok(()),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.layout.name
    }

    /// Name of its veth device and cgroup on this machine.
    pub fn key(&self) -> &str {
        &self.record.key
    }

    /// Addresses of node, host, pods and Services.
    pub fn addresses(&self) -> Addresses {
        Addresses::new(self.record.index)
    }

    /// URL of the API server.
    pub fn address(&self) -> String {
        format!("https://{}:6443", self.addresses().node())
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// One log per component, `audit.log` with every write, and `node/pods` with the containers' output.
    /// They outlive the cluster, until one of the same name starts.
    pub fn logs_dir(&self) -> PathBuf {
        self.layout.logs()
    }

    /// A client of the administrator.
    ///
    /// # Errors
    /// The kubeconfig is gone.
    pub async fn client(&self) -> Result<kube::Client> {
        client_of(&self.layout).await
    }

    /// Runs kubectl as the administrator; what it printed.
    ///
    /// # Errors
    /// It failed: the error holds what it wrote on standard error.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        namespace::run(self.command("kubectl", arguments)).await
    }

    /// Runs Helm as the administrator; what it printed.
    ///
    /// # Errors
    /// It failed: the error holds what it wrote on standard error.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        namespace::run(self.command("helm", arguments)).await
    }

    /// A program of the build directory (`kubectl`, `helm`, `crane`, …), on the host, with the administrator's kubeconfig.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let home = self.layout.state.join("home");
        let mut command = Command::new(self.layout.program(program));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env("KUBECONFIG", self.kubeconfig())
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"));
        for proxy in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ] {
            command.env_remove(proxy);
        }
        command
    }

    /// A command in the cluster's network, mount and process namespaces, which ends with the cluster.
    /// It sees the node's `/run`, `/tmp`, `/var/lib` and `/var/log`; the rest is the host's.
    pub fn node_command(&self, program: &str, arguments: &[&str]) -> Command {
        self.node().command(program, arguments)
    }

    /// A command with the host's files and environment in the cluster's network: a server that
    /// pods reach at the node's address. The child is killed when dropped.
    ///
    /// # Errors
    /// It could not be started.
    pub fn spawn_in_namespace(&self, command: &Command) -> Result<tokio::process::Child> {
        let mut entered = Command::new("nsenter");
        entered
            .arg(format!("--net=/proc/{}/ns/net", self.record.init.pid))
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            entered.current_dir(directory);
        }
        Ok(tokio::process::Command::from(entered)
            .kill_on_drop(true)
            .spawn()?)
    }

    /// Gives the node the images of an archive (OCI layout or `docker save`).
    ///
    /// # Errors
    /// containerd refused it.
    pub async fn import_image(&self, archive: &Path) -> Result<()> {
        import(self.node(), archive).await
    }

    /// Packs an image and gives it to the node.
    ///
    /// # Errors
    /// A file of it cannot be read, or containerd refused it.
    pub async fn load(&self, image: ImageArchive) -> Result<()> {
        let path = self
            .layout
            .state
            .join(format!("image-{}.tar", hex::encode(image.reference())));
        let target = path.clone();
        blocking(move || image.write(&target)).await?;
        self.import_image(&path).await?;
        Ok(fs_err::remove_file(path)?)
    }

    /// Lets the node pull from `host` (`name.namespace.svc:5000`) by plain HTTP. It takes effect at once.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn trust_plain_http(&self, host: &str) -> Result<()> {
        let text = format!(
            "server = \"http://{host}\"\n\n[host.\"http://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        self.trust(host, &text)
    }

    /// Lets the node pull from `host` by TLS that this authority (PEM) vouches for.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn trust_authority(&self, host: &str, authority: &str) -> Result<()> {
        let directory = self.layout.certs_d().join(host);
        fs_err::create_dir_all(&directory)?;
        fs_err::write(directory.join("ca.crt"), authority)?;
        let text = format!(
            "server = \"https://{host}\"\n\n[host.\"https://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = \"ca.crt\"\n"
        );
        self.trust(host, &text)
    }

    fn trust(&self, host: &str, text: &str) -> Result<()> {
        let directory = self.layout.certs_d().join(host);
        fs_err::create_dir_all(&directory)?;
        Ok(fs_err::write(directory.join("hosts.toml"), text)?)
    }

    fn node(&self) -> Node {
        Node {
            pid: self.record.init.pid,
        }
    }
}

async fn client_of(layout: &Layout) -> Result<kube::Client> {
    // Whoever comes second finds it installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::read_from(layout.kubeconfig())?;
    let mut config = kube::Config::from_custom_kubeconfig(
        kubeconfig,
        &kube::config::KubeConfigOptions::default(),
    )
    .await?;
    config.proxy_url = None;
    Ok(kube::Client::try_from(config)?)
}

/// Puts a disk of that size where the kubelet has the volumes of pods. It goes with the node's namespaces.
async fn make_volumes_disk(node: Node, disk: Disk) -> Result<()> {
    let Disk { size, inodes } = disk;
    let file = "/var/lib/volumes.img";
    let script = format!(
        "truncate -s {size}M {file} && mkfs.ext4 -q -m 0 -N {inodes} {file} && mkdir -p /var/lib/kubelet \
         && mount --no-mtab -o loop {file} /var/lib/kubelet"
    );
    namespace::run(node.command("sh", &["-c", &script])).await?;
    Ok(())
}

async fn import(node: Node, archive: &Path) -> Result<()> {
    let mut command = node.built("ctr", &["--namespace", "k8s.io", "images", "import", "-"]);
    command.stdin(Stdio::from(fs_err::File::open(archive)?.into_parts().0));
    namespace::run(command).await.map(drop)
}

fn connects(socket: &Path) -> Result<(), String> {
    std::os::unix::net::UnixStream::connect(socket)
        .map(drop)
        .map_err(|error| error.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
