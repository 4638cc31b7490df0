//! Fuzz target `config`.
#![no_main]
#[path = "../entries.rs"]
#[allow(dead_code, reason = "one entry is used by each target")]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::config(bytes));
