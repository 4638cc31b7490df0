//! Images of this machine as bases: a name that an image has here stands for that image, as in docker. Whoever wants what the
//! registry has says so (`--pull`), and pods have no images of their own.

use std::path::Path;

use images::{Images, ImagesError};
use oci::{Descriptor, Platform, Reference};
use store::Layout;

use crate::error::BaseError;

/// The images of this machine. They stay until the value ends, whatever becomes of their names.
#[derive(Debug)]
pub struct LocalImages {
    images: Images,
    _held: store::Writing,
}

impl LocalImages {
    /// The images in `directory`, if there are any.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(directory: &Path) -> Result<Option<Self>, ImagesError> {
        if Layout::open(directory).is_err() {
            return Ok(None);
        }
        let images = Images::open(directory)?;
        let held = images.hold()?;
        Ok(Some(Self {
            images,
            _held: held,
        }))
    }

    /// The manifest of the image that is called `name` here, where it is one for `platform`.
    pub(super) fn find(
        &self,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Option<(Descriptor, Layout)>, BaseError> {
        let unreadable = |error: ImagesError| BaseError::Malformed(error.to_string());
        let catalog = self.images.catalog().map_err(unreadable)?;
        let image = catalog.by_name(&images::entry_name(name));
        let image = image.filter(|image| platform.matches(&image.config.platform));
        Ok(image.map(|image| {
            let layout = self.images.layout().clone();
            (image.manifest_descriptor.clone(), layout)
        }))
    }
}
