//! Bases that a mirror has: taken from there without a word to the registry that their name says, and from that registry
//! where the mirror lacks them.

use builder::base::{Mirrored, Mirrors};
use distribution::copy::{CopyOptions, copy};
use distribution::memory::MemoryRegistry;

use crate::bench::{Bench, client};

#[tokio::test]
async fn a_base_comes_from_its_mirror_or_else_from_its_registry() {
    let bench = Bench::start().await;
    let upstream = MemoryRegistry::start().await;
    bench.file("rootfs/etc/passwd", "root:x:0:0::/:/bin/sh\n");
    let text = "FROM scratch\nCOPY rootfs /\n";
    bench.build(text, &["mirror/alpine:3"]).await.unwrap();
    let name = |tag: &str| format!("{}/library/alpine:{tag}", upstream.address());
    let mirrored = bench.name("mirror/alpine:3").parse().unwrap();
    let options = CopyOptions::default();
    for tag in ["3", "4"] {
        let to = name(tag).parse().unwrap();
        copy(&client(), &mirrored, &client(), &to, &options)
            .await
            .unwrap();
    }
    let mirrors = || {
        Mirrors::new(vec![Mirrored {
            source: upstream.repository("library/alpine"),
            mirror: bench.registry.repository("mirror/alpine"),
            tags: None,
        }])
    };
    for (tag, is_mirrored) in [("3", true), ("4", false)] {
        bench.forget();
        upstream.clear_requests();
        let base = name(tag);
        let text = format!("FROM {base}\nCOPY --from={base} /etc/passwd /copied\n");
        let built = bench
            .build_with(&text, &["app:1"], |options| options.mirrors = mirrors())
            .await
            .unwrap();
        assert_eq!(built.bases.len(), 1);
        assert_eq!(built.bases[0].name, base);
        let mirror = built.bases[0].mirror.as_ref();
        assert_eq!(mirror.is_some(), is_mirrored, "{mirror:?}");
        assert_eq!(
            upstream.requests().is_empty(),
            is_mirrored,
            "{:?}",
            upstream.requests()
        );
    }
    // What is named by its digest is the same everywhere.
    let digest = upstream.manifest("library/alpine", "3").unwrap().digest;
    bench.forget();
    upstream.clear_requests();
    let text = format!("FROM {}@{digest}\nLABEL a=1\n", name("9"));
    let built = bench
        .build_with(&text, &["app:2"], |options| options.mirrors = mirrors())
        .await
        .unwrap();
    assert!(built.bases[0].mirror.is_some(), "named by its digest");
    assert!(upstream.requests().is_empty());
}
