//! `COPY --from` of an image that nothing runs on: only what is copied is taken out of its layers, and what is made of it
//! is what is made of an image that is unpacked.

use crate::base::fetches;
use crate::bench::{Bench, BenchOptions};
use crate::manifest;

/// The image `tools:1` of three layers, and the digests of these: programs and a link to them, libraries over them, and
/// something that nobody copies.
async fn tools(bench: &Bench) -> Vec<oci::Digest> {
    bench
        .file("one/usr/bin/tool", &"tool ".repeat(50_000))
        .file("one/usr/bin/other", "other")
        .file("one/usr/lib/a.so", "a")
        .file("one/usr/lib/b.so", "old b")
        .file("one/usr/lib/deep/c.txt", "c")
        .file("two/usr/lib/b.so", "new b")
        .file("two/opt/first", "linked")
        .file("three/large", &"large ".repeat(100_000));
    bench.link("one/bin", "usr/bin");
    bench.link("one/usr/lib/current.so", "deep/../a.so");
    bench.hard_link("two/opt/second", "two/opt/first");
    bench
        .build(
            "FROM scratch\nCOPY one /\nCOPY --chmod=705 --chown=7:8 two /\nCOPY three /\n",
            &["tools:1"],
        )
        .await
        .unwrap();
    let layers = manifest(&bench.registry, "tools", "1").layers;
    bench.forget();
    layers.into_iter().map(|layer| layer.digest).collect()
}

fn dated(options: &mut BenchOptions) {
    let epoch = ("SOURCE_DATE_EPOCH".to_owned(), "1700000000".to_owned());
    options.build_args.extend([epoch]);
}

#[tokio::test]
async fn what_is_copied_is_taken_out_of_layers_that_pass_by_once() {
    let bench = Bench::start().await;
    let layers = tools(&bench).await;
    let from = bench.name("tools:1");
    let text =
        |to: &str| format!("FROM scratch\nCOPY --from={from} /bin/tool /usr/lib/b.so {to}\n");
    bench.build(&text("/x/"), &["app:1"]).await.unwrap();
    assert_eq!(bench.layer_names("app", "1", 0), ["x", "x/b.so", "x/tool"]);
    for layer in &layers {
        assert_eq!(fetches(&bench, layer), 1);
        assert!(!bench.has_blob(layer));
    }
    assert_eq!(bench.layer_count(), 2, "files out of two layers");

    // Another step that copies the same finds all of it, also without any listing being asked for again.
    bench.registry.clear_requests();
    bench.build(&text("/y/"), &["app:2"]).await.unwrap();
    let fetched: usize = layers.iter().map(|layer| fetches(&bench, layer)).sum();
    assert_eq!(fetched, 0);
    assert_eq!(bench.layer_count(), 2);
}

#[tokio::test]
async fn what_was_not_foreseen_is_fetched_from_its_layer_alone() {
    let bench = Bench::start().await;
    let layers = tools(&bench).await;
    let from = bench.name("tools:1");
    // Nothing tells in advance that the link leads to /usr/lib/a.so.
    let text = format!("FROM scratch\nCOPY --from={from} /usr/lib/current.so /a.so\n");
    bench.build(&text, &["app:1"]).await.unwrap();
    let fetched: Vec<_> = layers.iter().map(|layer| fetches(&bench, layer)).collect();
    assert_eq!(fetched, [2, 1, 1]);
    assert_eq!(bench.layer_count(), 1);
}

#[tokio::test]
async fn files_that_were_cut_off_on_the_disk_are_not_copied() {
    let bench = Bench::start().await;
    tools(&bench).await;
    let from = bench.name("tools:1");
    let text = format!("FROM scratch\nCOPY --from={from} /usr/bin/tool /\n");
    let built = bench.build_with(&text, &["app:1"], dated).await.unwrap();
    bench.damage_picks();
    let again = |options: &mut BenchOptions| {
        dated(options);
        options.no_cache = true;
    };
    let rebuilt = bench.build_with(&text, &["app:2"], again).await.unwrap();
    assert_eq!(built.image().descriptor, rebuilt.image().descriptor);
}

#[tokio::test]
async fn files_of_an_image_are_the_same_unpacked_or_not() {
    let bench = Bench::start().await;
    tools(&bench).await;
    bench.file("new", "new");
    let from = bench.name("tools:1");
    for copies in [
        "COPY --from=IMAGE / /",
        "COPY --from=IMAGE / /all/",
        "COPY --from=IMAGE /usr/lib /lib",
        "COPY --from=IMAGE /usr/lib/ /lib/",
        "COPY --from=IMAGE /bin /b",
        "COPY --from=IMAGE /bin/ /b/\nCOPY --from=IMAGE /bin/* /c/",
        "COPY --from=IMAGE /usr/lib/*.so /lib/",
        "COPY --from=IMAGE /usr/l*b/*.so /usr/bin/o* /x/",
        "COPY --from=IMAGE --exclude=*.so /usr/lib /lib",
        "COPY --from=IMAGE --parents /usr/lib/deep /usr/bin/tool /p/",
        "COPY --from=IMAGE --parents /usr/./lib/**/*.so /p/",
        "COPY --from=IMAGE --parents --exclude=**/b.so /usr /p/",
        "COPY --from=IMAGE --chown=5:6 --chmod=u=rwX,go=rX /opt /o",
        "COPY --from=IMAGE /opt/first /f\nCOPY --from=IMAGE /opt/second /s",
        "COPY --from=IMAGE --link /opt /o",
        "COPY --from=copied /opt /usr/lib/b.so /o/\nCOPY --from=copied /new /usr/lib/n",
        "COPY --from=IMAGE /usr/lib/current.so /\nCOPY --from=IMAGE /usr/bin/tool /",
        "COPY --from=IMAGE /etc*/absent /",
    ] {
        let text = format!(
            "FROM IMAGE AS copied\nCOPY new /usr/lib/\nFROM scratch\nWORKDIR /w\n{copies}\n"
        );
        let text = text.replace("IMAGE", &from);
        bench.forget();
        let listed = bench.build_with(&text, &["app:1"], dated).await;
        assert_eq!(
            bench.unpacked_bases(),
            0,
            "{copies}: a base was unpacked that nothing runs on"
        );
        let cached = bench.build_with(&text, &["app:1"], dated).await;
        bench.forget();
        bench.unpack("tools:1").await;
        let unpacked = bench.build_with(&text, &["app:2"], dated).await;
        match (listed, cached, unpacked) {
            (Ok(listed), Ok(cached), Ok(unpacked)) => {
                let unpacked = &unpacked.image().descriptor;
                assert_eq!(&listed.image().descriptor, unpacked, "{copies}");
                assert_eq!(&cached.image().descriptor, unpacked, "{copies}");
                assert_eq!(cached.counts.steps, cached.counts.cached);
            }
            (Err(listed), Err(cached), Err(unpacked)) => {
                assert_eq!(listed.to_string(), unpacked.to_string(), "{copies}");
                assert_eq!(cached.to_string(), unpacked.to_string(), "{copies}");
            }
            other => panic!("{copies}: {other:?}"),
        }
    }
}
