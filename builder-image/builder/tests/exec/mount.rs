//! Mounts of a step under attack: links planted in what it shares with others, a socket handed in, writes that must not
//! arrive anywhere.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use builder::exec::ExecError;
use builder::graph::FileOwner;
use builder::layer::LayerDir;
use builder::snapshot::Snapshot;
use builder::step::run::{MountSource, RunSpec, StepMount};

use crate::PART;
use crate::bench::{Bench, changed};
use crate::step::{run_step, shell};

fn mount(target: &str, read_only: bool, source: MountSource) -> StepMount {
    StepMount {
        target: Some(target.into()),
        read_only,
        source,
    }
}

fn directory(directory: &Path, path: &str) -> MountSource {
    MountSource::Directory {
        directory: directory.into(),
        path: path.into(),
    }
}

pub(crate) fn a_link_in_a_shared_directory_leads_nowhere_outside(bench: &Bench) {
    let cache = bench.directory.path().join("shared");
    let outside = bench.directory.path().join("outside");
    for path in [&cache, &outside] {
        fs_err::create_dir(path).unwrap();
    }
    fs_err::write(outside.join("file"), "of the machine").unwrap();
    for (link, to) in [
        ("absolute", outside.as_path()),
        ("relative", Path::new("../outside")),
        ("etc", Path::new("/etc")),
        ("magic", Path::new("/proc/self/root")),
        ("own", Path::new("/proc/1/cwd")),
    ] {
        symlink(to, cache.join(link)).unwrap();
        let spec = RunSpec {
            mounts: vec![mount("/m", false, directory(&cache, &format!("/{link}")))],
            ..shell("cat /m/file; touch /m/made")
        };
        let (result, _, text) = run_step(bench, &spec);
        assert!(
            matches!(result, Err(ExecError::MountSource { .. })),
            "{link}: {result:?} {text}"
        );
    }
    // A link that stays inside is followed inside.
    fs_err::create_dir_all(cache.join("etc2/real")).unwrap();
    symlink("/etc2/real", cache.join("inside")).unwrap();
    let spec = RunSpec {
        mounts: vec![mount("/m", false, directory(&cache, "/inside"))],
        ..shell("touch /m/made")
    };
    assert_eq!(run_step(bench, &spec).0.unwrap(), 0);
    assert!(cache.join("etc2/real/made").exists());
    let names = crate::bench::names(&outside);
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["file"]);
}

/// One thread swaps a directory for a link to the outside and back, while steps mount it: none may ever see the outside.
pub(crate) fn a_race_for_a_shared_directory_is_never_won(bench: &Bench) {
    let cache = bench.directory.path().join("raced");
    let outside = bench.directory.path().join("treasure");
    fs_err::create_dir_all(cache.join("sub")).unwrap();
    fs_err::create_dir(&outside).unwrap();
    fs_err::write(outside.join("file"), "of the machine").unwrap();
    symlink(&outside, cache.join("link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (cache.join("sub"), cache.join("link"));
                renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let (mut mounted, mut refused) = (0, 0);
        for _ in 0..40 {
            let spec = RunSpec {
                mounts: vec![mount("/m", false, directory(&cache, "/sub"))],
                ..shell("ls -A /m; touch /m/made; rm -f /m/made")
            };
            let (result, _, text) = run_step(bench, &spec);
            assert!(!text.contains("file"), "{text}");
            match result {
                Ok(0) => mounted += 1,
                Err(ExecError::MountSource { .. }) => refused += 1,
                other => panic!("{other:?} {text}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(mounted + refused, 40);
        assert!(mounted > 0, "the directory was never there");
    });
    assert!(!outside.join("made").exists());
}

pub(crate) fn what_is_written_to_files_of_an_image_is_discarded(bench: &Bench) {
    let layers = |bench: &Bench| -> Vec<_> {
        let open = |path: &PathBuf| Arc::new(LayerDir::open(path).unwrap());
        bench.layers.iter().map(open).collect()
    };
    let image = changed(bench, |layer| {
        fs_err::create_dir(layer.join("data")).unwrap();
        fs_err::write(layer.join("data/file"), "kept").unwrap();
    });
    let source = |path: &str| MountSource::Layers {
        snapshot: Snapshot::new(layers(&image)),
        path: path.into(),
    };
    let spec = RunSpec {
        mounts: vec![
            mount("/w", false, source("/data")),
            mount("/r", true, source("/data")),
            mount("/f", true, source("/data/file")),
        ],
        ..shell(
            "cat /w/file /r/file /f && echo no > /w/file && echo no > /w/new && rm /w/file && ls /w /r && \
             ! (echo no > /r/file) && ! (echo no > /f) && ! rm /r/file; mount -o remount,rw /r; echo no > /r/file; cat /r/file",
        )
    };
    let (result, _, text) = run_step(bench, &spec);
    assert_eq!(result.unwrap(), 0, "{text}");
    assert!(text.ends_with("kept\n") || text.ends_with("kept"), "{text}");
    let layer = image.layers.last().unwrap();
    assert_eq!(
        fs_err::read_to_string(layer.join("data/file")).unwrap(),
        "kept"
    );
    assert!(!layer.join("data/new").exists());
}

/// This program and its libraries as a layer.
fn program(layer: &Path) {
    let maps = fs_err::read_to_string("/proc/self/maps").unwrap();
    let files = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5));
    let libraries: std::collections::BTreeSet<&str> =
        files.filter(|file| file.contains(".so")).collect();
    let into = |path: &str| {
        let path = layer.join(path.trim_start_matches('/'));
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    fs_err::copy("/proc/self/exe", into("/client")).unwrap();
    for library in libraries {
        fs_err::copy(library, into(library)).unwrap();
        let name = Path::new(library).file_name().unwrap().to_str().unwrap();
        for known in [
            "/lib64",
            "/lib/x86_64-linux-gnu",
            "/lib/aarch64-linux-gnu",
            "/lib",
        ] {
            if Path::new(known).join(name).exists() && !layer.join(&known[1..]).join(name).exists()
            {
                fs_err::copy(library, into(&format!("{known}/{name}"))).unwrap();
            }
        }
    }
}

/// The part of this program that runs inside: talks to the agent.
pub(crate) fn agent_client() {
    let socket = std::env::var("SSH_AUTH_SOCK").unwrap();
    let mut agent = UnixStream::connect(socket).unwrap();
    agent.write_all(b"ping").unwrap();
    let mut answer = String::new();
    agent.read_to_string(&mut answer).unwrap();
    println!("{answer}");
}

pub(crate) fn an_agent_is_reached_by_the_user_of_the_step(bench: &Bench) {
    let with_client = changed(bench, program);
    let path = bench.directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let owner = FileOwner {
        mode: 0o600,
        uid: 1234,
        gid: 0,
    };
    let socket = MountSource::Agent {
        socket: path,
        owner,
    };
    for (user, code) in [("1234", 0), ("4321", 101)] {
        let spec = RunSpec {
            args: vec!["/client".into()],
            env: vec![
                format!("{PART}=agent client"),
                "COOPERY_TEST_WORKSPACE=/".into(),
                "SSH_AUTH_SOCK=/run/agent".into(),
            ],
            user: user.into(),
            mounts: vec![mount("/run/agent", true, socket.clone())],
            ..shell("")
        };
        let listener = listener.try_clone().unwrap();
        let agent = (code == 0).then(|| {
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut sent = [0; 4];
                stream.read_exact(&mut sent).unwrap();
                assert_eq!(&sent, b"ping");
                stream.write_all(b"the agent answers").unwrap();
            })
        });
        let (result, _, text) = run_step(&with_client, &spec);
        assert_eq!(result.unwrap(), code, "{text}");
        assert_eq!(text.contains("the agent answers"), code == 0, "{text}");
        if let Some(agent) = agent {
            agent.join().unwrap();
        }
    }
}
