//! The sigstore bundle, version 0.3, as cosign 3 writes it for an image: a DSSE envelope around an in-toto statement whose
//! subject is the digest of the image. It is kept as a manifest that refers to the image.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use oci::{Descriptor, Digest, Manifest, MediaType};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::key::{KeyError, PrivateKey};
use crate::{Problem, remote::NamedKey};

/// The type of the bundle, and of the artifact that holds it.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What a statement says that is a signature, and neither an attestation nor an SBOM.
pub const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
/// What stands for no configuration (image-spec, manifest.md).
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
pub(crate) const EMPTY: &[u8] = b"{}";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPES: [&str; 2] = [
    "https://in-toto.io/Statement/v1",
    "https://in-toto.io/Statement/v0.1",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

/// Whether something of this type may be a bundle.
pub(crate) fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.dev.sigstore.bundle")
}

/// Which of `keys` made the bundle, as a signature of `image`.
pub(crate) fn verify<'a>(
    bundle: &[u8],
    image: &Digest,
    keys: &'a [NamedKey],
) -> Result<&'a NamedKey, Problem> {
    let bundle: Bundle =
        serde_json::from_slice(bundle).map_err(|_| Problem::Malformed("it is no bundle"))?;
    if bundle.media_type != BUNDLE_TYPE {
        return Err(Problem::Malformed("it is a bundle of another version"));
    }
    let envelope = bundle
        .dsse_envelope
        .ok_or(Problem::Malformed("it has no envelope"))?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(Problem::Malformed("its payload is no statement"));
    }
    let decode = |text: &str| {
        let bytes = BASE64_STANDARD.decode(text);
        bytes.map_err(|_| Problem::Malformed("it is not in base64"))
    };
    let payload = decode(&envelope.payload)?;
    // The specification of the bundle has one, so that nobody can be of two minds about which counts.
    let [signature] = envelope.signatures.as_slice() else {
        return Err(Problem::Malformed("it has not one signature"));
    };
    let signature = decode(&signature.sig)?;
    let message = pre_authentication(&envelope.payload_type, &payload);
    // Nothing in the payload is looked at before it is known who wrote it.
    let key = keys
        .iter()
        .find(|key| key.key.verifies(&message, &signature))
        .ok_or(Problem::OtherKey)?;
    let statement: Statement = serde_json::from_slice(&payload)
        .map_err(|_| Problem::Malformed("its payload is no statement"))?;
    if !STATEMENT_TYPES.contains(&statement.kind.as_str()) {
        return Err(Problem::Malformed("its payload is no statement"));
    }
    if statement.predicate_type != SIGN_PREDICATE {
        return Err(Problem::OtherStatement);
    }
    let is_subject = |subject: &Subject| {
        let digest = subject.digest.get(image.algorithm().as_str());
        digest.is_some_and(|hex| hex == image.hex())
    };
    if !statement.subject.iter().any(is_subject) {
        return Err(Problem::OtherImage);
    }
    Ok(key)
}

/// A bundle that says that `key` signed `image`.
pub(crate) fn sign(image: &Digest, key: &PrivateKey) -> Result<Bytes, KeyError> {
    let statement = json!({
        "_type": STATEMENT_TYPES[0],
        "subject": [{"digest": {image.algorithm().as_str(): image.hex()}}],
        "predicateType": SIGN_PREDICATE,
        "predicate": {},
    })
    .to_string();
    let signature = key.sign(&pre_authentication(PAYLOAD_TYPE, statement.as_bytes()))?;
    let bundle: Value = json!({
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.public().hint()}},
        "dsseEnvelope": {
            "payload": BASE64_STANDARD.encode(statement),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": BASE64_STANDARD.encode(signature)}],
        },
    });
    Ok(bundle.to_string().into())
}

/// The manifest that makes `bundle` a referrer of `image`. `created` is the time, in RFC 3339.
pub(crate) fn manifest(image: &Descriptor, bundle: &[u8], created: &str) -> Manifest {
    let config = Descriptor::of(EMPTY_TYPE.into(), EMPTY);
    let layer = Descriptor::of(BUNDLE_TYPE.into(), bundle);
    let mut manifest = Manifest::new(config, vec![layer]);
    manifest.artifact_type = Some(BUNDLE_TYPE.to_owned());
    manifest.subject = Some(Descriptor::new(
        image.media_type.clone(),
        image.digest.clone(),
        image.size,
    ));
    manifest.annotations = [
        ("dev.sigstore.bundle.content", "dsse-envelope"),
        ("dev.sigstore.bundle.predicateType", SIGN_PREDICATE),
        ("org.opencontainers.image.created", created),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    manifest
}

/// The type of the empty configuration.
pub(crate) fn empty_type() -> MediaType {
    EMPTY_TYPE.into()
}

/// What is signed of an envelope (DSSE, "Signature Definition").
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PublicKey;

    /// A bundle that cosign 3.1.3 made with the key below.
    const BUNDLE: &[u8] = include_bytes!("../testdata/bundle.json");
    const PUB: &str = include_str!("../testdata/cosign.pub");
    const IMAGE: &str = "sha256:05a974ab1012faccf0fa99c499435985915c355d15e5b8f1c320c4982177c3a5";

    fn named(key: &PublicKey) -> Vec<NamedKey> {
        vec![key.clone().into()]
    }

    fn problem(bundle: &[u8], image: &Digest, keys: &[NamedKey]) -> Option<Problem> {
        verify(bundle, image, keys).err()
    }

    #[test]
    fn bundles_of_cosign_are_verified() {
        let keys = named(&PublicKey::from_pem(PUB).unwrap());
        let image = IMAGE.parse().unwrap();
        assert_eq!(problem(BUNDLE, &image, &keys), None);
        let other = Digest::of(b"other");
        assert_eq!(problem(BUNDLE, &other, &keys), Some(Problem::OtherImage));
        assert_eq!(problem(BUNDLE, &image, &[]), Some(Problem::OtherKey));
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn attacks_are_refused_for_their_reasons() {
        let key = PrivateKey::generate().unwrap();
        let stranger = PrivateKey::generate().unwrap();
        let keys = named(key.public());
        let image = Digest::of(b"image");
        let good = sign(&image, &key).unwrap();
        assert_eq!(problem(&good, &image, &keys), None);
        // Any of several keys will do.
        let both = [named(stranger.public()), keys.clone()].concat();
        assert_eq!(problem(&good, &image, &both), None);

        let value: Value = serde_json::from_slice(&good).unwrap();
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut value = value.clone();
            change(&mut value);
            value.to_string().into_bytes()
        };
        let resigned = |statement: &str| {
            let signature = key.sign(&pre_authentication(PAYLOAD_TYPE, statement.as_bytes()));
            changed(&|value| {
                let envelope = &mut value["dsseEnvelope"];
                envelope["payload"] = BASE64_STANDARD.encode(statement).into();
                let signature = BASE64_STANDARD.encode(signature.as_ref().unwrap());
                envelope["signatures"][0]["sig"] = signature.into();
            })
        };
        let statement = |digest: &str, predicate: &str| {
            json!({"_type": STATEMENT_TYPES[0], "subject": [{"digest": {"sha256": digest}}],
                "predicateType": predicate, "predicate": {}})
            .to_string()
        };
        let hex = image.hex();
        let other = Digest::of(b"other");
        for (name, bundle, expected) in [
            (
                "signature of another image",
                sign(&other, &key).unwrap().to_vec(),
                Problem::OtherImage,
            ),
            (
                "of another key",
                sign(&image, &stranger).unwrap().to_vec(),
                Problem::OtherKey,
            ),
            (
                "payload changed",
                changed(&|value| {
                    let payload = format!("{} ", statement(hex, SIGN_PREDICATE));
                    let payload = BASE64_STANDARD.encode(payload);
                    value["dsseEnvelope"]["payload"] = payload.into();
                }),
                Problem::OtherKey,
            ),
            (
                "signature cut",
                changed(&|value| value["dsseEnvelope"]["signatures"][0]["sig"] = "".into()),
                Problem::OtherKey,
            ),
            (
                "no signature",
                changed(&|value| value["dsseEnvelope"]["signatures"] = json!([])),
                Problem::Malformed("it has not one signature"),
            ),
            (
                "two signatures",
                changed(&|value| {
                    let one = value["dsseEnvelope"]["signatures"][0].clone();
                    value["dsseEnvelope"]["signatures"] = json!([one, one]);
                }),
                Problem::Malformed("it has not one signature"),
            ),
            (
                "payload of another type",
                changed(&|value| value["dsseEnvelope"]["payloadType"] = "text/plain".into()),
                Problem::Malformed("its payload is no statement"),
            ),
            (
                "bundle of another version",
                changed(&|value| value["mediaType"] = "application/json".into()),
                Problem::Malformed("it is a bundle of another version"),
            ),
            (
                "no envelope",
                changed(&|value| value["dsseEnvelope"] = Value::Null),
                Problem::Malformed("it has no envelope"),
            ),
            (
                "an attestation with the same key",
                resigned(&statement(hex, "https://spdx.dev/Document")),
                Problem::OtherStatement,
            ),
            (
                "no subject",
                resigned(
                    &json!({"_type": STATEMENT_TYPES[0], "subject": [], "predicateType": SIGN_PREDICATE})
                        .to_string(),
                ),
                Problem::OtherImage,
            ),
            (
                "another algorithm",
                resigned(&statement(hex, SIGN_PREDICATE).replace("sha256", "md5")),
                Problem::OtherImage,
            ),
            (
                "the digest in capitals",
                resigned(&statement(&hex.to_uppercase(), SIGN_PREDICATE)),
                Problem::OtherImage,
            ),
            (
                "another kind of statement",
                resigned(&statement(hex, SIGN_PREDICATE).replace("in-toto.io", "x")),
                Problem::Malformed("its payload is no statement"),
            ),
            (
                "two subjects lists",
                resigned(&statement(hex, SIGN_PREDICATE).replace('}', r#","subject":[]}"#)),
                Problem::Malformed("its payload is no statement"),
            ),
            ("nothing", Vec::new(), Problem::Malformed("it is no bundle")),
            (
                "an array",
                b"[]".to_vec(),
                Problem::Malformed("it is no bundle"),
            ),
        ] {
            assert_eq!(problem(&bundle, &image, &keys), Some(expected), "{name}");
        }
    }

    #[test]
    fn the_manifest_is_the_one_that_cosign_writes() {
        let image = Descriptor::of(MediaType::OciIndex, b"image");
        let manifest = manifest(&image, b"bundle", "2026-11-22T00:11:56Z");
        assert_eq!(manifest.subject.as_ref(), Some(&image));
        assert_eq!(manifest.config.media_type.as_str(), EMPTY_TYPE);
        let digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(manifest.config.digest.as_str(), digest);
        assert_eq!(manifest.artifact_type.as_deref(), Some(BUNDLE_TYPE));
        assert_eq!(manifest.layers.len(), 1);
    }
}
