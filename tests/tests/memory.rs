//! The engine's memory does not grow with what it builds: the peaks of all its processes at a large layer, at many files and
//! at many layers. A tenth of each; in full with `COOPERY_SOAK`. It measures the release binary.
#![expect(clippy::print_stdout, reason = "the figures are the product")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use tests::measure::measured;
use tests::stage::release_binary;

/// What all processes together may take at their peaks, in bytes.
const LIMIT: u64 = 128 << 20;

/// `full`, or a tenth of it.
fn soak(full: usize) -> usize {
    if std::env::var_os("COOPERY_SOAK").is_some() {
        full
    } else {
        full / 10
    }
}

/// Builds what `write` puts into a context, and fails where that takes more than [`LIMIT`].
fn build(name: &str, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let directory = tempfile::tempdir_in("/var/tmp")?;
    let context = directory.path().join("context");
    fs_err::create_dir(&context)?;
    write(&context)?;
    let mut command = Command::new(release_binary("coopery")?);
    command.arg("build").arg("-o").arg(format!(
        "type=oci,tar=false,dest={}",
        directory.path().join("image").display()
    ));
    command.arg("--root").arg(directory.path().join("root"));
    command.arg(&context);
    let cost = measured(&mut command, None, &["coopery"])?;
    println!("{name}: {cost}");
    anyhow::ensure!(cost.memory > 1 << 20, "{name}: nothing was measured");
    anyhow::ensure!(
        cost.memory <= LIMIT,
        "{name}: {} MiB at the peak, {} MiB are allowed",
        cost.memory >> 20,
        LIMIT >> 20
    );
    Ok(())
}

#[test]
fn one_large_layer() -> anyhow::Result<()> {
    build("a layer of 4 GiB", |context| {
        fs_err::write(context.join("Dockerfile"), "FROM scratch\nCOPY data /\n")?;
        let mut data = fs_err::File::create(context.join("data"))?;
        let mut chunk = vec![0; 1 << 20];
        for number in 0..soak(4096) {
            // Neither constant nor noise: a number every 64 bytes.
            for (at, place) in chunk.chunks_mut(64).enumerate() {
                place[..8].copy_from_slice(&(number * 16384 + at).to_le_bytes());
            }
            data.write_all(&chunk)?;
        }
        Ok(())
    })
}

#[test]
fn many_files() -> anyhow::Result<()> {
    build("500,000 files", |context| {
        fs_err::write(
            context.join("Dockerfile"),
            "FROM scratch\nCOPY data /data\n",
        )?;
        for number in 0..soak(500_000) {
            let directory = context.join(format!("data/{}", number / 1000));
            if number % 1000 == 0 {
                fs_err::create_dir_all(&directory)?;
            }
            fs_err::write(directory.join(format!("file{number}")), number.to_string())?;
        }
        Ok(())
    })
}

#[test]
fn many_layers() -> anyhow::Result<()> {
    build("200 layers", |context| {
        let mut text = "FROM scratch\n".to_owned();
        for number in 0..soak(200) {
            writeln!(text, "COPY data /data{number}")?;
        }
        fs_err::write(context.join("Dockerfile"), text)?;
        Ok(fs_err::write(context.join("data"), vec![7; 1 << 20])?)
    })
}
