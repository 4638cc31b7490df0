//! What the cache answers, why it does not, and that equal inputs make equal images.

use http::Method;

use crate::bench::Bench;

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
