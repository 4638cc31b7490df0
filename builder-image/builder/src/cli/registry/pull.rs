//! `coopery pull`: an image from a registry to this machine.

use std::collections::HashSet;

use clap::Args;
use distribution::{Client, RawManifest};
use futures::StreamExt;
use images::{Images, ImagesError};
use oci::{Descriptor, Document, Manifest, Platform, Reference};
use signature::Verifier;
use store::{Layout, StoreError};
use tokio_util::io::SyncIoBridge;

use super::{refused_by, until_stopped};
use crate::cli::image::{StoreArgs, print};
use crate::cli::network::NetworkArgs;
use crate::cli::trust::{ContentTrust, verify_pulled};
use crate::error::Error;

/// The largest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 8 << 20;
/// Layers that come at the same time.
const LAYERS: usize = 4;
/// The most tags that `--all-tags` asks for.
const MAX_TAGS: usize = 100_000;

#[derive(Args, Debug)]
pub(in crate::cli) struct PullArgs {
    /// The image; latest where it has neither a tag nor a digest
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    /// Pull all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Pull the image for this platform (default: that of this machine)
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Print nothing but the name
    #[arg(short, long)]
    quiet: bool,
    /// Verify nothing, whatever DOCKER_CONTENT_TRUST says; with =false, refuse what is not signed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_content_trust: Option<bool>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

struct Puller<'a> {
    args: &'a PullArgs,
    client: Client,
    images: Images,
    verifier: Option<Verifier>,
}

impl PullArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let parsed = self.image.parse::<Reference>();
        let name =
            parsed.map_err(|error| Error::refused(format!("invalid reference format: {error}")))?;
        let has_version = name.tag().is_some() || name.digest().is_some();
        if self.all_tags && has_version {
            return Err(Error::Request(
                "tag can't be used with --all-tags/-a".into(),
            ));
        }
        let puller = Puller {
            args: self,
            client: self.network.client()?,
            images: self.store.open()?,
            verifier: ContentTrust::of(self.disable_content_trust)?.verifier()?,
        };
        until_stopped(async || {
            if self.all_tags {
                return puller.pull_all(&name).await;
            }
            if !has_version {
                puller.say("Using default tag: latest\n")?;
            }
            let name = images::entry_name(&name);
            let is_newer = puller.pull(&name).await?;
            puller.status(is_newer, &name)
        })
    }
}

impl Puller<'_> {
    fn say(&self, text: &str) -> Result<(), Error> {
        if self.args.quiet { Ok(()) } else { print(text) }
    }

    fn status(&self, is_newer: bool, name: &Reference) -> Result<(), Error> {
        let status = if is_newer {
            "Downloaded newer image for"
        } else {
            "Image is up to date for"
        };
        self.say(&format!("Status: {status} {}\n", name.familiar()))?;
        print(&format!("{name}\n"))
    }

    async fn pull_all(&self, name: &Reference) -> Result<(), Error> {
        let repository = name.repository();
        let tags = self.client.tags(repository, MAX_TAGS).await;
        let tags = tags.map_err(|error| refused_by(error, name, "pull"))?;
        let mut is_newer = false;
        for tag in tags {
            is_newer |= self.pull(&repository.tagged(tag)).await?;
        }
        self.status(is_newer, name)
    }

    /// Pulls one image, and tells whether its name stands for another one now.
    async fn pull(&self, name: &Reference) -> Result<bool, Error> {
        let repository = name.repository();
        let root = self.client.manifest(name).await;
        let root = root.map_err(|error| refused_by(error, name, "pull"))?;
        if let Some(verifier) = &self.verifier {
            verify_pulled(&self.client, name, &root.digest, verifier).await?;
        }
        let version = name.manifest_name();
        self.say(&format!("{version}: Pulling from {}\n", repository.path()))?;
        let held = self.images.hold()?;
        let (image, manifest) = self.image(name, &root).await?;
        let catalog = self.images.catalog()?;
        let before = catalog.by_name(name).map(|image| image.id.clone());
        if catalog.by_id(&manifest.config.digest).is_none() || !self.is_whole(&manifest) {
            self.fetch(name, &manifest).await?;
        }
        let layout = self.images.layout();
        let written = layout.write_blob(&*image.bytes, Some(&image.digest));
        written.map_err(ImagesError::from)?;
        let at_digest = repository.at(root.digest.clone());
        self.images
            .enter(&[name.clone(), at_digest], &image.descriptor())?;
        drop(held);
        self.say(&format!("Digest: {}\n", root.digest))?;
        Ok(before.as_ref() != Some(&manifest.config.digest))
    }

    fn is_whole(&self, manifest: &Manifest) -> bool {
        let layout = self.images.layout();
        let mut blobs = manifest.layers.iter().chain([&manifest.config]);
        blobs.all(|blob| layout.has_blob(blob) || !blob.urls.is_empty())
    }

    /// The manifest of the platform.
    async fn image(
        &self,
        name: &Reference,
        root: &RawManifest,
    ) -> Result<(RawManifest, Manifest), Error> {
        let malformed = |error| Error::refused(format!("{}: {error}", name.familiar()));
        let index = match root.document().map_err(malformed)? {
            Document::Manifest(manifest) => return Ok((root.clone(), manifest)),
            Document::Index(index) => index,
        };
        let wanted = self.args.platform.clone().unwrap_or_else(Platform::host);
        let child = index.select(&wanted).ok_or_else(|| {
            let found: Vec<_> = index.platforms().map(ToString::to_string).collect();
            Error::refused(format!(
                "no matching manifest for {wanted} in the manifest list entries: it has {}",
                found.join(", ")
            ))
        })?;
        let child = name.repository().at(child.digest.clone());
        let child = self.client.manifest(&child).await;
        let child = child.map_err(|error| refused_by(error, name, "pull"))?;
        match child.document().map_err(malformed)? {
            Document::Manifest(manifest) => Ok((child, manifest)),
            Document::Index(_) => Err(Error::refused(format!(
                "{}: its index holds an index",
                name.familiar()
            ))),
        }
    }

    /// Fetches the configuration and the layers, several at once; each layer is told in its turn.
    async fn fetch(&self, name: &Reference, manifest: &Manifest) -> Result<(), Error> {
        let repository = name.repository();
        let config = self
            .client
            .small_blob(repository, &manifest.config, MAX_CONFIG)
            .await;
        let config = config.map_err(|error| refused_by(error, name, "pull"))?;
        let is_image = serde_json::from_slice::<oci::ImageConfig>(&config)
            .is_ok_and(|config| config.rootfs.diff_ids.len() == manifest.layers.len());
        if !is_image {
            return Err(Error::refused(format!(
                "{} is no container image: its configuration is of type {}",
                name.familiar(),
                manifest.config.media_type
            )));
        }
        let layout = self.images.layout();
        let written = layout.write_blob(&*config, Some(&manifest.config.digest));
        written.map_err(ImagesError::from)?;
        let mut seen = HashSet::new();
        let layers: Vec<_> = (manifest.layers.iter())
            .map(|layer| {
                let is_here = layout.has_blob(layer) || !seen.insert(&layer.digest);
                (layer, is_here)
            })
            .collect();
        let fetched = layers.into_iter().map(|(layer, is_here)| async move {
            if !is_here && layer.urls.is_empty() {
                self.fetch_layer(name, layer).await?;
            }
            Ok::<_, Error>((layer, is_here))
        });
        let mut fetched = futures::stream::iter(fetched).buffered(LAYERS);
        while let Some(done) = fetched.next().await {
            let (layer, is_here) = done?;
            let what = if is_here {
                "Already exists"
            } else {
                "Pull complete"
            };
            self.say(&format!("{}: {what}\n", layer.digest.short()))?;
        }
        Ok(())
    }

    async fn fetch_layer(&self, name: &Reference, layer: &Descriptor) -> Result<(), Error> {
        let reader = self.client.blob(name.repository(), layer).await;
        let reader = reader.map_err(|error| refused_by(error, name, "pull"))?;
        let layout: Layout = self.images.layout().clone();
        let digest = layer.digest.clone();
        let reader = SyncIoBridge::new(reader);
        let written =
            tokio::task::spawn_blocking(move || layout.write_blob(reader, Some(&digest))).await;
        match written.map_err(|_| Error::Panicked)? {
            Ok(_) => Ok(()),
            // What the transport says stands in the error of reading.
            Err(StoreError::Io { source, action }) => {
                Err(match source.downcast::<distribution::Error>() {
                    Ok(error) => refused_by(error, name, "pull"),
                    Err(source) => Error::Images(StoreError::Io { source, action }.into()),
                })
            }
            Err(error) => Err(ImagesError::from(error).into()),
        }
    }
}
