//! What a hostile RUN tries as root: system calls, other processes, sockets and files by number. Each attack is made by
//! `attacker.c` and must fail; where it can be, it is shown to work without the confinement.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use builder::exec::{Container, ExecError, MAX_PROCESSES, Mount, MountAccess, ProbeReport};

use crate::SECRET;
use crate::bench::{Bench, Ran, changed};
use crate::step::{run_step, shell};

/// The program of the attacks: static, so that it runs in any root.
fn attacker() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let workspace = std::env::var_os(crate::WORKSPACE).unwrap();
        let directory = Path::new(&workspace).join("programs");
        fs_err::create_dir(&directory).unwrap();
        let program = directory.join("attacker");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exec/attacker.c");
        let made = Command::new("cc")
            .args(["-static", "-O1", "-o"])
            .args([&program, Path::new(source)])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        program
    })
}

/// The layers of `bench` with the attacker on top.
fn armed(bench: &Bench) -> Bench {
    changed(bench, |layer| {
        fs_err::copy(attacker(), layer.join("attacker")).unwrap();
    })
}

fn attack(way: &[&str]) -> Container {
    Container {
        args: std::iter::once("/attacker")
            .chain(way.iter().copied())
            .map(str::to_owned)
            .collect(),
        ..Bench::container("")
    }
}

/// What was tried and what came of it.
fn results(output: &str) -> BTreeMap<String, String> {
    let pairs = output.lines().filter_map(|line| line.rsplit_once(' '));
    pairs.map(|(what, how)| (what.into(), how.into())).collect()
}

/// The same without any confinement but the engine's namespaces.
fn unconfined(way: &[&str]) -> BTreeMap<String, String> {
    let output = Command::new(attacker()).args(way).output().unwrap();
    results(&String::from_utf8_lossy(&output.stdout))
}

fn finished(ran: &Ran) -> BTreeMap<String, String> {
    assert_eq!(ran.status.code, 0, "{}{}", ran.stdout, ran.stderr);
    results(&ran.stdout)
}

pub(crate) fn calls_into_the_kernel_are_refused(bench: &Bench) {
    let open = unconfined(&["calls"]);
    for works in ["keyctl", "fsopen", "mount", "clone:10000000", "unshare"] {
        assert_eq!(open[works], "done", "{works}");
    }
    let bench = armed(bench);
    let found = finished(&bench.run(&attack(&["calls"])));
    assert!(found.len() > 35 && found.len() == open.len(), "{found:?}");
    for (call, result) in &found {
        let expected = if call == "clone3" { "ENOSYS" } else { "EPERM" };
        assert_eq!(result, expected, "{call}");
    }
    // Threads and processes are made all the same, by any kind of program.
    let ran = bench.script("(true | cat) & wait; busybox setsid true && echo made");
    assert_eq!(ran.stdout, "made\n", "{}", ran.stderr);
}

pub(crate) fn the_door_for_32_bit_programs_is_guarded_too(bench: &Bench) {
    if std::env::consts::ARCH != "x86_64" {
        println!("left out: this machine has no other door");
        return;
    }
    let open = unconfined(&["calls32"]);
    if open.get("getpid").map(String::as_str) != Some("done") {
        println!("left out: this kernel executes no 32-bit programs");
        return;
    }
    assert_eq!(open["keyctl"], "done");
    let found = finished(&armed(bench).run(&attack(&["calls32"])));
    for (call, result) in &found {
        let expected = if call == "getpid" { "done" } else { "EPERM" };
        assert_eq!(result, expected, "{call}");
    }
    assert_eq!(found.len(), open.len());
}

/// Through a directory of the machine that the step may use: the rest of its file system is behind it.
pub(crate) fn files_are_not_opened_by_their_number(bench: &Bench) {
    let shared = bench.directory.path().join("numbered");
    fs_err::create_dir(&shared).unwrap();
    let armed = armed(bench);
    let mut container = attack(&["handle", "/tmp"]);
    let mount = Mount::bind(shared, "/tmp", MountAccess::Write);
    container.mounts.push(mount);
    let found = finished(&armed.run(&container));
    assert_eq!(found["name"], "done");
    assert_eq!((&*found["open"], &*found["root"]), ("EPERM", "EPERM"));
}

pub(crate) fn other_processes_cannot_be_walked(bench: &Bench) {
    let armed = armed(bench);
    // What a process of its own holds is found: the search works. The process is at rest by then: while it becomes
    // another program, its memory is nobody's.
    let mut own = Bench::container(
        "mkfifo ready held; sh -c 'echo > ready; read never < held' & read _ < ready; exec /attacker walk $MARK",
    );
    own.env.push("MARK=held-by-a-child".into());
    let text = armed.run(&own).stdout;
    for found in ["environ FOUND", "memory FOUND", "walked"] {
        assert!(text.contains(found), "{found}: {text}");
    }
    assert!(!text.contains("FOREIGN"), "{text}");

    // What the engine and another step hold is not.
    let ready = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut other = Bench::container("echo ready; sleep 9869");
            other.env.push("TOKEN=held-by-another-step".into());
            bench.execute(&other, &|| done.load(Ordering::Relaxed), &mut |_, line| {
                ready.store(line == b"ready", Ordering::Relaxed);
            })
        });
        while !ready.load(Ordering::Relaxed) {
            assert!(!other.is_finished());
            std::thread::yield_now();
        }
        let engine = std::env::var(SECRET).unwrap();
        for mark in [engine.as_str(), "held-by-another-step"] {
            let text = armed.run(&attack(&["walk", mark])).stdout;
            assert_eq!(text, "1 root own\nwalked\n");
        }
        done.store(true, Ordering::Relaxed);
        let (ended, ..) = other.join().unwrap();
        assert!(ended.is_err(), "{ended:?}");
    });
}

pub(crate) fn other_processes_cannot_be_traced(bench: &Bench) {
    let highest = (std::process::id() + 2000).to_string();
    let text = armed(bench).run(&attack(&["trace", &highest])).stdout;
    // One may trace what is one's own, as debuggers and sanitizers do.
    assert_eq!(text, "child done\ntraced 0 signalled 0\n");
}

pub(crate) fn abstract_sockets_of_others_are_out_of_reach(bench: &Bench) {
    let name = format!("coopery-test-{}", std::process::id());
    let abstract_name = |name: &str| SocketAddr::from_abstract_name(name).unwrap();
    let _stream = UnixListener::bind_addr(&abstract_name(&name)).unwrap();
    let datagram = UnixDatagram::bind_addr(&abstract_name(&format!("{name}-datagram"))).unwrap();
    datagram.set_nonblocking(true).unwrap();
    let open = unconfined(&["sockets", &name]);
    assert_eq!((&*open["stream"], &*open["datagram"]), ("done", "done"));
    datagram.recv(&mut [0]).unwrap();

    let armed = armed(bench);
    let mut container = attack(&["sockets", &name]);
    let found = finished(&armed.run(&container));
    assert_eq!(found["own"], "done");
    if ProbeReport::available()
        .message
        .contains("abstract sockets")
    {
        println!("left out: this kernel cannot keep abstract sockets apart");
        assert!(std::env::var_os("CI").is_none(), "CI leaves nothing out");
    } else {
        assert_eq!((&*found["stream"], &*found["datagram"]), ("EPERM", "EPERM"));
        assert!(datagram.recv(&mut [0]).is_err());
    }
    container.network = false;
    let found = finished(&armed.run(&container));
    assert_eq!(found["stream"], "ECONNREFUSED");
}

/// A step that multiplies without end gets an error, and the engine can still run others meanwhile.
pub(crate) fn processes_of_a_step_are_bounded(bench: &Bench) {
    if ProbeReport::available().message.contains("RLIMIT_NPROC") {
        println!("left out: this kernel does not bound the processes of the machine's root");
        assert!(std::env::var_os("CI").is_none(), "CI leaves nothing out");
        return;
    }
    let armed = armed(bench);
    let (code, _, text) = run_step(&armed, &shell("/attacker processes"));
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(
        (code.unwrap(), words[0], words[2]),
        (1, "processes", "EAGAIN")
    );
    let count: u64 = words[1].parse().unwrap();
    assert!((1000..MAX_PROCESSES).contains(&count), "{count}");
    // One that goes on for ever is told in the shell's words, leaves others their processes, and is ended all the same.
    let told = AtomicBool::new(false);
    let bomb = Bench::container("b() { b | b & }; b; busybox sleep 9868");
    let (ended, ..) = bench.execute(&bomb, &|| told.load(Ordering::Relaxed), &mut |_, line| {
        let line = String::from_utf8_lossy(line);
        if !told.load(Ordering::Relaxed) && line.contains("fork") {
            assert_eq!(bench.script("true").status.code, 0);
            told.store(true, Ordering::Relaxed);
        }
    });
    assert!(matches!(ended, Err(ExecError::Cancelled)), "{ended:?}");
}
