//! The program itself as people use it for images: what is typed and printed, with ids, sizes and ages masked, and archives
//! exchanged with other tools.
#![expect(clippy::unwrap_used, reason = "tests")]

mod archive;
mod exchange;
mod local;
mod machine;
mod mirror;
mod registry;
mod trust;
