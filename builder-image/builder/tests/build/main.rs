//! Builds without RUN against in-memory registries: what is pushed, in which order, and what is never fetched.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bench;
mod files;

use distribution::memory::Fault;
use http::Method;
use oci::{ImageConfig, Manifest};

use bench::Bench;

fn manifest(
    registry: &distribution::memory::MemoryRegistry,
    repository: &str,
    name: &str,
) -> Manifest {
    let raw = registry
        .manifest(repository, name)
        .expect("the manifest is there");
    serde_json::from_slice(&raw.bytes).unwrap()
}

#[tokio::test]
async fn an_image_goes_to_all_destinations_and_tags_come_last() {
    let bench = Bench::start().await;
    bench.file("a", "a").file("dir/b", "b");
    let built = bench
        .build(
            "FROM scratch\nCOPY a /\nCOPY dir /data/\nCMD [\"/a\"]\n",
            &["team/app:1", "team/app:2", "other:1"],
        )
        .await
        .unwrap();
    for (repository, tags) in [("team/app", &["1", "2"][..]), ("other", &["1"])] {
        assert_eq!(bench.registry.tags(repository), tags);
        let manifest = manifest(&bench.registry, repository, "1");
        assert_eq!(manifest.layers.len(), 2);
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            assert!(bench.registry.blob(repository, &blob.digest).is_some());
        }
    }
    assert_eq!(
        built.image().descriptor.digest,
        bench.registry.manifest("other", "1").unwrap().digest
    );
    let puts: Vec<String> = bench
        .registry
        .requests()
        .iter()
        .filter(|request| request.method == Method::PUT && request.path.contains("/manifests/"))
        .map(|request| request.path.rsplit('/').next().unwrap().to_owned())
        .collect();
    assert!(
        puts[..2].iter().all(|name| name.starts_with("sha256:")),
        "{puts:?}"
    );
    assert!(
        puts[2..].iter().all(|name| !name.starts_with("sha256:")) && puts.len() == 5,
        "{puts:?}"
    );
}

#[tokio::test]
async fn a_base_that_nothing_looks_into_is_mounted_and_never_fetched() {
    let bench = Bench::start().await;
    bench.file("rootfs/etc/passwd", "root:x:0:0::/:/bin/sh\n");
    bench
        .build("FROM scratch\nCOPY rootfs /\nENV A=1\n", &["base:1"])
        .await
        .unwrap();
    let layer = manifest(&bench.registry, "base", "1").layers[0].clone();
    bench.forget();

    let base = bench.name("base:1");
    let text = format!("FROM {base}\nLABEL b=1\nCOPY --from={base} /etc/passwd /nothing/\n");
    // A stage that only sets metadata needs no file of its base.
    let text = text.lines().take(2).collect::<Vec<_>>().join("\n");
    let built = bench.build(&text, &["app:1"]).await.unwrap();
    let requests = bench.registry.requests();
    let about_layer = |method: Method| {
        requests
            .iter()
            .filter(|r| r.method == method && r.path.ends_with(layer.digest.as_str()))
            .count()
    };
    assert_eq!(about_layer(Method::GET), 0, "the layer was fetched");
    assert!(
        bench.registry.blob("app", &layer.digest).is_some(),
        "the layer was mounted"
    );
    let config: ImageConfig = serde_json::from_slice(&built.image().config).unwrap();
    assert!(config.config.env.contains(&"A=1".to_owned()));
    assert_eq!(config.config.labels["b"], "1");
    assert_eq!(built.bases[0].0, base);
}

/// A base with links, owners and names to look up, and the digest of its layer.
async fn base_to_look_into(bench: &Bench) -> oci::Digest {
    bench
        .file("rootfs/usr/bin/tool", "tool")
        .file("rootfs/etc/passwd", "app:x:7:8::/:/bin/sh\n");
    bench.link("rootfs/bin", "usr/bin");
    bench
        .build("FROM scratch\nCOPY rootfs /\n", &["base:1"])
        .await
        .unwrap();
    let digest = manifest(&bench.registry, "base", "1").layers[0]
        .digest
        .clone();
    bench.forget();
    digest
}

/// How often a blob was fetched.
fn fetches(bench: &Bench, digest: &oci::Digest) -> usize {
    let requests = bench.registry.requests();
    let of_blob = |path: &str| path.ends_with(digest.as_str());
    requests
        .iter()
        .filter(|request| request.method == Method::GET && of_blob(&request.path))
        .count()
}

#[tokio::test]
async fn a_copy_onto_a_base_streams_it_once_and_unpacks_nothing() {
    let bench = Bench::start().await;
    let layer = base_to_look_into(&bench).await;
    bench.file("main", "main");
    let base = bench.name("base:1");
    let text =
        format!("FROM {base}\nWORKDIR /bin/w\nCOPY --chown=app main /bin/\nCOPY main /new/\n");
    let dated = |options: &mut bench::BenchOptions| {
        let epoch = ("SOURCE_DATE_EPOCH".to_owned(), "1700000000".to_owned());
        options.build_args.extend([epoch]);
    };
    let listed = bench.build_with(&text, &["app:1"], dated).await.unwrap();
    assert_eq!(fetches(&bench, &layer), 1, "streamed for its listing");
    assert_eq!(bench.layer_count(), 3, "only the steps have directories");
    assert_eq!(
        bench.layer_names("app", "1", 2),
        ["usr", "usr/bin", "usr/bin/main"]
    );
    assert!(bench.registry.blob("app", &layer).is_some(), "mounted");

    // With its listing known, nothing of the base is fetched.
    bench.registry.clear_requests();
    let again = |options: &mut bench::BenchOptions| {
        dated(options);
        options.no_cache = true;
    };
    bench.build_with(&text, &["app:2"], again).await.unwrap();
    assert_eq!(fetches(&bench, &layer), 0);

    // Once something reads a file of it, it is unpacked, and its image is the same.
    bench.forget();
    let reading = format!("FROM {base}\nCOPY --from={base} /etc/passwd /p\n");
    bench.build(&reading, &["other:1"]).await.unwrap();
    assert_eq!(bench.layer_count(), 2, "the base and the copy");
    assert!(!bench.has_blob(&layer), "only unpacked: it is mounted");
    let unpacked = bench.build_with(&text, &["app:3"], dated).await.unwrap();
    assert_eq!(listed.image().descriptor, unpacked.image().descriptor);
}

#[tokio::test]
async fn a_copy_that_must_compare_contents_unpacks_after_all() {
    let bench = Bench::start().await;
    bench.file("f", "same").date("f", 1_000_000_000);
    bench
        .build("FROM scratch\nCOPY f /\n", &["base:1"])
        .await
        .unwrap();
    bench.forget();
    // The file has the name, size, time and owner of the base's: only its content can tell whether it is in the layer.
    let text = format!("FROM {}\nCOPY f /\n", bench.name("base:1"));
    bench.build(&text, &["app:1"]).await.unwrap();
    assert_eq!(bench.layer_names("app", "1", 1), [""; 0]);
    bench.file("f", "else").date("f", 1_000_000_000);
    bench.forget();
    bench.build(&text, &["app:2"]).await.unwrap();
    assert_eq!(bench.layer_names("app", "2", 1), ["f"]);
}

#[tokio::test]
async fn a_stage_that_nothing_needs_is_left_alone() {
    let (elsewhere, bench) = (Bench::start().await, Bench::start().await);
    elsewhere.file("a", "a");
    elsewhere
        .build("FROM scratch\nCOPY a /\n", &["base:1"])
        .await
        .unwrap();
    elsewhere.registry.clear_requests();
    bench.file("a", "a");
    let unused = elsewhere.name("base:1");
    let text = format!(
        "FROM {unused} AS unused\nCOPY --from={unused} /a /b\nADD http://{}/x /\nRUN false\n\
         FROM scratch AS also\nCOPY nothing /\nFROM scratch\nCOPY a /\n",
        elsewhere.registry.address()
    );
    let built = bench.build(&text, &["app:1"]).await.unwrap();
    assert_eq!(elsewhere.registry.requests().len(), 0, "not even resolved");
    assert_eq!((built.counts.steps, built.bases.len()), (1, 0));
}

#[tokio::test]
async fn a_base_of_another_registry_is_copied_blob_by_blob() {
    let (upstream, bench) = (Bench::start().await, Bench::start().await);
    upstream.file("a", "a");
    upstream
        .build("FROM scratch\nCOPY a /\n", &["base:1"])
        .await
        .unwrap();
    let layer = manifest(&upstream.registry, "base", "1").layers[0].clone();
    bench
        .build(
            &format!("FROM {}\nLABEL b=1\n", upstream.name("base:1")),
            &["app:1"],
        )
        .await
        .unwrap();
    assert!(bench.registry.blob("app", &layer.digest).is_some());
    assert!(!bench.has_layers(), "nothing was unpacked");
}

#[tokio::test]
async fn copies_look_into_stages_and_bases() {
    let bench = Bench::start().await;
    bench
        .file("rootfs/usr/bin/tool", "tool")
        .file("main", "main");
    bench.link("rootfs/bin", "usr/bin");
    bench
        .build("FROM scratch\nCOPY rootfs /\n", &["base:1"])
        .await
        .unwrap();
    bench.forget();
    let base = bench.name("base:1");
    let text = format!(
        "FROM {base} AS build\nWORKDIR /out\nCOPY main .\nFROM {base}\nCOPY --from=build /out/main /bin/\nCOPY --from={base} /bin/tool /tool\n"
    );
    bench.build(&text, &["app:1"]).await.unwrap();
    // /bin is a link to usr/bin in the base, so the file is there.
    assert_eq!(
        bench.layer_names("app", "1", 1),
        ["usr", "usr/bin", "usr/bin/main"]
    );
    assert_eq!(bench.layer_names("app", "1", 2), ["tool"]);
}

#[tokio::test]
async fn what_did_not_change_is_answered_by_the_cache() {
    let bench = Bench::start().await;
    bench.file("a", "a").file("b", "b");
    let text =
        "FROM scratch AS one\nCOPY a /\nFROM scratch\nCOPY b /\nCOPY --from=one /a /copied\n";
    let first = bench.build(text, &["app:1"]).await.unwrap();
    assert_eq!((first.counts.steps, first.counts.cached), (3, 0));
    bench.registry.clear_requests();
    bench.touch("a");
    let second = bench.build(text, &["app:1"]).await.unwrap();
    assert_eq!((second.counts.steps, second.counts.cached), (3, 3));
    assert_eq!(first.image(), second.image());
    let sent = bench.registry.requests();
    assert!(
        sent.iter().all(|request| request.method != Method::PATCH
            && !(request.method == Method::PUT && request.path.contains("/blobs/"))),
        "blobs were sent again"
    );

    // A file of another content reaches what depends on it, and nothing else.
    bench.file("a", "other");
    let third = bench.build(text, &["app:1"]).await.unwrap();
    assert_eq!((third.counts.steps, third.counts.cached), (3, 1));
    // Back to what it was: both ways of finding the copy still answer.
    bench.file("a", "a");
    assert_eq!(
        bench.build(text, &["app:1"]).await.unwrap().counts.cached,
        3
    );
    let forced = bench
        .build_with(text, &["app:1"], |options| options.no_cache = true)
        .await
        .unwrap();
    assert_eq!(forced.counts.cached, 0);
}

#[tokio::test]
async fn a_miss_says_which_input_changed() {
    let bench = Bench::start().await;
    bench.file("src/main.c", "1").file("src/lib.c", "1");
    let base = |content: &str| format!("FROM scratch AS base\nCOPY <<EOF /base\n{content}\nEOF\n");
    let text = |content: &str, user: &str| {
        let rest = format!("FROM base\nCOPY --chown={user} src /src\nWORKDIR /w\n");
        base(content) + &rest
    };
    let reasons = async |text: String| -> Vec<(String, String)> {
        let built = bench.build(&text, &["app:1"]).await.unwrap();
        let misses = built.misses.into_iter();
        misses
            .map(|miss| (miss.step, miss.cause.to_string()))
            .collect()
    };
    let row = |step: &str, reason: &str| (format!("Dockerfile:{step}"), reason.to_owned());
    let first = "first build of this step";
    assert_eq!(
        reasons(text("x", "1")).await,
        [
            row("2: COPY <<EOF /base", first),
            row("6: COPY --chown=1 src /src", first),
            row("7: WORKDIR /w", first)
        ]
    );
    assert_eq!(reasons(text("x", "1")).await, []);
    bench.file("src/main.c", "2").file("src/new.c", "1");
    assert_eq!(
        reasons(text("x", "1")).await,
        [
            row(
                "6: COPY --chown=1 src /src",
                "files changed: src/main.c; files added: src/new.c"
            ),
            row("7: WORKDIR /w", "the step before it (line 6) changed")
        ]
    );
    let changed = reasons(text("y", "1")).await;
    assert_eq!(changed[1].1, "the step before it (line 2) changed");
    bench.prune_records();
    let pruned = "pruned: its result is no longer in the cache";
    assert!(
        reasons(text("x", "1"))
            .await
            .iter()
            .all(|(_, reason)| reason == pruned)
    );
    let forced = bench
        .build_with(&text("x", "1"), &["app:1"], |options| {
            options.no_cache = true;
        })
        .await
        .unwrap();
    assert_eq!((forced.misses, forced.counts.cached), (vec![], 0));
}

/// One digest from any number of threads, whenever files were changed, cold and from the cache, with other blobs in it.
#[tokio::test]
async fn equal_inputs_make_equal_images() {
    let text = "FROM scratch AS one\nWORKDIR /w\nCOPY <<EOF /doc\nx\nEOF\nCOPY a dir /d/\nFROM scratch\nCOPY --from=one / /all\n";
    let build = async |bench: &Bench, threads: usize, rewrite: bool| {
        let built = bench.build_with(text, &["app:1"], |options| {
            options.threads = threads;
            options.settings.rewrite_timestamp = rewrite;
            let epoch = "1700000000".into();
            options.build_args.insert("SOURCE_DATE_EPOCH".into(), epoch);
        });
        let built = built.await.unwrap();
        (built.image().descriptor.digest.clone(), built.counts.cached)
    };
    for rewrite in [false, true] {
        let mut digests = std::collections::BTreeSet::new();
        for (round, threads) in [1, 2, 8].into_iter().enumerate() {
            let bench = Bench::start().await;
            bench
                .file("a", "a")
                .file("dir/z", "z")
                .file("dir/b", &"b".repeat(3 << 20));
            // Without rewriting, the times of files count; with it, those after the epoch do not.
            let later = if rewrite { round as u64 * 1000 } else { 0 };
            for path in ["a", "dir/z", "dir/b", "dir"] {
                bench.date(path, 1_710_000_000 + later);
            }
            for cached in [0, 4] {
                let (digest, found) = build(&bench, threads, rewrite).await;
                assert_eq!(found, cached, "{threads} {rewrite}");
                digests.insert(digest);
            }
            // A blob that is gone is packed again from the unpacked layer, or made anew.
            bench.remove_blobs();
            digests.insert(build(&bench, threads, rewrite).await.0);
        }
        assert_eq!(digests.len(), 1, "rewriting: {rewrite}");
    }
}

#[tokio::test]
async fn stages_are_executed_anew_where_that_is_asked_for() {
    let bench = Bench::start().await;
    bench.file("a", "a");
    let text = "FROM scratch AS One\nCOPY a /a\nFROM one AS two\nWORKDIR /two\nFROM scratch AS three\nWORKDIR /three\nFROM scratch\nCOPY --from=two /a /\nCOPY --from=three / /3\n";
    let cached = async |stages: &[&str]| {
        let built = bench.build_with(text, &["app:1"], |options| {
            options.no_cache_stages = stages.iter().map(|stage| (*stage).to_owned()).collect();
        });
        let built = built.await.unwrap();
        assert!(
            stages.is_empty() || built.misses.is_empty(),
            "it was not asked"
        );
        built.counts.cached
    };
    assert_eq!(cached(&[]).await, 0);
    assert_eq!(cached(&[]).await, 5);
    // What is on top of the stage is made anew as well; what is copied out of it is the same.
    assert_eq!(cached(&["one"]).await, 3);
    assert_eq!(cached(&["two"]).await, 4);
    assert_eq!(cached(&["one", "three"]).await, 2);
    assert_eq!(cached(&["absent"]).await, 5);
}

#[tokio::test]
async fn a_failure_leaves_tags_as_they_were() {
    let bench = Bench::start().await;
    bench.file("a", "a");
    let error = bench
        .build("FROM scratch\nCOPY a /\nCOPY nothing /x\n", &["app:1"])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Dockerfile:3: `nothing`: no such file or directory"
    );
    assert_eq!(error.kind(), protocol::FailureKind::ContextFile);
    assert_eq!(bench.registry.tags("app"), [""; 0]);

    // The manifest is refused in one of two places: no tag is written in either.
    bench.registry.set_faults(|request| {
        let refused = request.method == Method::PUT && request.path.contains("/other/manifests/");
        refused.then_some(Fault::Answer(400, vec![], String::new()))
    });
    let error = bench
        .build("FROM scratch\nCOPY a /\n", &["app:1", "other:1"])
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        protocol::FailureKind::RegistryRefused,
        "{error}"
    );
    assert_eq!(bench.registry.tags("app"), [""; 0]);
    bench.registry.clear_faults();
    bench
        .build("FROM scratch\nCOPY a /\n", &["app:1", "other:1"])
        .await
        .unwrap();
    assert_eq!(bench.registry.tags("app"), ["1"]);
    assert!(bench.is_tidy(), "work in progress is left over");
}

#[tokio::test]
async fn failures_have_kinds_and_places() {
    use protocol::FailureKind as Kind;
    let bench = Bench::start().await;
    bench.file("a", "a");
    let absent = bench.name("absent:1");
    let ping = format!("http://{}/v2/", bench.registry.address());
    for (text, kind, message) in [
        (format!("FROM {absent}\n"), Kind::BaseImageNotFound, format!("Dockerfile:1: base image `{absent}`: not found")),
        ("FROM scratch AS builder\nFROM scratch\nCOPY --from=127.0.0.1:1/x /a /\n".into(), Kind::RegistryUnavailable, "Dockerfile:3: base image `127.0.0.1:1/x:latest`: resolve 127.0.0.1:1/x:latest: no connection".into()),
        ("FROM scratch\nRUNN x\n".into(), Kind::Dockerfile, "Dockerfile:2: unknown instruction `RUNN`; did you mean `RUN`?".into()),
        ("FROM scratch\nRUN x\n".into(), Kind::IsolationUnavailable, "Dockerfile:2: RUN is not available in isolation mode NoRun: `RUN x`".into()),
        (format!("FROM scratch\nADD {ping}none /\n"), Kind::ContextFile, format!("get {ping}none: not found")),
        (format!("FROM scratch\nADD --checksum=sha256:{} {ping} /x\n", "0".repeat(64)), Kind::DigestMismatch, format!("`{ping}` has the checksum sha256:")),
    ] {
        let error = bench.build(&text, &["app:1"]).await.unwrap_err();
        let failure = error.to_failure();
        assert_eq!(failure.kind, kind, "{text}: {error}");
        assert!(failure.message.starts_with(&message), "{text}: {}", failure.message);
        let missing = (kind == Kind::BaseImageNotFound).then(|| absent.clone());
        assert_eq!(failure.image, missing, "{text}");
    }
    assert!(bench.is_tidy(), "work in progress is left over");
}

#[tokio::test]
async fn refusals_of_what_is_read_and_of_what_is_written_are_told_apart() {
    use protocol::FailureKind as Kind;
    let (upstream, bench) = (Bench::start().await, Bench::start().await);
    let refuse = |bench: &Bench| {
        bench
            .registry
            .set_faults(|_| Some(Fault::Answer(401, vec![], String::new())));
    };
    refuse(&upstream);
    let text = format!("FROM {}\n", upstream.name("base:1"));
    let failure = bench
        .build(&text, &["app:1"])
        .await
        .unwrap_err()
        .to_failure();
    assert_eq!(
        (failure.kind, failure.image),
        (Kind::BaseImageUnauthorized, None)
    );
    refuse(&bench);
    bench.file("a", "a");
    let error = bench
        .build("FROM scratch\nCOPY a /\n", &["app:1"])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnauthorized, "{error}");
}

#[tokio::test]
async fn damaged_content_is_refused() {
    let (upstream, bench) = (Bench::start().await, Bench::start().await);
    upstream.file("a", &"a".repeat(10_000));
    upstream
        .build("FROM scratch\nCOPY a /\n", &["base:1"])
        .await
        .unwrap();
    upstream.registry.set_faults(|request| {
        let blob = request.method == Method::GET && request.path.contains("/blobs/");
        blob.then_some(Fault::Corrupt)
    });
    bench.file("b", "b");
    let text = format!("FROM {}\nCOPY b /\n", upstream.name("base:1"));
    let error = bench.build(&text, &["app:1"]).await.unwrap_err();
    assert_eq!(
        error.kind(),
        protocol::FailureKind::DigestMismatch,
        "{error}"
    );
    assert!(!bench.has_layers() && bench.is_tidy());
}

/// A file that is no layer of the registry's base, and one that depends on the platform.
const CROSS: &str = "FROM --platform=$BUILDPLATFORM scratch AS shared\nWORKDIR /made\nCOPY a /made/\nFROM scratch\nARG TARGETPLATFORM\nCOPY --from=shared /made /\nLABEL platform=$TARGETPLATFORM\n";

#[tokio::test]
async fn several_platforms_make_an_index_and_share_what_is_equal() {
    let bench = Bench::start().await;
    bench.file("a", "a");
    let build = |platforms: &'static [&str]| {
        bench.build_with(CROSS, &["app:1"], move |options| {
            options.platforms = platforms.iter().map(|p| p.parse().unwrap()).collect();
        })
    };
    let built = build(&["linux/amd64", "linux/arm64", "linux/arm/v7"])
        .await
        .unwrap();
    // WORKDIR and two COPY, which know no platform, are executed once for all three.
    assert_eq!((built.counts.steps, built.counts.cached), (3, 0));
    let index = built.product.index.as_ref().unwrap();
    let served = bench.registry.manifest("app", "1").unwrap();
    assert_eq!(served.digest, index.descriptor.digest);
    let index: oci::Index = serde_json::from_slice(&served.bytes).unwrap();
    let platforms: Vec<_> = index.platforms().map(ToString::to_string).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64", "linux/arm/v7"]);
    for child in &index.manifests {
        let manifest = manifest(&bench.registry, "app", child.digest.as_str());
        let config = bench.registry.blob("app", &manifest.config.digest).unwrap();
        let config: ImageConfig = serde_json::from_slice(&config).unwrap();
        let platform = child.platform.clone().unwrap();
        assert_eq!(config.config.labels["platform"], platform.to_string());
        assert_eq!(config.platform, platform);
    }
    // Every child is there before the index is, and the tag comes last.
    let puts = bench.registry.requests();
    let puts = puts
        .iter()
        .filter(|r| r.method == Method::PUT && r.path.contains("/manifests/"));
    let names: Vec<_> = puts.map(|r| r.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(names.len(), 5);
    assert_eq!(&names[3..], [served.digest.as_str(), "1"]);

    let alone = build(&["linux/arm64"]).await.unwrap();
    assert_eq!(alone.counts.cached, 3);
    assert_eq!(alone.product.index, None);
    assert_eq!(&alone.product.images[0], &built.product.images[1]);
}

#[tokio::test]
async fn a_base_is_resolved_for_each_platform_from_one_index() {
    let bench = Bench::start().await;
    bench.file("a", "a");
    let two = |options: &mut bench::BenchOptions| {
        options.platforms = ["linux/amd64", "linux/arm64"]
            .map(|p| p.parse().unwrap())
            .into();
    };
    bench.build_with(CROSS, &["base:1"], two).await.unwrap();
    bench.forget();
    let text = format!("FROM {}\nENV A=1\n", bench.name("base:1"));
    let built = bench.build_with(&text, &["app:1"], two).await.unwrap();
    let labels: Vec<_> = built
        .product
        .images
        .iter()
        .map(|image| {
            let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
            config.config.labels["platform"].clone()
        })
        .collect();
    assert_eq!(labels, ["linux/amd64", "linux/arm64"]);
    assert_eq!(built.bases.len(), 1);
    let asked = bench.registry.requests();
    let asked = asked
        .iter()
        .filter(|r| r.path.ends_with("/base/manifests/1"));
    assert_eq!(asked.count(), 1, "the tag was looked up more than once");

    let absent = format!("FROM --platform=linux/s390x {}\n", bench.name("base:1"));
    let error = bench.build(&absent, &["app:2"]).await.unwrap_err();
    assert!(
        error.to_string().contains("no image for linux/s390x"),
        "{error}"
    );
}

#[tokio::test]
async fn layers_have_the_compression_that_was_asked_for() {
    use builder::layer::Compression;
    let bench = Bench::start().await;
    bench
        .file("base", &"base".repeat(9999))
        .file("a", &"a".repeat(9999));
    bench
        .build("FROM scratch\nCOPY base /\n", &["base:1"])
        .await
        .unwrap();
    let text = format!("FROM {}\nCOPY a /\n", bench.name("base:1"));
    let build = |tag: &'static str, compression, force| {
        let text = text.clone();
        let bench = &bench;
        async move {
            let tags = [tag];
            let built = bench.build_with(&text, &tags, |options| {
                options.settings.compression = compression;
                options.settings.force_compression = force;
            });
            let image = built.await.unwrap().product.images.remove(0);
            let types = image.layers.iter().map(|l| {
                let name = l.media_type.as_str();
                name.rsplit('.').next().unwrap().to_owned()
            });
            (types.collect::<Vec<_>>(), image)
        }
    };
    let zstd = Compression::Zstd { level: 3 };
    let (types, first) = build("app:1", zstd, false).await;
    assert_eq!(types, ["tar+gzip", "tar+zstd"]);
    let (types, forced) = build("app:2", zstd, true).await;
    assert_eq!(types, ["tar+zstd", "tar+zstd"]);
    assert_eq!(forced.layers[1], first.layers[1]);
    let (types, plain) = build("app:3", Compression::None, true).await;
    assert_eq!(types, ["tar", "tar"]);
    let (types, gzip) = build("app:4", Compression::default(), true).await;
    assert_eq!(types, ["tar+gzip", "tar+gzip"]);
    // The files are the same, however they are packed.
    let diff_ids = |image: &builder::image::Image| {
        let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
        config.rootfs.diff_ids
    };
    for other in [&forced, &plain, &gzip] {
        assert_eq!(diff_ids(other), diff_ids(&first));
    }
    // Warm or cold, on a machine that packed otherwise before or not: the same bytes.
    bench.forget();
    let (_, cold) = build("app:5", zstd, true).await;
    assert_eq!(cold.layers, forced.layers);
    let blob = bench.registry.blob("app", &plain.layers[1].digest).unwrap();
    let mut archive = tar::Archive::new(&blob[..]);
    assert_eq!(archive.entries().unwrap().count(), 1);
}

#[tokio::test]
async fn rewritten_times_make_equal_images_of_equal_files() {
    let text = "FROM scratch\nCOPY a dir /d/\nWORKDIR /w\n";
    let mut digests = Vec::new();
    for (time, threads) in [(1_900_000_000, 1), (2_000_000_000, 3)] {
        let bench = Bench::start().await;
        bench.file("a", "a").file("dir/b", "b");
        for path in ["a", "dir/b", "dir"] {
            bench.date(path, time);
        }
        let built = bench.build_with(text, &["app:1"], |options| {
            options.threads = threads;
            options.settings.rewrite_timestamp = true;
            options.settings.epoch = Some(1_700_000_000);
        });
        let image = built.await.unwrap().product.images.remove(0);
        let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
        assert_eq!(config.created.as_deref(), Some("2023-11-14T22:13:20Z"));
        digests.push(image.descriptor.digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn several_forms_of_one_build_are_made_side_by_side() {
    use builder::export::{Export, Form, Output, Settings};
    let bench = Bench::start().await;
    bench.file("a", "a");
    let out = tempfile::tempdir().unwrap();
    let output = |form, name: &str| Output {
        form,
        path: Some(out.path().join(name)),
        names: vec!["team/app:1".parse().unwrap()],
    };
    let built = bench
        .build_with(
            "FROM scratch\nCOPY --chmod=640 a /d/\n",
            &["app:1"],
            |options| {
                options.platforms = ["linux/amd64", "linux/arm64"]
                    .map(|p| p.parse().unwrap())
                    .into();
                options.outputs = vec![
                    output(Form::Files, "files"),
                    output(Form::RootTar, "root.tar"),
                ];
                options.more = vec![Export {
                    settings: Settings {
                        compression: builder::layer::Compression::Zstd { level: 1 },
                        ..Settings::default()
                    },
                    destinations: Vec::new(),
                    outputs: vec![
                        output(Form::Store, "store"),
                        output(Form::DockerArchive, "docker.tar"),
                    ],
                }];
            },
        )
        .await
        .unwrap();
    for platform in ["linux_amd64", "linux_arm64"] {
        let file = out.path().join("files").join(platform).join("d/a");
        let mode = std::os::unix::fs::MetadataExt::mode(&fs_err::metadata(&file).unwrap());
        assert_eq!(
            (fs_err::read(&file).unwrap(), mode & 0o777),
            (b"a".to_vec(), 0o640)
        );
    }
    let archive = fs_err::read(out.path().join("root.tar")).unwrap();
    let mut archive = tar::Archive::new(archive.as_slice());
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    let expected = ["linux_amd64/", "linux_amd64/d/", "linux_amd64/d/a"];
    assert_eq!(&names[..3], expected);
    assert_eq!(names.len(), 6);
    // The second form has its own digests, and what is reported is the first.
    let store = store::Layout::open(out.path().join("store")).unwrap();
    let kept = store.find("team/app:1").unwrap().unwrap();
    assert_ne!(kept.digest, built.product.descriptor().digest);
    let oci::Document::Index(index) = store.document(&kept).unwrap() else {
        panic!("two platforms have an index")
    };
    assert_eq!(index.manifests.len(), 2);
    assert_eq!(
        bench.registry.manifest("app", "1").unwrap().digest,
        built.product.descriptor().digest
    );
}

#[tokio::test]
async fn squashed_layers_are_one_on_top_of_the_base() {
    let bench = Bench::start().await;
    bench.file("base", "base").file("a", "a").file("b", "b");
    bench
        .build("FROM scratch\nCOPY base /\n", &["base:1"])
        .await
        .unwrap();
    let text = format!(
        "FROM {}\nCOPY a /same\nENV A=1\nCOPY b /same\nWORKDIR /w\n",
        bench.name("base:1")
    );
    let build = || {
        bench.build_with(&text, &["app:1"], |options| {
            options.settings.layers = builder::export::Layers::Squashed;
        })
    };
    let built = build().await.unwrap();
    assert_eq!(built.image().layers.len(), 2);
    assert_eq!(
        built.image().layers[0],
        manifest(&bench.registry, "base", "1").layers[0]
    );
    assert_eq!(bench.layer_names("app", "1", 1), ["same", "w"]);
    let config: ImageConfig = serde_json::from_slice(&built.image().config).unwrap();
    let history: Vec<_> = config
        .history
        .iter()
        .map(|entry| {
            (
                entry.empty_layer,
                entry.created_by.clone().unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(history.len(), 6);
    assert!(history[1..5].iter().all(|(empty, _)| *empty));
    assert_eq!(
        history[5],
        (false, "squash of 3 layers # coopery build --squash".into())
    );
    assert_eq!(config.rootfs.diff_ids.len(), 2);
    let again = build().await.unwrap();
    assert_eq!(again.image(), built.image());
    assert_eq!(again.counts.cached, 3);
}
