//! How an image was made, step by step, the last one first. Pure.

use oci::{Descriptor, DiffId, Digest, History};

use crate::{Catalog, Image};

/// A step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<'a> {
    /// The image that ended with this step, where it is here.
    pub image: Option<&'a Digest>,
    /// What the configuration says.
    pub entry: History,
    /// The layer that it made.
    pub layer: Option<(&'a DiffId, &'a Descriptor)>,
}

/// The steps of an image. Layers that the history does not tell of are steps of their own.
pub fn history<'a>(catalog: &'a Catalog, image: &'a Image) -> Vec<Step<'a>> {
    let mut layers = image.layers();
    let mut steps: Vec<_> = (image.config.history.iter())
        .map(|entry| Step {
            image: None,
            layer: if entry.empty_layer {
                None
            } else {
                layers.next()
            },
            entry: entry.clone(),
        })
        .collect();
    steps.extend(layers.map(|layer| Step {
        image: None,
        entry: History::default(),
        layer: Some(layer),
    }));
    // A parent of the image ends where its own history does.
    let mut ancestor = catalog.parent(image);
    while let Some(found) = ancestor {
        let length = found.config.history.len();
        if let Some(step) = length.checked_sub(1).and_then(|last| steps.get_mut(last)) {
            step.image.get_or_insert(&found.id);
        }
        ancestor = catalog.parent(found);
    }
    if let Some(last) = steps.last_mut() {
        last.image = Some(&image.id);
    }
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::test_image::{TestImage, catalog};

    #[test]
    fn steps_have_their_layers_and_the_images_that_ended_with_them() {
        let base = TestImage::new("base").layers(&["1"]);
        let image = base
            .clone()
            .empty_step("ENV a=b")
            .layers(&["1"])
            .layers(&["1", "2"])
            .empty_step("CMD x");
        let catalog = catalog(&[base.clone(), image.clone()]);
        let image = catalog.by_id(&image.id()).unwrap();
        let steps = history(&catalog, image);
        let shown: Vec<_> = steps
            .iter()
            .map(|step| {
                (
                    step.image.is_some(),
                    step.layer.is_some(),
                    step.entry.created_by.as_deref().unwrap_or("?"),
                )
            })
            .collect();
        assert_eq!(shown.first(), Some(&(true, false, "CMD x")));
        assert_eq!(shown.last(), Some(&(true, true, "base ADD 1")));
        assert_eq!(steps.last().unwrap().image, Some(&base.id()));
        assert_eq!(shown.iter().filter(|(_, layer, _)| *layer).count(), 2);
    }

    #[test]
    fn layers_without_history_are_shown() {
        let mut image = TestImage::new("a").layers(&["1", "2"]);
        image.config.history.clear();
        let catalog = catalog(&[image]);
        let steps = history(&catalog, &catalog.images()[0]);
        assert_eq!(steps.len(), 2);
        assert!(steps.iter().all(|step| step.layer.is_some()));
        assert!(steps[0].image.is_some() && steps[1].image.is_none());
    }
}
