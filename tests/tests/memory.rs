//! Memory does not grow with what is built or copied: the peaks of all processes at a large layer, at many files and at many
//! layers, and at a copy of large layers. A tenth of each; in full with `COOPERY_SOAK`. It measures the release binary.
#![expect(clippy::print_stdout, reason = "the figures are the product")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use futures::TryStreamExt;
use oci::{Descriptor, Digester, Manifest, MediaType};
use tests::cluster::Options;
use tests::measure::{Measured, measured};
use tests::plain_registry::PlainRegistry;
use tests::stage::release_binary;

/// What all processes of a build together may take at their peaks, in bytes.
const LIMIT: u64 = 128 << 20;
/// What a copy may take.
const COPY_LIMIT: u64 = 64 << 20;

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
    judge(name, &cost, LIMIT)
}

fn judge(name: &str, cost: &Measured, limit: u64) -> anyhow::Result<()> {
    println!("{name}: {cost}");
    anyhow::ensure!(cost.memory > 1 << 20, "{name}: nothing was measured");
    anyhow::ensure!(
        cost.memory <= limit,
        "{name}: {} MiB at the peak, {} MiB are allowed",
        cost.memory >> 20,
        limit >> 20
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

/// The content of a layer, a mebibyte each: numbers, from `seed` on.
fn pieces(seed: usize, mebibytes: usize) -> impl Iterator<Item = bytes::Bytes> + Send {
    (0..mebibytes).map(move |number| {
        let mut piece = vec![0; 1 << 20];
        for (at, place) in piece.chunks_mut(64).enumerate() {
            place[..8].copy_from_slice(&((seed * 10_000 + number) * 16384 + at).to_le_bytes());
        }
        piece.into()
    })
}

/// Pushes an image with layers of so many mebibytes.
async fn push(name: &oci::Reference, layers: &[usize]) -> anyhow::Result<()> {
    let client = distribution::Client::builder()
        .guard(distribution::Guard::Open)
        .build()?;
    let repository = name.repository();
    let mut pushed = Vec::new();
    for (seed, &mebibytes) in layers.iter().enumerate() {
        let mut digester = Digester::sha256();
        pieces(seed, mebibytes).for_each(|piece| digester.update(&piece));
        let size = digester.len();
        let layer = Descriptor::new(MediaType::OciLayer, digester.finish(), size);
        let content = futures::stream::iter(pieces(seed, mebibytes).map(std::io::Result::Ok));
        let content = tokio_util::io::StreamReader::new(content.into_stream());
        client.upload(repository, &layer, content).await?;
        pushed.push(layer);
    }
    let config = br#"{"architecture":"amd64","os":"linux"}"#.as_slice();
    let config = client
        .upload_bytes(repository, MediaType::OciConfig, config.into())
        .await?;
    let manifest = serde_json::to_vec(&Manifest::new(config, pushed))?;
    client
        .put_manifest(name, &MediaType::OciManifest, manifest.into())
        .await?;
    Ok(())
}

#[tokio::test]
async fn large_layers_are_copied() -> anyhow::Result<()> {
    let programs = Options::new("memory").cache.join("bin");
    let (mut source, target) = (
        PlainRegistry::start(&programs)?,
        PlainRegistry::start(&programs)?,
    );
    // One is read in parts at a time, and each is large enough for that at a tenth.
    let layers = [2560, 640, 640, 640].map(soak);
    let from = format!("{}/library/app:1", source.host());
    push(&from.parse()?, &layers).await?;
    source.asked()?;
    let mut command = Command::new(release_binary("coopery")?);
    command.args(["copy", &from, &format!("{}/mirror/app:1", target.host())]);
    let cost = measured(&mut command, None, &["coopery"])?;
    let parts = source
        .asked()?
        .iter()
        .filter(|asked| asked.status == 206)
        .count();
    anyhow::ensure!(parts > 100, "only {parts} parts were read");
    judge("a copy of 4.4 GiB", &cost, COPY_LIMIT)
}
