//! `coopery push`: an image of this machine to a registry. Bytes are those of the layout, so digests stay.

use clap::Args;
use distribution::{Client, Pushed};
use futures::{FutureExt, StreamExt, TryStreamExt};
use images::{Catalog, Image, Images, ImagesError};
use oci::{Descriptor, Digest, Document, MAX_MANIFEST_BYTES, Manifest, Reference, Repository};
use signature::PrivateKey;
use tokio_util::io::ReaderStream;

use super::{refused_by, until_stopped};
use crate::cli::image::{StoreArgs, print};
use crate::cli::network::NetworkArgs;
use crate::cli::trust::{ContentTrust, sign_pushed};
use crate::error::Error;

/// Layers that go at the same time.
const LAYERS: usize = 4;

#[derive(Args, Debug)]
pub(in crate::cli) struct PushArgs {
    /// The image; latest where it has no tag
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
    /// Push all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Print nothing but the name
    #[arg(short, long)]
    quiet: bool,
    /// Sign nothing, whatever DOCKER_CONTENT_TRUST says; with =false, sign what is pushed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_content_trust: Option<bool>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

/// A layer as people see it.
struct Layer {
    short: String,
    blob: Descriptor,
}

/// What is sent: layers and configurations, then manifests, children before their index.
#[derive(Default)]
struct Parts {
    layers: Vec<Layer>,
    configs: Vec<Descriptor>,
    manifests: Vec<(Descriptor, Vec<u8>)>,
}

struct Pusher<'a> {
    args: &'a PushArgs,
    client: Client,
    images: Images,
    catalog: Catalog,
    signer: Option<PrivateKey>,
}

impl PushArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let parsed = self.image.parse::<Reference>();
        let name =
            parsed.map_err(|error| Error::refused(format!("invalid reference format: {error}")))?;
        if name.digest().is_some() {
            return Err(Error::Refused("cannot push a digest reference".into()));
        }
        if self.all_tags && name.tag().is_some() {
            return Err(Error::Request(
                "tag can't be used with --all-tags/-a".into(),
            ));
        }
        let signer = ContentTrust::of(self.disable_content_trust)?.signer()?;
        let images = self.store.open()?;
        let held = images.hold()?;
        let catalog = images.catalog()?;
        let pusher = Pusher {
            args: self,
            client: self.network.client()?,
            images,
            catalog,
            signer,
        };
        if !self.all_tags && name.tag().is_none() {
            pusher.say("Using default tag: latest\n")?;
        }
        pusher.say(&format!(
            "The push refers to repository [{}]\n",
            name.repository()
        ))?;
        let names: Vec<Reference> = if self.all_tags {
            pusher.catalog.tags_of(&name).cloned().collect()
        } else {
            vec![name.clone().or_latest()]
        };
        if names.is_empty() {
            return Err(Error::Refused(format!(
                "An image does not exist locally with the tag: {}",
                name.familiar()
            )));
        }
        until_stopped(async || {
            for name in &names {
                pusher.push(name).await?;
            }
            Ok(())
        })?;
        drop(held);
        if self.quiet {
            print(&format!("{}\n", names[0]))?;
        }
        Ok(())
    }
}

impl Pusher<'_> {
    fn say(&self, text: &str) -> Result<(), Error> {
        if self.args.quiet { Ok(()) } else { print(text) }
    }

    async fn push(&self, name: &Reference) -> Result<(), Error> {
        let image = self.catalog.by_name(name).ok_or_else(|| {
            let repository = Reference::from(name.repository().clone()).familiar();
            Error::Refused(format!(
                "An image does not exist locally with the tag: {repository}"
            ))
        })?;
        let parts = self.parts(image)?;
        let repository = name.repository();
        let pushing = parts.layers.iter().rev().map(|layer| async move {
            let done = self.push_layer(name, &layer.blob).await?;
            Ok::<_, Error>(format!("{}: {done}\n", layer.short))
        });
        let mut pushing = futures::stream::iter(pushing).buffered(LAYERS);
        while let Some(line) = pushing.next().await {
            self.say(&line?)?;
        }
        for config in &parts.configs {
            self.push_blob(name, config, None).await?;
        }
        let last = parts.manifests.len().saturating_sub(1);
        for (position, (manifest, bytes)) in parts.manifests.into_iter().enumerate() {
            let to = if position == last {
                name.clone()
            } else {
                repository.at(manifest.digest.clone())
            };
            let size = bytes.len();
            let put = self
                .client
                .put_manifest(&to, &manifest.media_type, bytes.into());
            let digest = put.await.map_err(|error| refused_by(error, name, "push"))?;
            if position == last {
                let tag = name.manifest_name();
                self.say(&format!("{tag}: digest: {digest} size: {size}\n"))?;
                self.images.enter(&[repository.at(digest)], &image.root)?;
                if let Some(key) = &self.signer {
                    sign_pushed(&self.client, name, &manifest, key).await?;
                    self.say(&format!("Successfully signed {name}\n"))?;
                }
            }
        }
        Ok(())
    }

    /// All that an image consists of. An index goes as a whole where all of it is here; else the image of this machine's
    /// platform goes.
    fn parts(&self, image: &Image) -> Result<Parts, Error> {
        let mut parts = Parts::default();
        if self.add(&image.root, &mut parts).is_ok() {
            return Ok(parts);
        }
        let mut parts = Parts::default();
        self.add(&image.manifest_descriptor, &mut parts)?;
        Ok(parts)
    }

    fn add(&self, root: &Descriptor, parts: &mut Parts) -> Result<(), ImagesError> {
        let layout = self.images.layout();
        match layout.document(root)? {
            Document::Index(index) => {
                for child in &index.manifests {
                    self.add(child, parts)?;
                }
            }
            Document::Manifest(manifest) => self.add_manifest(&manifest, parts),
        }
        let bytes = layout.read_small(root, MAX_MANIFEST_BYTES)?;
        parts.manifests.push((root.clone(), bytes));
        Ok(())
    }

    fn add_manifest(&self, manifest: &Manifest, parts: &mut Parts) {
        // What is no image (an attestation) has no layers with names of their own.
        let config = self.images.layout().config(manifest);
        let ids = config
            .map(|config| config.rootfs.diff_ids)
            .unwrap_or_default();
        for (position, blob) in manifest.layers.iter().enumerate() {
            let is_known = parts
                .layers
                .iter()
                .any(|known| known.blob.digest == blob.digest);
            if is_known || !blob.urls.is_empty() {
                continue;
            }
            let digest = ids.get(position).map_or(&blob.digest, |id| &id.0);
            parts.layers.push(Layer {
                short: digest.short().to_owned(),
                blob: blob.clone(),
            });
        }
        parts.configs.push(manifest.config.clone());
    }

    /// Sends a layer, unless the registry has it; what became of it.
    async fn push_layer(&self, name: &Reference, layer: &Descriptor) -> Result<String, Error> {
        let repository = name.repository();
        let exists = self.client.blob_exists(repository, &layer.digest).await;
        // Who may only push may not look.
        if exists.unwrap_or(false) {
            return Ok("Layer already exists".into());
        }
        let from = self.origin(repository, &layer.digest);
        let pushed = self.push_blob(name, layer, from.as_ref()).await?;
        Ok(match (pushed, from) {
            (Pushed::Mounted, Some(from)) => format!("Mounted from {}", from.path()),
            (Pushed::Mounted, None) => "Layer already exists".into(),
            (Pushed::Uploaded, _) => "Pushed".into(),
        })
    }

    /// Another repository of the registry that has a layer, since an image with it was pulled from there or pushed to it.
    fn origin(&self, repository: &Repository, layer: &Digest) -> Option<Repository> {
        let images = self.catalog.images().iter();
        let having = images.filter(|image| {
            let mut layers = image.manifest.layers.iter();
            layers.any(|known| known.digest == *layer)
        });
        having
            .flat_map(|image| &image.digests)
            .map(Reference::repository)
            .find(|other| other.host() == repository.host() && *other != repository)
            .cloned()
    }

    async fn push_blob(
        &self,
        name: &Reference,
        blob: &Descriptor,
        from: Option<&Repository>,
    ) -> Result<Pushed, Error> {
        let path = self.images.layout().blob_path(&blob.digest);
        let reading = |source| distribution::Error::Io {
            action: "read the blob to push".into(),
            source,
        };
        let open = || {
            let path = path.clone();
            async move {
                let file = fs_err::tokio::File::open(path).await.map_err(reading)?;
                let content = ReaderStream::with_capacity(file, 256 * 1024);
                Ok(content.map_err(reading).boxed())
            }
            .boxed()
        };
        let pushed = self
            .client
            .push_blob(name.repository(), blob, from, open)
            .await;
        pushed.map_err(|error| refused_by(error, name, "push"))
    }
}
