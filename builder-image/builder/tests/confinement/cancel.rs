//! SIGTERM and SIGINT at random moments of a build that fetches, runs, packs and pushes: it ends within two seconds, and
//! nothing is left of it.

use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use distribution::memory::MemoryRegistry;
use rustix::process::{Pid, Signal, kill_process};

use crate::shop::{Shop, text};
use crate::{files, open, processes_with};

/// How long a stop may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Bytes that do not compress, the same ones for the same seed.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// What a stop must not leave: mounts, processes, work in progress, and blobs that are not what their names say.
fn assert_nothing_is_left(shop: &Shop, when: &str) {
    let root = shop.path("root");
    let mounts = fs_err::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(root.to_str().unwrap()), "{when}: {mounts}");
    for word in [root.to_str().unwrap(), "98123"] {
        assert_eq!(processes_with(word), [0; 0], "{when}");
    }
    if !root.join("blobs").exists() {
        return;
    }
    assert!(shop.is_tidy(), "{when}");
    let mut found = Vec::new();
    files(&root.join("blobs"), &mut found);
    for blob in found {
        let name = blob.file_name().unwrap().to_str().unwrap().to_owned();
        let digest = oci::Digest::of(&fs_err::read(blob).unwrap());
        assert_eq!(digest.hex(), name, "{when}");
    }
}

#[test]
fn a_stop_at_any_moment_takes_two_seconds_and_leaves_nothing() {
    let Some(shop) = open() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let registry = runtime.block_on(MemoryRegistry::start());
    let name = |image: &str| format!("{}/{image}", registry.address());
    // A base that takes its time.
    fs_err::create_dir(shop.path("fat")).unwrap();
    for number in 0..3 {
        let path = shop.path(&format!("fat/{number}"));
        fs_err::write(path, noise(number + 1, 2 << 20)).unwrap();
    }
    shop.write(
        "fat/Dockerfile",
        "FROM base\nCOPY 0 1 /fat/\nCOPY 2 /fat/\n",
    );
    let fat = name("fat:1");
    let made = shop.coopery(&["--push", "-t", &fat], "fat");
    assert!(made.status.success(), "{}", text(&made.stderr));
    fs_err::write(shop.path("context/own"), noise(9, 2 << 20)).unwrap();
    shop.write(
        "context/Dockerfile",
        &format!(
            "FROM {fat}\nCOPY own /own\n\
             RUN trap '' TERM INT HUP; (sleep 98123 &) ; cat /fat/0 /own > /both; /bin/busybox usleep 100000\n\
             RUN cat /both /both > /twice\n"
        ),
    );
    let image = name("app:1");
    let archive = shop.path("out.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let flags = ["--push", "-t", &image, "-o", &output, "--progress", "plain"];
    let clean = || {
        let _ = fs_err::remove_dir_all(shop.path("root"));
        let _ = fs_err::remove_file(&archive);
    };
    clean();
    let began = Instant::now();
    let whole = shop.coopery(&flags, "context");
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    let whole = u64::try_from(began.elapsed().as_micros()).unwrap();

    let soak = std::env::var("COOPERY_SOAK").is_ok_and(|soak| soak == "1");
    let rounds = if soak { 80 } else { 8 };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = now.unwrap().subsec_nanos();
    let mut random = noise(seed.into(), rounds * 8);
    let (mut stopped, mut slowest) = (0, Duration::ZERO);
    for round in 0..rounds {
        clean();
        let drawn: [u8; 8] = random.split_off(random.len() - 8).try_into().unwrap();
        // One in each part of the build.
        let part = whole / u64::try_from(rounds).unwrap();
        let moment = part * u64::try_from(round).unwrap() + u64::from_le_bytes(drawn) % part;
        let signal = [Signal::TERM, Signal::INT][round % 2];
        let mut child = shop
            .command(&flags, "context")
            .stdout(Stdio::null())
            .stderr(
                fs_err::File::create(shop.path("log"))
                    .unwrap()
                    .into_parts()
                    .0,
            )
            .spawn()
            .unwrap();
        // The moment is what is random here; nothing is waited for.
        std::thread::sleep(Duration::from_micros(moment));
        let asked = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        let took = asked.elapsed();
        let log = text(&fs_err::read(shop.path("log")).unwrap());
        let when = format!("{signal:?} after {moment} of {whole} us: {status} in {took:?}: {log}");
        assert!(took < LIMIT, "{when}");
        slowest = slowest.max(took);
        assert_nothing_is_left(&shop, &when);
        if !status.success() {
            stopped += 1;
            assert!(!archive.exists(), "{when}");
        }
    }
    eprintln!("{stopped} of {rounds} stopped, the slowest in {slowest:?}");
    assert!(stopped > rounds / 2, "{stopped} of {rounds}");
}
