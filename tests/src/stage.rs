//! The stage of end-to-end tests: a cluster with the chart installed, a git server and registries beside it, and base images
//! in them. One process sets it up once; each test gets a namespace of its own.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;

use crate::certificate::Authority;
use crate::cluster::{Cluster, Options};
use crate::git_server::GitServer;
use crate::upstream::Upstream;
use crate::wait::until_seen;

/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "coopery-system";
/// Name of the Helm release.
pub const RELEASE: &str = "coopery";
/// Field manager of the tests, as somebody who applies manifests.
pub const FIELD_MANAGER: &str = "tests";

/// How often the operator of the tests looks at every object again.
pub const RESYNC: Duration = Duration::from_secs(5);

/// Everything that end-to-end tests share.
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// A client of its administrator.
    pub client: Client,
    /// Signs the servers' certificates; builders trust it.
    pub authority: Authority,
    /// `git.host.test`.
    pub git: GitServer,
    /// `registry.host.test` without users.
    pub public: Upstream,
    /// `registry.host.test` (another port) that asks for [`crate::upstream::CREDENTIALS`].
    pub private: Upstream,
    cache: PathBuf,
    files: tempfile::TempDir,
}

impl Stage {
    /// Starts a cluster of that name, imports the images, installs the chart and fills the registries.
    ///
    /// # Errors
    /// Something is not built (`make image`), or does not come up.
    pub async fn start(name: &str) -> anyhow::Result<Self> {
        Self::start_with(Options::new(name)).await
    }

    /// As [`start`](Self::start), on a cluster of another shape.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(options: Options) -> anyhow::Result<Self> {
        let stage = Self::with_bases(options).await?;
        stage.install_chart(&[]).await?;
        Ok(stage)
    }

    /// As [`start`](Self::start), without the chart.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_without_operator(name: &str) -> anyhow::Result<Self> {
        Self::with_bases(Options::new(name)).await
    }

    async fn with_bases(options: Options) -> anyhow::Result<Self> {
        require_images(&options.cache)?;
        let stage = Self::on(Cluster::start(options).await?).await?;
        stage.push_busybox().await?;
        Ok(stage)
    }

    /// The stage on a cluster that runs already: images are imported, servers started; no chart, no base images.
    ///
    /// # Errors
    /// Something is not built (`make image`), or does not come up.
    pub async fn on(cluster: Cluster) -> anyhow::Result<Self> {
        let cache = Options::new(cluster.name()).cache;
        require_images(&cache)?;
        let client = cluster.client().await?;
        let authority = Authority::new("coopery tests")?;
        let host = cluster.addresses().host().into();
        let git = GitServer::start(&authority, host).await?;
        let registry = cache.join("bin/registry");
        let public = Upstream::start(&registry, &authority, host, false).await?;
        let private = Upstream::start(&registry, &authority, host, true).await?;
        for image in IMAGES {
            cluster
                .import_image(&cache.join("images").join(format!("{image}.tar")))
                .await?;
        }
        let files = tempfile::tempdir()?;
        let stage = Self {
            cluster,
            client,
            authority,
            git,
            public,
            private,
            cache,
            files,
        };
        fs_err::write(stage.authority_file(), &stage.authority.certificate)?;
        Ok(stage)
    }

    /// The authority's certificate as a file.
    pub fn authority_file(&self) -> PathBuf {
        self.files.path().join("authority.pem")
    }

    /// A directory for files of this process.
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    /// The chart of this repository.
    pub fn chart() -> String {
        repository()
            .join("charts/coopery")
            .to_string_lossy()
            .into_owned()
    }

    /// Installs or upgrades the chart with the tests' values and `more` arguments of Helm, and waits for it.
    ///
    /// # Errors
    /// Helm failed.
    pub async fn install_chart(&self, more: &[&str]) -> anyhow::Result<()> {
        let values = self.values_file()?;
        let (chart, values) = (Self::chart(), values.to_string_lossy());
        let mut arguments = vec![
            "upgrade",
            "--install",
            RELEASE,
            &chart,
            "--namespace",
            OPERATOR_NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout",
            "120s",
            "--values",
            &values,
        ];
        arguments.extend(more);
        self.cluster.helm(&arguments).await?;
        Ok(())
    }

    /// The values that tests install the chart with.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn values_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.files.path().join("values.yaml");
        let values = serde_json::json!({
            "builder": {"caCertificates": self.authority.certificate},
            "resync": format!("{}s", RESYNC.as_secs()),
            "leaderElection": {"leaseDuration": "6s", "renewDeadline": "4s", "retryPeriod": "1s"},
        });
        fs_err::write(&path, values.to_string())?;
        Ok(path)
    }

    /// Runs `coopery` on this machine with an engine directory of its own; what it printed.
    ///
    /// # Errors
    /// It failed: the error holds what it wrote on standard error.
    pub async fn coopery(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(release_binary("coopery")?)
            .args(arguments)
            .current_dir(self.files.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        anyhow::ensure!(
            output.status.success(),
            "coopery {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Builds `context` with the engine and pushes it to `repository:tag` of `upstream`; its digest.
    ///
    /// # Errors
    /// The build or the push failed.
    pub async fn push(
        &self,
        upstream: &Upstream,
        name: &str,
        context: &Path,
    ) -> anyhow::Result<String> {
        let (target, config) = (
            format!("{}/{name}", upstream.local_host()),
            upstream.local_docker_config()?,
        );
        let (root, ca, context) = (
            self.cache.join("engine"),
            self.authority_file(),
            context.to_string_lossy(),
        );
        let digest = self
            .coopery(&[
                "build",
                "--root",
                &root.to_string_lossy(),
                "--ca-file",
                &ca.to_string_lossy(),
                "--authfile",
                &config.to_string_lossy(),
                "-t",
                &target,
                "--push",
                &context,
            ])
            .await?;
        Ok(digest.trim().to_owned())
    }

    /// The digest of `name` in `upstream`, as crane reads it.
    ///
    /// # Errors
    /// crane failed.
    pub async fn digest(&self, upstream: &Upstream, name: &str) -> anyhow::Result<String> {
        self.crane("digest", upstream, name).await
    }

    /// The configuration of the image `name` in `upstream`, as crane reads it.
    ///
    /// # Errors
    /// crane failed.
    pub async fn config(
        &self,
        upstream: &Upstream,
        name: &str,
    ) -> anyhow::Result<serde_json::Value> {
        let config = self.crane("config", upstream, name).await?;
        Ok(serde_json::from_str(&config)?)
    }

    /// The manifest or index `name` in `upstream`, as crane reads it.
    ///
    /// # Errors
    /// crane failed.
    pub async fn manifest(
        &self,
        upstream: &Upstream,
        name: &str,
    ) -> anyhow::Result<serde_json::Value> {
        let manifest = self.crane("manifest", upstream, name).await?;
        Ok(serde_json::from_str(&manifest)?)
    }

    /// Whether the image `name` in `upstream` is whole: crane reads all of it and compares every digest.
    ///
    /// # Errors
    /// It is not, or is not there.
    pub async fn validate(&self, upstream: &Upstream, name: &str) -> anyhow::Result<()> {
        let _ = self.crane("validate --remote", upstream, name).await?;
        Ok(())
    }

    async fn crane(&self, verb: &str, upstream: &Upstream, name: &str) -> anyhow::Result<String> {
        let config = upstream.local_docker_config()?;
        let output = Command::new(self.cache.join("bin/crane"))
            .args(verb.split(' '))
            .args([&format!("{}/{name}", upstream.local_host())])
            .env("SSL_CERT_FILE", self.authority_file())
            .env(
                "DOCKER_CONFIG",
                config
                    .parent()
                    .context("the configuration lies in a directory")?,
            )
            .stdin(Stdio::null())
            .output()
            .await?;
        anyhow::ensure!(
            output.status.success(),
            "crane {verb} {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Writes of the operator in a namespace since the cluster started, by the API server's audit log: verb and path.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn operator_writes(&self, namespace: &str) -> anyhow::Result<Vec<String>> {
        let user = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{RELEASE}");
        let log = fs_err::read_to_string(self.cluster.logs_dir().join("audit.log"))?;
        let writes = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|event| {
                let ours = event["user"]["username"] == *user
                    && event["objectRef"]["namespace"] == *namespace;
                ours.then(|| {
                    format!(
                        "{} {}",
                        event["verb"].as_str().unwrap_or_default(),
                        event["requestURI"].as_str().unwrap_or_default()
                    )
                })
            });
        Ok(writes.collect())
    }

    /// A root filesystem of static busybox, as `base/busybox:1` in both registries: the base of quick builds.
    async fn push_busybox(&self) -> anyhow::Result<()> {
        let context = self.files.path().join("busybox");
        fs_err::create_dir_all(&context)?;
        fs_err::copy("/bin/busybox", context.join("busybox"))?;
        fs_err::write(context.join("Dockerfile"), BUSYBOX)?;
        for upstream in [&self.public, &self.private] {
            self.push(upstream, "base/busybox:1", &context).await?;
        }
        Ok(())
    }

    /// The reference of the busybox base, as pods see it.
    pub fn busybox(&self) -> String {
        format!("{}/base/busybox:1", self.public.host())
    }

    /// A namespace that enforces a Pod Security `level`, made anew.
    ///
    /// # Errors
    /// The API server refused it.
    pub async fn namespace(&self, name: &str, level: &str) -> anyhow::Result<TestNamespace> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let labels = [(
            "pod-security.kubernetes.io/enforce".to_owned(),
            level.to_owned(),
        )];
        let metadata = ObjectMeta {
            generate_name: Some(format!("{name}-")),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        };
        let made = namespaces
            .create(
                &PostParams::default(),
                &Namespace {
                    metadata,
                    ..Namespace::default()
                },
            )
            .await?;
        Ok(TestNamespace {
            client: self.client.clone(),
            name: made.metadata.name.context("a made object has a name")?,
            made_anew: true,
        })
    }

    /// A namespace of that very name that enforces a Pod Security `level`, made where it is absent.
    ///
    /// # Errors
    /// The API server refused it.
    pub async fn existing_namespace(
        &self,
        name: &str,
        level: &str,
    ) -> anyhow::Result<TestNamespace> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}},
        });
        namespaces
            .patch(
                name,
                &PatchParams::apply(FIELD_MANAGER).force(),
                &Patch::Apply(namespace),
            )
            .await?;
        Ok(TestNamespace {
            client: self.client.clone(),
            name: name.to_owned(),
            made_anew: false,
        })
    }
}

/// Images that `make image` makes.
const IMAGES: [&str; 3] = ["builder", "operator", "registry"];

fn require_images(cache: &Path) -> anyhow::Result<()> {
    for image in IMAGES {
        let path = cache.join("images").join(format!("{image}.tar"));
        anyhow::ensure!(
            path.exists(),
            "{} is missing: run `make image`",
            path.display()
        );
    }
    Ok(())
}

const BUSYBOX: &str = r#"FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY <<passwd <<group /etc/
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
passwd
root:x:0:
nogroup:x:65534:
group
CMD ["sh"]
"#;

/// A namespace of one test. One that was made anew is deleted when the test is done with it: the registries of all tests
/// together would ask for more processor than a small node has. It stays where the test panics.
pub struct TestNamespace {
    client: Client,
    /// Its name.
    pub name: String,
    made_anew: bool,
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        if !self.made_anew || std::thread::panicking() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (namespaces, name) = (
            Api::<Namespace>::all(self.client.clone()),
            std::mem::take(&mut self.name),
        );
        // Nobody waits for it: the cluster ends with the process at the latest.
        runtime.spawn(async move { namespaces.delete(&name, &DeleteParams::default()).await });
    }
}

impl TestNamespace {
    /// Objects of a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Applies an object by server-side apply, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// The API server refused it.
    pub async fn apply<K>(&self, object: &K) -> anyhow::Result<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let name = object
            .meta()
            .name
            .clone()
            .context("an object to apply has a name")?;
        Ok(self
            .api::<K>()
            .patch(
                &name,
                &PatchParams::apply(FIELD_MANAGER).force(),
                &Patch::Apply(object),
            )
            .await?)
    }

    /// Applies an object that is written as JSON.
    ///
    /// # Errors
    /// The API server refused it.
    pub async fn apply_json<K>(&self, object: serde_json::Value) -> anyhow::Result<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let name = object["metadata"]["name"]
            .as_str()
            .context("an object to apply has a name")?
            .to_owned();
        Ok(self
            .api::<K>()
            .patch(
                &name,
                &PatchParams::apply(FIELD_MANAGER).force(),
                &Patch::Apply(object),
            )
            .await?)
    }

    /// Waits until an object is as `content` wants it.
    ///
    /// # Errors
    /// It was not for `limit`; the error shows what it was.
    pub async fn until<K>(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        content: impl Fn(&K) -> bool,
    ) -> anyhow::Result<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api = self.api::<K>();
        until_seen(what, limit, || async { Ok(api.get(name).await?) }, content).await
    }

    /// Deletes an object, and waits until it is gone.
    ///
    /// # Errors
    /// It was not gone within 60 s.
    pub async fn delete<K>(&self, name: &str) -> anyhow::Result<()>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api = self.api::<K>();
        api.delete(name, &DeleteParams::background()).await?;
        until_seen(
            &format!("{name} to be gone"),
            Duration::from_secs(60),
            || async { Ok(api.get_opt(name).await?.map(|_| ())) },
            Option::is_none,
        )
        .await?;
        Ok(())
    }

    /// Makes a dockerconfigjson Secret.
    ///
    /// # Errors
    /// The API server refused it.
    pub async fn docker_secret(&self, name: &str, docker_config: &str) -> anyhow::Result<()> {
        self.apply_json::<Secret>(serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": docker_config},
        }))
        .await?;
        Ok(())
    }
}

/// The top of this repository.
#[expect(clippy::missing_panics_doc, reason = "it cannot panic")]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is a folder of the repository")
        .to_owned()
}

/// A release binary that `make build` made.
///
/// # Errors
/// It is not there.
pub fn release_binary(name: &str) -> anyhow::Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let directory = std::env::var_os("COOPERY_RELEASE").map_or_else(
        || repository().join("target").join(triple).join("release"),
        PathBuf::from,
    );
    let path = directory.join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is missing: run `make build`",
        path.display()
    );
    Ok(path)
}
