//! The forms in which an image is written: compression, times, several at once, squashed.

use oci::ImageConfig;

use crate::bench::Bench;
use crate::manifest;

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
