//! Builds without RUN against in-memory registries: what is pushed, in which order, and what is never fetched.
#![expect(clippy::unwrap_used, reason = "tests")]

mod base;
mod bench;
mod caching;
mod copy_from;
mod failure;
mod files;
mod mirrors;
mod output;
mod platforms;
mod remote;
mod shared_cache;

use http::Method;
use oci::Manifest;

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
