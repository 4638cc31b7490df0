//! Failures: what stays as it was, how they are told apart, and what is refused.

use distribution::memory::Fault;
use http::Method;

use crate::bench::Bench;

#[tokio::test]
async fn a_failure_leaves_tags_as_they_were() {
    let bench = Bench::start().await;
    bench.file("a", "a");
    let error = bench
        .build("FROM scratch\nCOPY a /\nCOPY nothing /x\n", &["app:1"])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Dockerfile:3: `nothing`: no such file or directory"
    );
    assert_eq!(error.kind(), protocol::FailureKind::ContextFile);
    assert_eq!(bench.registry.tags("app"), [""; 0]);

    // The manifest is refused in one of two places: no tag is written in either.
    bench.registry.set_faults(|request| {
        let refused = request.method == Method::PUT && request.path.contains("/other/manifests/");
        refused.then_some(Fault::Answer(400, vec![], String::new()))
    });
    let error = bench
        .build("FROM scratch\nCOPY a /\n", &["app:1", "other:1"])
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        protocol::FailureKind::RegistryRefused,
        "{error}"
    );
    assert_eq!(bench.registry.tags("app"), [""; 0]);
    bench.registry.clear_faults();
    bench
        .build("FROM scratch\nCOPY a /\n", &["app:1", "other:1"])
        .await
        .unwrap();
    assert_eq!(bench.registry.tags("app"), ["1"]);
    assert!(bench.is_tidy(), "work in progress is left over");
}

#[tokio::test]
async fn failures_have_kinds_and_places() {
    use protocol::FailureKind as Kind;
    let bench = Bench::start().await;
    bench.file("a", "a");
    let absent = bench.name("absent:1");
    let ping = format!("http://{}/v2/", bench.registry.address());
    for (text, kind, message) in [
        (format!("FROM {absent}\n"), Kind::BaseImageNotFound, format!("Dockerfile:1: base image `{absent}`: not found")),
        ("FROM scratch AS builder\nFROM scratch\nCOPY --from=127.0.0.1:1/x /a /\n".into(), Kind::RegistryUnavailable, "Dockerfile:3: base image `127.0.0.1:1/x:latest`: resolve 127.0.0.1:1/x:latest: no connection".into()),
        ("FROM scratch\nRUNN x\n".into(), Kind::Dockerfile, "Dockerfile:2: unknown instruction `RUNN`; did you mean `RUN`?".into()),
        ("FROM scratch\nRUN x\n".into(), Kind::IsolationUnavailable, "Dockerfile:2: RUN is not available in isolation mode NoRun: `RUN x`".into()),
        (format!("FROM scratch\nADD {ping}none /\n"), Kind::ContextFile, format!("get {ping}none: not found")),
        (format!("FROM scratch\nADD --checksum=sha256:{} {ping} /x\n", "0".repeat(64)), Kind::DigestMismatch, format!("`{ping}` has the checksum sha256:")),
    ] {
        let error = bench.build(&text, &["app:1"]).await.unwrap_err();
        let failure = error.to_failure();
        assert_eq!(failure.kind, kind, "{text}: {error}");
        assert!(failure.message.starts_with(&message), "{text}: {}", failure.message);
        let missing = (kind == Kind::BaseImageNotFound).then(|| absent.clone());
        assert_eq!(failure.image, missing, "{text}");
    }
    assert!(bench.is_tidy(), "work in progress is left over");
}

#[tokio::test]
async fn refusals_of_what_is_read_and_of_what_is_written_are_told_apart() {
    use protocol::FailureKind as Kind;
    let (upstream, bench) = (Bench::start().await, Bench::start().await);
    let refuse = |bench: &Bench| {
        bench
            .registry
            .set_faults(|_| Some(Fault::Answer(401, vec![], String::new())));
    };
    refuse(&upstream);
    let text = format!("FROM {}\n", upstream.name("base:1"));
    let failure = bench
        .build(&text, &["app:1"])
        .await
        .unwrap_err()
        .to_failure();
    assert_eq!(
        (failure.kind, failure.image),
        (Kind::BaseImageUnauthorized, None)
    );
    refuse(&bench);
    bench.file("a", "a");
    let error = bench
        .build("FROM scratch\nCOPY a /\n", &["app:1"])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnauthorized, "{error}");
}

#[tokio::test]
async fn damaged_content_is_refused() {
    let (upstream, bench) = (Bench::start().await, Bench::start().await);
    upstream.file("a", &"a".repeat(10_000));
    upstream
        .build("FROM scratch\nCOPY a /\n", &["base:1"])
        .await
        .unwrap();
    upstream.registry.set_faults(|request| {
        let blob = request.method == Method::GET && request.path.contains("/blobs/");
        blob.then_some(Fault::Corrupt)
    });
    bench.file("b", "b");
    let text = format!("FROM {}\nCOPY b /\n", upstream.name("base:1"));
    let error = bench.build(&text, &["app:1"]).await.unwrap_err();
    assert_eq!(
        error.kind(),
        protocol::FailureKind::DigestMismatch,
        "{error}"
    );
    assert!(!bench.has_layers() && bench.is_tidy());
}
