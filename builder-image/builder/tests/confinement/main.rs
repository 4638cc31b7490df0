//! The program under steps that misbehave, stopped at any moment, and started by an ordinary user. Needs root, crun and
//! busybox; without one of them the tests say so and pass, but not under CI.
#![expect(clippy::unwrap_used, reason = "tests")]

mod cancel;
mod exhaustion;

#[path = "../shop/mod.rs"]
mod shop;
mod users;

use std::path::Path;
use std::time::{Duration, Instant};

use shop::Shop;

/// A place to build in, which CI must have.
fn open() -> Option<Shop> {
    let shop = Shop::open();
    assert!(shop.is_some() || std::env::var_os("CI").is_none());
    shop
}

/// Waits until something is so.
fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes that were started with `word` in one of their arguments.
fn processes_with(word: &str) -> Vec<u32> {
    let entries = fs_err::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let line = fs_err::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&line)
                .contains(word)
                .then_some(process)
        })
        .filter(|process| *process != std::process::id())
        .collect()
}

/// Every file below `directory`, links not followed.
fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs_err::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}
