//! Lists page by page: tags and referrers of registries that give them in their own ways.

use std::fmt::Write;

use distribution::{ErrorKind, ReferrersOrigin, fallback_tag, memory::MemoryRegistry};
use futures::TryStreamExt;
use oci::{Descriptor, Digest, Index, MediaType};

use crate::support::{Script, answer, client};

#[tokio::test]
async fn all_pages_of_tags_are_listed() {
    let registry = MemoryRegistry::start().await;
    for number in 0..2500 {
        let tag = format!("v{number:04}");
        registry.add_manifest("many", Some(&tag), MediaType::OciManifest, "{}");
    }
    let repository = registry.repository("many");
    let tags = client().tags(&repository, 10_000).await.unwrap();
    assert_eq!((tags.len(), tags[2499].as_str()), (2500, "v2499"));
    assert_eq!(registry.requests().len(), 3);
    let error = client().tags(&repository, 2000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn pages_of_tags_neither_leave_nor_circle() {
    for (link, problem) in [
        (
            r#"<http://127.0.0.1:1/v2/a/tags/list>; rel="next""#,
            "another server",
        ),
        (r#"</v2/a/tags/list?n=1000>; rel="next""#, "circle"),
    ] {
        let page = r#"{"tags":["1",".invalid"]}"#;
        let server = Script::start(move |_, _| answer(200, &[("link", link)], page)).await;
        let error = client()
            .tags(&server.repository("a"), 100)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_list_of_171_pages_is_followed_by_its_cursors() {
    let server = Script::start(|number, request| {
        let tags: Vec<_> = (0..10).map(|tag| format!("\"v{number}-{tag}\"")).collect();
        let body = format!(r#"{{"tags":[{}]}}"#, tags.join(","));
        // Each page by another form of reference, none of which tells the last tag.
        let next = match number % 3 {
            0 => format!("</v2/a/tags/list?next_page=opaque{number}%3D>; rel=\"next\""),
            1 => format!("<list?cursor={number}>;rel=next"),
            _ => {
                let host = request.headers()["host"].to_str().unwrap();
                format!("<http://{host}/v2/a/tags/list?c={number}>; rel=\"next\"")
            }
        };
        let headers = [("link", next.as_str())];
        answer(200, if number < 170 { &headers } else { &[] }, body)
    })
    .await;
    let repository = server.repository("a");
    let pages: Vec<_> = client().tag_pages(&repository).try_collect().await.unwrap();
    assert_eq!((pages.len(), server.seen().len()), (171, 171));
    assert_eq!(pages.concat().len(), 1710);
    let lines = server.lines();
    assert_eq!(lines[0], "GET /v2/a/tags/list?n=1000");
    assert_eq!(lines[1], "GET /v2/a/tags/list?next_page=opaque0%3D");
    assert_eq!(lines[2], "GET /v2/a/tags/list?cursor=1");
    assert_eq!(lines[3], "GET /v2/a/tags/list?c=2");
}

#[tokio::test]
async fn a_list_that_ends_in_an_error_is_no_list() {
    let server = Script::start(|number, _| {
        let link = format!("</v2/a/tags/list?c={number}>; rel=\"next\"");
        match number {
            0 => answer(200, &[("link", &link)], r#"{"tags":["1"]}"#),
            _ => answer(404, &[], ""),
        }
    })
    .await;
    let error = client()
        .tags(&server.repository("a"), 10)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn pages_without_entries_end() {
    let server = Script::start(|number, _| {
        let link = format!("</v2/a/tags/list?c={number}>; rel=\"next\"");
        answer(200, &[("link", &link)], r#"{"tags":[]}"#)
    })
    .await;
    let error = client()
        .tags(&server.repository("a"), 10)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no end"), "{error}");
    assert!(server.seen().len() < 20);
}

#[tokio::test]
async fn registries_that_refuse_a_page_size_choose_their_own() {
    let server = Script::start(|_, request| {
        if request.uri().query().is_some() {
            let body = r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}"#;
            return answer(400, &[], body);
        }
        answer(200, &[], r#"{"tags":["1","2"]}"#)
    })
    .await;
    let tags = client().tags(&server.repository("a"), 10).await.unwrap();
    assert_eq!((tags.len(), server.seen().len()), (2, 2));
}

#[tokio::test]
async fn a_page_that_breaks_off_is_asked_for_again() {
    let registry = MemoryRegistry::start().await;
    for tag in ["1", "2"] {
        registry.add_manifest("a", Some(tag), MediaType::OciManifest, "{}");
    }
    registry.set_faults(|r| (r.number == 0).then_some(distribution::memory::Fault::Cut(5)));
    let tags = client().tags(&registry.repository("a"), 10).await.unwrap();
    assert_eq!((tags.len(), registry.requests().len()), (2, 2));
}

fn referrer(artifact_type: &str) -> Descriptor {
    let mut descriptor = Descriptor::of(MediaType::OciManifest, artifact_type.as_bytes());
    descriptor.artifact_type = Some(artifact_type.into());
    descriptor
}

#[tokio::test]
async fn referrers_are_listed_and_filtered() {
    for filters in [false, true] {
        let server = Script::start(move |number, request| {
            let entries = if filters {
                vec!["sbom"]
            } else {
                vec!["sbom", "signature"]
            };
            let entries = entries.into_iter().map(referrer).collect();
            let body = serde_json::to_string(&Index::new(entries)).unwrap();
            let link = format!("<{}&page=2>; rel=\"next\"", request.uri());
            let mut headers = vec![("content-type", "application/vnd.oci.image.index.v1+json")];
            if filters {
                headers.push(("oci-filters-applied", "artifactType"));
            }
            if number == 0 {
                headers.push(("link", &link));
            }
            answer(200, &headers, body)
        })
        .await;
        let digest = Digest::of(b"image");
        let repository = server.repository("a");
        let client = client();
        let found = client.referrers(&repository, &digest, Some("sbom"));
        let found = found.await.unwrap();
        assert_eq!(found.origin, ReferrersOrigin::Api);
        assert_eq!(found.manifests, [referrer("sbom"), referrer("sbom")]);
        let lines = server.lines();
        assert_eq!(
            lines[0],
            format!("GET /v2/a/referrers/{digest}?artifactType=sbom")
        );
        assert_eq!(lines.len(), 2);
    }
}

#[tokio::test]
async fn without_the_api_referrers_are_under_the_fallback_tag() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a");
    let digest = Digest::of(b"image");
    let none = client()
        .referrers(&repository, &digest, None)
        .await
        .unwrap();
    assert_eq!(none.origin, ReferrersOrigin::Nowhere);
    assert!(none.manifests.is_empty());
    let index = Index::new(vec![referrer("sbom"), referrer("signature")]);
    let index = serde_json::to_string(&index).unwrap();
    let tag = fallback_tag(&digest);
    registry.add_manifest("a", Some(tag.as_str()), MediaType::OciIndex, index);
    let all = client()
        .referrers(&repository, &digest, None)
        .await
        .unwrap();
    assert_eq!(all.origin, ReferrersOrigin::FallbackTag);
    assert_eq!(all.manifests.len(), 2);
    let client = client();
    let some = client.referrers(&repository, &digest, Some("signature"));
    assert_eq!(some.await.unwrap().manifests, [referrer("signature")]);
}

#[tokio::test]
async fn endless_referrers_are_cut_off() {
    let server = Script::start(|number, _| {
        let mut body = String::from(r#"{"schemaVersion":2,"manifests":["#);
        for entry in 0..1000 {
            let digest = Digest::of(format!("{number} {entry}").as_bytes());
            let comma = if entry == 0 { "" } else { "," };
            let _ = write!(
                body,
                r#"{comma}{{"mediaType":"x/y","digest":"{digest}","size":1}}"#
            );
        }
        body.push_str("]}");
        let link = format!("</v2/a/referrers/x?page={number}>; rel=\"next\"");
        answer(200, &[("link", &link)], body)
    })
    .await;
    let repository = server.repository("a");
    let (client, digest) = (client(), Digest::of(b""));
    let found = client.referrers(&repository, &digest, None);
    assert_eq!(found.await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(server.seen().len(), 11);
}
