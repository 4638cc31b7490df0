//! The base image of demo and benchmarks: a Debian root with a C compiler. No image can be pulled where there is no
//! registry, so debootstrap makes it, once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

/// What is in it beside the smallest Debian.
const PACKAGES: &str = "gcc,libc6-dev,make";

/// What the packages left and no image needs.
const LEFT: [&str; 3] = ["var/cache/apt", "var/lib/apt/lists", "var/log"];

/// A build context below `cache` whose image is the base. Takes half a minute the first time; `say` is told so.
///
/// # Errors
/// When debootstrap fails, as it does without a network.
pub fn context(cache: &Path, say: impl FnOnce(&str)) -> anyhow::Result<PathBuf> {
    let context = cache.join("base/debian-gcc-context");
    if context.join("root.tar").exists() {
        return Ok(context);
    }
    say("making a Debian root with debootstrap (once)");
    fs_err::create_dir_all(&context)?;
    let scratch = tempfile::tempdir_in(&context)?;
    let root = scratch.path().join("root");
    run(Command::new("debootstrap")
        .args(["--variant=minbase", &format!("--include={PACKAGES}")])
        .arg("bookworm")
        .arg(&root))?;
    for directory in LEFT {
        fs_err::remove_dir_all(root.join(directory))?;
        fs_err::create_dir_all(root.join(directory))?;
    }
    fs_err::write(
        context.join("Dockerfile"),
        "FROM scratch\nADD root.tar /\nCMD [\"bash\"]\n",
    )?;
    let archive = scratch.path().join("root.tar");
    run(Command::new("tar")
        .args(["--one-file-system", "--numeric-owner", "-C"])
        .arg(&root)
        .arg("-cf")
        .arg(&archive)
        .arg("."))?;
    fs_err::rename(archive, context.join("root.tar"))?;
    Ok(context)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().context(program)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {stderr}");
    Ok(())
}
