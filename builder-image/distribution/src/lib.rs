//! The registry transport: everything that this project says to a registry, a git host or an http source goes through here.
//!
//! [`Client`] speaks the distribution specification (resolve, pull, push, mount, tags); [`copy::copy`] moves whole images
//! between two clients; [`HttpClient`] is the guarded HTTP below both. What a server says is untrusted: bodies are
//! bounded, digests and lengths are verified while bytes pass, redirects are followed by hand, credentials stay with the
//! origin that they are for, and [`Guard`] decides at connect time which addresses may be reached.
//!
//! The crate keeps nothing on disk and knows neither Kubernetes nor image contents.

mod authenticate;
mod blob;
mod challenge;
mod classify;
mod client;
pub mod copy;
mod error;
mod guard;
mod http;
mod keychain;
mod local;
#[cfg(feature = "memory")]
pub mod memory;
mod pages;
mod pull;
mod push;
mod referrers;
mod registry;
mod retry;
mod token;
mod traffic;
mod upload;

pub use blob::{BlobReader, Parts};
pub use classify::Again;
pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorCode, ErrorKind, Outage};
pub use guard::{Cidr, CidrError, Guard};
pub use http::{HostTls, HttpClient, HttpSettings, Proxies, Response, Validators};
pub use keychain::{
    Anonymous, CredentialHelpers, Credentials, DockerConfig, Keychain, KeychainError,
};
pub use local::{ARCHIVE_HOST, LocalRegistry};
pub use pull::RawManifest;
pub use push::{ChunkedPush, Pushed, Put};
pub use referrers::{CosignTag, Referrers, ReferrersOrigin, fallback_tag};
pub use registry::SearchResult;
pub use retry::RetryPolicy;
pub use traffic::{Budget, HostLimits};
pub use upload::{Content, SavedUpload, Upload};

/// The result of talking to a registry.
pub type Result<T, E = Error> = std::result::Result<T, E>;
