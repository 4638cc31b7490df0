//! What the figures were taken on: commit, machine, versions of the peers.

use std::process::Command;

use tests::stage::repository;

/// Commit and machine, as far as they can be told.
pub(crate) fn machine() -> String {
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = output("uname", &["-r"]).unwrap_or_default();
    let cpu = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |name| name.trim_start_matches([' ', '\t', ':']));
    let load = fs_err::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("commit {commit}, {cores} cores of {cpu}, Linux {kernel}, load {load} at the end")
}

/// The version of buildah, where it is installed.
pub(crate) fn buildah() -> Option<String> {
    let text = output("buildah", &["--version"])?;
    Some(text.split(' ').nth(2)?.to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(repository())
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
