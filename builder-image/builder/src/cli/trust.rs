//! Signatures on the command line: `generate-key-pair`, `sign`, `verify`, and what `DOCKER_CONTENT_TRUST` makes of push and
//! pull. Keys and signatures are those of cosign, in both directions.

mod content_trust;
mod generate;
mod key_file;
mod sign;
mod verify;

pub(super) use content_trust::{ContentTrust, sign_pushed, verify_pulled};
pub(super) use generate::GenerateArgs;
pub(super) use sign::SignArgs;
pub(super) use verify::VerifyArgs;

use signature::{SignError, VerifyError};

use crate::error::Error;

/// The private key that signs, where no flag names one.
const SIGN_KEY: &str = "COOPERY_SIGN_KEY";
/// The public key that verifies, where no flag names one.
const VERIFY_KEY: &str = "COOPERY_VERIFY_KEY";

fn sign_failure(image: &oci::Reference) -> impl FnOnce(SignError) -> Error + use<> {
    let doing = format!("signing {image}");
    move |error| match error {
        SignError::Registry(error) => Error::export(doing)(error),
        SignError::Key(_) | SignError::OtherTag(_) => Error::Refused(format!("{doing}: {error}")),
    }
}

fn verify_failure(image: &oci::Reference) -> impl FnOnce(VerifyError) -> Error + use<> {
    let doing = format!("verifying {image}");
    move |error| match error {
        VerifyError::Registry(error) => Error::export(doing)(error),
        VerifyError::Untrusted { .. } => Error::Refused(error.to_string()),
    }
}
