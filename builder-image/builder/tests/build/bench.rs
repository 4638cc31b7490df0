//! A registry, a context and an engine's directory, all of one test.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use builder::base::{Bases, Mirrors};
use builder::build::{Built, Job, build};
use builder::cache::Cache;
use builder::context::BuildContext;
use builder::error::{Error, SourceFile};
use builder::export::{Destination, Export, Output, Settings};
use builder::graph::{BaseName, Options, Surroundings};
use builder::layer::{Owners, PackOptions};
use builder::named_context::NamedFiles;
use builder::progress::{Progress, Style};
use builder::secret::Secrets;
use builder::shared_cache::{CacheSource, CacheTarget, Imports};
use builder::solve::{Engine, Shares, Sources};
use distribution::memory::MemoryRegistry;
use distribution::{Client, Guard, RetryPolicy};
use oci::{Platform, Reference};

pub(crate) struct Bench {
    pub(crate) registry: MemoryRegistry,
    context: tempfile::TempDir,
    root: tempfile::TempDir,
}

/// What a build can be asked for besides its text.
pub(crate) struct BenchOptions {
    pub(crate) no_cache: bool,
    pub(crate) no_cache_stages: Vec<String>,
    pub(crate) threads: usize,
    pub(crate) build_args: BTreeMap<String, String>,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) settings: Settings,
    pub(crate) outputs: Vec<Output>,
    /// Forms of the image besides the first.
    pub(crate) more: Vec<Export>,
    /// Caches that are asked besides the engine's own.
    pub(crate) imports: Vec<CacheSource>,
    /// Caches that are written.
    pub(crate) caches: Vec<CacheTarget>,
    /// Where bases may be taken from instead.
    pub(crate) mirrors: Mirrors,
}

pub(crate) fn client() -> Client {
    Client::builder()
        .guard(Guard::Open)
        .retry(RetryPolicy::never())
        .build()
        .unwrap()
}

impl Bench {
    pub(crate) async fn start() -> Self {
        // A second installation, by another test, fails and is no matter.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self {
            registry: MemoryRegistry::start().await,
            context: tempfile::tempdir().unwrap(),
            root: tempfile::tempdir().unwrap(),
        }
    }

    /// Writes a file of the context.
    pub(crate) fn file(&self, path: &str, content: &str) -> &Self {
        let path = self.context.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
        self
    }

    /// Gives a file of the context a second name.
    pub(crate) fn hard_link(&self, path: &str, target: &str) {
        let at = |path: &str| self.context.path().join(path);
        fs_err::hard_link(at(target), at(path)).unwrap();
    }

    /// Makes a symbolic link in the context.
    pub(crate) fn link(&self, path: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.context.path().join(path)).unwrap();
    }

    /// Sets the time of a file in the context.
    pub(crate) fn date(&self, path: &str, seconds: u64) -> &Self {
        let file = std::fs::File::open(self.context.path().join(path)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
            .unwrap();
        self
    }

    /// Changes the time of a file and nothing else.
    pub(crate) fn touch(&self, path: &str) {
        self.date(path, 1);
    }

    /// The full name of an image in the registry.
    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.address())
    }

    /// Empties the engine's directory, once no thread of an earlier build works in it any more, and the registry's log.
    pub(crate) fn forget(&self) {
        let begin = std::time::Instant::now();
        while !self.is_tidy() {
            assert!(begin.elapsed() < Duration::from_secs(10), "work goes on");
            std::thread::yield_now();
        }
        for entry in fs_err::read_dir(self.root.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                fs_err::remove_dir_all(path).unwrap();
            }
        }
        self.registry.clear_requests();
    }

    /// Removes all records of the cache.
    pub(crate) fn prune_records(&self) {
        for entry in fs_err::read_dir(self.root.path().join("cache")).unwrap() {
            fs_err::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// Cuts off all files that were taken out of layers.
    pub(crate) fn damage_picks(&self) {
        for entry in fs_err::read_dir(self.root.path().join("layers")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("pick-") && path.is_dir() {
                for file in fs_err::read_dir(path).unwrap() {
                    fs_err::write(file.unwrap().path(), "").unwrap();
                }
            }
        }
    }

    /// Removes all blobs of the cache.
    pub(crate) fn remove_blobs(&self) {
        for entry in fs_err::read_dir(self.root.path().join("blobs/sha256")).unwrap() {
            fs_err::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// Whether any layer was unpacked or made.
    pub(crate) fn has_layers(&self) -> bool {
        self.layer_count() > 0
    }

    /// How many layers were unpacked or made.
    pub(crate) fn layer_count(&self) -> usize {
        fs_err::read_dir(self.root.path().join("layers"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
    }

    /// How many layers of images were unpacked: those have nothing but a digest as their name.
    pub(crate) fn unpacked_bases(&self) -> usize {
        let entries = fs_err::read_dir(self.root.path().join("layers")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let of_base = |name: &String| {
            let digest = name.strip_suffix(".recorded");
            digest.is_some_and(|digest| digest.len() == 64)
        };
        names.filter(of_base).count()
    }

    /// Whether the engine has kept a blob.
    pub(crate) fn has_blob(&self, digest: &oci::Digest) -> bool {
        let blobs = self.root.path().join("blobs/sha256");
        blobs.join(digest.hex()).exists()
    }

    /// Whether no work in progress is left.
    pub(crate) fn is_tidy(&self) -> bool {
        let work = fs_err::read_dir(self.root.path().join("tmp"));
        work.is_ok_and(|mut work| work.next().is_none()) || !self.root.path().join("tmp").exists()
    }

    /// The paths in a layer of an image in the registry, but for the root.
    pub(crate) fn layer_names(&self, repository: &str, tag: &str, layer: usize) -> Vec<String> {
        let raw = self.registry.manifest(repository, tag).unwrap();
        let manifest: oci::Manifest = serde_json::from_slice(&raw.bytes).unwrap();
        let blob = self
            .registry
            .blob(repository, &manifest.layers[layer].digest)
            .unwrap();
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(&blob[..]));
        let names = archive.entries().unwrap().map(|entry| {
            let path = entry.unwrap().path().unwrap().into_owned();
            path.display().to_string().trim_matches('/').to_owned()
        });
        names
            .filter(|name| !matches!(name.as_str(), "" | "."))
            .collect()
    }

    /// Unpacks an image of the registry, as a RUN on it would.
    pub(crate) async fn unpack(&self, image: &str) {
        let cache = Cache::open(self.root.path()).unwrap();
        let bases = Bases::new(client(), cache, Owners::Recorded, BTreeMap::new());
        let name = BaseName::Image(self.name(image).parse().unwrap());
        let base = bases.resolve(&name, &Platform::host()).await.unwrap();
        bases.snapshot(&base).await.unwrap();
    }

    /// Builds `text` and pushes it to these images of the registry.
    pub(crate) async fn build(&self, text: &str, images: &[&str]) -> Result<Built, Error> {
        self.build_with(text, images, |_| {}).await
    }

    pub(crate) async fn build_with(
        &self,
        text: &str,
        images: &[&str],
        change: impl FnOnce(&mut BenchOptions),
    ) -> Result<Built, Error> {
        let mut options = BenchOptions {
            no_cache: false,
            no_cache_stages: Vec::new(),
            threads: 2,
            build_args: BTreeMap::new(),
            platforms: Vec::new(),
            settings: Settings::default(),
            outputs: Vec::new(),
            more: Vec::new(),
            imports: Vec::new(),
            caches: Vec::new(),
            mirrors: Mirrors::default(),
        };
        change(&mut options);
        let client = client();
        let cache = Cache::open(self.root.path()).unwrap();
        let engine = Engine {
            bases: Bases::new(
                client.clone(),
                cache.clone(),
                Owners::Recorded,
                BTreeMap::new(),
            )
            .with_mirrors(options.mirrors),
            client,
            progress: Progress::new(Style::Quiet, std::io::sink()),
            runtime: None,
            owners: Owners::Recorded,
            no_cache: options.no_cache,
            no_cache_stages: options.no_cache_stages,
            pack: PackOptions {
                threads: NonZero::new(options.threads).unwrap(),
                ..PackOptions::default()
            },
            imports: Imports::new(options.imports),
            shares: Shares::default(),
            cancel: tokio_util::sync::CancellationToken::new(),
            secrets: Secrets::default(),
            sources: Sources::default(),
            named: NamedFiles::default(),
            cache,
        };
        let mut exports = vec![Export {
            settings: options.settings,
            destinations: self.destinations(images),
            outputs: options.outputs,
        }];
        exports.extend(options.more);
        let job = Job {
            file: Arc::new(SourceFile {
                name: "Dockerfile".into(),
                text: text.into(),
            }),
            context: Arc::new(BuildContext::open(Path::new(self.context.path())).unwrap()),
            context_time: None,
            options: Options {
                target: None,
                build_args: options.build_args,
                labels: BTreeMap::new(),
                platform: Platform::host(),
                build_platform: Platform::host(),
                contexts: BTreeMap::new(),
                surroundings: Surroundings::default(),
            },
            platforms: options.platforms,
            exports,
            caches: options.caches,
        };
        build(Arc::new(engine), job).await
    }

    fn destinations(&self, images: &[&str]) -> Vec<Destination> {
        let mut destinations: Vec<Destination> = Vec::new();
        for image in images {
            let name: Reference = self.name(image).parse().unwrap();
            let tag = name.tag().unwrap().clone();
            match destinations
                .iter_mut()
                .find(|d| d.repository == *name.repository())
            {
                Some(known) => known.tags.push(tag),
                None => destinations.push(Destination {
                    name: (*image).into(),
                    repository: name.repository().clone(),
                    tags: vec![tag],
                }),
            }
        }
        destinations
    }
}
