//! Images and names of unusual kinds: children that no platform selects, documents at the limit of their size, Docker Hub.

use bytes::Bytes;
use distribution::{
    Credentials, DockerConfig, ErrorKind, Proxies,
    copy::{CopyOptions, copy},
    memory::MemoryRegistry,
};
use oci::{Descriptor, Index, MAX_MANIFEST_BYTES, MediaType};

use crate::support::{Script, add_image, answer, builder, chunked, client};

#[tokio::test]
async fn children_of_all_kinds_are_kept_with_their_bytes() {
    let (source, target) = (MemoryRegistry::start().await, MemoryRegistry::start().await);
    let image = add_image(&source, "a", None, "amd64", &[("layer", 10)]);
    // What BuildKit makes of provenance: a platform that is none, and annotations that tell what it is about.
    let mut attestation = add_image(&source, "a", None, "unknown", &[("provenance", 20)])
        .with_platform("unknown/unknown".parse().unwrap());
    let about = [
        (
            "vnd.docker.reference.type",
            "attestation-manifest".to_owned(),
        ),
        ("vnd.docker.reference.digest", image.digest.to_string()),
    ];
    attestation.annotations = about.map(|(key, value)| (key.to_owned(), value)).into();
    let inner = add_image(&source, "a", None, "arm64", &[("inner", 30)]);
    let nested = serde_json::to_string_pretty(&Index::new(vec![inner])).unwrap();
    source.add_manifest("a", None, MediaType::OciIndex, nested.clone());
    let nested = Descriptor::of(MediaType::OciIndex, nested.as_bytes());
    let index = serde_json::to_string_pretty(&Index::new(vec![image, attestation, nested]));
    source.add_manifest("a", Some("1"), MediaType::OciIndex, index.unwrap());
    let tag = "1".parse::<oci::Tag>().unwrap();
    let (from, to) = (source.repository("a"), target.repository("b"));
    let (from, to) = (from.tagged(tag.clone()), to.tagged(tag));
    let client = client();
    let copied = copy(&client, &from, &client, &to, &CopyOptions::default()).await;
    assert_eq!(copied.unwrap().manifests, 5);
    assert_eq!(target.manifest("b", "1"), source.manifest("a", "1"));
}

#[tokio::test]
async fn manifests_may_be_as_large_as_registries_take_them() {
    let most = usize::try_from(MAX_MANIFEST_BYTES).unwrap();
    for (size, is_taken) in [(most, true), (most + 1, false)] {
        for announced in [true, false] {
            let body = Bytes::from(vec![b' '; size]);
            let server = Script::start(move |_, _| {
                if announced {
                    return answer(200, &[], body.clone());
                }
                let chunks = body.chunks(65_536).map(|chunk| body.slice_ref(chunk));
                chunked(200, chunks.collect())
            })
            .await;
            let reference = server.repository("a").tagged("1".parse().unwrap());
            let answered = client().manifest(&reference).await;
            assert_eq!(answered.is_ok(), is_taken, "{size} {announced}");
            if let Err(error) = answered {
                assert_eq!(error.kind(), ErrorKind::TooLarge);
            }
            assert_eq!(server.seen().len(), 1);
        }
    }
}

#[tokio::test]
async fn docker_hub_has_three_names() {
    // A proxy stands for it.
    let hub = Script::start(|_, request| {
        let challenge = [("www-authenticate", "Basic realm=\"hub\"")];
        if request.headers().contains_key("authorization") {
            answer(200, &[], "{}")
        } else {
            answer(401, &challenge, "")
        }
    })
    .await;
    let proxies = Proxies {
        http: Some(format!("http://{}", hub.address)),
        ..Proxies::default()
    };
    let config = DockerConfig::default()
        .with("https://index.docker.io/v1/", Credentials::basic("u", "p"))
        .unwrap();
    let client = builder()
        .plain_http(["docker.io"])
        .proxies(proxies)
        .keychain(config)
        .build()
        .unwrap();
    for name in [
        "alpine:3",
        "docker.io/library/alpine:3",
        "index.docker.io/library/alpine:3",
    ] {
        client.manifest(&name.parse().unwrap()).await.unwrap();
    }
    let line = "GET http://registry-1.docker.io/v2/library/alpine/manifests/3";
    assert_eq!(hub.lines(), [line; 4]);
}

#[tokio::test]
async fn a_tag_beside_a_digest_does_not_count() {
    let server = Script::start(|_, _| answer(200, &[], "0123456789")).await;
    let digest = oci::Digest::of(b"0123456789");
    let reference = server.repository("a").tagged("1".parse().unwrap());
    client()
        .manifest(&reference.pinned(digest.clone()))
        .await
        .unwrap();
    assert_eq!(server.lines(), [format!("GET /v2/a/manifests/{digest}")]);
}
