//! Images as files: an OCI layout in a directory or an archive, and the archive that `docker load` reads; how these look is
//! the business of the crate `store`. Archives are written aside and moved into place, so that a file of that name is
//! always whole.

use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use oci::{Descriptor, Reference};
use store::{Blobs, Layout, Named, StoreError};

use super::{Form, Output};
use crate::image::Image;

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
    /// A blob cannot be read, or what is made of the blobs not be written.
    #[error("writing {}", path.display())]
    Store {
        /// Where to.
        path: PathBuf,
        /// What happened.
        source: StoreError,
    },
}

/// An image that was just made: its documents in memory, its layers wherever `file` says.
struct Made<'a> {
    image: &'a Image,
    file: &'a dyn Fn(&Descriptor) -> PathBuf,
}

impl Blobs for Made<'_> {
    fn open(&self, blob: &Descriptor) -> store::Result<Box<dyn Read + '_>> {
        let image = self.image;
        Ok(if blob.digest == image.descriptor.digest {
            Box::new(image.manifest.as_slice())
        } else if blob.digest == image.config_descriptor.digest {
            Box::new(image.config.as_slice())
        } else {
            Box::new(store::open_file(&(self.file)(blob), blob)?)
        })
    }
}

impl Made<'_> {
    /// What stands for the image in an index.
    fn descriptor(&self) -> Descriptor {
        let platform = self.image.platform.clone();
        self.image.descriptor.clone().with_platform(platform)
    }

    fn archive(&self, output: &Output, to: impl Write, path: &Path) -> Result<(), ArchiveError> {
        let form = match output.form {
            Form::DockerArchive => store::Form::Docker,
            Form::OciArchive | Form::OciDirectory => store::Form::Oci,
        };
        let image = Named {
            names: output.names.clone(),
            image: self.descriptor(),
        };
        let written = store::write_archive(self, &[image], form, BufWriter::new(to));
        written.map_err(|source| ArchiveError::Store {
            path: path.to_owned(),
            source,
        })
    }
}

/// Writes an image as `output` says. `blob` gives the file of a layer.
///
/// # Errors
/// When something cannot be written or read; an earlier file of that name is then as it was.
pub fn write_archive(
    image: &Image,
    output: &Output,
    blob: &dyn Fn(&Descriptor) -> PathBuf,
) -> Result<(), ArchiveError> {
    let made = Made { image, file: blob };
    let Some(path) = &output.path else {
        let path = Path::new("standard output");
        return made.archive(output, std::io::stdout().lock(), path);
    };
    let write = |source| ArchiveError::Write {
        path: path.clone(),
        source,
    };
    // A pipe or a device takes the bytes; only a file can be replaced by another.
    if fs_err::metadata(path).is_ok_and(|found| !found.is_file()) {
        let file = fs_err::OpenOptions::new().write(true).open(path);
        return made.archive(output, file.map_err(write)?, path);
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".coopery-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        .map_err(write)?;
    made.archive(output, file.as_file_mut(), path)?;
    file.persist(path).map_err(|error| write(error.error))?;
    Ok(())
}

/// Writes an image into a layout directory, which may hold other images: those of the same names are replaced.
///
/// # Errors
/// When something cannot be written or read; the names in the layout are then as they were.
pub fn write_layout(
    image: &Image,
    names: &[Reference],
    directory: &Path,
    blob: &dyn Fn(&Descriptor) -> PathBuf,
) -> Result<(), ArchiveError> {
    let made = Made { image, file: blob };
    let written = Layout::create(directory)
        .and_then(|layout| layout.import(&made, names, &made.descriptor()));
    written.map_err(|source| ArchiveError::Store {
        path: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use oci::{MediaType, Platform};

    use super::*;

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
        let file = |_: &Descriptor| path("layer");
        for (form, entries) in [(Form::OciArchive, 5), (Form::DockerArchive, 6)] {
            let write = |name| {
                write_archive(&image, &output(form, name), &file).unwrap();
                fs_err::read(path(name)).unwrap()
            };
            let written = write("first.tar");
            assert_eq!(written, write("second.tar"));
            let mut tar = tar::Archive::new(written.as_slice());
            assert_eq!(tar.entries().unwrap().count(), entries, "{form:?}");
            let store = Layout::create(path("store")).unwrap();
            let read = store::read_archive(written.as_slice(), &store).unwrap();
            assert_eq!(read[0].name, Some("acme/app:1".parse().unwrap()));
            assert_eq!(read[0].descriptor.digest, image.descriptor.digest);
        }
        let names = output(Form::OciDirectory, "layout").names;
        for _ in 0..2 {
            write_layout(&image, &names, &path("layout"), &file).unwrap();
            let layout = Layout::open(path("layout")).unwrap();
            let index = layout.index().unwrap();
            assert_eq!(index.manifests.len(), 1);
            assert_eq!(index.manifests[0].platform, Some(Platform::host()));
            assert_eq!(layout.find("1").unwrap(), Some(index.manifests[0].clone()));
        }

        fs_err::write(path("layer"), "damage").unwrap();
        let failed = write_archive(&image, &output(Form::OciArchive, "first.tar"), &file);
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
