//! One image of each kind that registries hold: what its documents and blobs are, with layers that are real archives, so that
//! other clients can unpack them.

use std::io::Write as _;

use bytes::Bytes;
use distribution::{Client, copy::Platforms};
use oci::{Descriptor, MediaType, Repository};
use serde_json::{Value, json};

/// The platform that the judges look at.
pub(crate) const PLATFORM: &str = "linux/amd64";

/// An image with everything below it.
pub(crate) struct Sample {
    /// Its name in tags and reports.
    pub(crate) name: &'static str,
    pub(crate) root: Descriptor,
    /// Manifests and indexes, children first; the root is the last.
    documents: Vec<(MediaType, Bytes)>,
    blobs: Vec<Bytes>,
    /// Which of its platforms a mirror takes.
    pub(crate) platforms: Platforms,
    /// Whether it can be run, so that a validator can compare layers and configuration.
    pub(crate) is_image: bool,
    /// Whether `crane validate` understands it: it reads no zstd, and compares attestations as if they were images.
    pub(crate) is_validated: bool,
}

impl Sample {
    fn of(name: &'static str) -> Self {
        Self {
            name,
            root: Descriptor::of(MediaType::OciManifest, b""),
            documents: Vec::new(),
            blobs: Vec::new(),
            platforms: Platforms::Whole,
            is_image: true,
            is_validated: true,
        }
    }

    fn blob(&mut self, media_type: &str, bytes: Bytes) -> Descriptor {
        let descriptor = Descriptor::of(media_type.into(), &bytes);
        self.blobs.push(bytes);
        descriptor
    }

    /// Adds a document, written as no serialiser of ours would; what is added last is the root.
    fn document(&mut self, media_type: &MediaType, document: &Value) -> Descriptor {
        let text = serde_json::to_string_pretty(document).expect("it is JSON");
        let bytes = Bytes::from(text.replace("\": ", "\" :  "));
        self.root = Descriptor::of(media_type.clone(), &bytes);
        self.documents.push((media_type.clone(), bytes));
        self.root.clone()
    }

    /// Adds an image of one platform, whose layers are archives of one file each.
    fn image(
        &mut self,
        [manifest, config, layer]: [&str; 3],
        architecture: &str,
        pack: impl Fn(&[u8]) -> anyhow::Result<Vec<u8>>,
        also: Option<Value>,
    ) -> anyhow::Result<Descriptor> {
        let (mut layers, mut diffs) = (Vec::new(), Vec::new());
        for number in 0..2 {
            let archive = archive(&format!("{}-{architecture}-{number}", self.name))?;
            diffs.push(oci::Digest::of(&archive).to_string());
            layers.push(json!(self.blob(layer, pack(&archive)?.into())));
        }
        if let Some(also) = also {
            diffs.push(also["digest"].as_str().unwrap_or_default().to_owned());
            layers.push(also);
        }
        let config_text = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diffs},
            "history": diffs.iter().map(|diff| json!({"created_by": diff})).collect::<Vec<_>>(),
        });
        let config = self.blob(config, config_text.to_string().into());
        let media_type: MediaType = manifest.into();
        let document = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
        });
        Ok(self.document(&media_type, &document))
    }

    fn index(&mut self, media_type: &MediaType, children: &[Value]) -> Descriptor {
        let document = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": children});
        self.document(media_type, &document)
    }

    /// Puts it into `repository`, by no copy of ours.
    ///
    /// # Errors
    /// The registry refuses it.
    pub(crate) async fn push(&self, client: &Client, to: &Repository) -> anyhow::Result<()> {
        for bytes in &self.blobs {
            let media_type = MediaType::OciLayer;
            client.upload_bytes(to, media_type, bytes.clone()).await?;
        }
        for (media_type, bytes) in &self.documents {
            let digest = Descriptor::of(media_type.clone(), bytes).digest;
            client
                .put_manifest(&to.at(digest), media_type, bytes.clone())
                .await?;
        }
        let (media_type, bytes) = self.documents.last().expect("every sample has a root");
        let name = to.tagged(self.name.parse()?);
        client
            .put_manifest(&name, media_type, bytes.clone())
            .await?;
        Ok(())
    }
}

fn archive(content: &str) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "file", content.as_bytes())?;
    Ok(archive.into_inner()?)
}

fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

fn zstandard(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    Ok(zstd::encode_all(bytes, 3)?)
}

const OCI: [&str; 3] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
];
const DOCKER: [&str; 3] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];
const ZSTD: [&str; 3] = [
    OCI[0],
    OCI[1],
    "application/vnd.oci.image.layer.v1.tar+zstd",
];

/// A child of an index, with its platform.
fn child(of: &Descriptor, architecture: &str) -> Value {
    let platform = format!("linux/{architecture}").parse();
    json!(
        of.clone()
            .with_platform(platform.expect("it is a platform"))
    )
}

/// An index of two platforms with an attestation of each.
fn attested(name: &'static str, platforms: Platforms) -> anyhow::Result<Sample> {
    let mut sample = Sample::of(name);
    let mut children = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let image = sample.image(OCI, architecture, gzip, None)?;
        children.push(child(&image, architecture));
        let statement = json!({"_type": "https://in-toto.io/Statement/v0.1", "of": image.digest});
        let layer = sample.blob("application/vnd.in-toto+json", statement.to_string().into());
        let config = json!({"architecture": "unknown", "os": "unknown",
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]}});
        let config = sample.blob(OCI[1], config.to_string().into());
        let document =
            json!({"schemaVersion": 2, "mediaType": OCI[0], "config": config, "layers": [layer]});
        let attestation = sample.document(&MediaType::OciManifest, &document);
        let mut attestation = json!(attestation);
        attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
        attestation["annotations"] = json!({
            "vnd.docker.reference.digest": image.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        });
        children.push(attestation);
    }
    sample.index(&MediaType::OciIndex, &children);
    sample.platforms = platforms;
    Ok(sample)
}

/// One of each kind.
///
/// # Errors
/// None that could be expected.
pub(crate) fn corpus() -> anyhow::Result<Vec<Sample>> {
    let mut docker = Sample::of("docker-schema2");
    docker.image(DOCKER, "amd64", gzip, None)?;

    let mut list = Sample::of("docker-list");
    let children = ["amd64", "arm64"].map(|architecture| {
        let image = list.image(DOCKER, architecture, gzip, None);
        image.map(|image| child(&image, architecture))
    });
    let children: Vec<_> = children.into_iter().collect::<Result<_, _>>()?;
    list.index(&MediaType::DockerManifestList, &children);

    let mut oci = Sample::of("oci");
    oci.image(OCI, "amd64", gzip, None)?;

    let mut zstd = Sample::of("zstd");
    zstd.image(ZSTD, "amd64", zstandard, None)?;

    zstd.is_validated = false;

    let mut foreign = Sample::of("foreign");
    foreign.image(
        DOCKER,
        "amd64",
        gzip,
        Some(json!({
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": oci::Digest::of(b"elsewhere"), "size": 9,
            "urls": ["https://layers.example.com/elsewhere"],
        })),
    )?;
    foreign.is_image = false;

    let mut artifact = Sample::of("artifact");
    let config = artifact.blob(
        "application/vnd.oci.empty.v1+json",
        Bytes::from_static(b"{}"),
    );
    let layer = artifact.blob(
        "application/vnd.example.sbom+json",
        Bytes::from_static(b"[]"),
    );
    let document = json!({
        "schemaVersion": 2, "mediaType": OCI[0], "artifactType": "application/vnd.example.sbom",
        "config": config, "layers": [layer], "annotations": {"org.example": "yes"},
    });
    artifact.document(&MediaType::OciManifest, &document);
    artifact.is_image = false;

    let mut nested = Sample::of("nested-index");
    let image = nested.image(OCI, "amd64", gzip, None)?;
    let children = [child(&image, "amd64")];
    let inner = nested.index(&MediaType::OciIndex, &children);
    nested.index(&MediaType::OciIndex, &[children[0].clone(), json!(inner)]);

    let mut whole = attested("attested", Platforms::Whole)?;
    whole.is_validated = false;
    let mut sparse = attested("sparse", Platforms::Sparse(vec![PLATFORM.parse()?]))?;
    sparse.is_image = false;
    Ok(vec![
        docker, list, oci, zstd, foreign, artifact, nested, whole, sparse,
    ])
}
