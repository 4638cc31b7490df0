#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use oci::{Descriptor, DiffId, Digest, MediaType};

use super::*;
use crate::cache::{Packed, Record};
use crate::cache_key::CacheKey;
use crate::layer::Owners;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn object(kind: Kind, name: &str, bytes: u64, used: u64) -> Object {
    Object {
        kind,
        name: name.into(),
        bytes,
        used: at(used),
        dead: false,
    }
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let objects = [
        object(Kind::Blob, "blobs/sha256/a1", 10, 5),
        object(Kind::Layer, "l1", 10, 5),
        object(Kind::Blob, "blobs/sha256/b2", 10, 3),
        object(Kind::CacheMount, "m", 10, 1),
        object(Kind::Record, "cache/k", 1, 1),
        Object {
            dead: true,
            ..object(Kind::Layer, "half", 10, 0)
        },
        object(Kind::Record, "trails/t", 1, 9),
    ];
    let named = |policy: &Policy, busy: u64| -> Vec<&str> {
        let chosen = victims(&objects, policy, at(100), at(busy));
        let names = chosen
            .iter()
            .map(|position| objects[*position].name.as_str());
        names.map(|name| name.rsplit('/').next().unwrap()).collect()
    };
    let keep = |bytes| Policy {
        keep_bytes: Some(bytes),
        mounts: true,
        ..Policy::default()
    };
    let kinds = |kinds: &[Kind]| Policy {
        kinds: kinds.iter().copied().collect(),
        ..Policy::default()
    };
    for (policy, busy, expected) in [
        (keep(1000), 200, &["half"][..]),
        (keep(40), 200, &["half", "m"]),
        (keep(32), 200, &["half", "m"]),
        (keep(31), 200, &["half", "m", "b2"]),
        (keep(20), 200, &["half", "m", "b2", "l1"]),
        // What was used since a build began is left, however much it is.
        (keep(0), 4, &["half", "m", "b2"]),
        (keep(0), 0, &[]),
        (
            Policy::default(),
            200,
            &["half", "k", "b2", "l1", "a1", "t"],
        ),
        (kinds(&[Kind::CacheMount]), 200, &["half", "m"]),
        (kinds(&[Kind::Blob]), 200, &["half", "b2", "a1"]),
        (
            Policy {
                unused_for: Some(Duration::from_secs(96)),
                ..Policy::default()
            },
            200,
            &["half", "k", "b2"],
        ),
        (
            Policy {
                name: Some("sha256:a".into()),
                ..Policy::default()
            },
            200,
            &["half", "a1"],
        ),
    ] {
        assert_eq!(named(&policy, busy), expected, "{policy:?}");
    }
}

#[test]
fn the_default_quota_leaves_room_on_the_disk() {
    for (total, free, used, expected) in [
        (1000, 900, 0, 200),
        (1000, 150, 100, 150),
        (1000, 50, 100, 50),
        (1000, 20, 100, 50),
        (1000, 0, 50, 50),
        (0, 0, 0, 0),
    ] {
        assert_eq!(default_quota(total, free, used), expected);
    }
}

/// A blob and an unpacked layer with a record of both.
fn put(cache: &Cache, name: &str) -> CacheKey {
    let blob = format!("blob {name}");
    let descriptor = Descriptor::of(MediaType::OciLayerGzip, blob.as_bytes());
    cache.keep(&descriptor.digest, blob.as_bytes()).unwrap();
    let scratch = tempfile::tempdir_in(cache.tmp()).unwrap();
    let layer = crate::fixture::layer("/a = a", &scratch.path().join("l"), Owners::Recorded);
    let name = Cache::layer_name(name, Owners::Recorded);
    let layer = Arc::into_inner(layer).unwrap();
    cache.place_layer(layer, &name).unwrap();
    let key = CacheKey::base(Some(&oci::ChainId(Digest::of(name.as_bytes()))));
    let mut record = Record::new(key.clone(), "now".into(), "RUN".into());
    record.layer = Some(name);
    record.packed = Some(Packed {
        diff_id: DiffId(Digest::of(b"tar")),
        descriptor,
    });
    cache.record(&[&key], &record).unwrap();
    key
}

#[test]
fn what_another_process_uses_stays() {
    let root = tempfile::tempdir().unwrap();
    let old = Cache::open(root.path()).unwrap();
    let (used, unused) = (put(&old, "used"), put(&old, "unused"));
    drop(old);
    let running = Cache::open(root.path()).unwrap();
    let record = running.lookup(&used, Owners::Recorded).unwrap();
    let fresh = put(&running, "fresh");

    let cleaner = Cache::open(root.path()).unwrap();
    let removed = cleaner.keep_to(Some(0)).unwrap();
    let mut kinds: Vec<_> = removed.objects.iter().map(|object| object.kind).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [Kind::Record, Kind::Blob, Kind::Layer]);
    assert_eq!(running.lookup(&used, Owners::Recorded), Some(record));
    assert!(running.lookup(&fresh, Owners::Recorded).is_some());
    assert_eq!(running.lookup(&unused, Owners::Recorded), None);

    drop(running);
    assert!(cleaner.keep_to(Some(0)).unwrap().bytes > 0);
    assert_eq!(cleaner.objects().unwrap(), []);
    assert_eq!(
        fs_err::read_dir(root.path().join("layers"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn what_another_process_has_removed_is_no_matter() {
    let root = tempfile::tempdir().unwrap();
    let first = Cache::open(root.path()).unwrap();
    put(&first, "a");
    fs_err::write(root.path().join("cache/broken"), "").unwrap();
    let seen = first.objects().unwrap();
    assert!(first.remove(&seen, &Policy::default()).unwrap().bytes > 0);
    let again = first.remove(&seen, &Policy::default());
    assert!(again.is_ok(), "{again:?}");
}

#[test]
fn a_cache_mount_in_use_stays() {
    let root = tempfile::tempdir().unwrap();
    let old = root.path().join("mounts/a");
    fs_err::create_dir_all(old.join("0")).unwrap();
    crate::cache::session::set_time(&old, at(1000)).unwrap();
    let running = Cache::open(root.path()).unwrap();
    let cleaner = Cache::open(root.path()).unwrap();
    running.claim_mount(&old);
    assert_eq!(cleaner.keep_to(Some(0)).unwrap().objects, []);
    drop(running);
    let removed = cleaner.keep_to(Some(0)).unwrap().objects;
    assert!(removed[0].kind == Kind::CacheMount && !old.exists());
}

#[test]
fn what_began_to_be_used_after_the_choice_stays() {
    let root = tempfile::tempdir().unwrap();
    let old = Cache::open(root.path()).unwrap();
    let key = put(&old, "a");
    drop(old);
    let cleaner = Cache::open(root.path()).unwrap();
    let objects = cleaner.objects().unwrap();
    let running = Cache::open(root.path()).unwrap();
    let record = running.lookup(&key, Owners::Recorded).unwrap();
    let removed = cleaner.remove(&objects, &Policy::default()).unwrap();
    assert_eq!(removed.objects, []);
    assert_eq!(running.lookup(&key, Owners::Recorded), Some(record));
}

#[test]
fn processes_that_use_and_processes_that_remove_do_not_disturb_each_other() {
    let root = tempfile::tempdir().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let cleaner = scope.spawn(|| {
            let mut removed = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let cache = Cache::open(root.path()).unwrap();
                removed += cache.keep_to(Some(0)).unwrap().objects.len();
            }
            removed
        });
        let users: Vec<_> = (0..2)
            .map(|user| {
                let root = root.path();
                scope.spawn(move || {
                    for round in 0..30 {
                        let cache = Cache::open(root).unwrap();
                        // What one session has found or made stays as long as it lives.
                        let key = put(&cache, &format!("{user}-{}", round % 3));
                        for _ in 0..20 {
                            let record = cache.lookup(&key, Owners::Recorded).unwrap();
                            assert!(record.packed.is_some() && record.layer.is_some());
                        }
                    }
                })
            })
            .collect();
        // The cleaner ends also where a user failed.
        let ended: Vec<_> = users.into_iter().map(ScopedJoinHandle::join).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for user in ended {
            user.unwrap();
        }
        assert!(cleaner.join().unwrap() > 0);
    });
}
