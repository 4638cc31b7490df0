//! Scenarios of the transport against servers on loopback: the in-memory registry, and scripted servers that break rules.
#![expect(clippy::unwrap_used, reason = "tests")]

mod auth;
mod copier;
mod copy;
mod guard;
mod pull;
mod push;
mod support;
