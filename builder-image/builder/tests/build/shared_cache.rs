//! Caches in registries, directories and images: what is answered by them, what is fetched for it, and that a damaged one
//! only costs time.

use std::path::Path;

use builder::build::Built;
use builder::cache::Cache;
use builder::layer::Compression;
use builder::shared_cache::{CacheMode, CachePlace, CacheSource, CacheTarget, Wanted};
use distribution::memory::{Fault, MemoryRegistry};
use http::Method;
use oci::Reference;

use crate::bench::{Bench, BenchOptions};

/// Two stages, one of which makes files that the image does not have.
const TEXT: &str = "FROM scratch AS one\nWORKDIR /w\nCOPY a /a\nFROM scratch\nCOPY b /b\nCOPY --from=one /a /copied\nWORKDIR /end\n";

const STEPS: usize = 5;

fn reference(bench: &Bench, name: &str) -> Reference {
    bench.name(name).parse().unwrap()
}

fn target(place: CachePlace, mode: CacheMode) -> CacheTarget {
    CacheTarget {
        place,
        mode,
        compression: None,
        ignore_error: false,
    }
}

fn to_registry(bench: &Bench, name: &str, mode: CacheMode) -> CacheTarget {
    target(CachePlace::Registry(reference(bench, name)), mode)
}

fn from_registry(bench: &Bench, name: &str) -> CacheSource {
    CacheSource::Registry(reference(bench, name))
}

fn directory(path: &Path) -> CacheSource {
    CacheSource::Directory {
        path: path.to_owned(),
        wanted: Wanted::Tag("latest".into()),
    }
}

/// Dates new directories, so that what is made anew is equal.
fn dated(options: &mut BenchOptions) {
    let epoch = ("SOURCE_DATE_EPOCH".into(), "1700000000".into());
    options.build_args.extend([epoch]);
}

fn files(bench: &Bench) {
    bench.file("a", "content of a").file("b", "content of b");
}

async fn build(bench: &Bench, text: &str, change: impl FnOnce(&mut BenchOptions)) -> Built {
    bench.build_with(text, &["app:1"], change).await.unwrap()
}

/// The blobs that were downloaded from a repository, but for documents.
fn pulled(registry: &MemoryRegistry, repository: &str, documents: &[String]) -> usize {
    let start = format!("/v2/{repository}/blobs/sha256:");
    let all = registry.requests().into_iter();
    all.filter(|request| request.method == Method::GET && request.path.starts_with(&start))
        .filter(|request| {
            !documents
                .iter()
                .any(|digest| request.path.ends_with(digest))
        })
        .count()
}

fn sent(registry: &MemoryRegistry) -> usize {
    let all = registry.requests().into_iter();
    all.filter(|request| request.method == Method::PUT && request.path.contains("/blobs/"))
        .count()
}

/// The digest of a cache's document.
fn document(bench: &Bench, repository: &str, tag: &str) -> String {
    let manifest = crate::manifest(&bench.registry, repository, tag);
    manifest.config.digest.hex().to_owned()
}

#[tokio::test]
async fn a_fresh_engine_finds_every_step_in_a_registry_and_fetches_no_layer() {
    let bench = Bench::start().await;
    files(&bench);
    let first = build(&bench, TEXT, |options| {
        options.caches = vec![to_registry(&bench, "cache:main", CacheMode::Max)];
    })
    .await;
    assert_eq!((first.counts.steps, first.counts.cached), (STEPS, 0));
    let manifest = crate::manifest(&bench.registry, "cache", "main");
    let raw = bench.registry.manifest("cache", "main").unwrap();
    assert_eq!(
        raw.media_type.as_str(),
        "application/vnd.oci.image.manifest.v1+json"
    );
    assert_eq!(
        manifest.config.media_type.as_str(),
        "application/vnd.coopery.cache.config.v1+json"
    );
    assert_eq!(manifest.layers.len(), STEPS);

    bench.forget();
    let second = build(&bench, TEXT, |options| {
        options.imports = vec![from_registry(&bench, "cache:main")];
    })
    .await;
    assert_eq!((second.counts.steps, second.counts.cached), (STEPS, STEPS));
    assert_eq!(first.image(), second.image());
    let document = [document(&bench, "cache", "main")];
    assert_eq!(pulled(&bench.registry, "cache", &document), 0);
    assert_eq!(pulled(&bench.registry, "app", &[]), 0);
    assert!(!bench.has_layers());

    // To a repository that has nothing of it, all goes by mounts but the configuration.
    bench.forget();
    bench
        .build_with(TEXT, &["other:1"], |options| {
            options.imports = vec![from_registry(&bench, "cache:main")];
        })
        .await
        .unwrap();
    assert_eq!(pulled(&bench.registry, "cache", &document), 0);
    assert_eq!(sent(&bench.registry), 1);
}

#[tokio::test]
async fn a_step_that_looks_inside_fetches_what_it_needs() {
    let bench = Bench::start().await;
    files(&bench);
    let cache = || from_registry(&bench, "cache:main");
    build(&bench, TEXT, |options| {
        options.caches = vec![to_registry(&bench, "cache:main", CacheMode::Max)];
    })
    .await;
    bench.forget();
    // Another copy out of the first stage: its two layers are looked into, those of the image are not.
    let text = TEXT.replace("/copied", "/elsewhere");
    let built = build(&bench, &text, |options| options.imports = vec![cache()]).await;
    assert_eq!(built.counts.cached, STEPS - 2);
    let document = [document(&bench, "cache", "main")];
    assert_eq!(pulled(&bench.registry, "cache", &document), 3);
    let causes: Vec<_> = built.misses.iter().map(|m| m.cause.to_string()).collect();
    // The trail came with the cache: the instruction is another one, and so it never ran.
    assert_eq!(causes[0], "first build of this step");
    let image = bench.layer_names("app", "1", 1);
    assert_eq!(image, ["elsewhere"]);

    // What changed in the context is told although this engine never built it.
    bench.forget();
    bench.file("b", "other");
    let built = build(&bench, TEXT, |options| options.imports = vec![cache()]).await;
    let causes: Vec<_> = built.misses.iter().map(|m| m.cause.to_string()).collect();
    assert_eq!(causes[0], "files changed: b");
    assert_eq!(built.counts.cached, 2);
}

#[tokio::test]
async fn mode_min_has_the_steps_of_the_image_only() {
    let bench = Bench::start().await;
    files(&bench);
    build(&bench, TEXT, |options| {
        options.caches = vec![to_registry(&bench, "cache:min", CacheMode::Min)];
    })
    .await;
    let manifest = crate::manifest(&bench.registry, "cache", "min");
    assert_eq!(manifest.layers.len(), 3);
    bench.forget();
    let cache = || vec![from_registry(&bench, "cache:min")];
    // Unchanged, nothing of the other stage is needed.
    let second = build(&bench, TEXT, |options| options.imports = cache()).await;
    assert_eq!(second.counts.cached, STEPS);
    bench.forget();
    bench.file("a", "other");
    let third = build(&bench, TEXT, |options| options.imports = cache()).await;
    // WORKDIR of the first stage is not in the cache.
    assert_eq!(third.counts.cached, 1);
}

#[tokio::test]
async fn a_directory_is_a_cache_as_well() {
    let bench = Bench::start().await;
    files(&bench);
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("cache");
    let place = |tag: &str| CachePlace::Directory {
        path: path.clone(),
        tag: tag.into(),
        prune: true,
    };
    let first = build(&bench, TEXT, |options| {
        options.imports = vec![directory(&path)];
        options.caches = vec![
            target(place("latest"), CacheMode::Max),
            CacheTarget {
                compression: Some(Compression::Zstd { level: 3 }),
                ..target(place("small"), CacheMode::Min)
            },
        ];
    })
    .await;
    assert_eq!(first.counts.cached, 0);
    let layout = store::Layout::open(&path).unwrap();
    assert_eq!(layout.index().unwrap().manifests.len(), 2);
    for tag in ["latest", "small"] {
        bench.forget();
        let source = CacheSource::Directory {
            path: path.clone(),
            wanted: Wanted::Tag(tag.into()),
        };
        let built = bench.build_with(TEXT, &["new:1"], |options| options.imports = vec![source]);
        let built = built.await.unwrap();
        assert_eq!(built.counts.cached, STEPS, "{tag}");
        // Layers of another compression are made anew, so the image is the same.
        assert_eq!(built.image(), first.image(), "{tag}");
    }
    let found = layout.find("latest").unwrap().unwrap();
    for (wanted, cached) in [
        (Wanted::Digest(found.digest), STEPS),
        (Wanted::Tag("absent".into()), 0),
        (Wanted::Digest(oci::Digest::of(b"absent")), 0),
    ] {
        bench.forget();
        let path = path.clone();
        let built = build(&bench, TEXT, |options| {
            options.imports = vec![CacheSource::Directory { path, wanted }];
        });
        assert_eq!(built.await.counts.cached, cached);
    }
}

#[tokio::test]
async fn a_directory_keeps_what_its_names_lead_to_and_no_more() {
    let bench = Bench::start().await;
    files(&bench);
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("cache");
    let count = || {
        let blobs = fs_err::read_dir(path.join("blobs/sha256")).unwrap();
        blobs.count()
    };
    let write = async |content: &str, tag: &str, prune| {
        bench.file("b", content);
        let place = CachePlace::Directory {
            path: path.clone(),
            tag: tag.into(),
            prune,
        };
        // The directory is read and written by one build, as by a job that keeps it.
        build(&bench, TEXT, |options| {
            dated(options);
            options.imports = vec![directory(&path)];
            options.caches = vec![target(place, CacheMode::Max)];
        })
        .await;
        count()
    };
    let kept = write("one", "kept", true).await;
    // A layer, a document and a manifest are new each time.
    assert_eq!(write("two", "latest", true).await, kept + 3);
    assert_eq!(write("three", "latest", false).await, kept + 6);
    assert_eq!(write("four", "latest", true).await, kept + 3);
    for (content, tag) in [("one", "kept"), ("four", "latest")] {
        bench.forget();
        bench.file("b", content);
        let source = CacheSource::Directory {
            path: path.clone(),
            wanted: Wanted::Tag(tag.into()),
        };
        let built = build(&bench, TEXT, |options| {
            dated(options);
            options.imports = vec![source];
        });
        assert_eq!(built.await.counts.cached, STEPS, "{tag}");
    }
}

#[tokio::test]
async fn an_image_carries_the_cache_of_its_own_steps() {
    let bench = Bench::start().await;
    files(&bench);
    let base = "FROM scratch\nCOPY a /base\n";
    bench.build(base, &["base:1"]).await.unwrap();
    let text = TEXT.replace(
        "FROM scratch\nCOPY b",
        &format!("FROM {}\nCOPY b", bench.name("base:1")),
    );
    let inline = |options: &mut BenchOptions| options.settings.inline_cache = true;
    let first = build(&bench, &text, inline).await;
    bench.forget();
    let second = bench.build_with(&text, &["other:1"], |options| {
        inline(options);
        options.imports = vec![from_registry(&bench, "app:1")];
    });
    let second = second.await.unwrap();
    assert_eq!(second.counts.cached, STEPS);
    assert_eq!(first.image(), second.image());
    // All layers and the configuration are mounted or there.
    assert!(sent(&bench.registry) <= 1);
    let without = build(&bench, &text, |_| {}).await;
    assert_ne!(without.image().config, first.image().config);
}

#[tokio::test]
async fn an_index_of_images_carries_the_caches_of_all() {
    let bench = Bench::start().await;
    files(&bench);
    let platforms = || {
        vec![
            "linux/amd64".parse().unwrap(),
            "linux/arm64".parse().unwrap(),
        ]
    };
    let text = "FROM scratch\nARG TARGETARCH\nCOPY a /a-$TARGETARCH\n";
    build(&bench, text, |options| {
        options.platforms = platforms();
        options.settings.inline_cache = true;
    })
    .await;
    bench.forget();
    let second = build(&bench, text, |options| {
        options.platforms = platforms();
        options.imports = vec![from_registry(&bench, "app:1")];
    })
    .await;
    assert_eq!((second.counts.steps, second.counts.cached), (2, 2));
}

#[tokio::test]
async fn what_is_damaged_or_absent_is_left_aside() {
    let bench = Bench::start().await;
    files(&bench);
    let export = |name: &str| to_registry(&bench, name, CacheMode::Max);
    let first = build(&bench, TEXT, |options| {
        dated(options);
        options.caches = vec![export("cache:good")];
    })
    .await;
    let registry = &bench.registry;
    let good = crate::manifest(registry, "cache", "good");
    let json = registry.blob("cache", &good.config.digest).unwrap();

    // Documents that make no sense: each is the configuration of a cache with the good layers.
    let put = |name: &str, json: &[u8]| {
        let digest = registry.add_blob("cache", json.to_vec());
        let mut manifest = good.clone();
        manifest.config.size = json.len() as u64;
        manifest.config.digest = digest;
        let bytes = serde_json::to_vec(&manifest).unwrap();
        registry.add_manifest("cache", Some(name), oci::MediaType::OciManifest, bytes);
    };
    put("truncated", &json[..json.len() / 2]);
    put(
        "nonsense",
        b"{\"version\":1,\"layers\":[],\"records\":[{\"keys\":[]}]}",
    );
    put("version", b"{\"version\":9}");
    put("oversized", &vec![b' '; (16 << 20) + 1]);
    // The digest is another one than that of the bytes.
    put("lie", b"x");
    let lie = crate::manifest(registry, "cache", "lie").config.digest;
    registry.set_faults(move |request| {
        let it = request.method == Method::GET && request.path.ends_with(lie.as_str());
        it.then_some(Fault::Corrupt)
    });
    // A cache of BuildKit is an index of layers, with the configuration among them.
    let layers = good.layers.iter().cloned();
    let kind = "application/vnd.buildkit.cacheconfig.v0";
    let config = oci::Descriptor::new(kind.into(), good.config.digest.clone(), good.config.size);
    let index = oci::Index::new(layers.chain([config]).collect());
    let bytes = serde_json::to_vec(&index).unwrap();
    registry.add_manifest("cache", Some("buildkit"), oci::MediaType::OciIndex, bytes);
    for name in [
        "absent",
        "buildkit",
        "truncated",
        "nonsense",
        "version",
        "oversized",
        "lie",
    ] {
        bench.forget();
        let built = build(&bench, TEXT, |options| {
            dated(options);
            options.imports = vec![from_registry(&bench, &format!("cache:{name}"))];
        });
        assert_eq!(built.await.counts.cached, 0, "{name}");
        let manifest = crate::manifest(registry, "app", "1");
        assert_eq!(manifest.layers, first.image().layers, "{name}");
    }
    registry.clear_faults();

    // An image without a cache in it, and a second cache that has what the first lacks.
    bench.forget();
    let built = build(&bench, TEXT, |options| {
        dated(options);
        options.imports = ["app:1", "cache:absent", "cache:good"]
            .map(|name| from_registry(&bench, name))
            .into();
    });
    assert_eq!(built.await.counts.cached, STEPS);
}

#[tokio::test]
async fn layers_that_are_gone_or_damaged_are_made_anew() {
    let bench = Bench::start().await;
    files(&bench);
    let first = build(&bench, TEXT, |options| {
        dated(options);
        options.caches = vec![to_registry(&bench, "cache:main", CacheMode::Max)];
    })
    .await;
    let layers: Vec<_> = crate::manifest(&bench.registry, "cache", "main").layers;
    let import = || vec![from_registry(&bench, "cache:main")];
    // A damaged blob where a step looks inside: the copy of the first stage.
    let text = TEXT.replace("/copied", "/elsewhere");
    bench.forget();
    let paths: Vec<_> = layers
        .iter()
        .map(|layer| layer.digest.to_string())
        .collect();
    bench.registry.set_faults(move |request| {
        let it = request.method == Method::GET
            && request.path.contains("/blobs/")
            && paths.iter().any(|digest| request.path.ends_with(digest));
        it.then_some(Fault::Corrupt)
    });
    let built = build(&bench, &text, |options| {
        dated(options);
        options.imports = import();
    })
    .await;
    assert_eq!(built.counts.cached, 0);
    assert_eq!(bench.layer_names("app", "1", 1), ["elsewhere"]);
    bench.registry.clear_faults();

    // Blobs that are gone, where the image is pushed to another repository.
    for layer in &layers {
        bench.registry.remove_blob("cache", &layer.digest);
    }
    bench.forget();
    let built = bench.build_with(TEXT, &["new:1"], |options| {
        dated(options);
        options.imports = import();
    });
    let built = built.await.unwrap();
    assert_eq!(built.counts.cached, 0);
    assert_eq!(built.image().layers, first.image().layers);
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_fails_the_build_unless_that_is_ignored() {
    let bench = Bench::start().await;
    files(&bench);
    bench.registry.set_faults(|request| {
        let it = request.method == Method::PUT && request.path.contains("/v2/cache/manifests/");
        it.then_some(Fault::Answer(403, vec![], String::new()))
    });
    for ignore_error in [false, true] {
        let built = bench.build_with(TEXT, &["app:1"], |options| {
            options.caches = vec![CacheTarget {
                ignore_error,
                ..to_registry(&bench, "cache:main", CacheMode::Min)
            }];
        });
        match built.await {
            Ok(_) => assert!(ignore_error),
            Err(error) => {
                let text = error.to_string();
                assert!(
                    !ignore_error && text.contains("exporting the cache to"),
                    "{text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn two_builds_that_write_one_cache_leave_a_whole_one() {
    let bench = Bench::start().await;
    let other = Bench::start().await;
    files(&bench);
    other.file("a", "of the other").file("b", "content of b");
    let name = reference(&bench, "cache:main");
    let export = || vec![target(CachePlace::Registry(name.clone()), CacheMode::Max)];
    let builds = (
        bench.build_with(TEXT, &["app:1"], |options| options.caches = export()),
        other.build_with(TEXT, &["app:1"], |options| options.caches = export()),
    );
    let (one, two) = tokio::join!(builds.0, builds.1);
    one.unwrap();
    two.unwrap();
    let manifest = crate::manifest(&bench.registry, "cache", "main");
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        assert!(bench.registry.blob("cache", &blob.digest).is_some());
    }
    // Of one of the two all steps are there.
    let mut cached = Vec::new();
    for bench in [&bench, &other] {
        bench.forget();
        let built = build(bench, TEXT, |options| {
            options.imports = vec![CacheSource::Registry(name.clone())];
        });
        cached.push(built.await.counts.cached);
    }
    assert!(cached.contains(&STEPS), "{cached:?}");
}

#[tokio::test]
async fn another_place_keeps_blobs_and_records_and_no_layers() {
    let bench = Bench::start().await;
    files(&bench);
    let outside = tempfile::tempdir().unwrap();
    let volume = Cache::open(outside.path()).unwrap();
    let both = |options: &mut BenchOptions| {
        options.imports = vec![CacheSource::Store(volume.clone())];
        options.caches = vec![target(CachePlace::Store(volume.clone()), CacheMode::Max)];
    };
    let first = build(&bench, TEXT, both).await;
    assert_eq!(first.counts.cached, 0);
    let count = |name: &str| {
        let entries = fs_err::read_dir(outside.path().join(name)).unwrap();
        entries.count()
    };
    // A copy out of a stage is found by two keys.
    assert_eq!(
        (count("layers"), count("blobs/sha256"), count("cache")),
        (0, STEPS, STEPS + 1)
    );
    bench.forget();
    let second = build(&bench, TEXT, both).await;
    assert_eq!(second.counts.cached, STEPS);
    assert_eq!(first.image(), second.image());
    bench.forget();
    bench.file("b", "other");
    let third = build(&bench, TEXT, both).await;
    assert_eq!(third.misses[0].cause.to_string(), "files changed: b");
}
