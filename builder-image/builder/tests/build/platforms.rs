//! Several platforms of one build.

use http::Method;
use oci::ImageConfig;

use crate::bench::{self, Bench};
use crate::manifest;

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
