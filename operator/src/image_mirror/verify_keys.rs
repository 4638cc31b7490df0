//! Reads the public keys that images are verified with from their Secrets. A key that is missing or is none stops the
//! mirror: nothing is published that was to be verified and was not.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use protocol::VerifyKey;

use super::observed::Observed;
use super::validate::ValidatedMirror;
use crate::context::Context;
use crate::error::Result;
use crate::image_build::observed::SecretState;

/// The largest text of a key: eight of them go into the request of a pod.
const MAX_KEY: usize = 4096;

/// Reads the keys of `spec` into `observed`, and the states of their Secrets.
pub async fn read(
    context: &Context,
    namespace: &str,
    spec: &ValidatedMirror,
    observed: &mut Observed,
) -> Result<()> {
    for (name, key) in spec.verify.iter().flatten() {
        let secret = context.get::<Secret>(namespace, name).await?;
        let state = match secret.as_ref().map(|secret| public_key(secret, key)) {
            None => SecretState::Missing,
            Some(None) => SecretState::Lacks(key.clone()),
            Some(Some(pem)) => {
                let name = format!("{name}/{key}");
                observed.keys.push(VerifyKey { name, pem });
                let secret = secret.unwrap_or_default();
                SecretState::Present {
                    version: format!(
                        "{}/{}",
                        secret.uid().unwrap_or_default(),
                        secret.resource_version().unwrap_or_default()
                    ),
                }
            }
        };
        // One that lacks something lacks it, whatever else it has.
        let there = observed.secrets.get(name);
        if there.is_none_or(|there| matches!(there, SecretState::Present { .. })) {
            observed.secrets.insert(name.clone(), state);
        }
    }
    Ok(())
}

/// The text of a public key, where `secret` has one under `key`. Whether it can be used is for the pod to find out.
fn public_key(secret: &Secret, key: &str) -> Option<String> {
    let value = &secret.data.as_ref()?.get(key)?.0;
    let text = std::str::from_utf8(value).ok()?;
    let is_key = text.len() <= MAX_KEY && text.contains("-----BEGIN PUBLIC KEY-----");
    is_key.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn only_public_keys_are_taken() {
        let with = |text: &str| Secret {
            data: Some([("k".to_owned(), ByteString(text.into()))].into()),
            ..Secret::default()
        };
        let good = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        assert_eq!(public_key(&with(good), "k").as_deref(), Some(good));
        assert_eq!(public_key(&with(good), "other"), None);
        assert_eq!(public_key(&Secret::default(), "k"), None);
        let private = good.replace("PUBLIC", "ENCRYPTED SIGSTORE PRIVATE");
        let long = format!("{good}{}", " ".repeat(MAX_KEY));
        for text in ["", &private, &long] {
            assert_eq!(public_key(&with(text), "k"), None);
        }
    }
}
