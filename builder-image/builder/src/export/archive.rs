//! Images as files: an OCI layout in a directory or an archive, and the archive that `docker load` reads; how these look is
//! the business of the crate `store`. Archives are written aside and moved into place, so that a file of that name is
//! always whole.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use oci::{Descriptor, Digest};
use store::{Blobs, Layout, Named, StoreError};

use super::{FilesError, Form, Output};
use crate::image::{Documents, Product};
use crate::runtime::UntilOver;

/// The annotation that says when an image was made (image-spec, annotations.md).
const CREATED: &str = "org.opencontainers.image.created";

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file or directory cannot be made.
    #[error("writing {}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// The files of the image cannot be read or written.
    #[error("writing {}", path.display())]
    Files {
        /// Where to.
        path: PathBuf,
        /// What happened.
        source: FilesError,
    },
    /// A blob cannot be read, or what is made of the blobs not be written.
    #[error("writing {}", path.display())]
    Store {
        /// Where to.
        path: PathBuf,
        /// What happened.
        source: StoreError,
    },
}

/// The blobs of an image that was just made: its documents in memory, its layers in files.
#[derive(Debug)]
pub struct Contents {
    documents: BTreeMap<Digest, Vec<u8>>,
    layers: BTreeMap<Digest, PathBuf>,
    entry: Descriptor,
}

impl Contents {
    /// The blobs of `product`, whose layers are in the files `layers`. What stands for the image in the index of a layout
    /// says that it was made at `epoch`, where there is one: without it, no moment would be the same in the next build.
    pub fn new(
        product: &Product,
        documents: &Documents,
        layers: BTreeMap<Digest, PathBuf>,
        epoch: Option<i64>,
    ) -> Self {
        let index = product.index.iter();
        let mut known: BTreeMap<_, _> = index
            .map(|index| (index.descriptor.digest.clone(), index.bytes.clone()))
            .collect();
        for image in &product.images {
            let (manifest, config) = (&image.descriptor, &image.config_descriptor);
            known.insert(manifest.digest.clone(), image.manifest.clone());
            known.insert(config.digest.clone(), image.config.clone());
        }
        let mut entry = product.entry(documents);
        if let Some(moment) = epoch.and_then(|epoch| Timestamp::from_second(epoch).ok()) {
            let annotations = &mut entry.annotations;
            let created = annotations.entry(CREATED.to_owned());
            created.or_insert_with(|| moment.to_string());
        }
        Self {
            documents: known,
            layers,
            entry,
        }
    }

    fn archive(
        &self,
        output: &Output,
        to: &mut dyn Write,
        path: &Path,
    ) -> Result<(), ArchiveError> {
        let form = match output.form {
            Form::DockerArchive => store::Form::Docker,
            _ => store::Form::Oci,
        };
        let image = Named {
            names: output.names.clone(),
            image: self.entry.clone(),
        };
        let written = store::write_archive(self, &[image], form, to);
        written.map_err(|source| ArchiveError::Store {
            path: path.to_owned(),
            source,
        })
    }
}

impl Blobs for Contents {
    fn open(&self, blob: &Descriptor) -> store::Result<Box<dyn Read + '_>> {
        if let Some(document) = self.documents.get(&blob.digest) {
            return Ok(Box::new(document.as_slice()));
        }
        match self.layers.get(&blob.digest) {
            Some(path) => Ok(Box::new(store::open_file(path, blob)?)),
            None => Err(StoreError::Missing(blob.digest.clone())),
        }
    }
}

/// Writes an image to the archive that `output` says.
///
/// # Errors
/// When something cannot be written or read; an earlier file of that name is then as it was.
pub fn write_archive(made: &Contents, output: &Output) -> Result<(), ArchiveError> {
    write_aside(output.path.as_deref(), |to, path| {
        made.archive(output, to, path)
    })
}

/// Lets `write` write the file `path`, or to standard output where there is none. A file of that name is replaced when all
/// is written. `write` gets the path for its messages.
///
/// # Errors
/// Those of `write`, and when the file cannot be made or moved.
pub fn write_aside(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write, &Path) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let Some(path) = path else {
        let path = Path::new("standard output");
        return write(&mut BufWriter::new(std::io::stdout().lock()), path);
    };
    let failed = |source| ArchiveError::Write {
        path: path.to_owned(),
        source,
    };
    // A pipe or a device takes the bytes; only a file can be replaced by another.
    if fs_err::metadata(path).is_ok_and(|found| !found.is_file()) {
        let file = fs_err::OpenOptions::new().write(true).open(path);
        return write(&mut BufWriter::new(file.map_err(failed)?), path);
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".coopery-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        .map_err(failed)?;
    write(&mut BufWriter::new(UntilOver(file.as_file_mut())), path)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Writes an image into a layout directory, which may hold other images: those of the same names are replaced.
///
/// # Errors
/// When something cannot be written or read; the names in the layout are then as they were.
pub fn write_layout(
    made: &Contents,
    output: &Output,
    directory: &Path,
) -> Result<(), ArchiveError> {
    let (names, entry) = (&output.names, &made.entry);
    let written = Layout::create(directory).and_then(|layout| match output.form {
        Form::Store => layout.keep(made, names, entry),
        _ => layout.import(made, names, entry),
    });
    written.map_err(|source| ArchiveError::Store {
        path: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use oci::{MediaType, Platform};

    use super::*;
    use crate::image::Image;

    #[test]
    fn images_are_written_alike_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs_err::write(path("layer"), "layer").unwrap();
        let layer = Descriptor::of(MediaType::OciLayer, b"layer");
        let config =
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config_descriptor = Descriptor::of(MediaType::OciConfig, config);
        // The same layer twice is one blob.
        let layers = vec![layer.clone(), layer];
        let manifest = oci::Manifest::new(config_descriptor.clone(), layers.clone());
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let image = Image {
            platform: Platform::host(),
            config: config.to_vec(),
            descriptor: Descriptor::of(MediaType::OciManifest, &manifest),
            manifest,
            config_descriptor,
            layers,
        };
        let output = |form, name: &str| Output {
            form,
            path: Some(path(name)),
            names: vec!["acme/app:1".parse().unwrap()],
        };
        let digest = image.descriptor.digest.clone();
        let documents = Documents::default();
        let files = [(image.layers[0].digest.clone(), path("layer"))];
        let product = Product::new(vec![image], false, &documents);
        let made = Contents::new(&product, &documents, files.into(), Some(7));
        for (form, entries) in [(Form::OciArchive, 5), (Form::DockerArchive, 6)] {
            let write = |name| {
                write_archive(&made, &output(form, name)).unwrap();
                fs_err::read(path(name)).unwrap()
            };
            let written = write("first.tar");
            assert_eq!(written, write("second.tar"));
            let mut tar = tar::Archive::new(written.as_slice());
            assert_eq!(tar.entries().unwrap().count(), entries, "{form:?}");
            let store = Layout::create(path("store")).unwrap();
            let read = store::read_archive(written.as_slice(), &store).unwrap();
            assert_eq!(read[0].name, Some("acme/app:1".parse().unwrap()));
            assert_eq!(read[0].descriptor.digest, digest);
        }
        for (form, called) in [(Form::OciDirectory, "1"), (Form::Store, "acme/app:1")] {
            let output = output(form, called);
            let at = path(called);
            for _ in 0..2 {
                write_layout(&made, &output, &at).unwrap();
                let layout = Layout::open(&at).unwrap();
                let index = layout.index().unwrap();
                assert_eq!(index.manifests.len(), 1);
                assert_eq!(index.manifests[0].platform, Some(Platform::host()));
                let created = &index.manifests[0].annotations[CREATED];
                assert_eq!(created, "1970-01-01T00:00:07Z");
                let found = layout.find(called).unwrap();
                assert_eq!(found, Some(index.manifests[0].clone()));
            }
        }

        fs_err::write(path("layer"), "damage").unwrap();
        let failed = write_archive(&made, &output(Form::OciArchive, "first.tar"));
        assert!(matches!(failed, Err(ArchiveError::Store { .. })));
        // What was there is there still, and nothing besides.
        assert_eq!(
            fs_err::read(path("first.tar")).unwrap(),
            fs_err::read(path("second.tar")).unwrap()
        );
        let hidden = |name: std::ffi::OsString| name.to_string_lossy().starts_with('.');
        let mut left = fs_err::read_dir(directory.path()).unwrap();
        assert!(!left.any(|entry| hidden(entry.unwrap().file_name())));
    }
}
