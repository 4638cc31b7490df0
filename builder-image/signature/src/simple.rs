//! The form of cosign before version 3: a payload ("simple signing") as a layer of the manifest under the tag
//! `sha256-<hex>.sig`, with the signature as an annotation of the layer.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use oci::{Descriptor, Digest, Manifest, Repository};
use serde::Deserialize;
use serde_json::json;

use crate::Problem;
use crate::key::{KeyError, PrivateKey};
use crate::remote::NamedKey;

/// The type of a layer that is a payload.
pub const SIMPLE_SIGNING_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of the layer that holds the signature of its bytes.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What a payload says that it is.
pub const PAYLOAD_KIND: &str = "cosign container image signature";

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

/// Whether `layer` is a payload with a signature.
pub(crate) fn is_signature(layer: &Descriptor) -> bool {
    layer.media_type.as_str() == SIMPLE_SIGNING_TYPE && layer.annotations.contains_key(SIGNATURE)
}

/// Which of `keys` signed `payload`, the bytes of `layer`, as a signature of `image`.
pub(crate) fn verify<'a>(
    layer: &Descriptor,
    payload: &[u8],
    image: &Digest,
    keys: &'a [NamedKey],
) -> Result<&'a NamedKey, Problem> {
    let signature = layer
        .annotations
        .get(SIGNATURE)
        .ok_or(Problem::Malformed("its layer has no signature"))?;
    let signature = BASE64_STANDARD
        .decode(signature)
        .map_err(|_| Problem::Malformed("it is not in base64"))?;
    let key = keys
        .iter()
        .find(|key| key.key.verifies(payload, &signature))
        .ok_or(Problem::OtherKey)?;
    let payload: Payload = serde_json::from_slice(payload)
        .map_err(|_| Problem::Malformed("its payload is of another form"))?;
    if payload.critical.kind != PAYLOAD_KIND {
        return Err(Problem::OtherStatement);
    }
    if payload.critical.image.docker_manifest_digest != image.as_str() {
        return Err(Problem::OtherImage);
    }
    Ok(key)
}

/// A layer that says that `key` signed `image` of `repository`, and its bytes.
pub(crate) fn sign(
    repository: &Repository,
    image: &Digest,
    key: &PrivateKey,
) -> Result<(Descriptor, Bytes), KeyError> {
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": repository.to_string()},
            "image": {"docker-manifest-digest": image.as_str()},
            "type": PAYLOAD_KIND,
        },
        "optional": null,
    });
    let payload = Bytes::from(payload.to_string());
    let signature = BASE64_STANDARD.encode(key.sign(&payload)?);
    let mut layer = Descriptor::of(SIMPLE_SIGNING_TYPE.into(), &payload);
    layer.annotations.insert(SIGNATURE.to_owned(), signature);
    Ok((layer, payload))
}

/// The configuration of the manifest with `layers`.
pub(crate) fn config(layers: &[Descriptor]) -> Bytes {
    let ids: Vec<_> = layers.iter().map(|layer| &layer.digest).collect();
    json!({"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}})
        .to_string()
        .into()
}

/// `there`, or an empty manifest, with `layer` behind its layers, and its configuration.
pub(crate) fn manifest(there: Option<Manifest>, layer: Descriptor) -> (Manifest, Bytes) {
    let mut layers = there.map_or_else(Vec::new, |manifest| manifest.layers);
    layers.push(layer);
    let config = config(&layers);
    let described = Descriptor::of(oci::MediaType::OciConfig, &config);
    (Manifest::new(described, layers), config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PublicKey;

    const PUB: &str = include_str!("../testdata/cosign.pub");

    #[test]
    fn payloads_of_cosign_are_verified() {
        let keys = [PublicKey::from_pem(PUB).unwrap().into()];
        let image = "sha256:63a7997b200190d33c7bdc1bdfc4e068abc2f89f5506037a0d7e5701e56b1844"
            .parse()
            .unwrap();
        let payload = br#"{"critical":{"identity":{"docker-reference":"127.0.0.1:5990/app"},"image":{"docker-manifest-digest":"sha256:63a7997b200190d33c7bdc1bdfc4e068abc2f89f5506037a0d7e5701e56b1844"},"type":"cosign container image signature"},"optional":null}"#;
        let mut layer = Descriptor::of(SIMPLE_SIGNING_TYPE.into(), payload);
        let signature = "MEQCIEbp05lPekAp7vboMPkUzA/NYqjd63Q7CP7Wy6uBLTd6AiAisiNGZviFK2IWda8u4arjfGi2ZXAaGYZSV8iULceKLA==";
        layer.annotations.insert(SIGNATURE.into(), signature.into());
        assert!(is_signature(&layer));
        assert!(verify(&layer, payload, &image, &keys).is_ok());
    }

    #[test]
    fn attacks_are_refused_for_their_reasons() {
        let key = PrivateKey::generate().unwrap();
        let stranger = PrivateKey::generate().unwrap();
        let keys = [key.public().clone().into()];
        let repository: Repository = "example.com/app".parse().unwrap();
        let image = Digest::of(b"image");
        let problem =
            |layer: &Descriptor, payload: &[u8]| verify(layer, payload, &image, &keys).err();
        let (layer, payload) = sign(&repository, &image, &key).unwrap();
        assert_eq!(problem(&layer, &payload), None);
        // The name that it had is not looked at: a mirror gives it another.
        let elsewhere: Repository = "example.org/other".parse().unwrap();
        let (moved, bytes) = sign(&elsewhere, &image, &key).unwrap();
        assert_eq!(problem(&moved, &bytes), None);

        let signed = |text: String| {
            let mut layer = layer.clone();
            let signature = BASE64_STANDARD.encode(key.sign(text.as_bytes()).unwrap());
            layer.annotations.insert(SIGNATURE.into(), signature);
            (layer, Bytes::from(text))
        };
        let text = String::from_utf8(payload.to_vec()).unwrap();
        let mut without = layer.clone();
        without.annotations.clear();
        let mut garbled = layer.clone();
        garbled.annotations.insert(SIGNATURE.into(), "***".into());
        let other = Digest::of(b"other");
        let changed = text.replace(image.hex(), other.hex());
        for (name, (layer, payload), expected) in [
            (
                "signature of another image",
                sign(&repository, &other, &key).unwrap(),
                Problem::OtherImage,
            ),
            (
                "of another key",
                sign(&repository, &image, &stranger).unwrap(),
                Problem::OtherKey,
            ),
            (
                "payload changed",
                (layer.clone(), Bytes::from(changed)),
                Problem::OtherKey,
            ),
            (
                "no payload",
                (layer.clone(), Bytes::new()),
                Problem::OtherKey,
            ),
            (
                "no annotation",
                (without, payload.clone()),
                Problem::Malformed("its layer has no signature"),
            ),
            (
                "no base64",
                (garbled, payload.clone()),
                Problem::Malformed("it is not in base64"),
            ),
            (
                "another kind of payload",
                signed(text.replace(PAYLOAD_KIND, "atomic")),
                Problem::OtherStatement,
            ),
            (
                "another form",
                signed("{}".into()),
                Problem::Malformed("its payload is of another form"),
            ),
            (
                "digest twice",
                signed(text.replace(
                    r#""image":{"#,
                    r#""image":{"docker-manifest-digest":"sha256:00","#,
                )),
                Problem::Malformed("its payload is of another form"),
            ),
        ] {
            assert_eq!(problem(&layer, &payload), Some(expected), "{name}");
        }
    }

    #[test]
    fn signatures_are_added_to_those_that_are_there() {
        let layer = |text: &str| Descriptor::of(SIMPLE_SIGNING_TYPE.into(), text.as_bytes());
        let (first, _) = manifest(None, layer("a"));
        let (second, config) = manifest(Some(first), layer("b"));
        assert_eq!(second.layers, [layer("a"), layer("b")]);
        assert_eq!(second.config.digest, Digest::of(&config));
        assert_eq!(config.windows(7).filter(|w| w == b"sha256:").count(), 2);
    }
}
