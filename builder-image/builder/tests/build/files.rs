//! What COPY and ADD ask the cache and the network, flag by flag.

use http::Method;
use oci::ImageConfig;

use crate::bench::Bench;

#[tokio::test]
async fn a_linked_layer_serves_every_base_and_what_is_on_top_does_not() {
    let bench = Bench::start().await;
    bench.file("a", "a").file("b", "b");
    for (base, file) in [("one:1", "a"), ("two:1", "b")] {
        let text = format!("FROM scratch\nCOPY {file} /etc/\n");
        bench.build(&text, &[base]).await.unwrap();
    }
    bench.forget();
    let text = |base: &str, rest: &str| {
        format!(
            "FROM {}\nCOPY --link a /etc/linked\n{rest}",
            bench.name(base)
        )
    };
    let on_top = "COPY b /etc/plain\n";
    let counts = async |text: String, image: &str| {
        let built = bench.build(&text, &[image]).await.unwrap();
        (built.counts.steps, built.counts.cached)
    };
    assert_eq!(counts(text("one:1", ""), "app:1").await, (1, 0));
    let fetched = |request: &&distribution::memory::Logged| {
        request.method == Method::GET && request.path.contains("/one/blobs/")
    };
    let requests = bench.registry.requests();
    // Only the configuration of the base is read.
    assert_eq!(requests.iter().filter(fetched).count(), 1);
    assert_eq!(counts(text("two:1", ""), "app:2").await, (1, 1));
    assert_eq!(counts(text("one:1", on_top), "app:3").await, (2, 1));
    assert_eq!(counts(text("two:1", on_top), "app:4").await, (2, 1));
    assert_eq!(counts(text("two:1", on_top), "app:5").await, (2, 2));
    assert_eq!(
        bench.layer_names("app", "4", 1),
        ["etc", "etc/linked"],
        "the directory is described by the layer itself"
    );
    assert_eq!(bench.layer_names("app", "4", 2), ["etc", "etc/plain"]);
}

#[tokio::test]
async fn flags_count_for_the_cache() {
    let bench = Bench::start().await;
    bench.file("s/a", "a").file("s/b.md", "b");
    for text in [
        "COPY s /d/",
        "COPY --link s /d/",
        "COPY --parents s /d/",
        "COPY --exclude=*.md s /d/",
        "COPY --exclude=*.txt s /d/",
        "COPY --chmod=u=rwX s /d/",
        "ADD s /d/",
        "ADD --unpack=false s /d/",
    ] {
        let text = format!("FROM scratch\n{text}\n");
        let cached = async || bench.build(&text, &["app:1"]).await.unwrap().counts.cached;
        assert_eq!((cached().await, cached().await), (0, 1), "{text}");
    }
}

#[tokio::test]
async fn triggers_of_images_are_executed_in_children_and_may_need_more_images() {
    let bench = Bench::start().await;
    bench.file("a", "a");
    let name = |image: &str| bench.name(image);
    bench
        .build(
            "FROM scratch\nCOPY a /deep\nONBUILD COPY a /from-other\n",
            &["other:1"],
        )
        .await
        .unwrap();
    // The trigger of one image needs a stage, whose base has a trigger of its own.
    let text =
        "FROM scratch\nENV A=1\nONBUILD COPY --from=helper /from-other /x\nONBUILD LABEL of=$A\n";
    bench.build(text, &["parent:1"]).await.unwrap();
    bench.forget();
    let text = format!(
        "FROM {} AS helper\nFROM {}\nONBUILD RUN later\n",
        name("other:1"),
        name("parent:1")
    );
    let built = bench.build(&text, &["child:1"]).await.unwrap();
    let config: ImageConfig = serde_json::from_slice(&built.image().config).unwrap();
    assert_eq!(config.config.labels["of"], "1");
    assert_eq!(config.config.on_build, ["RUN later"]);
    assert_eq!(bench.layer_names("child", "1", 0), ["x"]);
    assert_eq!(built.bases.len(), 2);
    let asked = bench.registry.requests();
    let manifests = asked
        .iter()
        .filter(|request| request.method == Method::GET && request.path.contains("/manifests/"));
    assert_eq!(manifests.count(), 2, "an image is asked for once");

    let grand = format!("FROM {}\n", name("child:1"));
    let error = bench.build(&grand, &["app:1"]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Dockerfile:1: RUN is not available in isolation mode NoRun: `ONBUILD RUN later`"
    );
}

#[tokio::test]
async fn what_only_the_image_needs_is_not_copied_on_the_disk() {
    let bench = Bench::start().await;
    bench.file("a", "a").file("d/b", "b");
    let alone = "FROM scratch AS one\nCOPY a d /\n";
    let first = bench.build(alone, &["app:1"]).await.unwrap();
    assert_eq!(bench.layer_count(), 0, "packed from the context");
    assert_eq!(bench.layer_names("app", "1", 0), ["a", "b"]);

    // Another step that reads it gets it from the blob.
    let read = format!("{alone}FROM scratch\nCOPY --from=one /b /c\n");
    let second = bench.build(&read, &["app:2"]).await.unwrap();
    assert_eq!((second.counts.steps, second.counts.cached), (2, 1));
    assert_eq!(bench.layer_names("app", "2", 0), ["c"]);

    // Made as a directory, because of that step, it is the same layer.
    bench.forget();
    bench.build(&read, &["app:2"]).await.unwrap();
    let third = bench.build(alone, &["app:1"]).await.unwrap();
    assert_eq!(third.counts.cached, 1);
    assert_eq!(third.image().layers, first.image().layers);
}
