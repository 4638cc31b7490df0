//! Scenarios of the transport against servers on loopback: the in-memory registry, and scripted servers that break rules.
#![expect(clippy::unwrap_used, reason = "tests")]

mod auth;
mod copier;
mod copy;
mod documented;
mod faults;
mod guard;
mod kinds;
mod large;
mod limits;
mod lists;
mod pull;
mod push;
mod reach;
mod referrers;
mod resume;
mod support;
