//! Pushing: what is sent, what is not sent twice, and where uploads lead.

use bytes::Bytes;
use distribution::{
    ErrorKind, Pushed,
    memory::{Access, Fault, MemoryRegistry},
};
use oci::{Descriptor, Digest, Manifest, MediaType};

use crate::support::{KIB, Script, answer, client, client_with, count, lines};

#[tokio::test]
async fn a_blob_takes_two_requests_and_none_of_its_bytes_the_second_time() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a/b");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let bytes = vec![7; 900 * KIB];
    fs_err::write(&path, &bytes).unwrap();
    let blob = Descriptor::of(MediaType::OciLayer, &bytes);
    let client = client();
    for (expected, requests) in [(Pushed::Uploaded, 2), (Pushed::Mounted, 1)] {
        registry.clear_requests();
        let pushed = client.upload_file(&repository, &blob, &path).await.unwrap();
        assert_eq!((pushed, registry.requests().len()), (expected, requests));
    }
    assert_eq!(registry.blob("a/b", &blob.digest).unwrap(), bytes);
}

#[tokio::test]
async fn readers_bytes_and_empty_blobs_are_pushed() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a/b");
    let client = client();
    for bytes in ["", "some bytes"] {
        let blob = client
            .upload_bytes(&repository, MediaType::OciConfig, bytes.into())
            .await
            .unwrap();
        assert_eq!(registry.blob("a/b", &blob.digest).unwrap(), bytes);
    }
    let blob = Descriptor::of(MediaType::OciLayer, b"from a reader");
    let pushed = client
        .upload(&repository, &blob, &b"from a reader"[..])
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert!(registry.blob("a/b", &blob.digest).is_some());
    assert_eq!(registry.open_uploads(), 0);
}

#[tokio::test]
async fn a_mount_that_fails_becomes_the_upload() {
    let registry = MemoryRegistry::start().await;
    let (to, from) = (registry.repository("to"), registry.repository("from"));
    let client = client();
    let blob = Descriptor::of(MediaType::OciLayer, b"blob");
    let upload = client
        .mount(&to, &blob.digest, &from)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(registry.open_uploads(), 1);
    let content = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"blob"))]));
    client.finish_upload(upload, &blob, content).await.unwrap();
    assert_eq!((registry.open_uploads(), registry.requests().len()), (0, 2));
    assert!(registry.blob("to", &blob.digest).is_some());

    let other = Digest::of(b"other");
    let upload = client.mount(&to, &other, &from).await.unwrap().unwrap();
    client.cancel_upload(upload).await.unwrap();
    assert_eq!(registry.open_uploads(), 0);
    registry.add_blob("from", "other");
    assert!(client.mount(&to, &other, &from).await.unwrap().is_none());
    assert!(registry.blob("to", &other).is_some());
}

#[tokio::test]
async fn an_upload_that_fails_is_made_again() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a/b");
    registry.set_faults(|r| {
        let busy = Fault::Answer(503, vec![("retry-after", "0".into())], String::new());
        (r.method == "PUT" && r.number < 4).then_some(busy)
    });
    let client = client();
    let pushed = client.upload_bytes(&repository, MediaType::OciLayer, "again".into());
    let blob = pushed.await.unwrap();
    assert!(registry.blob("a/b", &blob.digest).is_some());
    let methods: Vec<_> = registry
        .requests()
        .iter()
        .map(|r| r.method.to_string())
        .collect();
    assert_eq!(methods, ["POST", "PUT", "POST", "PUT", "POST", "PUT"]);
}

#[tokio::test]
async fn content_of_another_length_is_told_as_such() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a/b");
    for (content, announced) in [(&b"short"[..], 10), (&b"much too long"[..], 5)] {
        let blob = Descriptor::new(MediaType::OciLayer, Digest::of(content), announced);
        let error = client()
            .upload(&repository, &blob, content)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
    }
    let lie = Descriptor::new(MediaType::OciLayer, Digest::of(b"a"), 1);
    let error = client()
        .upload(&repository, &lie, &b"b"[..])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("400 (DIGEST_INVALID)"),
        "{error}"
    );
}

#[tokio::test]
async fn uploads_to_other_hosts_get_no_credentials() {
    let store = Script::start(|_, _| answer(201, &[], "")).await;
    let location = format!("http://{}/upload?sig=1", store.address);
    let access = Access::Basic {
        username: "user".into(),
        password: "s3cret".into(),
    };
    let registry = MemoryRegistry::start_with(access).await;
    registry.set_faults(move |r| {
        let headers = vec![("location", location.clone())];
        let authorized = r.headers.contains_key("authorization");
        (authorized && r.method == "POST").then(|| Fault::Answer(202, headers, String::new()))
    });
    let client = client_with(registry.host().as_str(), "user", "s3cret");
    let repository = registry.repository("a/b");
    let pushed = client.upload_bytes(&repository, MediaType::OciLayer, "blob".into());
    let blob = pushed.await.unwrap();
    let seen = store.seen();
    let digest = blob.digest.as_str().replace(':', "%3A");
    assert_eq!(seen[0].line, format!("PUT /upload?sig=1&digest={digest}"));
    assert_eq!((seen.len(), seen[0].authorization.as_ref()), (1, None));
}

#[tokio::test]
async fn manifests_are_put_deleted_and_checked() {
    let registry = MemoryRegistry::start().await;
    let repository = registry.repository("a/b");
    let client = client();
    let config = client
        .upload_bytes(&repository, MediaType::OciConfig, "{}".into())
        .await
        .unwrap();
    let json: Bytes = serde_json::to_vec(&Manifest::new(config, vec![]))
        .unwrap()
        .into();
    let tagged = repository.tagged("v1".parse().unwrap());
    let digest = client
        .put_manifest(&tagged, &MediaType::OciManifest, json.clone())
        .await
        .unwrap();
    assert_eq!(registry.manifest("a/b", "v1").unwrap().digest, digest);
    assert!(client.delete_manifest(&tagged).await.unwrap());
    assert!(!client.delete_manifest(&tagged).await.unwrap());
    assert!(registry.tags("a/b").is_empty());

    let requests = registry.requests().len();
    let wrong = repository.at(Digest::of(b"something else"));
    let put = client.put_manifest(&wrong, &MediaType::OciManifest, json.clone());
    assert_eq!(put.await.unwrap_err().kind(), ErrorKind::DigestMismatch);
    assert_eq!(registry.requests().len(), requests);

    let lie = Digest::of(b"lie").to_string();
    registry.set_faults(move |_| {
        let headers = vec![("docker-content-digest", lie.clone())];
        Some(Fault::Answer(201, headers, String::new()))
    });
    let put = client.put_manifest(&tagged, &MediaType::OciManifest, json);
    assert_eq!(put.await.unwrap_err().kind(), ErrorKind::DigestMismatch);
}

#[tokio::test]
async fn a_token_that_ends_between_post_and_put_is_renewed() {
    let registry = MemoryRegistry::start_with(Access::Token {
        username: "user".into(),
        password: "s3cret".into(),
        anonymous_pull: false,
        expires_in: 300,
    })
    .await;
    let client = client_with(registry.host().as_str(), "user", "s3cret");
    let repository = registry.repository("a/b");
    let blob = Descriptor::of(MediaType::OciLayer, b"blob");
    let upload = client
        .mount(&repository, &blob.digest, &repository)
        .await
        .unwrap();
    drop(upload);
    registry.revoke_tokens();
    registry.clear_requests();
    let pushed = client.upload_bytes(&repository, MediaType::OciLayer, "blob".into());
    pushed.await.unwrap();
    let paths = lines(&registry.requests());
    assert_eq!(
        count(&registry, |r| r.path == "/auth/token"),
        1,
        "{paths:?}"
    );
}
