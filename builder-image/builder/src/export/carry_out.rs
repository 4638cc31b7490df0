//! Carrying out exports: the layers of every platform in the form that is wanted, each pushed as soon as it is there, then
//! the documents, the files, and at the very end the names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::{try_join, try_join_all};
use oci::Digest;

use super::{
    ArchiveError, Contents, Export, Form, Layers, Output, Pusher, Settings, Source, write_archive,
    write_aside, write_files, write_layout, write_root_tar,
};
use super::{files::write_files_below, merge::check_disjoint};
use crate::error::Error;
use crate::graph::StepId;
use crate::image::{Layer, Product, assemble};
use crate::progress::Vertex;
use crate::shared_cache::InlineCache;
use crate::snapshot::Snapshot;
use crate::solve::{Counts, Engine, Solve};
use crate::tree::Tree;

/// Makes the image of `solves`, one for each platform, in the form of each export, and brings it where it should go.
/// Returns what was made for the first export, and what the cache spared. Without exports, the image is made all the same.
///
/// # Errors
/// The first failure; the destinations' tags are then as they were.
///
/// # Panics
/// When `solves` is empty.
pub async fn export(
    engine: &Arc<Engine>,
    solves: &[Solve],
    exports: &[Export],
    indexed: bool,
) -> Result<(Product, Counts), Error> {
    let nowhere = [Export::default()];
    let exports = if exports.is_empty() {
        &nowhere
    } else {
        exports
    };
    let forms: Vec<_> = exports
        .iter()
        .map(|export| Making::new(engine, export))
        .collect();
    let products = try_join_all(forms.iter().map(|form| form.product(solves, indexed))).await?;
    let counts = Solve::tell_spared(solves);

    let vertex = engine.progress.start("exporting to image");
    let carried = async {
        for (form, product) in forms.iter().zip(&products) {
            tell(&vertex, product);
            form.write(solves, product, indexed, &vertex).await?;
        }
        // No name changes before all manifests are everywhere.
        let pairs = || forms.iter().zip(&products);
        try_join_all(pairs().map(|(form, product)| form.pusher.manifests(product))).await?;
        for name in forms.iter().flat_map(|form| form.pusher.names()) {
            vertex.output(format!("pushing {name}").as_bytes());
        }
        try_join_all(pairs().map(|(form, product)| form.pusher.tags(product))).await
    };
    carried
        .await
        .inspect_err(|error| vertex.failed(&error.to_string()))?;
    vertex.done();
    let first = products.into_iter().next();
    Ok((first.expect("there is an export"), counts))
}

fn tell(vertex: &Vertex, product: &Product) {
    for image in &product.images {
        let (manifest, config) = (&image.descriptor, &image.config_descriptor);
        vertex.output(format!("manifest {}", manifest.digest).as_bytes());
        vertex.output(format!("config {}", config.digest).as_bytes());
    }
    if let Some(index) = &product.index {
        vertex.output(format!("index {}", index.descriptor.digest).as_bytes());
    }
}

/// One export on its way.
struct Making<'a> {
    engine: &'a Arc<Engine>,
    settings: &'a Settings,
    outputs: &'a [Output],
    pusher: Pusher,
}

impl<'a> Making<'a> {
    fn new(engine: &'a Arc<Engine>, export: &'a Export) -> Self {
        let pusher = Pusher::new(engine.clone(), export.destinations.clone(), &[]);
        Self {
            engine,
            settings: &export.settings,
            outputs: &export.outputs,
            pusher,
        }
    }

    /// Makes the images of all platforms and pushes their layers.
    async fn product(&self, solves: &[Solve], indexed: bool) -> Result<Product, Error> {
        let documents = &self.settings.documents;
        let images = solves.iter().map(|solve| async move {
            let base = try_join_all(base_layers(solve).map(|layer| self.base_layer(solve, layer)));
            let ids = solve.target_steps();
            let squash = self.settings.layers == Layers::Squashed && !ids.is_empty();
            let epoch = self.settings.epoch(solve.graph().source_date_epoch);
            let target = &solve.graph().target;
            Ok::<_, Error>(if squash {
                let (base, layer) = try_join(base, self.squashed_layer(solve)).await?;
                assemble(&target.squashed(), &base, &[layer], epoch, documents, None)
            } else {
                let steps = try_join_all(ids.into_iter().map(|id| self.step_layer(solve, id)));
                let (base, steps) = try_join(base, steps).await?;
                let inline = self.inline(solve, base.len());
                let inline = inline.as_ref();
                assemble(target, &base, &steps, epoch, documents, inline)
            })
        });
        let images = try_join_all(images).await?;
        Ok(Product::new(images, indexed, documents))
    }

    /// The cache that the image has in it, where that is asked for.
    fn inline(&self, solve: &Solve, below: usize) -> Option<InlineCache> {
        let compression = self.settings.compression;
        let keys = self.settings.inline_cache.then(|| solve.target_keys())?;
        Some(InlineCache::new(compression, below, keys))
    }

    async fn base_layer(&self, solve: &Solve, layer: &Layer) -> Result<Layer, Error> {
        let base = solve
            .target_base()
            .expect("who has layers of a base has a base");
        let mut layer = layer.clone();
        if self.settings.force_compression {
            let recipe = Settings {
                rewrite_timestamp: false,
                ..self.settings.clone()
            }
            .recipe(None);
            let options = self.engine.pack.with(recipe);
            let converted = self.engine.bases.converted(base, &layer, &options).await;
            layer = converted.map_err(|e| Error::Cache(base.name.clone(), Box::new(e)))?;
        }
        let source = Source::Base(base.clone());
        self.pusher.layer(&layer.descriptor, &source).await?;
        Ok(layer)
    }

    async fn squashed_layer(&self, solve: &Solve) -> Result<Layer, Error> {
        let recipe = self.settings.recipe(solve.graph().source_date_epoch);
        let layer = solve.squashed(recipe).await?;
        self.pusher.layer(&layer.descriptor, &Source::Cache).await?;
        Ok(layer)
    }

    async fn step_layer(&self, solve: &Solve, id: StepId) -> Result<Layer, Error> {
        let recipe = self.settings.recipe(solve.graph().source_date_epoch);
        let layer = solve.packed_by(id, recipe).await?;
        self.pusher.layer(&layer.descriptor, &Source::Cache).await?;
        Ok(layer)
    }

    /// Writes the files that are wanted.
    async fn write(
        &self,
        solves: &[Solve],
        product: &Product,
        indexed: bool,
        vertex: &Vertex,
    ) -> Result<(), Error> {
        if self.outputs.is_empty() {
            return Ok(());
        }
        let of_files = |output: &&Output| matches!(output.form, Form::Files | Form::RootTar);
        let (of_files, of_blobs): (Vec<_>, Vec<_>) = self.outputs.iter().partition(of_files);
        let told = |output: &Output| {
            let shown = match &output.path {
                Some(path) => path.display().to_string(),
                None => "-".into(),
            };
            vertex.output(format!("writing {shown}").as_bytes());
        };
        let epoch = self.settings.epoch(solves[0].graph().source_date_epoch);
        if !of_blobs.is_empty() {
            let files = self.files(solves, product).await?;
            let made = Contents::new(product, &self.settings.documents, files, epoch);
            let made = Arc::new(made);
            for output in of_blobs {
                told(output);
                let (made, output) = (made.clone(), output.clone());
                blocking(move || match &output.path {
                    Some(path) if output.form.is_directory() => write_layout(&made, &output, path),
                    _ => write_archive(&made, &output),
                })
                .await?;
            }
        }
        if of_files.is_empty() {
            return Ok(());
        }
        let trees = Arc::new(self.trees(solves, indexed).await?);
        for output in of_files {
            told(output);
            let (trees, output) = (trees.clone(), output.clone());
            let left_out = blocking(move || write_trees(&trees, &output, epoch)).await?;
            if left_out > 0 {
                let told = format!("left out {left_out} devices, which only root may make");
                vertex.output(told.as_bytes());
            }
        }
        Ok(())
    }

    /// The files of the image, for each platform, with the directory that they come into.
    async fn trees(&self, solves: &[Solve], indexed: bool) -> Result<Vec<PlatformFiles>, Error> {
        let split = self.settings.split_platforms.unwrap_or(indexed);
        let trees = solves.iter().map(|solve| async move {
            let platform = solve.graph().target.platform.to_string();
            Ok::<_, Error>(PlatformFiles {
                directory: split.then(|| platform.replace('/', "_")),
                platform,
                files: solve.target_snapshot().await?,
            })
        });
        try_join_all(trees).await
    }

    /// The files of all layers, fetched where they are not there yet.
    async fn files(
        &self,
        solves: &[Solve],
        product: &Product,
    ) -> Result<BTreeMap<Digest, PathBuf>, Error> {
        let cache = &self.engine.cache;
        let all = product.images.iter().flat_map(|image| &image.layers);
        let mut files: BTreeMap<_, _> = all
            .map(|layer| (layer.digest.clone(), cache.blob(&layer.digest)))
            .collect();
        let bases = &self.engine.bases;
        let (client, imports) = (&self.engine.client, &self.engine.imports);
        let layers = product.images.iter().flat_map(|image| &image.layers);
        try_join_all(layers.map(|layer| imports.fetch(client, cache, layer)))
            .await
            .map_err(|error| Error::Cache("the image".into(), Box::new(error)))?;
        for solve in solves {
            let Some(base) = solve.target_base() else {
                continue;
            };
            let wanted: Vec<_> = base_layers(solve)
                .map(|layer| &layer.descriptor)
                .filter(|layer| files.contains_key(&layer.digest))
                .collect();
            try_join_all(wanted.iter().map(|layer| bases.blob(base, layer)))
                .await
                .map_err(|error| Error::Cache(base.name.clone(), Box::new(error)))?;
            for layer in wanted {
                files.insert(layer.digest.clone(), bases.blob_path(base, layer));
            }
        }
        Ok(files)
    }
}

/// The files of an image for one platform.
struct PlatformFiles {
    platform: String,
    /// The directory that they come into; none where all platforms share one.
    directory: Option<String>,
    files: Snapshot,
}

/// Writes the files of an image; returns how many were left out.
fn write_trees(
    trees: &[PlatformFiles],
    output: &Output,
    epoch: Option<i64>,
) -> Result<usize, ArchiveError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ArchiveError::Files { path, source }
    };
    if trees.iter().all(|tree| tree.directory.is_none()) {
        let named = trees.iter();
        let named = named.map(|tree| (tree.platform.as_str(), &tree.files as &dyn Tree));
        let path = output
            .path
            .as_deref()
            .unwrap_or(Path::new("standard output"));
        check_disjoint(&named.collect::<Vec<_>>()).map_err(failed(path))?;
    }
    if let (Form::Files, Some(path)) = (output.form, &output.path) {
        let written = trees.iter().map(|tree| {
            let failed = failed(path);
            match &tree.directory {
                None => write_files(&tree.files, path, epoch).map_err(failed),
                Some(name) => {
                    write_files_below(&tree.files, &path.join(name), epoch).map_err(failed)
                }
            }
        });
        return written.sum();
    }
    let trees = trees.iter().map(|tree| {
        let directory = tree.directory.clone().unwrap_or_default();
        (directory, &tree.files as &dyn Tree)
    });
    let trees: Vec<_> = trees.collect();
    write_aside(output.path.as_deref(), |to, path| {
        write_root_tar(&trees, epoch, to).map_err(failed(path))
    })?;
    Ok(0)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| Error::Panicked)??)
}

fn base_layers(solve: &Solve) -> impl Iterator<Item = &Layer> {
    solve
        .target_base()
        .into_iter()
        .flat_map(|base| &base.layers)
}
