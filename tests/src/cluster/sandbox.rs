//! The image that every pod's sandbox runs: one static program, packed here.

use super::archive::ImageArchive;
use super::error::Result;
use super::options::Layout;

/// Its name, which containerd's configuration pins.
pub(crate) const REFERENCE: &str = "coopery.dev/tests/pause:1";

/// Packs it into the state directory; the path of the archive.
pub(crate) fn pack(layout: &Layout) -> Result<std::path::PathBuf> {
    let path = layout.state.join("pause.tar");
    ImageArchive::new(REFERENCE)
        .file("pause", layout.program("pause"), 0o755)
        .entrypoint(["/pause"])
        .user("65535:65535")
        .write(&path)?;
    Ok(path)
}
