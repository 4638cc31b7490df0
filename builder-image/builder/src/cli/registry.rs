//! What people do with registries: the verbs of docker, with docker's flags, words and errors. The transport is the crate
//! `distribution`'s; images that come and go are those of this machine (`super::image`).

mod config_file;
mod login;
mod manifest;
mod pull;
mod push;
mod remote;
mod search;

pub(super) use login::{LoginArgs, LogoutArgs, ask_hidden};
pub(super) use manifest::ManifestCommand;
pub(super) use pull::PullArgs;
pub(super) use push::PushArgs;
pub(super) use remote::{RemoteListArgs, RemoteRemoveArgs};
pub(super) use search::SearchArgs;

use oci::Reference;

use crate::error::Error;
use crate::runtime::run_async;

/// Runs `work` until it ends or the command is asked to stop.
pub(super) fn until_stopped<T>(work: impl AsyncFnOnce() -> Result<T, Error>) -> Result<T, Error> {
    run_async(async |stop| {
        tokio::select! {
            biased;
            () = stop.token.cancelled() => Err(Error::Cancelled),
            result = work() => result,
        }
    })
}

/// The failure of asking a registry for an image, as docker words it.
fn refused_by(error: distribution::Error, reference: &Reference, doing: &str) -> Error {
    let name = Reference::from(reference.repository().clone()).familiar();
    match &error {
        distribution::Error::NotFound { .. } => Error::refused(format!(
            "manifest for {} not found: manifest unknown: manifest unknown",
            reference.familiar()
        )),
        distribution::Error::Unauthorized { .. } if doing == "pull" => Error::refused(format!(
            "pull access denied for {name}, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        )),
        distribution::Error::Unauthorized { .. } => {
            Error::Refused("denied: requested access to the resource is denied".into())
        }
        _ => Error::export(format!("{doing} {}", reference.familiar()))(error),
    }
}
