//! A machine of its own for a test: a directory for images, one to work in and a home; and images that are made up.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use regex::Regex;

const PROGRAM: &str = env!("CARGO_BIN_EXE_coopery");

pub(crate) struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let machine = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for name in ["home", "work", "root"] {
            fs_err::create_dir(machine.path(name)).unwrap();
        }
        machine
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of the working directory.
    pub(crate) fn work(&self, name: &str) -> PathBuf {
        self.path("work").join(name)
    }

    /// The directory of the images.
    pub(crate) fn images(&self) -> PathBuf {
        self.path("root/images")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(args)
            .current_dir(self.path("work"))
            .env_remove("DOCKER_CONFIG")
            .env_remove("REGISTRY_AUTH_FILE")
            .env("HOME", self.path("home"))
            .env("COOPERY_ROOT", self.path("root"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command prints; it must succeed.
    pub(crate) fn coopery(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let errors = text(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        text(&output.stdout)
    }

    /// As [`Self::coopery`], with something on standard input.
    pub(crate) fn coopery_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // A command that refuses its input at once closes the pipe.
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().unwrap()
        })
    }

    /// Commands with what they print, as a person sees them in a terminal; exit codes other than 0 are told.
    pub(crate) fn transcript(&self, commands: &[&str]) -> String {
        let mut transcript = String::new();
        for line in commands {
            let args: Vec<String> = words(line);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let output = self.output(&args);
            writeln!(transcript, "$ {line}").unwrap();
            transcript.push_str(&masked(&text(&output.stdout)));
            transcript.push_str(&masked(&text(&output.stderr)));
            if let Some(code @ 1..) = output.status.code() {
                writeln!(transcript, "[exit {code}]").unwrap();
            }
        }
        transcript
    }

    pub(crate) fn id(&self, name: &str) -> String {
        self.coopery(&["inspect", "--format", "{{.Id}}", name])
            .trim()
            .to_owned()
    }
}

/// The words of a command line; single quotes keep spaces.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (position, part) in line.split('\'').enumerate() {
        let quoted = position % 2 == 1;
        for (number, piece) in part.split(|c| c == ' ' && !quoted).enumerate() {
            if number > 0 {
                words.push(String::new());
            }
            words.last_mut().unwrap().push_str(piece);
        }
    }
    words
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ids, digests, sizes and ages by their kinds, and columns by three spaces.
pub(crate) fn masked(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, mask) in [
        (r"sha256:[0-9a-f]{64}", "sha256:<digest>"),
        (r"\b[0-9a-f]{12}\b", "<id12>"),
        (r"127\.0\.0\.1:\d+", "<registry>"),
        (r"\b\d+(\.\d+)?(B|kB|MB|GB)\b", "<size>"),
        (
            r"(Less than a second|About an? (minute|hour)|\d+ (second|minute|hour|day|week|month|year)s?) ago",
            "<age>",
        ),
        (r"size: \d+", "size: <n>"),
        (r" {3,}", "   "),
        (r" +\n", "\n"),
    ] {
        text = Regex::new(pattern)
            .unwrap()
            .replace_all(&text, mask)
            .into_owned();
    }
    text
}

/// An archive as `docker save` writes it: each image has names and layers, which are archives of one file each.
pub(crate) fn docker_archive(images: &[(&[&str], &[&str])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut manifest = Vec::new();
    for (names, layers) in images {
        let layers: Vec<(String, Vec<u8>)> = layers
            .iter()
            .map(|layer| {
                (
                    format!("{layer}/layer.tar"),
                    tar_of(&[(layer, layer.as_bytes())]),
                )
            })
            .collect();
        let ids: Vec<String> = layers
            .iter()
            .map(|(_, layer)| oci::Digest::of(layer).to_string())
            .collect();
        let history: Vec<_> = layers
            .iter()
            .map(|(name, _)| serde_json::json!({"created": "2021-06-01T00:00:00Z", "created_by": format!("ADD {name}")}))
            .chain([serde_json::json!({"created": "2021-06-01T00:00:00Z", "created_by": format!("CMD [\"{}\"]", names.join(" ")), "empty_layer": true})])
            .collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "created": "2021-06-01T00:00:00Z", "author": "Aomine",
            "config": {"Cmd": ["nginx"], "Env": ["A=1"], "Labels": {"tier": "web"}},
            "rootfs": {"type": "layers", "diff_ids": ids}, "history": history,
        });
        let config = config.to_string();
        let file = format!("{}.json", oci::Digest::of(config.as_bytes()).hex());
        append(&mut archive, &file, config.as_bytes());
        for (name, layer) in &layers {
            append(&mut archive, name, layer);
        }
        let paths: Vec<_> = layers.iter().map(|(name, _)| name).collect();
        manifest.push(serde_json::json!({"Config": file, "RepoTags": names, "Layers": paths}));
    }
    append(
        &mut archive,
        "manifest.json",
        serde_json::json!(manifest).to_string().as_bytes(),
    );
    archive.into_inner().unwrap()
}

pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        append(&mut tar, name, content);
    }
    tar.into_inner().unwrap()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, name, content).unwrap();
}

/// Another tool, if it is there. In CI it must be.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("COOPERY_CACHE").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/coopery"),
        PathBuf::from,
    );
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths)
        .chain([cache.join("bin")])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{name} is missing: run `make prerequisites cluster`"
        );
        eprintln!("skipped: it needs {name}");
    }
    found
}

/// Runs another tool, which must succeed.
pub(crate) fn run(tool: &Path, args: &[&str]) -> String {
    let output = Command::new(tool)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{} {args:?}: {}",
        tool.display(),
        text(&output.stderr)
    );
    text(&output.stdout)
}
