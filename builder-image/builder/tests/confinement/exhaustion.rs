//! Steps that take what there is: output and disk without end, and programs left behind for others.

use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::shop::text;
use crate::{await_that, files, open, processes_with};

/// A number in a file of `/proc`, summed up over the processes.
fn sum(processes: &[u32], file: &str, name: &str) -> u64 {
    let one = |process: &u32| -> Option<u64> {
        let text = fs_err::read_to_string(format!("/proc/{process}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    processes.iter().filter_map(one).sum()
}

#[test]
fn output_without_end_is_clipped_takes_no_memory_and_can_be_stopped() {
    let Some(shop) = open() else { return };
    shop.write(
        "context/Dockerfile",
        "FROM base\nRUN dd if=/dev/zero bs=64k 2> /dev/null | tr '\\0' '\\n' | tr '\\n' y\n",
    );
    let mut command = shop.command(&["--progress", "plain"], "context");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let told = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (mut line, mut clipped) = (String::new(), false);
        while !clipped {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
            told.fetch_add(line.len(), Ordering::Relaxed);
            clipped = line.contains("[output clipped, log limit 2MiB reached]");
        }
        let rest = scope.spawn(move || {
            log.lines()
                .map_while(Result::ok)
                .collect::<Vec<_>>()
                .join("\n")
        });
        let engine = processes_with(&shop.path("root").display().to_string());
        assert!(engine.len() >= 2, "{engine:?}");
        let (memory, read) = (
            sum(&engine, "status", "VmHWM:"),
            sum(&engine, "io", "rchar:"),
        );
        await_that("16 MiB more", || {
            sum(&engine, "io", "rchar:") > read + (16 << 20)
        });
        let more = sum(&engine, "status", "VmHWM:") - memory;
        assert!(more < 4096, "{more} KiB more memory");
        let asked = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(2));
        assert!(asked.elapsed() < Duration::from_secs(2));
        let rest = rest.join().unwrap();
        assert!(rest.len() < 8192 && rest.contains("cancelled"), "{rest}");
    });
    // Whole lines, each with the step's number and the time.
    let told = told.into_inner();
    assert!((1_900_000..3_000_000).contains(&told), "{told} bytes");
    assert!(shop.is_tidy());
}

/// Within mounts of its own, the engine's directory is on a disk of 32 MiB.
const ON_A_SMALL_DISK: &str = r#"
mkdir -p "$DISK" && mount -t tmpfs -o size=32m tmpfs "$DISK" || exit 99
for file in small big copied small; do
    "$@" -f "$CONTEXT/$file" > "$OUT.$((n += 1)).stdout" 2> "$OUT.$n.stderr"
    echo $?
done
ls -A "$DISK/tmp" | wc -l
df --output=pcent "$DISK" | tail -n 1
"#;

#[test]
fn a_full_disk_fails_the_step_and_leaves_the_cache_right() {
    let Some(shop) = open() else { return };
    let small = "FROM base\nRUN echo small > /small\n";
    for (name, more) in [
        ("small", ""),
        ("big", "RUN dd if=/dev/zero of=/big bs=1M\n"),
        ("copied", "COPY file /\n"),
    ] {
        shop.write(&format!("context/{name}"), &format!("{small}{more}"));
    }
    let file = fs_err::File::create(shop.path("context/file")).unwrap();
    file.set_len(64 << 20).unwrap();
    let build = shop.command(&["--progress", "plain"], "context");
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", ON_A_SMALL_DISK, "sh"])
        .arg(build.get_program())
        .args(build.get_args())
        .env("DISK", shop.path("root"))
        .env("CONTEXT", shop.path("context"))
        .env("OUT", shop.path("out"))
        .output()
        .unwrap();
    let read = |name: &str| text(&fs_err::read(shop.path(name)).unwrap());
    let words = text(&output.stdout);
    let words: Vec<&str> = words.split_whitespace().collect();
    let [first, big, copied, last, left, used] = words[..] else {
        panic!("{output:?}");
    };
    assert_eq!((first, last), ("0", "0"), "{}", read("out.1.stderr"));
    for (code, log) in [(big, "out.2.stderr"), (copied, "out.3.stderr")] {
        let log = read(log);
        assert!(code != "0" && !log.contains("panicked"), "{code} {log}");
        let told = log.contains("No space left on device") || log.contains("disk");
        assert!(told, "{log}");
    }
    assert!(read("out.2.stderr").contains("ran out of disk space"));
    // Nothing of the failures is left, and what was there is still right.
    assert_eq!(left, "0");
    let used: u32 = used.trim_end_matches('%').parse().unwrap();
    assert!(used < 60, "{used} % of the disk is in use");
    assert_eq!(read("out.1.stdout"), read("out.4.stdout"));
    assert!(read("out.4.stderr").contains("CACHED"));
}

#[test]
fn programs_with_the_setuid_bit_are_out_of_reach_for_others() {
    let Some(shop) = open() else { return };
    // Whoever is on the machine may come this far.
    fs_err::set_permissions(shop.path("."), PermissionsExt::from_mode(0o755)).unwrap();
    let output = shop.build(
        "FROM base\nRUN --mount=type=cache,target=/c for p in /c/own /own; do \
         cat /bin/busybox > $p; /bin/busybox chmod 6755 $p; done\n",
        &[],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut found = Vec::new();
    files(&shop.path("root"), &mut found);
    found.retain(|path| fs_err::metadata(path).unwrap().mode() & 0o4000 != 0);
    assert_eq!(found.len(), 2, "{found:?}");
    let start = |path: &std::path::Path| {
        let mut command = Command::new(path);
        command
            .arg("id")
            .uid(65534)
            .gid(65534)
            .stdout(Stdio::null());
        command.stderr(Stdio::null()).status()
    };
    for path in &found {
        let error = start(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path:?}");
    }
    assert!(start(&shop.path("base/root/bin/busybox")).is_ok());
}
