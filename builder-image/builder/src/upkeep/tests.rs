//! The upkeep of a mirror against the in-memory registry: what is deleted and what is not, and what is brought back.

use distribution::copy::{Copier, CopyOptions, Platforms};
use distribution::memory::{Fault, MemoryRegistry};
use distribution::{Client, Guard};
use jiff::Timestamp;
use mirror::{Place, Selection, Written};
use oci::{Descriptor, Digest, Index, Manifest, MediaType};
use protocol::{CheckOutcome, PruneOutcome, PruneRequest, ReportRequest};
use tokio_util::sync::CancellationToken;

use super::bookkeeping::Books;
use super::check::check;
use super::deletion::prune;

const PATH: &str = "mirror/app";

struct World {
    registry: MemoryRegistry,
    client: Client,
    books: Books,
}

impl World {
    async fn new() -> Self {
        let registry = MemoryRegistry::start().await;
        let client = Client::builder().guard(Guard::Open).build().unwrap();
        let request = ReportRequest {
            repository: registry.repository("team/coopery-report").to_string(),
            owner: "uid".into(),
            previous: None,
        };
        let books = Books::open(&client, &request).await;
        let books = books.map_err(|failure| failure.message).unwrap();
        Self {
            registry,
            client,
            books,
        }
    }

    /// An image of one layer in the repositories of source and destination.
    fn image(&self, content: &str) -> Digest {
        let mut digest = None;
        for path in ["upstream/app", PATH] {
            self.registry.add_blob(path, "{}");
            self.registry.add_blob(path, content.to_owned());
            let config = Descriptor::of(MediaType::OciConfig, b"{}");
            let layer = Descriptor::of(MediaType::OciLayer, content.as_bytes());
            let json = serde_json::to_vec(&Manifest::new(config, vec![layer])).unwrap();
            digest = Some(
                self.registry
                    .add_manifest(path, None, MediaType::OciManifest, json),
            );
        }
        digest.unwrap()
    }

    fn tag(&self, tag: &str, digest: &Digest) {
        let manifest = self.registry.manifest(PATH, digest.as_str()).unwrap();
        let (media_type, bytes) = (manifest.media_type, manifest.bytes);
        self.registry
            .add_manifest(PATH, Some(tag), media_type, bytes);
    }

    /// The mirror has written `tag`.
    fn wrote(&mut self, tag: &str, digest: &Digest) {
        self.tag(tag, digest);
        let written = Written {
            digest: digest.clone(),
            source: self.registry.repository("upstream/app").to_string().into(),
            source_digest: digest.clone(),
            platforms: Platforms::Whole,
            synced_at: Timestamp::UNIX_EPOCH,
        };
        self.books.report.note_written(place(tag), written);
    }

    async fn prune(&mut self, delete: bool, selected: &[&str]) -> PruneOutcome {
        let selected: Vec<_> = selected.iter().map(|tag| place(tag)).collect();
        let request = PruneRequest {
            delete,
            prefix: Some("mirror".into()),
            max_percent: 70,
            selected: Selection::of(&selected).to_text(),
        };
        let cancel = CancellationToken::new();
        let outcome = prune(&self.client, &mut self.books, &request, &cancel).await;
        outcome.map_err(|failure| failure.message).unwrap()
    }

    async fn check(&mut self) -> CheckOutcome {
        let (client, cancel) = (self.client.clone(), CancellationToken::new());
        let copier = Copier::new(client.clone(), client.clone(), CopyOptions::default());
        check(&client, &copier, &mut self.books, &cancel)
            .await
            .unwrap()
    }

    fn written(&self) -> Vec<&str> {
        let written = self.books.report.written().keys();
        written.map(|place| place.tag.as_str()).collect()
    }
}

fn place(tag: &str) -> Place {
    Place::new(PATH, tag.parse().unwrap())
}

fn counts(outcome: &PruneOutcome) -> [u32; 5] {
    let PruneOutcome {
        written,
        planned,
        deleted,
        kept,
        failed,
        ..
    } = outcome;
    [*written, *planned, *deleted, *kept, *failed]
}

#[tokio::test]
async fn tags_are_deleted_and_what_is_not_ours_stays() {
    let mut world = World::new().await;
    let (a, b) = (world.image("a"), world.image("b"));
    for tag in ["keep", "old", "moved", "gone"] {
        world.wrote(tag, &a);
    }
    world.tag("moved", &b);
    world.tag("theirs", &a);
    world.registry.remove_tag(PATH, "gone");
    let plan = world.prune(false, &["keep"]).await;
    assert_eq!(counts(&plan), [4, 3, 0, 0, 0]);
    assert_eq!(
        plan.plan,
        ["mirror/app:gone", "mirror/app:moved", "mirror/app:old"]
    );
    assert_eq!(
        world.registry.tags(PATH),
        ["keep", "moved", "old", "theirs"]
    );
    // Three of four are more than 70 %.
    assert_eq!(counts(&world.prune(true, &["keep"]).await), [4, 3, 0, 0, 0]);
    let outcome = world.prune(true, &["keep", "gone"]).await;
    assert_eq!(counts(&outcome), [4, 2, 2, 0, 0]);
    assert_eq!(world.registry.tags(PATH), ["keep", "moved", "theirs"]);
    assert_eq!(world.written(), ["gone", "keep"]);
    let deletes = world.registry.requests();
    let deletes = deletes.iter().filter(|asked| asked.method == "DELETE");
    let paths: Vec<_> = deletes.map(|asked| asked.path.as_str()).collect();
    assert_eq!(paths, ["/v2/mirror/app/manifests/old"]);
}

#[tokio::test]
async fn where_tags_cannot_be_deleted_a_manifest_goes_when_nothing_leads_to_it() {
    let mut world = World::new().await;
    let images = ["own", "shared", "below"].map(|content| world.image(content));
    let [own, shared, below] = &images;
    world.wrote("own-1", own);
    world.wrote("own-2", own);
    world.wrote("shared", shared);
    world.wrote("below", below);
    world.wrote("keep-1", own);
    world.registry.remove_tag(PATH, "keep-1");
    world.books.report.forget(&place("keep-1"));
    for tag in ["k1", "k2", "k3"] {
        let image = world.image(tag);
        world.wrote(tag, &image);
    }
    // Somebody else has another name for one, and an index of another.
    world.tag("theirs", shared);
    let child = Descriptor::of(
        MediaType::OciManifest,
        &world.registry.manifest(PATH, below.as_str()).unwrap().bytes,
    );
    let index = serde_json::to_vec(&Index::new(vec![child])).unwrap();
    world
        .registry
        .add_manifest(PATH, Some("index"), MediaType::OciIndex, index);
    world.registry.set_faults(|asked| {
        let by_tag = asked.method == "DELETE" && !asked.path.contains("sha256:");
        by_tag.then(|| Fault::Answer(405, Vec::new(), String::new()))
    });
    let outcome = world.prune(true, &["k1", "k2", "k3"]).await;
    assert_eq!(counts(&outcome), [7, 4, 2, 2, 0]);
    let tags = ["below", "index", "k1", "k2", "k3", "shared", "theirs"];
    assert_eq!(world.registry.tags(PATH), tags);
    assert_eq!(world.written(), ["below", "k1", "k2", "k3", "shared"]);
}

#[tokio::test]
async fn a_delete_that_is_refused_is_told_and_the_tag_stays_in_the_report() {
    let mut world = World::new().await;
    let a = world.image("a");
    world.wrote("1", &a);
    world.wrote("2", &a);
    world.registry.set_faults(|asked| {
        (asked.method == "DELETE").then(|| Fault::Answer(403, Vec::new(), String::new()))
    });
    let outcome = world.prune(true, &["1"]).await;
    assert_eq!(counts(&outcome), [2, 1, 0, 0, 1]);
    assert!(outcome.failure.unwrap().starts_with("mirror/app:2: "));
    assert_eq!(world.written(), ["1", "2"]);
}

#[tokio::test]
async fn what_is_missing_is_copied_again_and_what_is_gone_leaves_the_report() {
    let mut world = World::new().await;
    let images = ["a", "b", "c"].map(|content| world.image(content));
    for (tag, image) in ["1", "2", "3"].iter().zip(&images) {
        world.wrote(tag, image);
    }
    let whole = world.check().await;
    assert_eq!((whole.tags, whole.missing, whole.failed), (3, 0, 0));
    let layer = Digest::of(b"a");
    world.registry.remove_blob(PATH, &layer);
    world.registry.remove_tag(PATH, "3");
    let mended = world.check().await;
    assert_eq!(
        (mended.tags, mended.missing, mended.repaired, mended.failed),
        (3, 1, 1, 0)
    );
    assert!(world.registry.blob(PATH, &layer).is_some());
    assert_eq!(world.written(), ["1", "2"]);
    // The source has it no more either.
    for path in [PATH, "upstream/app"] {
        world.registry.remove_blob(path, &layer);
    }
    let failed = world.check().await;
    assert_eq!((failed.missing, failed.repaired, failed.failed), (1, 0, 1));
    let told = failed.failure.unwrap();
    assert!(
        told.starts_with("mirror/app:1: 1 of it are missing: "),
        "{told}"
    );
    assert_eq!(world.written(), ["1", "2"]);
}
