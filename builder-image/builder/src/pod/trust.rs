//! The keys of a mirror's request, as the gate that its images pass. A key that cannot be read lets nothing through.

use protocol::{Failure, FailureKind, VerifyKey};
use signature::{NamedKey, PublicKey, Verifier};

/// What verifies images, where they are to be verified.
pub(super) fn verifier(keys: Option<&[VerifyKey]>) -> Result<Option<Verifier>, Box<Failure>> {
    let Some(keys) = keys else {
        return Ok(None);
    };
    let read = |key: &VerifyKey| match PublicKey::from_pem(&key.pem) {
        Ok(public) => Ok(NamedKey {
            name: key.name.clone(),
            key: public,
        }),
        Err(error) => {
            let message = format!("the key {} cannot be used: {error}", key.name);
            let kind = FailureKind::ImageUntrusted;
            Err(Box::new(Failure::new(kind, message)))
        }
    };
    let keys: Result<Vec<_>, _> = keys.iter().map(read).collect();
    Ok(Some(Verifier::new(keys?)))
}

#[cfg(test)]
mod tests {
    use distribution::{Client, Guard, memory::MemoryRegistry};
    use oci::{Descriptor, Manifest, MediaType};
    use protocol::{MirrorImage, MirrorRequest};
    use signature::{Form, PrivateKey};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::pod::mirror::mirror;

    fn key(name: &str, pem: &str) -> VerifyKey {
        VerifyKey {
            name: name.to_owned(),
            pem: pem.to_owned(),
        }
    }

    #[test]
    fn one_key_that_cannot_be_read_is_reason_enough() {
        let good = PrivateKey::generate().unwrap();
        let good = key("team/good", &good.public().to_pem());
        assert!(verifier(None).unwrap().is_none());
        let names = |keys: &[VerifyKey]| verifier(Some(keys)).unwrap().unwrap().names();
        assert_eq!(names(std::slice::from_ref(&good)), "team/good");
        // To be verified with no key at all is not the same as not to be verified.
        assert_eq!(names(&[]), "");
        let failure = verifier(Some(&[good, key("team/bad", "nonsense")])).unwrap_err();
        assert_eq!(failure.kind, FailureKind::ImageUntrusted);
        assert!(failure.message.contains("team/bad"), "{}", failure.message);
    }

    /// Puts an image of no layers under `tag`.
    fn add_image(registry: &MemoryRegistry, tag: &str) -> Descriptor {
        let config =
            format!(r#"{{"architecture":"amd64","os":"linux","config":{{"User":"{tag}"}}}}"#);
        registry.add_blob("app", config.clone());
        let config = Descriptor::of(MediaType::OciConfig, config.as_bytes());
        let json = serde_json::to_string(&Manifest::new(config, Vec::new())).unwrap();
        registry.add_manifest("app", Some(tag), MediaType::OciManifest, json.clone());
        Descriptor::of(MediaType::OciManifest, json.as_bytes())
    }

    #[tokio::test]
    async fn a_mirror_publishes_what_is_signed_and_says_what_is_not() {
        let (source, target) = (MemoryRegistry::start().await, MemoryRegistry::start().await);
        let client = Client::builder().guard(Guard::Open).build().unwrap();
        let pair = PrivateKey::generate().unwrap();
        let signed = add_image(&source, "signed");
        let unsigned = add_image(&source, "unsigned");
        let repository = source.repository("app");
        let at = "2026-11-22T00:00:00Z";
        signature::sign(&client, &repository, &signed, &pair, Form::Bundle, at)
            .await
            .unwrap();
        let image = |tag: &str, found: &Descriptor| MirrorImage {
            source: format!("{repository}:{tag}"),
            digest: Some(found.digest.to_string()),
            destination: format!("{}:{tag}", target.repository("mirror/app")),
            replaces: Some(false),
            platforms: None,
        };
        let mut task = MirrorRequest {
            images: vec![image("signed", &signed), image("unsigned", &unsigned)],
            referrers: true,
            verify: Some(vec![key("cosign-pub/cosign.pub", &pair.public().to_pem())]),
            ..MirrorRequest::default()
        };
        let stop = CancellationToken::new();
        let outcome = mirror(&client, &task, &stop).await.unwrap();
        assert_eq!((outcome.copied, outcome.failed), (1, 1));
        let failure = outcome.images[1].failure.clone().unwrap();
        assert_eq!(failure.kind, FailureKind::ImageUntrusted);
        for part in [
            "cosign-pub/cosign.pub",
            unsigned.digest.as_str(),
            "no signature",
        ] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        let tags = target.tags("mirror/app");
        assert!(tags.contains(&"signed".to_owned()) && !tags.contains(&"unsigned".to_owned()));
        // The signature is there as well.
        let to = target.repository("mirror/app");
        let found = client.referrers(&to, &signed.digest, None).await.unwrap();
        assert_eq!(found.manifests.len(), 1);

        task.verify = Some(vec![key("cosign-pub/cosign.pub", "nonsense")]);
        target.clear_requests();
        let failure = mirror(&client, &task, &stop).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::ImageUntrusted);
        assert!(target.requests().is_empty());
    }
}
