//! The program started by others than the root of the machine: by an ordinary user, whose own id and subordinate ones are
//! mapped by `newuidmap`, and by the root of a pod with `hostUsers: false`. The image is what root makes. The users exist
//! only in a mount namespace of the test.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::open;
use crate::shop::{Shop, text};

/// The id of the ordinary user; nobody else should have it.
const ID: u32 = 48_123;

/// The first of 65,536 ids that are nobody's.
const FIRST: u32 = 700_000;

/// Makes the user, then does the rest as it.
const AS_USER: &str = r#"
for file in passwd group subuid subgid; do
    mount --bind "$MADE/$file" "/etc/$file" || exit 99
done
exec setpriv --reuid "$ID" --regid "$ID" --clear-groups "$@"
"#;

/// Makes what a pod with `hostUsers: false` is: root in a user namespace of foreign ids, with the default capabilities.
const AS_POD: &str = r#"
for file in subuid subgid; do
    mount --bind "$MADE/$file" "/etc/$file" || exit 99
done
exec unshare --user --map-users="$FIRST,0,65536" --map-groups="$FIRST,0,65536" --setuid 0 --setgid 0 \
    --mount --pid --fork --mount-proc setpriv --bounding-set "-all,+chown,+dac_override,+fowner,+fsetid,+kill,\
+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap" "$@"
"#;

const DOCKERFILE: &str = "FROM base\n\
    RUN id -u > /who && cat /proc/self/uid_map && touch /mine /theirs /nobodys && /bin/busybox chown 1000:1000 /mine\n\
    RUN /bin/busybox chown 65534:65534 /nobodys && /bin/busybox chown web /theirs && (mount -t tmpfs none /tmp || echo refused)\n\
    RUN while read k v; do case $k in Seccomp:) echo mode $v;; esac; done < /proc/self/status\n\
    USER web\nRUN id && cat /proc/self/environ && ls -ln /mine\n";

/// The arguments of a build in the engine's directory `engine`, its image in the directory `out`.
fn build(shop: &Shop, engine: &str, out: &str) -> Command {
    let output = format!(
        "type=oci,dest={},rewrite-timestamp=true",
        shop.path(out).join("image.tar").display()
    );
    let epoch = "SOURCE_DATE_EPOCH=1700000000";
    let command = shop.command(&["-o", &output, "--build-arg", epoch], "context");
    let root = shop.path("root");
    let mut moved = Command::new(shop.path("coopery"));
    moved.args(command.get_args().map(|argument| {
        if argument == root {
            shop.path(engine).into_os_string()
        } else {
            argument.to_owned()
        }
    }));
    moved
}

/// Builds as root, and as whoever `script` makes of itself, with a directory of the id `owner`; returns the second's log.
fn builds_the_same(script: &str, owner: u32) -> Option<String> {
    let shop = open()?;
    if !Path::new("/usr/bin/newuidmap").exists() {
        assert!(std::env::var_os("CI").is_none());
        eprintln!("skipped: it needs the package uidmap");
        return None;
    }
    let etc = |name: &str, lines: String| {
        let old = fs_err::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        shop.write(&format!("made/{name}"), &format!("{old}{lines}\n"));
    };
    etc(
        "passwd",
        format!("coopery-test:x:{ID}:{ID}::/nonexistent:/bin/sh"),
    );
    etc("group", format!("coopery-test:x:{ID}:"));
    for name in ["subuid", "subgid"] {
        shop.write(
            &format!("made/{name}"),
            &format!("coopery-test:{FIRST}:65536\nroot:{FIRST}:65536\n"),
        );
    }
    shop.write("context/Dockerfile", DOCKERFILE);
    for directory in ["by-root", "by-other"] {
        fs_err::create_dir(shop.path(directory)).unwrap();
    }
    fs_err::set_permissions(shop.path("."), PermissionsExt::from_mode(0o755)).unwrap();
    chown(shop.path("by-other"), Some(owner), Some(owner)).unwrap();
    // The program may lie where the user may not go.
    fs_err::copy(crate::shop::PROGRAM, shop.path("coopery")).unwrap();

    let by_root = build(&shop, "root", "by-root").output().unwrap();
    assert!(by_root.status.success(), "{}", text(&by_root.stderr));
    let other = build(&shop, "by-other/engine", "by-other");
    let by_other = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(other.get_program())
        .args(other.get_args())
        .env("MADE", shop.path("made"))
        .env("ID", ID.to_string())
        .env("FIRST", FIRST.to_string())
        .output()
        .unwrap();
    let log = text(&by_other.stderr);
    assert!(by_other.status.success(), "{log}");
    for words in ["uid=1000(web)", "refused", "mode 2"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert_eq!(by_root.stdout, by_other.stdout, "{log}");
    let image = |out: &str| fs_err::read(shop.path(out).join("image.tar")).unwrap();
    assert!(image("by-root") == image("by-other"), "the archives differ");
    Some(log)
}

/// Whether the log shows this line of a map of ids.
fn maps(log: &str, line: [u32; 3]) -> bool {
    let line = line.map(|number| number.to_string());
    let words: Vec<_> = log.split_whitespace().collect();
    words.windows(3).any(|words| *words == line)
}

#[test]
fn an_ordinary_user_gets_the_same_image() {
    let Some(log) = builds_the_same(AS_USER, ID) else {
        return;
    };
    // Its own id is root, and the rest are subordinate ones.
    assert!(maps(&log, [0, ID, 1]), "{log}");
    assert!(maps(&log, [1, FIRST, 65_535]), "{log}");
}

#[test]
fn root_of_a_pod_gets_the_same_image() {
    let Some(log) = builds_the_same(AS_POD, FIRST) else {
        return;
    };
    assert!(maps(&log, [0, 0, 65_536]), "{log}");
}
