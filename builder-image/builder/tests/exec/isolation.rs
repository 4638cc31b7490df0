//! What a process sees, may do, and leaves in its upper directory.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::Duration,
};

use builder::exec::{ExecError, Identity, Mount, MountAccess};

use crate::{
    SECRET,
    bench::{Bench, changed, names, whiteout},
};

pub(crate) fn files_are_in_the_upper_directory(bench: &Bench) {
    let ran = bench.script("echo hello > /etc/greeting; rm /etc/passwd; echo out; echo err >&2");
    assert_eq!(ran.status.code, 0, "{}", ran.stderr);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(
        fs_err::read_to_string(ran.upper.join("etc/greeting")).unwrap(),
        "hello\n"
    );
    let whiteout = fs_err::symlink_metadata(ran.upper.join("etc/passwd")).unwrap();
    assert_eq!(whiteout.rdev(), 0);
    assert_eq!(whiteout.mode() & 0o170_000, 0o020_000);
    let names: BTreeSet<String> = names(&ran.upper);
    assert_eq!(names, BTreeSet::from(["etc".to_owned()]));
}

pub(crate) fn exit_codes_are_handed_on(bench: &Bench) {
    assert_eq!(bench.script("exit 3").status.code, 3);
    assert_eq!(bench.script("sh -c 'kill -9 $$'; exit $?").status.code, 137);
    let mut container = Bench::container("");
    container.args = vec!["nope".into()];
    let ran = bench.run(&container);
    assert_eq!(ran.status.code, 127, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("nope").count(), 1, "{}", ran.stderr);
    container.args = vec!["/etc/passwd".into()];
    let ran = bench.run(&container);
    assert_eq!(ran.status.code, 127, "{} {}", ran.status.code, ran.stderr);
    let line = "/etc/passwd: open executable: Permission denied\n";
    assert!(ran.stderr.ends_with(line), "{}", ran.stderr);
}

pub(crate) fn nothing_of_the_engine_is_visible(bench: &Bench) {
    // A descriptor that is open over exec, as a careless library might leave it.
    let secret = bench.directory.path().join("secret");
    fs_err::write(&secret, "descriptor-secret").unwrap();
    let leaked = fs_err::File::open(&secret).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    assert!(std::env::var(SECRET).is_ok());
    let ran = bench.script(
        "ls -l /proc/self/fd; env; for p in /proc/[0-9]*; do cat $p/environ $p/cmdline; ls -l $p/fd $p/cwd $p/root; done; \
         cat /proc/*/fd/[3-9] 2>/dev/null; ls /proc | grep -c '^[0-9]'; true",
    );
    let all = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!all.contains("secret") && !all.contains("s3cr3t"), "{all}");
    assert!(!all.contains("exec-") && !all.contains("crun"), "{all}");
    assert!(!all.contains("CARGO") && !all.contains("COOPERY"), "{all}");
    let variables = bench.script("env");
    let found: BTreeSet<&str> = variables
        .stdout
        .lines()
        .filter_map(|line| line.split('=').next())
        .filter(|name| !["SHLVL", "PWD", "OLDPWD", "_"].contains(name))
        .collect();
    assert_eq!(
        found,
        BTreeSet::from(["HOME", "PATH"]),
        "{}",
        variables.stdout
    );
}

pub(crate) fn the_surroundings_are_those_of_a_container(bench: &Bench) {
    let rows = [
        ("hostname", "buildkitsandbox\n"),
        ("id -u; id -g", "0\n0\n"),
        ("echo $$", "1\n"),
        ("pwd", "/\n"),
        (
            "readlink /dev/fd; readlink /dev/ptmx",
            "/proc/self/fd\npts/ptmx\n",
        ),
        ("cat < /dev/stdin | wc -c", "0\n"),
        ("echo x > /dev/null && head -c 2 /dev/zero | wc -c", "2\n"),
        ("echo x > /dev/shm/x && cat /dev/shm/x", "x\n"),
        (
            "while read k v; do case $k in CapEff:|CapBnd:|NoNewPrivs:) echo $v;; esac; done < /proc/self/status",
            "00000000a80425fb\n00000000a80425fb\n0\n",
        ),
        (
            "wc -c < /proc/interrupts; ls /sys/firmware | wc -l",
            "0\n0\n",
        ),
        (
            "(echo 1 > /proc/sys/kernel/printk) 2>/dev/null || echo refused",
            "refused\n",
        ),
        (
            "(echo b > /proc/sysrq-trigger) 2>/dev/null || echo refused",
            "refused\n",
        ),
        (
            "(echo x > /sys/power/state) 2>/dev/null || echo refused",
            "refused\n",
        ),
        (
            "(mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/memory/x) 2>/dev/null || echo refused",
            "refused\n",
        ),
        (
            "mount -t tmpfs tmpfs /tmp 2>/dev/null || echo refused",
            "refused\n",
        ),
        ("umask", "0022\n"),
        (
            "touch /tmp/f && chown 1234:65535 /tmp/f && stat -c %u:%g /tmp/f",
            "1234:65535\n",
        ),
    ];
    for (script, expected) in rows {
        let ran = bench.script(script);
        assert_eq!(ran.stdout, expected, "{script}: {}", ran.stderr);
    }
}

pub(crate) fn ids_are_those_of_the_user(bench: &Bench) {
    let mut container = Bench::container(
        "id -u; id -g; id -G; touch /tmp/mine; echo err > /dev/stderr; (echo no > /etc/x) 2>/dev/null || echo refused",
    );
    container.identity = Identity {
        uid: 1000,
        gid: 100,
        additional_gids: vec![100, 7],
    };
    fs_err::set_permissions(
        bench.layers[0].join("tmp"),
        PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    let ran = bench.run(&container);
    assert_eq!(ran.stdout, "1000\n100\n100 7\nrefused\n");
    assert_eq!(ran.stderr, "err\n");
    let made = fs_err::metadata(ran.upper.join("tmp/mine")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 100));
}

pub(crate) fn hundreds_of_layers_can_be_stacked(bench: &Bench) {
    let mut deep = Bench {
        directory: tempfile::tempdir_in(bench.directory.path()).unwrap(),
        runtime: bench.runtime.clone(),
        layers: bench.layers.clone(),
    };
    for index in 0..498 {
        let layer = deep.directory.path().join(format!("sha256-{index:064}"));
        fs_err::create_dir(&layer).unwrap();
        fs_err::write(layer.join(format!("file-{index}")), "").unwrap();
        fs_err::write(layer.join("last"), index.to_string()).unwrap();
        deep.layers.push(layer);
        if index == 298 || index == 497 {
            let ran = deep.script("ls / | while read n; do case $n in file-*) echo $n;; esac; done | wc -l; cat /last");
            assert_eq!(
                ran.stdout,
                format!("{}\n{index}", index + 1) + "\n",
                "{}",
                ran.stderr
            );
        }
    }
    for index in 0..2 {
        let layer = deep.directory.path().join(format!("more-{index}"));
        fs_err::create_dir(&layer).unwrap();
        deep.layers.push(layer);
    }
    let (result, ..) = deep.execute(&Bench::container("true"), &|| false, &mut |_, _| {});
    assert!(
        matches!(result, Err(ExecError::System { .. })),
        "{result:?}"
    );
}

pub(crate) fn output_comes_line_by_line(bench: &Bench) {
    let ran =
        bench.script("seq 1 20000; head -c 40000 /dev/zero | tr '\\0' x; echo; echo -n end >&2");
    assert_eq!(
        ran.stdout
            .lines()
            .filter(|line| line.parse::<u32>().is_ok())
            .count(),
        20_000
    );
    let lengths: Vec<usize> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with('x'))
        .map(str::len)
        .collect();
    assert_eq!(lengths, [16_384, 16_384, 7_232]);
    assert_eq!(ran.stderr, "end\n");
}

pub(crate) fn a_working_directory_is_made_for_the_user(bench: &Bench) {
    let mut container = Bench::container("pwd; touch here");
    container.cwd = "/srv/app/data".into();
    container.identity = Identity {
        uid: 33,
        gid: 44,
        additional_gids: Vec::new(),
    };
    let ran = bench.run(&container);
    assert_eq!(ran.stdout, "/srv/app/data\n", "{}", ran.stderr);
    for path in ["srv", "srv/app", "srv/app/data"] {
        let made = fs_err::metadata(ran.upper.join(path)).unwrap();
        assert_eq!(
            (made.uid(), made.gid(), made.mode() & 0o7777),
            (33, 44, 0o755),
            "{path}"
        );
    }
    container.cwd = "/etc/passwd".into();
    let (result, ..) = bench.execute(&container, &|| false, &mut |_, _| {});
    assert!(
        matches!(result, Err(ExecError::WorkingDirectory { .. })),
        "{result:?}"
    );
}

pub(crate) fn mount_points_that_a_layer_removed_are_not_left_behind(bench: &Bench) {
    let source = bench.directory.path().join("hosts");
    fs_err::write(&source, "127.0.0.1 localhost\n").unwrap();
    let removed = changed(bench, |layer| {
        fs_err::create_dir(layer.join("etc")).unwrap();
        whiteout(&layer.join("etc/hosts"));
        whiteout(&layer.join("sys"));
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs_err::File::open(layer.join("etc"))
            .unwrap()
            .into_parts()
            .0
            .set_modified(old)
            .unwrap();
    });
    let mut container = Bench::container("cat /etc/hosts; ls /sys | head -n 1");
    let mount = Mount::bind(source, "/etc/hosts", MountAccess::File);
    container.mounts.push(mount);
    let ran = removed.run(&container);
    assert_eq!(ran.stdout, "127.0.0.1 localhost\nblock\n", "{}", ran.stderr);
    assert!(!ran.upper.join("sys").exists());
    let etc = ran.upper.join("etc");
    assert!(etc.exists() && names(&etc).is_empty());
    assert_eq!(fs_err::metadata(&etc).unwrap().mtime(), 1_000_000_000);
}

pub(crate) fn mount_points_that_lead_elsewhere_are_refused(bench: &Bench) {
    for path in ["proc", "sys", "dev"] {
        let hostile = changed(bench, |layer| {
            whiteout(&layer.join(path));
            fs_err::remove_file(layer.join(path)).unwrap();
            std::os::unix::fs::symlink("/etc", layer.join(path)).unwrap();
        });
        let (result, ..) = hostile.execute(&Bench::container("true"), &|| false, &mut |_, _| {});
        assert!(
            matches!(&result, Err(ExecError::MountPoint { path: at }) if *at == format!("/{path}")),
            "{result:?}"
        );
    }
    let hostile = changed(bench, |layer| {
        fs_err::create_dir(layer.join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", layer.join("etc/hosts")).unwrap();
    });
    let mut container = Bench::container("cat /etc/hosts /etc/passwd");
    let mount = Mount::bind("/etc/hostname", "/etc/hosts", MountAccess::File);
    container.mounts.push(mount);
    let (result, ..) = hostile.execute(&container, &|| false, &mut |_, _| {});
    assert!(
        matches!(&result, Err(ExecError::MountPoint { path }) if path == "/etc/hosts"),
        "{result:?}"
    );
}

pub(crate) fn a_step_without_network_sees_no_interface(bench: &Bench) {
    let mut container = Bench::container(
        "ls /proc/self/net/dev && while read n rest; do echo $n; done < /proc/self/net/dev",
    );
    container.network = false;
    let ran = bench.run(&container);
    let interfaces: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|line| line.ends_with(':'))
        .collect();
    assert_eq!(interfaces, ["lo:"], "{}{}", ran.stdout, ran.stderr);
}

/// As root of the step, with all that a step may do: every row has to end in `refused`.
pub(crate) fn root_of_a_step_reaches_nothing_outside(bench: &Bench) {
    let rows = [
        "busybox mknod /tmp/disk b 8 0",
        "busybox mknod /tmp/kmem c 1 2",
        "busybox umount /proc",
        "busybox umount /sys",
        "mount -o remount,rw /sys",
        "mount --bind / /tmp",
        "mount --move /proc /tmp",
        "busybox pivot_root / /tmp",
        "busybox kill -0 4194304",
        "cat /proc/kcore | grep -q .",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/self/oom_score_adj; echo -1000 > /proc/self/oom_score_adj",
        // New namespaces would open most of the kernel to a step.
        "busybox unshare -U -r -m true",
        "busybox unshare -m true",
        "busybox nsenter -t 1 -m true",
    ];
    for script in rows {
        let ran = bench.script(&format!(
            "({script}) 2> /tmp/err || echo refused; cat /tmp/err"
        ));
        assert!(
            ran.stdout.starts_with("refused\n"),
            "{script}: {}{}",
            ran.stdout,
            ran.stderr
        );
        assert!(
            !ran.stdout.contains("not found"),
            "{script}: {}",
            ran.stdout
        );
    }
}
