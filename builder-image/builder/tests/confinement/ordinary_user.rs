//! The program started by an ordinary user: its own id and its subordinate ones, mapped by `newuidmap`, are those of the
//! image. The user exists only in a mount namespace of the test.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::open;
use crate::shop::text;

/// The user's id; nobody else should have it.
const ID: u32 = 48_123;

/// Makes the user, then does the rest as it.
const AS_USER: &str = r#"
for file in passwd group subuid subgid; do
    mount --bind "$MADE/$file" "/etc/$file" || exit 99
done
exec setpriv --reuid "$ID" --regid "$ID" --clear-groups "$@"
"#;

#[test]
fn an_ordinary_user_gets_the_same_image() {
    let Some(shop) = open() else { return };
    if !["/usr/bin/newuidmap", "/bin/newuidmap"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        assert!(std::env::var_os("CI").is_none());
        return eprintln!("skipped: it needs the package uidmap");
    }
    let etc = |name: &str, line: String| {
        let old = fs_err::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        shop.write(&format!("made/{name}"), &format!("{old}{line}\n"));
    };
    etc(
        "passwd",
        format!("coopery-test:x:{ID}:{ID}::/nonexistent:/bin/sh"),
    );
    etc("group", format!("coopery-test:x:{ID}:"));
    etc("subuid", "coopery-test:700000:65536".into());
    etc("subgid", "coopery-test:700000:65536".into());

    let dockerfile = "FROM base\n\
        RUN id -u > /who && cat /proc/self/uid_map && touch /mine /theirs /nobodys && /bin/busybox chown 1000:1000 /mine\n\
        RUN /bin/busybox chown 65534:65534 /nobodys && /bin/busybox chown web /theirs && (mount -t tmpfs none /tmp || echo refused)\n\
        USER web\nRUN id && cat /proc/self/environ && ls -ln /mine\n";
    let name = |who: &str| shop.path(&format!("{who}/image.tar"));
    let flags = |who: &str| {
        format!(
            "type=oci,dest={},rewrite-timestamp=true",
            name(who).display()
        )
    };
    let flags = |who: &str| ["-o".to_owned(), flags(who)];
    for directory in ["root-user", "user"] {
        fs_err::create_dir(shop.path(directory)).unwrap();
    }
    fs_err::set_permissions(shop.path("."), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(shop.path("user"), Some(ID), Some(ID)).unwrap();
    shop.write("context/Dockerfile", dockerfile);

    let own = flags("root-user");
    let by_root = shop
        .command(
            &[
                &own[0],
                &own[1],
                "--build-arg",
                "SOURCE_DATE_EPOCH=1700000000",
            ],
            "context",
        )
        .output()
        .unwrap();
    assert!(by_root.status.success(), "{}", text(&by_root.stderr));

    let own = flags("user");
    let build = shop.command(
        &[
            &own[0],
            &own[1],
            "--build-arg",
            "SOURCE_DATE_EPOCH=1700000000",
        ],
        "context",
    );
    // The same but for the engine's directory.
    let root = shop.path("root");
    let args: Vec<_> = build
        .get_args()
        .map(|argument| {
            if argument == root {
                shop.path("user/engine").into()
            } else {
                argument.to_owned()
            }
        })
        .collect();
    // The program may lie where the user may not go.
    fs_err::copy(build.get_program(), shop.path("coopery")).unwrap();
    let by_user = Command::new("unshare")
        .args(["-m", "sh", "-c", AS_USER, "sh"])
        .arg(shop.path("coopery"))
        .args(args)
        .env("MADE", shop.path("made"))
        .env("ID", ID.to_string())
        .output()
        .unwrap();
    let log = text(&by_user.stderr);
    assert!(by_user.status.success(), "{log}");
    // Its own id is root, and the rest are subordinate ones.
    let map: Vec<_> = log.split_whitespace().collect();
    assert!(
        map.windows(3).any(|words| words == ["0", "48123", "1"]),
        "{log}"
    );
    assert!(
        map.windows(3)
            .any(|words| words == ["1", "700000", "65535"]),
        "{log}"
    );
    for words in ["uid=1000(web)", "refused"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert_eq!(by_root.stdout, by_user.stdout, "{log}");
    let bytes = |who: &str| fs_err::read(name(who)).unwrap();
    assert!(bytes("root-user") == bytes("user"), "the archives differ");
}
