//! Names and documents of the OCI specifications: references, digests, descriptors, platforms, manifests, indexes
//! and image configurations. No I/O and no network: reading and sending them is the work of `distribution` and `store`.

mod config;
mod descriptor;
mod digest;
mod manifest;
mod media_type;
mod platform;
mod reference;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, ChainId, DiffId, Digest, DigestError, Digester};
pub use manifest::{Document, DocumentError, Index, Manifest};
pub use media_type::MediaType;
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError, RegistryHost, Repository, Tag};

/// The largest manifest or index that is read or written, in bytes (4 MiB, the limit of the distribution spec).
pub const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
