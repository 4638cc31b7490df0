//! Images of one layer, packed from files of this machine: no image can be pulled where tests run.
//!
//! The archive is what `docker save` writes: `ctr images import`, crane and our
//! own `load` take it. The same files give the same bytes. It builds no image from a Dockerfile.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::error::Result;

/// An image to be packed.
#[derive(Debug, Clone)]
pub struct ImageArchive {
    reference: String,
    entries: Vec<Entry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    user: String,
    environment: Vec<String>,
}

#[derive(Debug, Clone)]
enum Entry {
    Directory {
        path: String,
        mode: u32,
    },
    File {
        path: String,
        mode: u32,
        content: Content,
    },
    Link {
        path: String,
        target: String,
    },
}

#[derive(Debug, Clone)]
enum Content {
    Of(PathBuf),
    Bytes(Vec<u8>),
}

impl ImageArchive {
    /// An image without files, to be known by `reference`.
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            entries: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: String::new(),
            environment: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ],
        }
    }

    /// Busybox with all its applets in `/bin`, `/tmp`, `/etc/passwd` with root and nobody.
    ///
    /// # Errors
    /// There is no static `busybox` on this machine (Debian: `busybox-static`).
    pub async fn busybox(reference: impl Into<String>) -> Result<Self> {
        let list =
            super::namespace::run(super::namespace::host_command("busybox", &["--list"])).await?;
        let program = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or("/bin/busybox");
        let accounts = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        let mut image = Self::new(reference)
            .directory("bin", 0o755)
            .file("bin/busybox", program, 0o755)
            .directory("etc", 0o755)
            .bytes("etc/passwd", accounts, 0o644)
            .bytes("etc/group", "root:x:0:\nnobody:x:65534:\n", 0o644)
            .directory("root", 0o700)
            .directory("tmp", 0o1777)
            .command(["sh"]);
        for applet in list.lines().filter(|applet| *applet != "busybox") {
            image = image.link(&format!("bin/{applet}"), "busybox");
        }
        Ok(image)
    }

    /// Adds a directory; its parents are to be added before it.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.entries.push(Entry::Directory {
            path: inside(path),
            mode,
        });
        self
    }

    /// Adds a file with the content of `source`, read when packing.
    #[must_use]
    pub fn file(mut self, path: &str, source: impl Into<PathBuf>, mode: u32) -> Self {
        self.entries.push(Entry::File {
            path: inside(path),
            mode,
            content: Content::Of(source.into()),
        });
        self
    }

    /// Adds a file with this content.
    #[must_use]
    pub fn bytes(mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.entries.push(Entry::File {
            path: inside(path),
            mode,
            content: Content::Bytes(content.into()),
        });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.entries.push(Entry::Link {
            path: inside(path),
            target: target.to_owned(),
        });
        self
    }

    /// Sets the entrypoint.
    #[must_use]
    pub fn entrypoint<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.entrypoint = words.into_iter().map(str::to_owned).collect();
        self
    }

    /// Sets the command.
    #[must_use]
    pub fn command<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.command = words.into_iter().map(str::to_owned).collect();
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// The name it will have.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Writes the archive to `path`. Blocks.
    ///
    /// # Errors
    /// A source file cannot be read, or the archive not written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let layer = self.layer()?;
        let digest = hex::encode(Sha256::digest(&layer));
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Env": self.environment, "Entrypoint": self.entrypoint, "Cmd": self.command, "User": self.user},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "coopery tests"}],
        }))?;
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        let manifest = serde_json::to_vec(&json!([
            {"Config": config_name, "RepoTags": [self.reference], "Layers": [format!("{digest}.tar")]},
        ]))?;
        let mut archive = tar::Builder::new(fs_err::File::create(path)?);
        append(&mut archive, &config_name, 0o644, &config)?;
        append(&mut archive, &format!("{digest}.tar"), 0o644, &layer)?;
        append(&mut archive, "manifest.json", 0o644, &manifest)?;
        archive.into_inner()?.flush()?;
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            match entry {
                Entry::Directory { path, mode } => {
                    let mut header = header(*mode, 0);
                    header.set_entry_type(tar::EntryType::Directory);
                    layer.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File {
                    path,
                    mode,
                    content,
                } => {
                    let bytes = match content {
                        Content::Of(source) => fs_err::read(source)?,
                        Content::Bytes(bytes) => bytes.clone(),
                    };
                    append(&mut layer, path, *mode, &bytes)?;
                }
                Entry::Link { path, target } => {
                    let mut header = header(0o777, 0);
                    header.set_entry_type(tar::EntryType::Symlink);
                    layer.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(layer.into_inner()?)
    }
}

/// A path of an archive has no slash in front.
fn inside(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let size = u64::try_from(content.len()).expect("a length in memory fits");
    archive.append_data(&mut header(mode, size), path, content)?;
    Ok(())
}

/// The word of images for this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_archive() {
        let directory = tempfile::tempdir().unwrap();
        let image = ImageArchive::new("example.com/a:1")
            .directory("/d", 0o755)
            .bytes("/d/f", "text", 0o600)
            .link("l", "d/f")
            .user("7");
        let (first, second) = (directory.path().join("1"), directory.path().join("2"));
        image.write(&first).unwrap();
        image.write(&second).unwrap();
        assert_eq!(
            fs_err::read(&first).unwrap(),
            fs_err::read(&second).unwrap()
        );
        let mut archive = tar::Archive::new(fs_err::File::open(&first).unwrap());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names.len(), 3);
        assert_eq!(names[2], "manifest.json");
    }
}
