//! Base images: what is fetched of them, what is only listed, and what is never touched.

use http::Method;
use oci::ImageConfig;

use crate::bench::{self, Bench};
use crate::manifest;

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
    assert_eq!(built.bases[0].name, base);
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
pub(crate) fn fetches(bench: &Bench, digest: &oci::Digest) -> usize {
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
    assert_eq!(bench.layer_count(), 1, "only WORKDIR has a directory");
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

    // Where it is unpacked, the image is the same.
    bench.forget();
    bench.unpack("base:1").await;
    assert_eq!(bench.layer_count(), 1);
    let unpacked = bench.build_with(&text, &["app:3"], dated).await.unwrap();
    assert_eq!(listed.image().descriptor, unpacked.image().descriptor);
}

#[tokio::test]
async fn what_two_bases_have_in_common_is_fetched_once() {
    let bench = Bench::start().await;
    bench.file("a", &"a".repeat(300_000)).file("b", "b");
    let lowest = "FROM scratch\nCOPY a /\n";
    bench.build(lowest, &["one:1"]).await.unwrap();
    let on_top = format!("FROM {}\nCOPY b /\n", bench.name("one:1"));
    bench.build(&on_top, &["two:1"]).await.unwrap();
    let layer = manifest(&bench.registry, "one", "1").layers[0]
        .digest
        .clone();
    let (one, two) = (bench.name("one:1"), bench.name("two:1"));
    for text in [
        format!("FROM scratch\nCOPY --from={one} /a /x\nCOPY --from={two} /a /b /y/\n"),
        format!("FROM {one} AS one\nCOPY b /x\nFROM {two}\nCOPY --from=one /x /y\n"),
    ] {
        bench.forget();
        bench.build(&text, &["app:1"]).await.unwrap();
        assert_eq!(fetches(&bench, &layer), 1, "{text}");
    }
}

#[tokio::test]
async fn a_copy_that_must_compare_contents_takes_them_out_of_the_base() {
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
    assert_eq!(bench.unpacked_bases(), 0);
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
