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
mod client;
pub mod copy;
mod error;
mod guard;
mod http;
mod keychain;
#[cfg(feature = "memory")]
pub mod memory;
mod pull;
mod push;
mod retry;
mod token;

pub use blob::BlobReader;
pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorCode, ErrorKind, Outage};
pub use guard::{Cidr, CidrError, Guard};
pub use http::{HttpClient, HttpSettings, Proxies, Response, Validators};
pub use keychain::{Anonymous, Credentials, DockerConfig, Keychain, KeychainError};
pub use pull::RawManifest;
pub use push::{Content, Pushed, Upload};
pub use retry::RetryPolicy;

/// The result of talking to a registry.
pub type Result<T, E = Error> = std::result::Result<T, E>;
