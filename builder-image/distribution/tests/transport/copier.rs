//! Runs of copies: what several images share is moved once, what a ledger knows is mounted, the number of requests is what
//! it should be, and whatever breaks a run, the next one converges.

use std::{collections::BTreeMap, time::Duration};

use distribution::{
    Error, ErrorKind,
    copy::{Amount, Copier, CopyOptions, CopyReport, Found, Job, LEDGER_TAG, Platforms},
    memory::{Fault, Logged, MemoryRegistry},
};
use futures::StreamExt;
use oci::{Document, Repository};

use crate::support::{KIB, add_image, add_index, client, count, lines};

/// A source with one index of two platforms and 13 blobs, and a target.
async fn registries() -> (MemoryRegistry, MemoryRegistry) {
    let (source, target) = (MemoryRegistry::start().await, MemoryRegistry::start().await);
    add_index(&source, "library/app", "1");
    (source, target)
}

fn copier() -> Copier {
    Copier::new(client(), client(), CopyOptions::default())
}

fn ledger(target: &MemoryRegistry) -> Repository {
    target.repository("team/coopery-ledger")
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "every caller makes both names for this"
)]
fn job(from: Repository, to: Repository, tag: &str) -> Job {
    let tag: oci::Tag = tag.parse().unwrap();
    Job::new(from.tagged(tag.clone()), &to.tagged(tag))
}

/// As the pod of a mirror copies: the operator has looked.
fn looked(from: Repository, to: Repository, tag: &str) -> Job {
    Job {
        found: Found::Nothing,
        ..job(from, to, tag)
    }
}

async fn all(copier: &Copier, jobs: &[Job]) -> BTreeMap<usize, Result<CopyReport, Error>> {
    copier.copy_all(jobs).collect().await
}

fn uploads(registry: &MemoryRegistry) -> usize {
    count(registry, |r| {
        r.method == "PUT" && r.path.contains("/uploads/")
    })
}

#[tokio::test]
async fn unchanged_images_do_not_wait_for_large_ones() {
    let (source, target) = registries().await;
    let options = CopyOptions {
        images: 1,
        ..CopyOptions::default()
    };
    let copier = Copier::new(client(), client(), options);
    let from = source.repository("library/app");
    let unchanged = ["one", "two", "three"].map(|name| {
        let to = target.repository(&format!("team/{name}"));
        job(from.clone(), to, "1")
    });
    for (position, result) in all(&copier, &unchanged).await {
        assert!(!result.unwrap().unchanged, "{position}");
    }
    add_image(
        &source,
        "library/large",
        Some("1"),
        "amd64",
        &[("never", KIB)],
    );
    source.set_faults(|request| {
        let is_blob = request.path.contains("/library/large/blobs/");
        is_blob.then_some(Fault::Delay(Duration::from_secs(3600)))
    });
    let large = job(
        source.repository("library/large"),
        target.repository("team/large"),
        "1",
    );
    let jobs = [&[large][..], &unchanged].concat();
    let ended = copier.copy_all(&jobs).take(3).collect::<BTreeMap<_, _>>();
    let ended = tokio::time::timeout(Duration::from_secs(60), ended)
        .await
        .unwrap();
    assert_eq!(ended.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(
        ended
            .values()
            .all(|result| result.as_ref().is_ok_and(|report| report.unchanged))
    );
}

/// The four rows of the design, each with a process that knows nothing yet.
#[tokio::test]
async fn requests_are_as_few_as_can_be() {
    let (source, target) = registries().await;
    let from = source.repository("library/app");
    let requests = || {
        let counts = (source.requests().len(), target.requests().len());
        source.clear_requests();
        target.clear_requests();
        counts
    };

    // First copy: at most 46. With nothing known of the tag it is asked for; with a ledger, that is.
    let plain = job(from.clone(), target.repository("plain/app"), "1");
    copier().copy(&plain).await.unwrap();
    assert_eq!(requests(), (16, 30));
    let first = copier().with_ledger(ledger(&target));
    let to = target.repository("team/app");
    let report = first.copy(&looked(from.clone(), to, "1")).await.unwrap();
    assert_eq!((report.copied.blobs, report.mounted.blobs), (13, 0));
    assert_eq!(requests(), (16, 30));
    // Once for a run of any number of images.
    first.keep_ledger().await;
    assert_eq!(requests(), (0, 1));
    first.keep_ledger().await;
    assert_eq!(requests(), (0, 0));

    // Known elsewhere: at most 20, the reading of the ledger among them, and no bytes of blobs.
    let second = copier().with_ledger(ledger(&target));
    let to = target.repository("team/other");
    let report = second.copy(&looked(from.clone(), to, "1")).await.unwrap();
    assert_eq!(report.copied, Amount::default());
    assert_eq!(report.mounted.blobs, 13);
    assert_eq!((uploads(&target), count(&source, is_blob)), (0, 0));
    second.keep_ledger().await;
    assert_eq!(requests(), (3, 17));

    // Unchanged: at most 2, both HEAD.
    let third = copier().with_ledger(ledger(&target));
    let unchanged = job(from.clone(), target.repository("team/app"), "1");
    assert!(third.copy(&unchanged).await.unwrap().unchanged);
    third.keep_ledger().await;
    let heads = count(&source, is_head) + count(&target, is_head);
    assert_eq!((requests(), heads), ((1, 1), 2));

    // Within one registry: at most 20.
    let within = copier().with_ledger(source.repository("coopery-ledger"));
    let to = source.repository("copy");
    let report = within.copy(&job(from, to, "1")).await.unwrap();
    assert_eq!(report.mounted.blobs, 13);
    within.keep_ledger().await;
    assert_eq!(requests(), (20, 0));
}

fn is_blob(request: &Logged) -> bool {
    request.path.contains("/blobs/")
}

fn is_head(request: &Logged) -> bool {
    request.method == "HEAD"
}

#[tokio::test]
async fn what_images_share_is_fetched_and_sent_once() {
    let (source, target) = registries().await;
    let mut jobs = Vec::new();
    for number in 0..20 {
        let (own, name) = (format!("own{number}"), format!("app{number}"));
        let layers = [("base", 60 * KIB), ("runtime", 30 * KIB), (&own, 500)];
        add_image(&source, &name, Some("1"), "amd64", &layers);
        let to = target.repository(&format!("mirror/{name}"));
        jobs.push(looked(source.repository(&name), to, "1"));
    }
    source.clear_requests();
    let run = copier().with_ledger(ledger(&target));
    let reports = all(&run, &jobs).await;
    assert_eq!(reports.len(), 20);
    let copied = reports.values().map(|r| r.as_ref().unwrap().copied.blobs);
    // The configuration, two shared layers, and one layer of each.
    assert_eq!(copied.sum::<usize>(), 23);
    assert_eq!((count(&source, is_blob), uploads(&target)), (23, 23));
    for job in &jobs {
        let stored = target.manifest(job.to.path(), "1").unwrap();
        assert_eq!(
            Some(stored),
            source.manifest(job.from.repository().path(), "1")
        );
    }
    assert_eq!(target.open_uploads(), 0);
}

#[tokio::test]
async fn tags_of_one_image_are_written_last_and_need_nothing_else() {
    let (source, target) = registries().await;
    let mut one = looked(
        source.repository("library/app"),
        target.repository("app"),
        "1",
    );
    one.tags
        .extend(["1.2", "latest"].map(|tag| tag.parse().unwrap()));
    source.clear_requests();
    let run = copier();
    let report = run.copy(&one).await.unwrap();
    assert_eq!((report.manifests, report.copied.blobs), (5, 13));
    assert_eq!((source.requests().len(), target.requests().len()), (16, 31));
    assert_eq!(target.tags("app"), ["1", "1.2", "latest"]);
    let log = lines(&target.requests());
    assert!(
        log[28..]
            .iter()
            .all(|line| line.starts_with("PUT /v2/app/manifests/"))
    );
    // In the same run, another tag of the same image finds everything there.
    target.clear_requests();
    let again = looked(source.repository("library/app"), one.to.clone(), "1");
    run.copy(&again).await.unwrap();
    assert_eq!(lines(&target.requests()), ["PUT /v2/app/manifests/1 201"]);
    // A tag that is missing among others is written, and those that are equal are not.
    one.found = Found::Unknown;
    one.tags.push("2".parse().unwrap());
    let report = copier().copy(&one).await.unwrap();
    assert_eq!((report.unchanged, report.copied.blobs), (false, 0));
    assert_eq!(target.tags("app").len(), 4);
}

#[tokio::test]
async fn an_image_without_a_tag_is_there_by_its_digest() {
    let (source, target) = registries().await;
    let root = source.manifest("library/app", "1").unwrap();
    let from = source.repository("library/app").at(root.digest.clone());
    let to = target.repository("app");
    let run = copier();
    let job = Job {
        tags: Vec::new(),
        ..Job::new(from, &to.at(root.digest.clone()))
    };
    run.copy(&job).await.unwrap();
    assert!(target.tags("app").is_empty());
    assert_eq!(target.manifest("app", root.digest.as_str()), Some(root));
}

#[tokio::test]
async fn nothing_is_mounted_from_the_repositories_of_another_namespace() {
    let (source, target) = registries().await;
    let from = source.repository("library/app");
    let run =
        |namespace: &str| copier().with_ledger(target.repository(&format!("{namespace}/ledger")));
    let theirs = run("one");
    let to = target.repository("one/app");
    theirs.copy(&looked(from.clone(), to, "1")).await.unwrap();
    theirs.keep_ledger().await;
    // Not even where the ledger of the other was put into ours.
    let ledger = target.manifest("one/ledger", LEDGER_TAG).unwrap();
    target.add_manifest(
        "two/ledger",
        Some(LEDGER_TAG),
        ledger.media_type,
        ledger.bytes,
    );
    target.clear_requests();
    let ours = run("two");
    let to = target.repository("two/app");
    let report = ours.copy(&looked(from, to, "1")).await.unwrap();
    assert_eq!((report.copied.blobs, report.mounted.blobs), (13, 0));
    let asked = target.requests();
    assert!(
        !asked
            .iter()
            .any(|r| r.query.as_deref().is_some_and(|q| q.contains("one%2F")))
    );
}

#[tokio::test]
async fn a_ledger_that_is_wrong_costs_requests_only() {
    let (source, target) = registries().await;
    let from = source.repository("library/app");
    let first = copier().with_ledger(ledger(&target));
    let to = target.repository("team/app");
    first.copy(&looked(from.clone(), to, "1")).await.unwrap();
    first.keep_ledger().await;
    let root = source.manifest("library/app", "1").unwrap();
    let Ok(Document::Index(index)) = root.document() else {
        panic!("not an index")
    };
    let child = source.manifest("library/app", index.manifests[0].digest.as_str());
    let document = child.unwrap().document().unwrap();
    for gone in document.references() {
        target.remove_blob("team/app", &gone.digest);
    }
    let second = copier().with_ledger(ledger(&target));
    let to = target.repository("team/other");
    let report = second.copy(&looked(from.clone(), to, "1")).await.unwrap();
    assert_eq!((report.copied.blobs, report.mounted.blobs), (7, 6));
    assert_eq!(target.manifest("team/other", "1"), Some(root));
    assert_eq!(target.open_uploads(), 0);
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_is_left_alone() {
    let (source, target) = registries().await;
    let from = source.repository("library/app");
    for (number, status) in [401, 403, 500].into_iter().enumerate() {
        target.set_faults(move |r| {
            let ledger = r.path.contains("coopery-ledger");
            ledger.then(|| Fault::Answer(status, vec![], String::new()))
        });
        let run = copier().with_ledger(ledger(&target));
        let to = target.repository(&format!("team/app{number}"));
        let report = run.copy(&looked(from.clone(), to, "1")).await.unwrap();
        assert_eq!(report.copied.blobs, 13);
        target.clear_requests();
        run.keep_ledger().await;
        assert_eq!(lines(&target.requests()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn blobs_that_vanish_during_a_run_are_sent_again() {
    let (source, target) = registries().await;
    let layers = [("one", 9 * KIB), ("two", 5 * KIB)];
    add_image(&source, "a", Some("1"), "amd64", &layers);
    add_image(&source, "a", Some("2"), "amd64", &layers[..1]);
    let (from, to) = (source.repository("a"), target.repository("a"));
    let run = copier();
    run.copy(&looked(from.clone(), to.clone(), "1"))
        .await
        .unwrap();
    let gone = target.manifest("a", "1").unwrap().document().unwrap();
    for blob in gone.references() {
        target.remove_blob("a", &blob.digest);
    }
    let report = run.copy(&looked(from, to, "2")).await.unwrap();
    assert_eq!(report.copied.blobs, 2);
    let (stored, wanted) = (target.manifest("a", "2"), source.manifest("a", "2"));
    assert_eq!(stored, wanted);
}

#[tokio::test]
async fn one_image_that_fails_does_not_hold_up_the_others() {
    let (source, target) = registries().await;
    let mut jobs = Vec::new();
    for number in 0..6 {
        let name = format!("app{number}");
        let layers = [("shared", 9 * KIB), (name.as_str(), 500)];
        add_image(&source, &name, Some("1"), "amd64", &layers);
        jobs.push(looked(
            source.repository(&name),
            target.repository(&name),
            "1",
        ));
    }
    jobs[2].from = source.repository("absent").tagged("1".parse().unwrap());
    // Who is first to bring what all of them share fails; the next one does it.
    target.set_faults(|r| {
        let first = r.path == "/v2/app0/blobs/uploads/";
        first.then(|| Fault::Answer(403, vec![], String::new()))
    });
    let reports = all(&copier(), &jobs).await;
    let kinds: Vec<_> = reports
        .values()
        .map(|report| report.as_ref().err().map(Error::kind))
        .collect();
    let expected = [
        Some(ErrorKind::Unauthorized),
        None,
        Some(ErrorKind::NotFound),
        None,
        None,
        None,
    ];
    assert_eq!(kinds, expected);
    for number in [1, 3, 4, 5] {
        assert_eq!(target.tags(&format!("app{number}")), ["1"]);
    }
}

/// A run is cut off at each of its requests, to either side: no tag ever names anything that is not complete, the next run
/// finishes the work, and no blob that has arrived is sent a second time.
#[tokio::test]
async fn a_run_that_ends_anywhere_is_taken_up_by_the_next() {
    for side in ["source", "target"] {
        let mut at = 0;
        loop {
            let (source, target) = registries().await;
            let from = source.repository("library/app");
            let wanted = source.manifest("library/app", "1");
            let broken = if side == "source" { &source } else { &target };
            // From then on, nothing is answered.
            broken.set_faults(move |r| {
                (r.number >= at).then(|| Fault::Answer(403, vec![], String::new()))
            });
            let to = target.repository("team/app");
            let work = job(from, to, "1");
            let failed = copier().copy(&work).await.is_err();
            let stored = target.manifest("team/app", "1");
            assert!(stored.is_none() || stored == wanted, "{side} {at}");
            assert_eq!(stored.is_none(), failed, "{side} {at}");
            broken.clear_faults();
            copier().copy(&work).await.unwrap();
            assert_eq!(target.manifest("team/app", "1"), wanted, "{side} {at}");
            let sent = count(&target, |r| {
                r.method == "PUT" && r.path.contains("/uploads/") && r.status == 201
            });
            assert_eq!(sent, 13, "{side} {at}");
            if !failed {
                break;
            }
            at += 1;
        }
        assert!(at > 15, "{side}: {at} requests were cut off");
    }
}

#[tokio::test]
async fn an_index_is_rewritten_for_some_platforms_and_then_equal() {
    let (source, target) = registries().await;
    let mut one = job(
        source.repository("library/app"),
        target.repository("app"),
        "1",
    );
    one.platforms = Platforms::Rewrite(vec!["linux/arm64".parse().unwrap()]);
    let report = copier().copy(&one).await.unwrap();
    assert_eq!((report.manifests, report.copied.blobs), (2, 7));
    let stored = target.manifest("app", "1").unwrap();
    assert_eq!(stored.descriptor(), report.root);
    let Ok(Document::Index(index)) = stored.document() else {
        panic!("not an index")
    };
    let platforms: Vec<_> = index.platforms().map(ToString::to_string).collect();
    assert_eq!(platforms, ["linux/arm64"]);
    let again = copier().copy(&one).await.unwrap();
    assert!(again.unchanged && again.root == report.root);

    one.platforms = Platforms::Rewrite(vec!["linux/s390x".parse().unwrap()]);
    let error = copier().copy(&one).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(target.manifest("app", "1"), Some(stored));
}

#[tokio::test]
async fn a_registry_that_wants_whole_indexes_refuses_a_sparse_one() {
    let (source, target) = registries().await;
    let mut one = job(
        source.repository("library/app"),
        target.repository("app"),
        "1",
    );
    one.platforms = Platforms::Sparse(vec!["linux/arm64".parse().unwrap()]);
    let error = copier().copy(&one).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(target.tags("app").is_empty());
    // The child is there, and nothing of the other platform was asked for.
    assert_eq!(uploads(&target), 7);
}
