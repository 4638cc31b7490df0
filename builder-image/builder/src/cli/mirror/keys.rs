//! The keys by which a manifest wants images to be signed: their Secrets are files on this machine.

use clap::Args;
use crds::image_mirror::MirrorVerify;
use signature::{NamedKey, PublicKey, Verifier};

use super::side::pair;
use crate::error::Error;

#[derive(Args, Debug, Default)]
pub(super) struct KeyArgs {
    /// The public key that a Secret of the manifest holds; may be given several times
    #[arg(long, value_name = "SECRET/KEY=FILE", value_parser = pair)]
    key: Vec<(String, String)>,
}

impl KeyArgs {
    /// What the images pass that `verify` is said of. A key that is not at hand is an error: nothing is published unverified.
    pub(super) fn verifier(
        &self,
        verify: Option<&MirrorVerify>,
    ) -> Result<Option<Verifier>, Error> {
        let Some(verify) = verify else {
            return Ok(None);
        };
        let read = |name: String| {
            let file = self.key.iter().find(|(known, _)| *known == name);
            let (_, file) = file.ok_or_else(|| {
                Error::Request(format!("where is the key `{name}`? say --key {name}=FILE"))
            })?;
            let pem =
                fs_err::read_to_string(file).map_err(|error| Error::Request(error.to_string()))?;
            let key = PublicKey::from_pem(&pem)
                .map_err(|error| Error::Request(format!("{file}: {error}")))?;
            Ok(NamedKey { name, key })
        };
        let names = verify.keys.iter().map(|key| {
            let secret = &key.secret_ref;
            format!("{}/{}", secret.name, secret.key)
        });
        let keys: Result<Vec<_>, Error> = names.map(read).collect();
        Ok(Some(Verifier::new(keys?)))
    }
}
