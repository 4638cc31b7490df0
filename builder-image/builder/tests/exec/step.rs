//! RUN on snapshots: users, scripts, working directories, and a layer with nothing in it but changes.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use builder::{
    exec::ExecError,
    layer::LayerDir,
    snapshot::Snapshot,
    step::run::{RunSpec, run},
};

use crate::bench::{Bench, bare, changed, names};

/// Runs a RUN on the layers of `bench`.
pub(crate) fn run_step(bench: &Bench, spec: &RunSpec) -> (Result<i32, ExecError>, PathBuf, String) {
    let layers = bench
        .layers
        .iter()
        .map(|path| Arc::new(LayerDir::open(path).unwrap()))
        .collect();
    let into = tempfile::tempdir_in(bench.directory.path())
        .unwrap()
        .keep()
        .join("layer");
    let mut text = String::new();
    let result = run(
        spec,
        &Snapshot::new(layers),
        &into,
        &bench.runtime,
        &|| false,
        &mut |_, line| {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        },
    );
    (result.map(|(_, status)| status.code), into, text)
}

pub(crate) fn shell(script: &str) -> RunSpec {
    RunSpec {
        args: vec!["/bin/sh".into(), "-c".into(), script.into()],
        cwd: "/".into(),
        network: true,
        ..RunSpec::default()
    }
}

pub(crate) fn mount_points_are_not_part_of_the_layer(bench: &Bench) {
    let without = bare(bench, |_| {});
    let linked = bare(bench, |layer| {
        fs_err::create_dir_all(layer.join("real")).unwrap();
        std::os::unix::fs::symlink("real", layer.join("etc")).unwrap();
        std::os::unix::fs::symlink(
            "../run/systemd/resolve/stub-resolv.conf",
            layer.join("real/resolv.conf"),
        )
        .unwrap();
        fs_err::set_permissions(layer, PermissionsExt::from_mode(0o711)).unwrap();
    });
    for bench in [&without, &linked] {
        let (code, layer, text) = run_step(
            bench,
            &shell("cat /etc/hosts; cat /etc/resolv.conf > /dev/null && ls -d /proc/1 /dev/null"),
        );
        assert_eq!(code.unwrap(), 0, "{text}");
        assert!(
            text.starts_with("127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost"),
            "{text}"
        );
        assert!(names(&layer).is_empty(), "{:?}", names(&layer));
        let mode = |path: &Path| fs_err::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&layer), mode(bench.layers.last().unwrap()));
    }
    // What the step writes is.
    let (code, layer, text) = run_step(
        &linked,
        &shell(
            "echo 1 > /etc/file; mkdir -p /run/systemd/x; (echo x >> /etc/hosts) 2>/dev/null || echo refused",
        ),
    );
    assert_eq!((code.unwrap(), text.as_str()), (0, "refused\n"));
    assert_eq!(
        names(&layer),
        BTreeSet::from(["real".to_owned(), "run".to_owned()])
    );
    assert_eq!(
        names(&layer.join("real")),
        BTreeSet::from(["file".to_owned()])
    );
    assert_eq!(
        names(&layer.join("run/systemd")),
        BTreeSet::from(["x".to_owned()])
    );
}

pub(crate) fn a_step_is_run_as_its_user(bench: &Bench) {
    let image = changed(bench, |layer| {
        fs_err::create_dir(layer.join("etc")).unwrap();
        fs_err::write(
            layer.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:1001:1002::/home/app:/bin/sh\n",
        )
        .unwrap();
        fs_err::write(
            layer.join("etc/group"),
            "app:x:1002:\nextra:x:1003:app\nother:x:1004:\n",
        )
        .unwrap();
    });
    let rows = [
        ("", "0 0 [0] /root\n"),
        ("app", "1001 1002 [1002 1003] /home/app\n"),
        ("app:other", "1001 1004 [1004] /home/app\n"),
        ("1001", "1001 1002 [1002 1003] /home/app\n"),
        ("7:8", "7 8 [8] /\n"),
    ];
    for (user, expected) in rows {
        let spec = RunSpec {
            user: user.into(),
            ..shell("echo $(id -u) $(id -g) [$(id -G)] $HOME")
        };
        let (code, _, text) = run_step(&image, &spec);
        assert_eq!((code.unwrap(), text.as_str()), (0, expected), "{user}");
    }
    let spec = RunSpec {
        user: "nobody-here".into(),
        ..shell("true")
    };
    assert!(matches!(
        run_step(&image, &spec).0,
        Err(ExecError::User { .. })
    ));
}

pub(crate) fn scripts_and_working_directories_of_a_step(bench: &Bench) {
    let spec = RunSpec {
        args: vec!["/dev/pipes/EOF".into()],
        script: Some(("EOF".into(), "#!/bin/sh\npwd\necho $0 $A\n".into())),
        cwd: "/work/dir".into(),
        env: vec!["A=1".into(), "PATH=/bin".into()],
        ..shell("")
    };
    let (code, layer, text) = run_step(bench, &spec);
    assert_eq!(
        (code.unwrap(), text.as_str()),
        (0, "/work/dir\n/dev/pipes/EOF 1\n")
    );
    assert_eq!(names(&layer), BTreeSet::from(["work".to_owned()]));
    for cwd in ["/proc/self/fd/7", "/dev/fd/8"] {
        let spec = RunSpec {
            cwd: cwd.into(),
            ..shell("cat ../../etc/shadow")
        };
        assert!(
            matches!(
                run_step(bench, &spec).0,
                Err(ExecError::WorkingDirectory { .. })
            ),
            "{cwd}"
        );
    }
}
