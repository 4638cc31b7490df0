//! The index of images that other pods have pushed: read, joined, pushed by digest everywhere, then tagged. No layer is
//! touched, and no step is known.

use bytes::Bytes;
use distribution::Client;
use oci::{Descriptor, Digest, Document, Platform, Repository};
use protocol::{BuildOutcome, Isolation, PlatformImage, PushedImage, Resolved};

use crate::error::Error;
use crate::export::Destination;
use crate::image::{Documents, ImageIndex, distinct_size, index_of};

/// An image that is to be in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Child {
    platform: Platform,
    digest: Digest,
}

/// Makes the index of `images` at every one of `destinations`, which have the images already.
///
/// # Errors
/// When an image is not there, or a registry refuses. No tag was changed then, unless it was the last thing to be written.
pub async fn join(
    client: &Client,
    images: &[PlatformImage],
    destinations: &[Destination],
) -> Result<BuildOutcome, Error> {
    let children = images.iter().map(child).collect::<Result<Vec<_>, _>>()?;
    let (Some(first), Some(source)) = (children.first(), destinations.first()) else {
        let what = "an index of nothing, or for nobody".to_owned();
        return Err(Error::Request(what));
    };
    let mut listed = Vec::new();
    let mut blobs: Vec<Descriptor> = Vec::new();
    for child in &children {
        let (descriptor, content) = read(client, &source.repository, child).await?;
        blobs.push(descriptor.clone());
        blobs.extend(content);
        listed.push(descriptor.with_platform(child.platform.clone()));
    }
    for destination in &destinations[1..] {
        for child in &children {
            look_for(client, &destination.repository, child).await?;
        }
    }
    let index = index_of(listed, &Documents::default());
    put_everywhere(client, &index, destinations).await?;
    blobs.push(index.descriptor.clone());
    let digest = index.descriptor.digest;
    Ok(BuildOutcome {
        size: distinct_size(&blobs),
        platform: first.platform.to_string(),
        platforms: images.to_vec(),
        destinations: destinations
            .iter()
            .map(|destination| PushedImage {
                name: destination.name.clone(),
                image: destination.repository.at(digest.clone()).to_string(),
            })
            .collect(),
        digest: digest.to_string(),
        base_images: Vec::new(),
        source: Resolved::default(),
        steps: 0,
        cached_steps: 0,
        misses: Vec::new(),
        isolation: Isolation::NoRun,
    })
}

fn child(image: &PlatformImage) -> Result<Child, Error> {
    let platform: Platform = image
        .platform
        .parse()
        .map_err(|error: oci::PlatformError| Error::Request(error.to_string()))?;
    let digest = image
        .digest
        .parse()
        .map_err(|error: oci::DigestError| Error::Request(error.to_string()))?;
    Ok(Child {
        platform: platform.normalized(),
        digest,
    })
}

/// The descriptor of an image's manifest, and what the manifest refers to.
async fn read(
    client: &Client,
    repository: &Repository,
    child: &Child,
) -> Result<(Descriptor, Vec<Descriptor>), Error> {
    let reference = repository.at(child.digest.clone());
    let doing = || format!("reading the image for {} at {repository}", child.platform);
    let raw = client
        .manifest(&reference)
        .await
        .map_err(Error::export(doing()))?;
    match raw.document() {
        Ok(Document::Manifest(manifest)) => {
            let mut content = manifest.layers;
            content.push(manifest.config);
            Ok((raw.descriptor(), content))
        }
        _ => Err(Error::Request(format!(
            "{reference}, the image for {}, is no manifest of one image",
            child.platform
        ))),
    }
}

async fn look_for(client: &Client, repository: &Repository, child: &Child) -> Result<(), Error> {
    let reference = repository.at(child.digest.clone());
    let doing = format!(
        "looking for the image for {} at {repository}",
        child.platform
    );
    let found = client.resolve(&reference).await;
    found
        .and_then(|found| {
            found
                .map(drop)
                .ok_or_else(|| distribution::Error::NotFound {
                    action: format!("pull manifest {reference}"),
                    code: None,
                })
        })
        .map_err(Error::export(doing))
}

/// By digest to every destination, and only then under the tags.
async fn put_everywhere(
    client: &Client,
    index: &ImageIndex,
    destinations: &[Destination],
) -> Result<(), Error> {
    let Descriptor {
        media_type, digest, ..
    } = &index.descriptor;
    let bytes = || Bytes::copy_from_slice(&index.bytes);
    for Destination { repository, .. } in destinations {
        let reference = repository.at(digest.clone());
        client
            .put_manifest(&reference, media_type, bytes())
            .await
            .map_err(Error::export(format!("pushing the index to {repository}")))?;
    }
    for Destination {
        repository, tags, ..
    } in destinations
    {
        for tag in tags {
            let reference = repository.tagged(tag.clone());
            client
                .put_manifest(&reference, media_type, bytes())
                .await
                .map_err(Error::export(format!("writing a tag of {repository}")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use distribution::Guard;
    use distribution::memory::MemoryRegistry;
    use oci::{Manifest, MediaType};

    use super::*;

    fn push(registry: &MemoryRegistry, repository: &str, config: &str) -> Descriptor {
        let layer = Descriptor::of(MediaType::OciLayerGzip, b"shared");
        let config = Descriptor::of(MediaType::OciConfig, config.as_bytes());
        let bytes = serde_json::to_vec(&Manifest::new(config, vec![layer])).unwrap();
        let descriptor = Descriptor::of(MediaType::OciManifest, &bytes);
        registry.add_manifest(repository, None, MediaType::OciManifest, bytes);
        descriptor
    }

    fn destination(registry: &MemoryRegistry, repository: &str) -> Destination {
        Destination {
            name: repository.into(),
            repository: format!("{}/{repository}", registry.host()).parse().unwrap(),
            tags: vec!["latest".parse().unwrap(), "v1".parse().unwrap()],
        }
    }

    fn image(platform: &str, descriptor: &Descriptor) -> PlatformImage {
        PlatformImage {
            platform: platform.into(),
            digest: descriptor.digest.to_string(),
            size: 10,
        }
    }

    fn client() -> Client {
        Client::builder().guard(Guard::Open).build().unwrap()
    }

    #[tokio::test]
    async fn the_index_of_pushed_images_is_at_every_destination_under_every_tag() {
        let registry = MemoryRegistry::start().await;
        let (mut amd64, mut arm) = (None, None);
        for repository in ["a", "b"] {
            amd64 = Some(push(&registry, repository, "amd64"));
            arm = Some(push(&registry, repository, "arm/v7"));
        }
        let (amd64, arm) = (amd64.unwrap(), arm.unwrap());
        let images = [image("linux/amd64", &amd64), image("linux/arm", &arm)];
        let destinations = [destination(&registry, "a"), destination(&registry, "b")];
        let built = join(&client(), &images, &destinations).await.unwrap();
        for repository in ["a", "b"] {
            for tag in ["latest", "v1"] {
                let raw = registry.manifest(repository, tag).unwrap();
                assert_eq!(raw.digest.to_string(), built.digest);
                let Document::Index(index) = raw.document().unwrap() else {
                    panic!("no index")
                };
                let listed: Vec<_> = index
                    .manifests
                    .iter()
                    .map(|child| {
                        let platform = child.platform.as_ref().unwrap().to_string();
                        (platform, child.digest.clone(), child.size)
                    })
                    .collect();
                assert_eq!(
                    listed,
                    [
                        ("linux/amd64".to_owned(), amd64.digest.clone(), amd64.size),
                        ("linux/arm/v7".to_owned(), arm.digest.clone(), arm.size),
                    ]
                );
            }
        }
        let index = registry.manifest("a", "latest").unwrap().bytes.len() as u64;
        // The layer counts once.
        let content = amd64.size + arm.size + "amd64".len() as u64 + "arm/v7".len() as u64 + 6;
        assert_eq!(built.size, index + content);
        assert_eq!(built.platforms, images);
    }

    #[tokio::test]
    async fn an_image_that_is_not_everywhere_leaves_all_tags_alone() {
        let registry = MemoryRegistry::start().await;
        let amd64 = push(&registry, "a", "amd64");
        let arm64 = push(&registry, "a", "arm64");
        push(&registry, "b", "amd64");
        let images = [image("linux/amd64", &amd64), image("linux/arm64", &arm64)];
        for places in [["a", "b"], ["b", "a"]] {
            let destinations = places.map(|place| destination(&registry, place));
            let error = join(&client(), &images, &destinations).await.unwrap_err();
            assert!(error.to_string().contains("linux/arm64"), "{error}");
            assert!(registry.tags("a").is_empty() && registry.tags("b").is_empty());
        }
    }
}
