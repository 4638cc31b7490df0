//! RUN with mounts, network and limits, through the program itself: what steps see, what counts for the cache, and what
//! is left. Needs root, crun and busybox; without one of them the tests say so and pass.
#![expect(clippy::unwrap_used, reason = "tests")]

mod shop;

use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shop::{Shop, text};

/// A Dockerfile after `FROM base`, further arguments, and what its steps have to print or fail with.
type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

/// Builds each row; `works` says whether it has to succeed.
fn check(shop: &Shop, rows: &[Row<'_>], works: bool) {
    for (dockerfile, flags, words) in rows {
        let output = shop.build(&format!("FROM base\n{dockerfile}\n"), flags);
        let log = text(&output.stderr);
        assert_eq!(output.status.success(), works, "{dockerfile}: {log}");
        for word in *words {
            assert!(log.contains(word), "{dockerfile}: no `{word}` in {log}");
        }
    }
    assert!(shop.is_tidy());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn mounts_show_what_they_name() {
    let Some(shop) = Shop::open() else { return };
    shop.write("context/a", "in a");
    shop.write("context/dir/b", "in b");
    shop.write("context/ignored", "in ignored");
    shop.write("context/.dockerignore", "ignored\n");
    shop.write("secret", "s3cr3t value");
    shop.write("context/od*d/c", "in c");
    std::os::unix::fs::symlink("dir/b", shop.path("context/link")).unwrap();
    std::os::unix::fs::chown(shop.path("context/a"), Some(77), Some(78)).unwrap();
    let secret = format!("id=s,src={}", shop.path("secret").display());
    let secret = ["--secret", secret.as_str()];
    let rows: &[Row<'_>] = &[
        // Bind: the context, as COPY would see it.
        (
            "RUN --mount=target=/ctx cat /ctx/a && ls -ln /ctx/a && ls /ctx",
            &[],
            &["in a", " 0        0 ", "link"],
        ),
        (
            "RUN --mount=target=/ctx ! cat /ctx/ignored",
            &[],
            &["can't open '/ctx/ignored'"],
        ),
        (
            "RUN --mount=target=/ctx ! touch /ctx/new",
            &[],
            &["Read-only"],
        ),
        (
            "RUN --mount=target=/ctx,rw touch /ctx/new && rm /ctx/a && ls /ctx\nRUN --mount=target=/ctx,rw echo again && cat /ctx/a",
            &[],
            &["new", "again", "in a"],
        ),
        (
            "RUN --mount=source=a,target=/etc/a cat /etc/a",
            &[],
            &["in a"],
        ),
        (
            "RUN --mount=source=link,target=/etc/a cat /etc/a",
            &[],
            &["in b"],
        ),
        (
            "RUN --mount=source=/dir/../../dir,target=/d cat /d/b",
            &[],
            &["in b"],
        ),
        ("RUN --mount=source=od*d,target=/d cat /d/c", &[], &["in c"]),
        (
            "WORKDIR /w\nRUN --mount=source=dir,target=here cat /w/here/b && pwd",
            &[],
            &["in b", "/w"],
        ),
        (
            "WORKDIR /w\nRUN --mount=source=dir cat /w/b",
            &[],
            &["in b"],
        ),
        (
            "ARG D=dir\nENV T=/t\nRUN --mount=source=$D,target=${T}/x cat /t/x/b",
            &[],
            &["in b"],
        ),
        // Of stages and images, also such that nothing else needs.
        (
            "RUN mkdir /out && echo made > /out/f\nFROM base AS two\nRUN echo two > /f2\nFROM base AS three\nRUN --mount=from=two,target=/m,source=/f2 --mount=from=base,target=/i --mount=from=two,target=/n cat /m /n/f2 && ls /i/bin/sh",
            &[],
            &["two", "/i/bin/sh"],
        ),
        (
            "FROM base AS one\nRUN echo one > /f; ln -s /f /l\nFROM base\nRUN --mount=from=ONE,source=l,target=/m cat /m",
            &[],
            &["one"],
        ),
        (
            "FROM scratch AS empty\nFROM base\nRUN --mount=from=empty,target=/m ls /m | wc -l; echo nothing",
            &[],
            &["nothing"],
        ),
        (
            "RUN --mount=from=scratch,rw,target=/m touch /m/x && ls /m",
            &[],
            &["x"],
        ),
        // tmpfs
        (
            "RUN --mount=type=tmpfs,target=/t,size=1m touch /t/x && ! dd if=/dev/zero of=/t/y bs=1M count=2 2>&1\nRUN ls /t || echo gone",
            &[],
            &["No space left", "gone"],
        ),
        (
            "RUN --mount=type=tmpfs,target=/dev/shm,size=1m grep /dev/shm /proc/mounts",
            &[],
            &["size=1024k"],
        ),
        (
            "RUN --mount=type=tmpfs,target=/t,ro ! touch /t/x",
            &[],
            &["Read-only"],
        ),
        // Nested: a mount in a mount.
        (
            "RUN --mount=type=tmpfs,target=/t/in --mount=source=dir,target=/t,rw touch /t/in/x && cat /t/b && ls /t/in",
            &[],
            &["in b", "x"],
        ),
        // Cache: kept from step to step; ownership; a directory inside.
        (
            "RUN --mount=type=cache,target=/c echo kept > /c/f; mkdir /c/sub; echo sub > /c/sub/g\nRUN --mount=type=cache,id=/c,target=/d cat /d/f\nRUN --mount=type=cache,id=/c,source=sub,target=/e cat /e/g; ls /c || echo away",
            &[],
            &["kept", "sub", "away"],
        ),
        (
            "RUN --mount=type=cache,target=/c2,uid=1001,gid=1002,mode=0751 stat -c '%u %g %a' /c2",
            &[],
            &["1001 1002 751"],
        ),
        (
            "RUN --mount=type=cache,target=/c3 stat -c '%u %g %a' /c3",
            &[],
            &["0 0 755"],
        ),
        (
            "RUN --mount=type=cache,target=/c,ro cat /c/f && ! touch /c/x",
            &[],
            &["kept", "Read-only"],
        ),
        (
            "FROM base AS seed\nRUN mkdir /s && echo seed > /s/f\nFROM base\nRUN --mount=type=cache,from=seed,source=/s,target=/c,id=seeded cat /c/f && echo more > /c/g\nRUN --mount=type=cache,from=seed,source=/s,target=/d,id=seeded cat /d/g",
            &[],
            &["seed", "more"],
        ),
        (
            "RUN --mount=type=cache,target=/one,id=same,sharing=locked --mount=type=cache,target=/two,id=same,sharing=locked touch /one/x && ls /two",
            &[],
            &["x"],
        ),
        // Secrets: as a file, as a variable, both; absent ones.
        (
            "RUN --mount=type=secret,id=s stat -c '%a %u %s' /run/secrets/s && wc -c < /run/secrets/s\nRUN ls /run || echo 'no run'",
            &secret,
            &["400 0 12", "no run"],
        ),
        (
            "RUN --mount=type=secret,id=s,env=S --mount=type=secret,id=s,env=T,target=/t [ \"$S\" = 's3cr3t value' ] && [ \"$T\" = \"$(cat /t)\" ] && ls /run/secrets || echo 'no file'",
            &secret,
            &["no file"],
        ),
        (
            "RUN --mount=type=secret,target=/root/.s,id=s,mode=0444,uid=5,gid=6 stat -c '%a %u %g' /root/.s",
            &secret,
            &["444 5 6"],
        ),
        (
            "RUN --mount=type=secret,target=/x/s stat -c %a /x/s && ! ls /x/s/y && ! touch /x/s",
            &secret,
            &["400"],
        ),
        (
            "RUN --mount=type=secret,source=s cat /run/secrets/s",
            &secret,
            &["***"],
        ),
        (
            "RUN --mount=type=secret,id=none ls /run/secrets || echo 'no secret'",
            &[],
            &["no secret"],
        ),
        (
            "RUN --mount=type=ssh ls $SSH_AUTH_SOCK || echo no agent at $SSH_AUTH_SOCK",
            &[],
            &["no agent at /run/buildkit/ssh_agent.0"],
        ),
        // A target through a link of the image.
        (
            "RUN mkdir /real && ln -s /real /link\nRUN --mount=type=tmpfs,target=/link/t touch /real/t/x && ls /real/t\nRUN ls /real | wc -l",
            &[],
            &["x", "0"],
        ),
        (
            "RUN --mount=type=tmpfs,target=/t --network=default --security=sandbox echo flags",
            &[],
            &["flags"],
        ),
        (
            "RUN --network=none ls /sys/class/net; while read n r; do echo $n; done < /proc/net/dev",
            &[],
            &["lo:"],
        ),
    ];
    check(&shop, rows, true);
    let made = shop.path("context/new");
    assert!(!made.exists() && shop.path("context/a").exists());
}

#[test]
fn mounts_that_make_no_sense_are_told() {
    let Some(shop) = Shop::open() else { return };
    shop.write("context/file", "x");
    let rows: &[Row<'_>] = &[
        (
            "RUN --mount=type=bind,source=absent,target=/x true",
            &[],
            &["`/absent`: no such file or directory"],
        ),
        (
            "RUN --mount=type=bind,from=base,source=/absent,target=/x true",
            &[],
            &["`/absent`: no such file or directory"],
        ),
        (
            "RUN --mount=type=secret,id=s,required true",
            &[],
            &["the secret `s` is required", "--secret id=s"],
        ),
        (
            "RUN --mount=type=ssh,required true",
            &[],
            &["the SSH agent `default` is required", "--ssh default"],
        ),
        (
            "RUN --mount=type=tmpfs,target=/ true",
            &[],
            &["invalid mount: the root of the image"],
        ),
        (
            "RUN --mount=type=tmpfs true",
            &[],
            &["invalid mount: the root of the image"],
        ),
        (
            "RUN --mount=type=tmpfs,target=/proc/self true",
            &[],
            &["/proc/self is the system's own"],
        ),
        (
            "RUN --mount=from=0,target=/x true",
            &[],
            &["a mount takes no number of a stage: `from=0`"],
        ),
        (
            "ARG X=a\nRUN --mount=type=$X,target=/x true",
            &[],
            &["invalid value `a` of key `type`", "Dockerfile:3"],
        ),
        (
            "RUN --mount=source=file,target=/etc true",
            &[],
            &["/etc: it is a directory in the image"],
        ),
        (
            "RUN --mount=target=/etc/passwd true",
            &[],
            &["/etc/passwd: it is not a directory in the image"],
        ),
        (
            "RUN ln -s /proc /p\nRUN --mount=type=tmpfs,target=/p/self true",
            &[],
            &["/p/self: it leads to what the system itself mounts"],
        ),
        (
            "RUN --mount=type=cache,target=/c,source=absent true",
            &[],
            &["`/absent` cannot be mounted", "No such file"],
        ),
        (
            "RUN --security=insecure true",
            &[],
            &["`RUN --security=insecure` is not supported", "sandboxed"],
        ),
        (
            "RUN --device=vendor/x true",
            &[],
            &["`RUN --device` is not supported", "has none"],
        ),
        (
            "RUN --network=host true",
            &[],
            &["`RUN --network=host` is not supported"],
        ),
        (
            "RUN true",
            &["--network", "host"],
            &["--network host: leave it out"],
        ),
        (
            "RUN true",
            &["--ssh", "a=/dev/null"],
            &["/dev/null is no socket of an agent"],
        ),
        (
            "RUN true",
            &["--secret", "id=a,src=/absent"],
            &["--secret id=a: there is no file /absent"],
        ),
    ];
    check(&shop, rows, false);
}

#[test]
fn the_flags_of_the_build_reach_run() {
    let Some(shop) = Shop::open() else { return };
    let rows: &[Row<'_>] = &[
        (
            "RUN cat /etc/hosts",
            &["--add-host", "db:10.1.2.3", "--add-host", "v6=fd00::1"],
            &["10.1.2.3\tdb", "fd00::1\tv6"],
        ),
        (
            "RUN grep /dev/shm /proc/mounts",
            &["--shm-size", "3m"],
            &["size=3072k"],
        ),
        (
            "RUN ulimit -n; ulimit -c",
            &["--ulimit", "nofile=99:100", "--ulimit", "core=0"],
            &[" 99\n", " 0\n"],
        ),
        (
            "RUN while read n r; do echo $n; done < /proc/net/dev; echo none",
            &["--network", "none"],
            &["lo:", "none"],
        ),
    ];
    check(&shop, rows, true);
}

/// How often a marked step ran in a log.
fn ran(log: &str, mark: &str) -> usize {
    log.lines()
        .filter(|line| line.ends_with(mark) && !line.contains("RUN"))
        .count()
}

#[test]
fn what_mounts_show_counts_for_the_cache_and_nothing_else_does() {
    let Some(shop) = Shop::open() else { return };
    shop.write("context/a", "a");
    shop.write("context/b", "b");
    shop.write("secret", "first value");
    let secret = format!("id=s,src={}", shop.path("secret").display());
    let dockerfile = "FROM base AS one\nRUN echo 1 > /x; echo 1 > /y\nFROM base\nARG N=0\n\
        RUN --mount=source=a,target=/m echo bind-ran\n\
        RUN --mount=type=secret,id=s echo secret-ran\n\
        RUN --mount=type=cache,target=/c echo x >> /c/f; echo cache-ran\n\
        RUN --mount=from=one,source=/x,target=/m echo stage-ran\n";
    let count = |flags: &[&str], text_: &str| {
        let flags: Vec<&str> = ["--secret", &secret].iter().chain(flags).copied().collect();
        let output = shop.build(text_, &flags);
        let log = text(&output.stderr);
        assert!(output.status.success(), "{log}");
        ["bind-ran", "secret-ran", "cache-ran", "stage-ran"].map(|mark| ran(&log, mark))
    };
    assert_eq!(count(&[], dockerfile), [1, 1, 1, 1]);
    shop.write("context/b", "other");
    shop.write("secret", "other value");
    assert_eq!(count(&[], dockerfile), [0, 0, 0, 0]);
    // What the stage has elsewhere does not count, what is mounted does.
    let elsewhere = dockerfile.replace("echo 1 > /y", "echo 2 > /y");
    assert_eq!(count(&[], &elsewhere), [0, 0, 0, 0]);
    let mounted = dockerfile.replace("echo 1 > /x", "echo 2 > /x");
    assert_eq!(count(&[], &mounted), [0, 0, 0, 1]);
    shop.write("context/a", "other");
    assert_eq!(count(&[], dockerfile), [1, 1, 1, 1]);
    // Another name space has other caches.
    let text_ = "FROM base\nARG N\nRUN --mount=type=cache,target=/c cat /c/f || echo cache-ran\n";
    assert_eq!(count(&["--build-arg", "N=1"], text_)[2], 0);
    let space = [
        "--build-arg",
        "N=2",
        "--build-arg",
        "BUILDKIT_CACHE_MOUNT_NS=x",
    ];
    assert_eq!(count(&space, text_)[2], 1);
}

#[test]
fn an_agent_is_offered_to_any_user() {
    let Some(shop) = Shop::open() else { return };
    let path = shop.path("agent.sock");
    let _agent = UnixListener::bind(&path).unwrap();
    let (named, default) = (
        format!("git={}", path.display()),
        path.display().to_string(),
    );
    shop.write(
        "context/Dockerfile",
        "FROM base\nUSER web\nRUN --mount=type=ssh,required --mount=type=ssh,id=git,uid=1000,mode=0640 \
         echo at $SSH_AUTH_SOCK; stat -c '%F %a %u' /run/buildkit/ssh_agent.0 /run/buildkit/ssh_agent.1\nRUN ls /run || echo gone\n",
    );
    let mut command = shop.command(&["--ssh", "default", "--ssh", &named], "context");
    let output = command.env("SSH_AUTH_SOCK", default).output().unwrap();
    let log = text(&output.stderr);
    assert!(output.status.success(), "{log}");
    for line in [
        "at /run/buildkit/ssh_agent.0",
        "socket 600 0",
        "socket 640 1000",
        "gone",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(shop.is_tidy());
}

/// Every file below `directory` that holds `needle`, as it is or gunzipped.
fn holding(directory: &Path, needle: &[u8], found: &mut Vec<String>) {
    for entry in fs_err::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs_err::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            holding(&path, needle, found);
        } else if kind.is_file() {
            let mut bytes = fs_err::read(&path).unwrap();
            if bytes.starts_with(&[0x1f, 0x8b]) {
                let mut plain = Vec::new();
                flate2::read::MultiGzDecoder::new(&bytes[..])
                    .read_to_end(&mut plain)
                    .unwrap();
                bytes = plain;
            }
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(path.display().to_string());
            }
        }
    }
}

/// The arguments as one line for a shell.
fn quoted(command: &std::process::Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    words.join(" ")
}

#[test]
fn secrets_are_nowhere_but_in_the_step() {
    let Some(shop) = Shop::open() else { return };
    let values = [
        "5ecret-bytes-that-nobody-else-has",
        "5ecret-of-the-environment",
        "agent-5ocket-name",
    ];
    shop.write("secrets/token", values[0]);
    let socket = shop.path("secrets").join(values[2]);
    let _agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let show = |name: &str| shop.path(name).display().to_string();
    let flags = [
        "--no-cache".to_owned(),
        format!("--secret=id=token,src={}", show("secrets/token")),
        "--secret=id=variable,env=COOPERY_TEST_TOKEN".to_owned(),
        format!("--ssh=default={}", socket.display()),
        format!("-otype=oci,tar=false,dest={}", show("out")),
        format!("-otype=docker,dest={}", show("out.docker")),
        format!("-otype=local,dest={}", show("out.local")),
        format!("-otype=tar,dest={}", show("out.tar")),
        format!("--metadata-file={}", show("metadata")),
        format!("--iidfile={}", show("iid")),
        "--annotation=a=b".to_owned(),
    ];
    // The step looks for the secret on its own disk, too: what is written for it must not be there.
    let mounts = "RUN --mount=type=secret,id=token,env=TOKEN --mount=type=secret,id=token,target=/s \
        --mount=type=secret,id=variable,env=COOPERY_TEST_TOKEN --mount=type=secret,id=variable --mount=type=ssh ";
    let good = format!(
        "FROM base\n{mounts} [ \"$TOKEN\" = \"$(cat /s)\" ] && echo seen && cat /s && echo \"$TOKEN\" && \
        [ \"$COOPERY_TEST_TOKEN\" = \"$(cat /run/secrets/variable)\" ] && env && ls $SSH_AUTH_SOCK && touch /made\n\
        RUN env > /env; ls -R / > /list 2> /dev/null; true\n"
    );
    let bad = format!("FROM base\n{mounts} env; cat /s; exit 7\n");
    for progress in ["plain", "json", "rawjson", "tty"] {
        for (dockerfile, code) in [(&good, 0), (&bad, 1)] {
            shop.write("context/Dockerfile", dockerfile);
            let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            flags.extend(["--progress", progress]);
            let mut command = shop.command(&flags, "context");
            if progress == "tty" {
                // A terminal of its own.
                let line = quoted(&command);
                command = std::process::Command::new("script");
                command.args(["-qec", &line, "/dev/null"]);
                command.stdin(std::process::Stdio::null());
            }
            let output = command
                .env("COOPERY_TEST_TOKEN", values[1])
                .output()
                .unwrap();
            let mut log = format!("{}{}", text(&output.stderr), text(&output.stdout));
            assert_eq!(output.status.code(), Some(code), "{progress}: {log}");
            // What clients of BuildKit get of the output is encoded.
            for word in log.clone().split('"').filter(|word| word.len() % 4 == 0) {
                log.extend(STANDARD.decode(word).map(|bytes| text(&bytes)));
            }
            for value in values {
                assert!(!log.contains(value), "{progress}: {log}");
            }
            assert!(
                log.contains("***") || progress == "tty",
                "{progress}: {log}"
            );
        }
    }
    let mut found = Vec::new();
    for value in values {
        for place in ["root", "out", "out.local", "context"] {
            holding(&shop.path(place), value.as_bytes(), &mut found);
        }
        for file in ["metadata", "iid", "out.docker", "out.tar"] {
            let bytes = fs_err::read(shop.path(file)).unwrap();
            assert!(!text(&bytes).contains(value), "{file}");
        }
    }
    assert_eq!(found, [""; 0]);
    // The search does find what is there.
    holding(&shop.path("secrets"), values[0].as_bytes(), &mut found);
    assert_eq!(found.len(), 1);
}

#[test]
fn an_exported_cache_serves_another_engine_and_has_no_secret() {
    let Some(shop) = Shop::open() else { return };
    shop.write("context/a", "content");
    shop.write("secret", "s3cr3t value");
    let secret = format!("id=s,src={}", shop.path("secret").display());
    let cache = shop.path("cache");
    let to = format!(
        "type=local,dest={},mode=max,compression=uncompressed",
        cache.display()
    );
    let from = format!("type=local,src={}", cache.display());
    let dockerfile = "FROM base AS one\nCOPY a /a\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S wc -c < /run/secrets/s > /made\nFROM base\nCOPY --from=one /made /copied\nRUN --mount=from=one,target=/m ls /m > /list\n";
    let flags = ["--secret", &secret, "--cache-from", &from];
    let build = |more: &[&str]| {
        let output = shop.build(dockerfile, &[&flags[..], more].concat());
        let log = text(&output.stderr);
        assert!(output.status.success(), "{log}");
        fs_err::remove_dir_all(shop.path("root")).unwrap();
        (text(&output.stdout), log)
    };
    let (digest, log) = build(&["--cache-to", &to]);
    assert!(log.contains("there is none yet"), "{log}");
    let (again, log) = build(&[]);
    assert_eq!((digest, log.matches("CACHED").count()), (again, 4), "{log}");
    let mut files = vec![cache];
    let mut read = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let entries = fs_err::read_dir(path).unwrap();
            files.extend(entries.map(|entry| entry.unwrap().path()));
            continue;
        }
        let bytes = fs_err::read(&path).unwrap();
        let found = bytes.windows(6).any(|window| window == b"s3cr3t");
        assert!(!found, "{}", path.display());
        read += 1;
    }
    // Four layers, the document, the manifest, the index and the version of the layout.
    assert_eq!(read, 8);
}
