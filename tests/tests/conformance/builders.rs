//! The two builders, and what both use: a daemon of BuildKit, a base image, a server of files. No comparing here.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use tests::buildkit::Buildkit;
use tests::cluster::Options;
use tests::stage::release_binary;

/// A root filesystem of static busybox with users, links and directories of all kinds: `FROM base` in every case.
const BASE: &str = r"
set -eu
mkdir -p root/bin root/etc root/home/app root/tmp root/real/deep root/shared root/owned root/dir/sub root/proc root/dev root/sys
cp /bin/busybox root/bin/busybox
for applet in sh cat chmod chown chgrp cp dd echo env expr false grep head hostname id ln ls mkdir mkfifo mknod mv printf pwd readlink rm \
    rmdir sed sleep sort stat tail tar test touch tr true uname wc; do
    ln -s busybox root/bin/$applet
done
printf 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\nweb:x:33:34::/:/bin/sh\n' > root/etc/passwd
printf 'root:x:0:\napp:x:1001:\nweb:x:34:\nstaff:x:50:app,web\nextra:x:51:app\n' > root/etc/group
printf 'one\n' > root/dir/one; printf 'two\n' > root/dir/two; printf 'deep\n' > root/dir/sub/deep; printf 'real\n' > root/real/file
ln root/dir/one root/dir/one-again
ln -s real root/link; ln -s /real/deep root/absolute; ln -s ../../../real root/dir/climbs; ln -s nowhere root/dangling
ln -s /dir/one root/file-link
chmod 1777 root/tmp; chmod 2775 root/shared; chmod 750 root/owned
find root -exec touch -h -d @1600000000 {} +
chown -h 1000:1001 root/home/app root/owned
chown 0:50 root/shared
chmod 2775 root/shared
tar -C root --numeric-owner --sort=name -cf root.tar .
rm -r root
";

/// When the base was made, in seconds since 1970.
const BASE_TIME: u64 = 1_600_000_000;

/// The configuration of the base; children inherit some of it and clear the rest.
const BASE_DOCKERFILE: &str = "FROM scratch\nADD root.tar /\nENV PATH=/bin BASE=base\nLABEL of=base kept=yes\n\
    CMD [\"sh\"]\nEXPOSE 53/udp\nVOLUME /shared\nSTOPSIGNAL SIGINT\n";

/// The repository `app.git`: two commits of the same moment, the first of them with the tag `v1`.
const REPOSITORY: &str = r#"
set -eu
export GIT_AUTHOR_DATE=2020-05-05T05:05:05Z GIT_COMMITTER_DATE=2020-05-05T05:05:05Z GIT_CONFIG_GLOBAL=/dev/null
git() { command git -c user.name=t -c user.email=t@example.com -c init.defaultBranch=main -c safe.directory='*' "$@"; }
git init -q work
mkdir work/sub
printf 'one
' > work/file; printf 'deep
' > work/sub/deep; printf '#!/bin/sh
' > work/tool; printf 'note
' > work/sub/note.md
chmod 755 work/tool; ln -s file work/link
printf 'FROM scratch
COPY file sub /from-git/
' > work/Dockerfile
cd work
commit() { git add --all; git commit -q -m "$1"; }
commit first
git tag v1
printf 'two
' > file
commit second
cd ..
git clone -q --bare work app.git
git -C app.git rev-parse v1 > v1
"#;

/// One build, in the terms of both builders.
pub(crate) struct Build<'a> {
    /// The build context.
    pub(crate) context: &'a Path,
    /// `--build-arg`, `--target`, `--label`, `--file`, `--build-context` (a directory as seen from the context) and `--context`
    /// (a URL in place of the context) with their values.
    pub(crate) arguments: &'a [(String, String)],
    /// Where the image goes.
    pub(crate) goes: Goes<'a>,
}

/// Where what is built goes.
#[derive(Clone, Copy)]
pub(crate) enum Goes<'a> {
    /// Into a layout: a directory that does not exist.
    Layout(&'a Path),
    /// Where the arguments say, standard output into the file `stdout` of this directory.
    AsSaid(&'a Path),
}

/// Both builders, ready.
pub(crate) struct Builders {
    /// Ends before its directory goes.
    buildkit: Option<Buildkit>,
    programs: PathBuf,
    directory: tempfile::TempDir,
    coopery: PathBuf,
    base_digest: String,
    /// The digest of the base's one layer, uncompressed.
    base_layer: String,
    files: std::net::SocketAddr,
    repositories: std::net::SocketAddr,
}

impl Builders {
    /// Starts what has to run and makes the base image with our engine.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut builders = Self::without_reference()?;
        let root = builders.directory.path().join("buildkit");
        builders.buildkit = Some(Buildkit::start(&builders.programs, &root, None)?);
        Ok(builders)
    }

    /// All but BuildKit.
    pub(crate) fn without_reference() -> anyhow::Result<Self> {
        let coopery = match std::env::var_os("COOPERY_PROGRAM") {
            Some(path) => path.into(),
            None => release_binary("coopery")?,
        };
        let directory = tempfile::tempdir_in("/var/tmp")?;
        let repositories = directory.path().join("repositories");
        fs_err::create_dir(&repositories)?;
        run(Command::new("sh")
            .args(["-c", REPOSITORY])
            .current_dir(&repositories))?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let mut builders = Self {
            buildkit: None,
            programs: Options::new("conformance").cache.join("bin"),
            directory,
            coopery,
            base_digest: String::new(),
            base_layer: String::new(),
            files: listener.local_addr()?,
            repositories: tests::git_server::serve_plain(repositories)?,
        };
        std::thread::spawn(move || serve(&listener));
        builders.make_base()?;
        Ok(builders)
    }

    /// Where cases may put what they need.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What stands for the words that cases write in braces.
    pub(crate) fn words(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let commit = fs_err::read_to_string(self.directory.path().join("repositories/v1"))?;
        Ok(vec![
            ("{url}", format!("http://{}", self.files)),
            ("{git}", format!("http://{}", self.repositories)),
            ("{commit}", commit.trim().to_owned()),
        ])
    }

    /// The digest of the base's layer.
    pub(crate) fn base_layer(&self) -> &str {
        &self.base_layer
    }

    fn base(&self) -> PathBuf {
        self.directory.path().join("base")
    }

    fn make_base(&mut self) -> anyhow::Result<()> {
        let context = self.directory.path().join("base-context");
        fs_err::create_dir_all(&context)?;
        run(Command::new("sh").args(["-c", BASE]).current_dir(&context))?;
        fs_err::write(context.join("Dockerfile"), BASE_DOCKERFILE)?;
        let epoch = (
            "--build-arg".into(),
            format!("SOURCE_DATE_EPOCH={BASE_TIME}"),
        );
        let build = Build {
            context: &context,
            arguments: &[epoch],
            goes: Goes::Layout(&self.base()),
        };
        self.coopery(&build, false)?;
        let index: serde_json::Value =
            serde_json::from_slice(&fs_err::read(self.base().join("index.json"))?)?;
        let digest = index["manifests"][0]["digest"].as_str();
        digest
            .context("the base has no digest")?
            .clone_into(&mut self.base_digest);
        self.base_layer = crate::image::layers_of(&self.base())?.remove(0);
        Ok(())
    }

    /// Builds with our engine; `with_base` gives it the base image.
    pub(crate) fn coopery(&self, build: &Build<'_>, with_base: bool) -> anyhow::Result<()> {
        let mut command = Command::new(&self.coopery);
        command
            .arg("build")
            .arg("--root")
            .arg(self.directory.path().join("coopery"));
        if with_base {
            let base = self.base();
            command.arg("--build-context");
            command.arg(format!(
                "base=oci-layout://{}@{}",
                base.display(),
                self.base_digest
            ));
        }
        if let Goes::Layout(output) = build.goes {
            // Nothing that is built on the base may have its annotation.
            let annotation = if with_base { "" } else { ",annotation.of=base" };
            let output = output.display();
            command.arg("-o");
            command.arg(format!("type=oci,tar=false,dest={output}{annotation}"));
        }
        Self::with_arguments(&mut command, build.context, build.arguments)?;
        build.run(&mut command)
    }

    /// Our engine.
    pub(crate) fn program(&self) -> &Path {
        &self.coopery
    }

    /// Gives a build of our engine the arguments of a case, with its context at last.
    pub(crate) fn with_arguments(
        command: &mut Command,
        context: &Path,
        arguments: &[(String, String)],
    ) -> anyhow::Result<()> {
        let mut remote = None;
        for (name, value) in arguments {
            match name.as_str() {
                "--file" => command.arg("--file").arg(context.join(value)),
                "--build-context" => {
                    let (name, source) = value.split_once('=').context("NAME=SOURCE")?;
                    let source = if is_directory(source) {
                        context.join(source).display().to_string()
                    } else {
                        source.to_owned()
                    };
                    command.args(["--build-context", &format!("{name}={source}")])
                }
                "--context" => {
                    remote = Some(value);
                    continue;
                }
                name if value.is_empty() => command.arg(name),
                name => command.args([name, value]),
            };
        }
        match remote {
            Some(url) => command.arg(url),
            None => command.arg(context),
        };
        Ok(())
    }

    /// Pushes the base as `image`; `plain` is the context of a build that adds nothing to it.
    pub(crate) fn push_base(&self, image: &str, plain: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.coopery);
        command.args(["build", "--push", "-t", image, "--root"]);
        command.arg(self.directory.path().join("coopery"));
        let base = self.base();
        let base = format!("base=oci-layout://{}@{}", base.display(), self.base_digest);
        command.args(["--build-context", &base]).arg(plain);
        run(&mut command)
    }

    /// Builds with the reference. `words` of its own client stand in place of the arguments, where there are some.
    pub(crate) fn buildkit(
        &self,
        build: &Build<'_>,
        words: Option<&[(String, String)]>,
    ) -> anyhow::Result<()> {
        let daemon = self.buildkit.as_ref().context("buildkitd is not running")?;
        let mut command = daemon.build(build.context);
        command.args(["--oci-layout", &format!("base={}", self.base().display())]);
        let base = format!("context:base=oci-layout://base@{}", self.base_digest);
        command.args(["--opt", &base]);
        for (name, value) in words.unwrap_or_default() {
            command.args([name, value]);
        }
        let translated = match words {
            Some(_) => &[],
            None => build.arguments,
        };
        for (name, value) in translated {
            if matches!(name.as_str(), "--secret" | "--output" | "--metadata-file") {
                command.args([name, value]);
                continue;
            }
            let option = match name.as_str() {
                "--build-context" => {
                    let (name, source) = value.split_once('=').context("NAME=SOURCE")?;
                    if is_directory(source) {
                        // A name of a directory that is sent has no colons.
                        let local = source.replace('/', "-");
                        let path = build.context.join(source);
                        command.args(["--local", &format!("{local}={}", path.display())]);
                        format!("context:{name}=local:{local}")
                    } else {
                        format!("context:{name}={source}")
                    }
                }
                "--context" => format!("context={value}"),
                "--build-arg" => format!("build-arg:{value}"),
                "--label" => format!("label:{value}"),
                "--target" => format!("target={value}"),
                "--platform" => format!("platform={value}"),
                "--file" => format!("filename={value}"),
                other => anyhow::bail!("arguments: {other} is not known"),
            };
            command.args(["--opt", &option]);
        }
        if let Goes::Layout(output) = build.goes {
            let output = output.display();
            command.args(["--output", &format!("type=oci,tar=false,dest={output}")]);
        }
        build.run(&mut command)
    }
}

/// Whether a named context is a directory of the case.
fn is_directory(source: &str) -> bool {
    !source.contains(':')
}

impl Build<'_> {
    fn run(&self, command: &mut Command) -> anyhow::Result<()> {
        match self.goes {
            Goes::Layout(_) => run(command),
            Goes::AsSaid(directory) => {
                let output = fs_err::File::create(directory.join("stdout"))?.into_file();
                run(command.stdout(output))
            }
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().context(program)?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Answers GET: `/NAME.tar` is an archive, `/missing` is not there, every other path is a text that names itself. Files below
/// `/dated/` have a time.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
                _ => break,
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        let mut words = request.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        let body = if path.contains(".tar") {
            archive()
        } else {
            format!("this is {path}\n").into_bytes()
        };
        let status = if path.contains("missing") {
            "404 Not Found"
        } else {
            "200 OK"
        };
        let dated = if path.starts_with("/dated/") || path.contains("dated.tar") {
            "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
        } else {
            ""
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{dated}Connection: close\r\n\r\n",
            body.len()
        );
        // A client that has gone needs no answer.
        let _ = stream.write_all(head.as_bytes());
        if method != "HEAD" {
            let _ = stream.write_all(&body);
        }
    }
}

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o640);
    header.set_mtime(1_500_000_000);
    builder
        .append_data(&mut header, "inside/file", &b"inner"[..])
        .and_then(|()| builder.into_inner())
        .expect("memory takes all")
}
