//! The same commands without any builder: in a plain chroot of the base's files.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::measure::run;

/// How long `commands` take in the files of `archive`, with the context at `/context`. The least of three runs: what
/// others do on the machine is not their own time.
pub(crate) fn plain(
    archive: &Path,
    context: &Path,
    commands: &str,
    scratch: &Path,
) -> anyhow::Result<Duration> {
    let mut least = Duration::MAX;
    for number in 0..3 {
        let root = scratch.join(format!("plain{number}"));
        fs_err::create_dir_all(&root)?;
        run(Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&root))?;
        run(Command::new("cp")
            .arg("-a")
            .arg(context)
            .arg(root.join("context")))?;
        let begin = Instant::now();
        run(Command::new("chroot")
            .arg(&root)
            .args(["sh", "-ec", commands]))?;
        least = least.min(begin.elapsed());
        fs_err::remove_dir_all(root)?;
    }
    Ok(least)
}
