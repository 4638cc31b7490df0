//! A place to build in with the program itself: a context, an engine's root and a base image of busybox. Needs root, crun
//! and busybox; without one of them the tests say so and pass.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_coopery");

/// A directory with a context, an engine's root, and a base image as an OCI layout.
pub(crate) struct Shop {
    directory: tempfile::TempDir,
}

/// Where the programs are that a base is made of, if they are there and this is root.
fn busybox() -> Option<PathBuf> {
    let root = rustix::process::geteuid().is_root();
    let find = |name: &str| {
        ["/bin", "/usr/bin"]
            .iter()
            .map(|dir| Path::new(dir).join(name))
            .find(|path| path.exists())
    };
    let found = find("busybox").filter(|_| root && find("crun").is_some());
    if found.is_none() {
        eprintln!("skipped: it needs root, crun and busybox-static");
    }
    found
}

impl Shop {
    pub(crate) fn open() -> Option<Self> {
        let busybox = busybox()?;
        let shop = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let bin = shop.path("base/root/bin");
        fs_err::create_dir_all(&bin).unwrap();
        fs_err::copy(busybox, bin.join("busybox")).unwrap();
        fs_err::set_permissions(bin.join("busybox"), PermissionsExt::from_mode(0o755)).unwrap();
        for name in [
            "sh", "cat", "echo", "id", "env", "ls", "rm", "mkdir", "sleep", "seq", "hostname",
            "touch", "stat", "wc", "dd", "grep", "nc", "ln", "pwd", "true", "tr", "mount", "head",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        shop.write(
            "base/root/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n",
        );
        shop.write("base/root/etc/group", "root:x:0:\nweb:x:1000:\n");
        shop.write("base/Dockerfile", "FROM scratch\nCOPY root /\n");
        let output = format!("type=oci,tar=false,dest={}", shop.path("layout").display());
        let made = shop.coopery(&["-o", &output], "base");
        assert!(made.status.success(), "{}", text(&made.stderr));
        fs_err::create_dir(shop.path("context")).unwrap();
        Some(shop)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }

    pub(crate) fn command(&self, flags: &[&str], context: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        let layout = format!("base=oci-layout://{}", self.path("layout").display());
        command
            .arg("build")
            .arg("--root")
            .arg(self.path("root"))
            .args(["--build-context", &layout]);
        command
            .args(flags)
            .arg(self.path(context))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn coopery(&self, flags: &[&str], context: &str) -> Output {
        self.command(flags, context).output().unwrap()
    }

    /// Builds `dockerfile` in the directory `context`.
    pub(crate) fn build(&self, dockerfile: &str, flags: &[&str]) -> Output {
        self.write("context/Dockerfile", dockerfile);
        self.coopery(flags, "context")
    }

    pub(crate) fn is_tidy(&self) -> bool {
        fs_err::read_dir(self.path("root/tmp"))
            .unwrap()
            .next()
            .is_none()
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
