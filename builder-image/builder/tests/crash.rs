//! Crashes: builds that are killed at random moments, and the order of system calls that a power cut relies on. Needs root,
//! crun and busybox, or strace; without them the tests say so and pass, but not under CI.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coopery");

/// A context, and a place for engines' directories and results.
struct Site(tempfile::TempDir);

impl Site {
    fn new(dockerfile: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        fs_err::create_dir(site.path("context")).unwrap();
        fs_err::write(site.path("context/Dockerfile"), dockerfile).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The arguments of a build in the engine's directory `root`.
    fn args(&self, root: &str) -> Vec<String> {
        let show = |name: &str| self.path(name).display().to_string();
        let output = format!(
            "type=oci,dest={},rewrite-timestamp=true",
            show(&format!("{root}.tar"))
        );
        let words = [
            "build",
            "--root",
            &show(root),
            "-o",
            &output,
            &show("context"),
        ];
        words.map(str::to_owned).into()
    }

    fn command(&self, root: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(self.args(root)).stdin(Stdio::null());
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        command
    }

    fn build(&self, root: &str) -> Output {
        let output = self.command(root).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        output
    }
}

/// Says that a test is skipped, which CI must not do.
fn skip(needs: &str) {
    assert!(std::env::var_os("CI").is_none(), "it needs {needs}");
    eprintln!("SKIPPED: it needs {needs}");
}

fn find(name: &str) -> Option<PathBuf> {
    let mut places = ["/bin", "/usr/bin"].iter();
    places.find_map(|place| Some(Path::new(place).join(name)).filter(|path| path.exists()))
}

/// Numbers that look random, the same ones for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[test]
fn a_build_after_one_that_was_killed_makes_the_same_image() {
    let busybox = find("busybox").filter(|_| rustix::process::geteuid().is_root());
    let (Some(busybox), Some(_)) = (busybox, find("crun")) else {
        return skip("root, crun and busybox-static");
    };
    let site = Site::new(
        "FROM scratch AS base\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n\
         FROM base AS build\nCOPY src /src\nRUN /bin/busybox seq 200000 > /out\n\
         FROM base\nCOPY --from=build /out /src/b /\nRUN /bin/busybox mkdir /d && echo done > /d/e\n",
    );
    fs_err::copy(busybox, site.path("context/busybox")).unwrap();
    for (name, content) in [("a", "a"), ("b", &*"b".repeat(2 << 20))] {
        fs_err::create_dir_all(site.path("context/src")).unwrap();
        fs_err::write(site.path("context/src").join(name), content).unwrap();
    }
    let started = Instant::now();
    let expected = site.build("reference").stdout;
    let whole = started.elapsed();
    assert_eq!(site.build("reference").stdout, expected, "from the cache");

    let soak = std::env::var("COOPERY_SOAK").is_ok_and(|soak| soak == "1");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let given = std::env::var("COOPERY_SEED").ok();
    let seed = given.map_or_else(|| now.unwrap().as_secs(), |seed| seed.parse().unwrap());
    let rounds = if soak { 200 } else { 20 };
    eprintln!(
        "seed {seed} (COOPERY_SEED), {rounds} rounds (COOPERY_SOAK=1: 200), within {whole:?}"
    );
    let mut random = Random(seed);
    let mut killed = 0;
    for round in 0..rounds {
        let root = format!("root{round}");
        // Sometimes several in a row.
        for _ in 0..=random.below(3) {
            let mut child = site
                .command(&root)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let micros = u64::try_from(whole.as_micros()).unwrap();
            // The moment is what is random here; nothing is waited for.
            std::thread::sleep(Duration::from_micros(random.below(micros)));
            child.kill().unwrap();
            killed += u32::from(!child.wait().unwrap().success());
        }
        for what in ["after the crash", "from its cache"] {
            let output = site.build(&root);
            assert_eq!(
                output.stdout, expected,
                "seed {seed}, round {round}, {what}"
            );
            let log = String::from_utf8_lossy(&output.stderr);
            let missed = log.contains("not cached");
            assert!(
                what != "from its cache" || !missed,
                "seed {seed}, round {round}: {log}"
            );
        }
        fs_err::remove_dir_all(site.path(&root)).unwrap();
        fs_err::remove_file(site.path(&format!("{root}.tar"))).unwrap();
    }
    assert!(
        killed >= rounds / 2,
        "only {killed} were killed before their end"
    );
}

/// A system call that ended well: its name, and the paths in its arguments.
#[derive(Debug)]
struct Call {
    name: String,
    paths: Vec<String>,
}

/// The calls in a trace of `strace -f -y`, in the order in which they ended. A rename counts from its beginning.
fn calls(trace: &str) -> Vec<Call> {
    let mut pending: HashMap<&str, String> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        let whole = if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            if !start.starts_with("rename") {
                pending.insert(thread, start.to_owned());
                continue;
            }
            start.to_owned()
        } else if let Some((_, end)) = rest.split_once(" resumed>") {
            match pending.remove(thread) {
                Some(start) => start + end,
                None => continue,
            }
        } else {
            rest.to_owned()
        };
        if whole.contains(" = -1 ") {
            continue;
        }
        let name = whole.split('(').next().unwrap_or_default().to_owned();
        // Paths of descriptors stand in <>, those of names in ""; the working directory has nothing to say.
        let quotes: &[char] = if name.starts_with("rename") {
            &['"']
        } else {
            &['<', '>']
        };
        let parts = whole.split(quotes);
        let paths = parts.filter(|part| part.starts_with('/'));
        calls.push(Call {
            name,
            paths: paths
                .map(|path| path.trim_end_matches(" (deleted)").to_owned())
                .collect(),
        });
    }
    calls
}

#[test]
fn a_record_has_its_name_only_after_all_that_it_names_is_on_the_disk() {
    let works = Command::new("strace").args(["-f", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        return skip("strace and ptrace");
    }
    let site = Site::new("FROM scratch\nCOPY a /a\nWORKDIR /w\n");
    fs_err::write(site.path("context/a"), "a").unwrap();
    let traced = Command::new("strace")
        .args(["-f", "-y", "-o"])
        .arg(site.path("trace"))
        .args([
            "-e",
            "trace=fsync,fdatasync,rename,renameat,renameat2,linkat",
        ])
        .arg(PROGRAM)
        .args(site.args("root"))
        .output()
        .unwrap();
    assert!(
        traced.status.success(),
        "{}",
        String::from_utf8_lossy(&traced.stderr)
    );
    let trace = fs_err::read_to_string(site.path("trace")).unwrap();
    let calls = calls(&trace);
    let position = |from: usize, to: usize, flushed: &str| {
        let is_flush = |call: &Call| {
            call.name.ends_with("sync") && call.paths.iter().any(|path| path == flushed)
        };
        calls[from..to].iter().position(is_flush)
    };
    let records = site.path("root/cache").display().to_string();
    let blobs = site.path("root/blobs/sha256").display().to_string();
    let (mut named, mut with_blob) = (0, 0);
    for (at, call) in calls.iter().enumerate() {
        if !call.name.starts_with("rename") || call.paths.len() < 2 {
            continue;
        }
        let target = call.paths.last().unwrap();
        let Some(key) = target.strip_prefix(&format!("{records}/")) else {
            continue;
        };
        named += 1;
        let source = &call.paths[call.paths.len() - 2];
        assert!(
            position(0, at, source).is_some(),
            "{key} was not flushed:\n{trace}"
        );
        assert!(
            position(at, calls.len(), &records).is_some(),
            "the directory of {key} was not flushed:\n{trace}"
        );
    }
    // The last version of each record names its blob.
    for entry in fs_err::read_dir(&records).unwrap() {
        let path = entry.unwrap().path();
        let record: serde_json::Value =
            serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        let Some(digest) = record["packed"]["descriptor"]["digest"].as_str() else {
            continue;
        };
        with_blob += 1;
        let path = path.display().to_string();
        let is_last =
            |call: &Call| call.name.starts_with("rename") && call.paths.last() == Some(&path);
        let at = calls.iter().rposition(is_last).unwrap();
        let blob = format!("{blobs}/{}", digest.trim_start_matches("sha256:"));
        let flushed = position(0, at, &blob).expect("the blob was flushed before");
        assert!(
            position(flushed, at, &blobs).is_some(),
            "its directory was not flushed before the record:\n{trace}"
        );
    }
    // That of COPY is written with its blob; that of WORKDIR as soon as it has a directory, and again.
    assert_eq!((named, with_blob), (3, 2), "{trace}");
}
