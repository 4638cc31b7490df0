//! The program itself: builds with RUN in its namespaces, failures, stopping, and the requests of a pod. Needs root, crun
//! and busybox; without one of them the tests say so and pass.
#![expect(clippy::unwrap_used, reason = "tests")]

mod shop;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use distribution::memory::MemoryRegistry;
use protocol::{
    BuildRequest, CacheRequest, Destination, DockerfileSpec, FailureKind, Isolation, MirrorImage,
    MirrorLimits, MirrorRequest, Network, Outcome, Report, Request, Source, Task,
};
use shop::{PROGRAM, Shop, text};

#[test]
fn stages_run_and_what_they_make_is_copied() {
    let Some(shop) = Shop::open() else { return };
    shop.write("context/main", "main\n");
    let dockerfile = "FROM base AS build\nWORKDIR /src\nCOPY main .\nARG MODE=slow\nRUN echo mode $MODE; cat main > out; hostname\nFROM base\nRUN rm /etc/group && mkdir /app\nCOPY --from=build --chown=web:web /src/out /app/\nUSER web\nRUN <<EOF\nid\nls -l /app/out\nEOF\nENTRYPOINT [\"/bin/cat\"]\n";
    let archive = shop.path("app.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let flags = [
        "--build-arg",
        "MODE=fast",
        "-t",
        "team/app:1",
        "-o",
        &output,
    ];
    let first = shop.build(dockerfile, &flags);
    let log = text(&first.stderr);
    assert!(first.status.success(), "{log}");
    for line in ["mode fast", "buildkitsandbox", "uid=1000(web)", "CACHED"] {
        assert_eq!(log.contains(line), line != "CACHED", "{line}: {log}");
    }
    assert!(text(&first.stdout).starts_with("sha256:"));
    assert!(archive.is_file() && shop.is_tidy());
    // Nothing changed: nothing runs, and the image is the same.
    let second = shop.build(dockerfile, &flags);
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(
        text(&second.stderr).matches("CACHED").count(),
        6,
        "{}",
        text(&second.stderr)
    );
    // Only what depends on the changed file runs again.
    shop.write("context/main", "other\n");
    let third = shop.build(dockerfile, &flags);
    let log = text(&third.stderr);
    assert!(
        log.contains("mode fast") && !log.contains("rm /etc/group && mkdir /app\n#5 DONE"),
        "{log}"
    );
    assert_ne!(first.stdout, third.stdout);
}

#[test]
fn failures_are_told_with_place_and_exit_code() {
    let Some(shop) = Shop::open() else { return };
    for (dockerfile, code, words) in [
        (
            "FROM base\nRUN echo the last line; exit 3\n",
            1,
            &["Dockerfile:2:1", "exit code 3", "the last line"][..],
        ),
        (
            "FROM base\nRUNN x\n",
            1,
            &["unknown instruction `RUNN`", "did you mean `RUN`?"],
        ),
        ("FROM base\nRUN nosuchprogram\n", 1, &["exit code 127"]),
        (
            "FROM base\nUSER nobody\nRUN true\n",
            1,
            &["`nobody` is not in /etc/passwd"],
        ),
        (
            "FROM base\nCOPY absent /\n",
            1,
            &["`absent`: no such file or directory"],
        ),
        (
            "FROM other\nRUN --network=host true\n",
            1,
            &[
                "`RUN --network=host` is not supported",
                "help: remove the flag",
            ],
        ),
    ] {
        let output = shop.build(dockerfile, &[]);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{dockerfile}: {log}");
        for word in words {
            assert!(log.contains(word), "{dockerfile}: no `{word}` in {log}");
        }
        assert!(output.stdout.is_empty());
    }
    assert!(shop.is_tidy());
    assert_eq!(
        shop.build("FROM base\nRUN true\n", &["--isolation", "no-run"])
            .status
            .code(),
        Some(2)
    );
    assert_eq!(
        shop.build("FROM base\n", &["--secret", "id=absent"])
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn sigterm_ends_everything_within_two_seconds() {
    let Some(shop) = Shop::open() else { return };
    // A number that no other process sleeps for.
    let mark = format!("86{:03}", std::process::id() % 1000);
    shop.write(
        "context/Dockerfile",
        &format!("FROM base\nRUN echo started; sleep {mark} & sleep {mark}\n"),
    );
    let mut command = shop.command(&["--progress", "json"], "context");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let started = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains(r#""text":"started""#));
    assert!(started);
    let drain = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
    let asked = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(status.code(), Some(2));
    assert!(drain.join().unwrap().join("\n").contains("cancelled"));
    assert!(shop.is_tidy());
    let left: Vec<_> = fs_err::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs_err::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| text(line).contains(&mark) && text(line).starts_with("sleep"))
        .collect();
    assert!(left.is_empty(), "{} processes are left", left.len());
}

/// Lets a registry live while the program talks to it.
fn with_registry(work: impl FnOnce(&MemoryRegistry)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let registry = runtime.block_on(MemoryRegistry::start());
    work(&registry);
}

#[test]
fn a_base_to_run_on_and_to_copy_onto_is_fetched_once() {
    let Some(shop) = Shop::open() else { return };
    with_registry(|registry| {
        let name = |image: &str| format!("{}/{image}:1", registry.address());
        let pushed = shop.coopery(&["--push", "-t", &name("base")], "base");
        assert!(pushed.status.success(), "{}", text(&pushed.stderr));
        let manifest = registry.manifest("base", "1").unwrap();
        let manifest: oci::Manifest = serde_json::from_slice(&manifest.bytes).unwrap();
        let layer = manifest.layers[0].digest.to_string();
        fs_err::remove_dir_all(shop.path("root")).unwrap();
        registry.clear_requests();
        // The last stage looks into the base at once, the first only when its context was read.
        shop.write("context/main", "main");
        let base = name("base");
        let dockerfile = format!(
            "FROM {base} AS build\nCOPY main /\nRUN cat /main > /out\nFROM {base}\nWORKDIR /app\nCOPY --from=build /out .\n"
        );
        let built = shop.build(&dockerfile, &["--push", "-t", &name("app")]);
        assert!(built.status.success(), "{}", text(&built.stderr));
        let requests = registry.requests();
        let fetched = |request: &&distribution::memory::Logged| {
            request.method == http::Method::GET && request.path.ends_with(&layer)
        };
        assert_eq!(requests.iter().filter(fetched).count(), 1);
    });
}

fn pod(shop: &Shop, request: &Request) -> (Option<i32>, Report, String) {
    shop.write("pod/request.json", &request.to_json());
    shop.write("pod/outcome", "");
    let output = Command::new(PROGRAM)
        .arg("pod")
        .arg("--request")
        .arg(shop.path("pod/request.json"))
        .arg("--outcome")
        .arg(shop.path("pod/outcome"))
        .arg("--root")
        .arg(shop.path("workspace"))
        .output()
        .unwrap();
    let outcome = Outcome::parse(&fs_err::read(shop.path("pod/outcome")).unwrap()).unwrap();
    (output.status.code(), outcome.report, text(&output.stderr))
}

fn request(registry: &MemoryRegistry, task: Task) -> Request {
    Request {
        plain_http: vec![registry.address().to_string()],
        network: Network {
            allow_cidrs: vec!["127.0.0.1/32".into()],
            ..Network::default()
        },
        ..Request::new(task)
    }
}

fn inline(registry: &MemoryRegistry, dockerfile: &str, isolation: Isolation) -> Request {
    let build = BuildRequest {
        source: Source::Empty,
        subdirectory: String::new(),
        dockerfile: DockerfileSpec {
            inline: Some(dockerfile.into()),
            ..DockerfileSpec::default()
        },
        destinations: vec![Destination {
            name: "main".into(),
            repository: format!("{}/team/app", registry.address()),
            tags: vec!["v1".into()],
        }],
        isolation,
        source_date_epoch: None,
        cache: CacheRequest::default(),
    };
    request(registry, Task::Build(build))
}

#[test]
fn a_pod_builds_pushes_and_reports() {
    let Some(shop) = Shop::open() else { return };
    with_registry(|registry| {
        let base = format!("{}/base:1", registry.address());
        shop.write("base/Dockerfile", "FROM scratch\nCOPY root /\n");
        let pushed = shop.coopery(&["-t", &base, "--push"], "base");
        assert!(pushed.status.success(), "{}", text(&pushed.stderr));

        let dockerfile =
            format!("FROM {base}\nRUN echo $HTTP_PROXY; id > /who\nCMD [\"cat\", \"/who\"]\n");
        let (code, report, log) = pod(
            &shop,
            &inline(registry, &dockerfile, Isolation::UserNamespace),
        );
        let Report::Built(built) = report else {
            panic!("{report:?}\n{log}")
        };
        assert_eq!(code, Some(0));
        let digest = registry
            .manifest("team/app", "v1")
            .unwrap()
            .digest
            .to_string();
        assert_eq!(built.digest, digest);
        assert_eq!(
            built.destinations[0].image,
            format!("{}/team/app@{digest}", registry.address())
        );
        assert_eq!(
            (
                built.base_images[0].reference.as_str(),
                built.steps,
                built.cached_steps
            ),
            (base.as_str(), 1, 0)
        );

        let failing = format!("FROM {base}\nRUN echo the last line; exit 3\n");
        let (code, report, log) = pod(&shop, &inline(registry, &failing, Isolation::UserNamespace));
        let Report::Failed(failure) = report else {
            panic!("{report:?}\n{log}")
        };
        assert_eq!(
            (code, failure.kind, failure.exit_code),
            (Some(1), FailureKind::StepFailed, Some(3))
        );
        assert_eq!(failure.output, "the last line");
        assert_eq!(
            failure.step.as_deref(),
            Some("Dockerfile:2: RUN echo the last line; exit 3")
        );

        let (_, report, _) = pod(&shop, &inline(registry, &failing, Isolation::NoRun));
        let Report::Failed(failure) = report else {
            panic!("{report:?}")
        };
        assert_eq!(failure.kind, FailureKind::IsolationUnavailable);
        assert!(
            failure.message.contains("Dockerfile:2") && failure.message.contains("NoRun"),
            "{}",
            failure.message
        );

        let without = format!("FROM {base}\nCOPY <<EOF /etc/motd\nhello\nEOF\n");
        let (code, report, log) = pod(&shop, &inline(registry, &without, Isolation::NoRun));
        assert!(
            matches!(report, Report::Built(_)) && code == Some(0),
            "{report:?}\n{log}"
        );

        let mut guarded = inline(registry, &without, Isolation::NoRun);
        guarded.network.allow_cidrs.clear();
        let (_, report, _) = pod(&shop, &guarded);
        let Report::Failed(failure) = report else {
            panic!("{report:?}")
        };
        assert_eq!(
            failure.kind,
            FailureKind::AddressRefused,
            "{}",
            failure.message
        );
    });
}

#[test]
fn a_pod_mirrors_what_it_can() {
    let Some(shop) = Shop::open() else { return };
    with_registry(|registry| {
        let host = registry.address();
        let source = format!("{host}/base:1");
        assert!(
            shop.coopery(&["-t", &source, "--push"], "base")
                .status
                .success()
        );
        let digest = registry.manifest("base", "1").unwrap().digest.to_string();
        let image = |from: &str, digest: Option<&str>, to: &str| MirrorImage {
            source: format!("{host}/{from}"),
            digest: digest.map(str::to_owned),
            destination: format!("{host}/{to}"),
            replaces: None,
            platforms: None,
        };
        let images = vec![
            image("absent:1", None, "mirror/absent:1"),
            image("base:1", Some(&digest), "mirror/base:1"),
        ];
        let ledger = Some(format!("{host}/team/coopery-ledger"));
        let mirror = request(
            registry,
            Task::Mirror(MirrorRequest {
                images,
                ledger,
                limits: MirrorLimits {
                    concurrency: Some(1),
                    bytes_per_second: Some(1 << 30),
                },
                ..MirrorRequest::default()
            }),
        );
        let (code, report, _) = pod(&shop, &mirror);
        let Report::Mirrored(mirrored) = report else {
            panic!("{report:?}")
        };
        assert_eq!((code, mirrored.copied, mirrored.failed), (Some(2), 1, 1));
        assert_eq!(mirrored.images[1].digest.as_deref(), Some(digest.as_str()));
        assert!(
            mirrored.images[0]
                .failure
                .as_ref()
                .unwrap()
                .message
                .contains("absent:1")
        );
        let (_, report, _) = pod(&shop, &mirror);
        let Report::Mirrored(mirrored) = report else {
            panic!("{report:?}")
        };
        assert_eq!((mirrored.unchanged, mirrored.failed), (1, 1));
    });
}

#[test]
fn the_cache_is_shown_pruned_and_kept_to_its_quota() {
    let Some(shop) = Shop::open() else { return };
    let dockerfile = "FROM base\nRUN seq 100000 > /numbers\n";
    let build = |flags: &[&str]| {
        let built = shop.build(dockerfile, flags);
        assert!(built.status.success(), "{}", text(&built.stderr));
        text(&built.stderr)
    };
    let cache = |args: &[&str]| {
        let root = shop.path("root");
        let mut command = Command::new(PROGRAM);
        command.arg("cache").args(args).arg("--root").arg(root);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let du = || -> serde_json::Value {
        serde_json::from_str(&cache(&["du", "--format", "json"]).1).unwrap()
    };
    build(&[]);
    assert!(!build(&[]).contains("not cached"));
    let (code, list, _) = cache(&["ls"]);
    assert!(code == Some(0) && list.contains("RUN seq 100000"), "{list}");
    let usage = du();
    assert!(
        usage["kinds"]["layer"]["bytes"].as_u64().unwrap() > 588_895,
        "{usage}"
    );
    assert_eq!(usage["bytes"], usage["reclaimableBytes"]);

    let (code, _, error) = cache(&["prune"]);
    assert!(code == Some(1) && error.contains("--force"), "{error}");
    let (_, _, error) = cache(&["prune", "-f", "--filter", "until=1h"]);
    assert_eq!(
        (du()["bytes"].clone(), error.as_str()),
        (usage["bytes"].clone(), "")
    );
    let (code, _, _) = cache(&["prune", "-f", "--filter", "type=layer"]);
    assert!(code == Some(0) && du()["kinds"]["layer"].is_null());
    assert!(
        !build(&["-o", "type=oci,dest=/dev/null"]).contains("not cached"),
        "the blob answers"
    );
    let (code, pruned, _) = cache(&["prune", "--all", "--force", "--format", "json"]);
    let pruned: serde_json::Value = serde_json::from_str(&pruned).unwrap();
    assert!(
        code == Some(0) && pruned["bytes"].as_u64() > Some(0),
        "{pruned}"
    );
    assert_eq!(du()["bytes"], 0);
    let log = build(&["--cache-quota", "1k"]);
    assert!(
        log.contains("not cached: first build") && log.contains("removed from the cache"),
        "{log}"
    );
    assert!(du()["bytes"].as_u64() < Some(100_000), "{}", du());
}

#[test]
fn slips_cost_no_build_and_say_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let context = directory.path().join("context");
    fs_err::create_dir(&context).unwrap();
    fs_err::write(context.join("Dockerfile"), "FROM scratch\n").unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(&directory);
        command.env("XDG_DATA_HOME", directory.path().join("data"));
        command.stdin(Stdio::null()).output().unwrap()
    };
    for (args, code, words) in [
        (&["build", "--help"][..], 0, ""),
        (&["build"], 1, "as in `coopery build --tag NAME .`"),
        (&["build", "-t", "."], 1, "not the name of an image"),
        (
            &["build", "-o", "app.tar", "context"],
            1,
            "type=docker,dest=app.tar",
        ),
        (&["build", "absent"], 1, "`absent` does not exist"),
        (&["build", "context/Dockerfile"], 1, "is not a directory"),
        (&["build", "."], 1, "`.` has no Dockerfile"),
        (
            &["build", "-f", "Dockerfile", "context"],
            1,
            "did you mean --file context/Dockerfile?",
        ),
        (
            &["build", "--iidfile", "no/id", "context"],
            1,
            "--iidfile: there is no directory `no`",
        ),
        (
            &["build", "-t", "127.0.0.1:1/x", "--push", "context"],
            2,
            "127.0.0.1:1/x",
        ),
    ] {
        let output = run(args);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {log}");
        assert!(log.contains(words), "{args:?}: no `{words}` in {log}");
        assert_eq!(output.stdout.is_empty(), code != 0, "{args:?}");
        // Nothing was begun, except where all was right but the registry.
        assert_eq!(directory.path().join("data").exists(), code == 2);
    }
}

#[test]
fn a_check_tells_every_finding_and_builds_nothing() {
    let Some(shop) = Shop::open() else { return };
    let dockerfile = "FROM base AS Unused\nCMD a\nFROM base\nENV A b\n";
    let checked = shop.build(dockerfile, &["--check"]);
    assert_eq!(checked.status.code(), Some(1));
    let told = text(&checked.stdout);
    let names: Vec<_> = told
        .lines()
        .filter_map(|line| line.strip_prefix("WARNING: "))
        .filter_map(|line| line.split_once(" - "))
        .collect();
    let expected = [
        ("StageNameCasing", "docs/lint.md#stagenamecasing"),
        ("JSONArgsRecommended", "docs/lint.md#jsonargsrecommended"),
        ("LegacyKeyValueFormat", "docs/lint.md#legacykeyvalueformat"),
    ];
    assert_eq!(names, expected, "{told}");
    // Only what the target needs is looked at by the engine, and everything by the parser.
    let json = shop.build(
        dockerfile,
        &["--call=check,format=json", "--target", "unused"],
    );
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["warnings"].as_array().unwrap().len(), 3);
    assert_eq!(
        json["warnings"][1]["location"]["ranges"][0]["start"]["line"],
        2
    );
    // A build tells its own, once, at its end.
    let built = shop.build(dockerfile, &[]);
    assert!(built.status.success());
    let told = text(&built.stderr);
    let end = " 2 warnings found (use --check to see their places):\n - StageNameCasing: stage name 'Unused' should be lowercase (line 1)\n \
               - LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 4)\n";
    assert!(told.ends_with(end), "{told}");
    let clean = shop.build("FROM base\nENV A=b\n", &["--check"]);
    assert_eq!(clean.status.code(), Some(0));
    assert_eq!(text(&clean.stdout), "Check complete, no warnings found.\n");
    let strict = shop.build("# check=error=true\nFROM base\nENV A b\n", &[]);
    assert_eq!(strict.status.code(), Some(1));
}

#[test]
fn attestations_are_refused() {
    let output = Command::new(PROGRAM)
        .args(["build", "--attest", "type=sbom", "."])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--attest"));
}

/// A RUN that only the base knows of is executed all the same; where isolation was refused, so is the RUN.
#[test]
fn a_trigger_of_the_base_may_run() {
    let Some(shop) = Shop::open() else { return };
    let layout = shop.path("triggers");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let base = "FROM base\nONBUILD RUN echo from the trigger\n";
    let made = shop.build(base, &["-o", &output]);
    assert!(made.status.success(), "{}", text(&made.stderr));

    let context = format!("triggers=oci-layout://{}", layout.display());
    let flags = ["--build-context", &context, "-o", "type=cacheonly"];
    let built = shop.build("FROM triggers\n", &flags);
    let log = text(&built.stderr);
    assert!(
        built.status.success() && log.contains("from the trigger"),
        "{log}"
    );
    let flags = [&flags[..], &["--isolation", "no-run"]].concat();
    let refused = shop.build("FROM triggers\n", &flags);
    let log = text(&refused.stderr);
    assert!(
        !refused.status.success() && log.contains("isolation mode NoRun"),
        "{log}"
    );
    assert!(shop.is_tidy());
}

#[test]
fn what_belongs_to_an_index_makes_one_and_a_rewrite_wants_an_epoch() {
    let Some(shop) = Shop::open() else { return };
    let directory = shop.path("indexed");
    let output = format!(
        "type=oci,tar=false,dest={},annotation-index.k=v,rewrite-timestamp=true",
        directory.display()
    );
    let built = shop.build("FROM scratch\nCOPY Dockerfile /\n", &["-o", &output]);
    let log = text(&built.stderr);
    assert!(built.status.success(), "{log}");
    assert!(log.contains("changes nothing without an epoch"), "{log}");
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&fs_err::read(directory.join(path)).unwrap()).unwrap()
    };
    let layout = json("index.json");
    let digest = layout["manifests"][0]["digest"].as_str().unwrap();
    let index = json(&format!("blobs/{}", digest.replace(':', "/")));
    assert_eq!(index["annotations"]["k"], "v", "{index}");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);

    let epoch = ["-o", &output, "--build-arg", "SOURCE_DATE_EPOCH=7"];
    let built = shop.build("FROM scratch\nCOPY Dockerfile /\n", &epoch);
    let log = text(&built.stderr);
    assert!(
        built.status.success() && !log.contains("rewrite-timestamp"),
        "{log}"
    );
}
