//! What is mirrored, and its way into a registry: bare requests, which are also what mirrors are measured against where
//! nothing is far away.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use oci::{Descriptor, Manifest, MediaType};

/// Requests at the same time.
const AT_ONCE: usize = 16;

/// A repository: blobs, and tags with their manifests.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) repository: String,
    pub(crate) blobs: Vec<Bytes>,
    pub(crate) manifests: Vec<(String, Bytes)>,
}

/// Bytes that nothing compresses, of which no two seeds have the same.
fn noise(seed: u64, size: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..size.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect::<Vec<u8>>().into()
}

impl Content {
    fn new(repository: String) -> Self {
        Self {
            repository,
            blobs: Vec::new(),
            manifests: Vec::new(),
        }
    }

    fn tag(&mut self, tag: String, layers: &[Bytes]) -> anyhow::Result<()> {
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","name":"{}:{tag}"}}"#,
            self.repository
        );
        let config = Bytes::from(config);
        let descriptors = layers
            .iter()
            .map(|layer| Descriptor::of(MediaType::OciLayerGzip, layer));
        let manifest = Manifest::new(
            Descriptor::of(MediaType::OciConfig, &config),
            descriptors.collect(),
        );
        for blob in layers.iter().chain([&config]) {
            if !self.blobs.contains(blob) {
                self.blobs.push(blob.clone());
            }
        }
        self.manifests
            .push((tag, serde_json::to_vec(&manifest)?.into()));
        Ok(())
    }

    /// Ten repositories of ten tags: three layers are in all of them, one in each repository, one only in its tag.
    pub(crate) fn images() -> anyhow::Result<Vec<Self>> {
        let shared: Vec<_> = (1..4).map(|seed| noise(seed, 2 << 20)).collect();
        let repositories = (0..10).map(|number| {
            let mut content = Self::new(format!("app{number}"));
            let own = noise(100 + number, 1 << 20);
            for tag in 0..10 {
                let last = noise(1000 + number * 10 + tag, 256 << 10);
                let layers: Vec<_> = shared.iter().cloned().chain([own.clone(), last]).collect();
                content.tag(format!("v{tag}"), &layers)?;
            }
            Ok(content)
        });
        repositories.collect()
    }

    /// One more tag of the first repository.
    pub(crate) fn one_more() -> anyhow::Result<Self> {
        let mut content = Self::new("app0".to_owned());
        content.tag(
            "new".to_owned(),
            &[noise(1, 2 << 20), noise(9999, 256 << 10)],
        )?;
        Ok(content)
    }

    /// One repository of a thousand tags.
    pub(crate) fn tags() -> anyhow::Result<Vec<Self>> {
        let mut content = Self::new("many".to_owned());
        let layer = noise(7, 64 << 10);
        for tag in 0..1000 {
            content.tag(format!("v{tag}"), &[layer.clone(), noise(tag, 64)])?;
        }
        Ok(vec![content])
    }

    /// One image of one layer of so many mebibytes.
    pub(crate) fn large(mebibytes: usize) -> anyhow::Result<Vec<Self>> {
        let mut content = Self::new("large".to_owned());
        content.tag("v1".to_owned(), &[noise(5, mebibytes << 20)])?;
        Ok(vec![content])
    }

    /// Repository and tags.
    pub(crate) fn names(&self) -> (String, Vec<String>) {
        let tags = self.manifests.iter().map(|(tag, _)| tag.clone());
        (self.repository.clone(), tags.collect())
    }

    /// Puts it into the registry `host`, below `prefix`: an upload for each blob, sixteen at a time, then the manifests.
    pub(crate) async fn put(
        &self,
        client: &reqwest::Client,
        host: &str,
        prefix: &str,
    ) -> anyhow::Result<()> {
        let base = format!("http://{host}/v2/{prefix}{}", self.repository);
        let upload = async |blob: &Bytes| {
            let opened = client.post(format!("{base}/blobs/uploads/")).send().await?;
            let location = opened
                .headers()
                .get("location")
                .and_then(|text| text.to_str().ok());
            let mut location = opened.url().join(location.unwrap_or_default())?;
            let digest = Descriptor::of(MediaType::OciLayer, blob).digest;
            location
                .query_pairs_mut()
                .append_pair("digest", digest.as_str());
            client
                .put(location)
                .body(blob.clone())
                .send()
                .await?
                .error_for_status()?;
            anyhow::Ok(())
        };
        futures::stream::iter(self.blobs.iter().map(upload))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let name = async |(tag, manifest): &(String, Bytes)| {
            let put = client.put(format!("{base}/manifests/{tag}"));
            let put = put.header("content-type", MediaType::OciManifest.as_str());
            put.body(manifest.clone())
                .send()
                .await?
                .error_for_status()?;
            anyhow::Ok(())
        };
        futures::stream::iter(self.manifests.iter().map(name))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await
    }

    /// One HEAD of each of its tags at the registry `host`, below `prefix`.
    pub(crate) async fn head(
        &self,
        client: &reqwest::Client,
        host: &str,
        prefix: &str,
    ) -> anyhow::Result<()> {
        let base = format!("http://{host}/v2/{prefix}{}", self.repository);
        let head = async |(tag, _): &(String, Bytes)| {
            let head = client.head(format!("{base}/manifests/{tag}"));
            let head = head.header("accept", MediaType::OciManifest.as_str());
            head.send().await?.error_for_status()?;
            anyhow::Ok(())
        };
        futures::stream::iter(self.manifests.iter().map(head))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await
    }
}
