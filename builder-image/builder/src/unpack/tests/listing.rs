//! What is listed is what would be unpacked: the tables beside this file say so archive by archive, and here random ones
//! do. A copy onto either makes the same bytes.

use proptest::prelude::*;

use super::*;
use crate::{
    layer::{PackOptions, pack},
    step::{
        copy::{CopySource, CopySpec, Onto, copy},
        digest_inputs, lacking,
    },
    tree::Timestamp,
    wanted::{Guess, Wanted},
};

type Unpacking = Result<(Arc<LayerDir>, DiffId), UnpackError>;

/// Panics unless the listing of `archive` tells the same as the layer that it was unpacked to.
pub(super) fn assert_listed_alike(archive: &[u8], limits: &Limits, unpacked: &Unpacking) {
    match (unpacked, list(archive, &MediaType::OciLayer, limits)) {
        (Ok((layer, diff_id)), Ok((listing, listed))) => {
            assert_eq!(*diff_id, listed);
            assert_picked_alike(archive, limits, &listing, layer);
            let again = Listing::from_bytes(listing.as_bytes().to_vec()).unwrap();
            let listed = Snapshot::empty().with_listing(Arc::new(again));
            assert_same_tree(&Snapshot::new(vec![Arc::clone(layer)]), &listed);
        }
        (Err(unpacked), Err(listed)) => assert_eq!(unpacked.to_string(), listed.to_string()),
        (unpacked, listed) => panic!("{unpacked:?} but {listed:?}"),
    }
}

/// The layer in `archive`, listed, with the contents of the files that `source` names.
fn picked(archive: &[u8], limits: &Limits, into: &Path, source: &str) -> Snapshot {
    let wanted = Wanted {
        guesses: [Guess::of(source)].into(),
        ..Wanted::default()
    };
    let picking = Picking::new(wanted, &into.join("picked")).unwrap();
    let found = list_and_pick(archive, &MediaType::OciLayer, limits, Some(picking));
    let (listing, picked, _) = found.unwrap();
    let listed = Snapshot::empty().with_listing(Arc::new(listing));
    listed.with_picked(0, picked.into_iter().map(Arc::new).collect())
}

/// Panics unless all contents are those of `layer` where all are kept, and the listing is the same.
fn assert_picked_alike(archive: &[u8], limits: &Limits, listing: &Listing, layer: &Arc<LayerDir>) {
    let dir = tempfile::tempdir().unwrap();
    let picked = picked(archive, limits, dir.path(), "/");
    let unpacked = Snapshot::new(vec![Arc::clone(layer)]);
    let mut waiting = vec![ImagePath::root()];
    while let Some(directory) = waiting.pop() {
        for (name, entry) in picked.read_dir(&directory).unwrap() {
            let path = directory.child(&name);
            match entry.kind {
                Kind::Directory => waiting.push(path),
                Kind::File => {
                    let read = |tree: &Snapshot| tree.read(&path, 1 << 30).unwrap();
                    assert_eq!(read(&picked), read(&unpacked), "{path}");
                    assert!(picked.lacking(&path).unwrap().is_none());
                }
                _ => {}
            }
        }
    }
    assert!(!picked.lacked_content());
    let again = list(archive, &MediaType::OciLayer, limits).unwrap().0;
    assert_eq!(again.as_bytes(), listing.as_bytes());
}

#[test]
fn only_what_is_wanted_is_kept() {
    let archive = Raw::default()
        .file("a/one", "first")
        .file("b/two", "two")
        .hard_link("b/again", "a/one")
        .hard_link("c", "b/two")
        .file("a/one", "second")
        .file("b/three", "gone")
        .end();
    let dir = tempfile::tempdir().unwrap();
    let tree = picked(&archive, &Limits::default(), dir.path(), "/b/t*");
    for (path, content) in [
        ("/b/two", Some("two")),
        // The same file by its other name.
        ("/c", Some("two")),
        ("/b/three", Some("gone")),
        // Its content came by under a name that nobody asked for.
        ("/b/again", None),
        ("/a/one", None),
    ] {
        let path = ImagePath::new(path);
        assert_eq!(tree.lacking(&path).unwrap().is_none(), content.is_some());
        let found = tree.read(&path, 100).ok().flatten();
        assert_eq!(found.as_deref(), content.map(str::as_bytes), "{path}");
    }
    // What was cut off on the disk is not there.
    for entry in fs_err::read_dir(dir.path().join("picked")).unwrap() {
        fs_err::write(entry.unwrap().path(), "").unwrap();
    }
    let refused = tree.read(&ImagePath::new("/b/two"), 100);
    assert!(matches!(refused, Err(TreeError::NotUnpacked(_))));
}

/// Panics unless both trees hold the same, contents apart.
fn assert_same_tree(unpacked: &Snapshot, listed: &Snapshot) {
    let mut waiting = vec![ImagePath::root()];
    while let Some(directory) = waiting.pop() {
        let entries = unpacked.read_dir(&directory).unwrap();
        let others = listed.read_dir(&directory).unwrap();
        assert_eq!(entries.len(), others.len(), "{directory}");
        for ((name, mut entry), (other_name, mut other)) in entries.into_iter().zip(others) {
            let path = directory.child(&name);
            assert_eq!(name, other_name);
            assert_eq!(
                entry.hard_link.is_some(),
                other.hard_link.is_some(),
                "{path}"
            );
            assert_eq!(listed.lookup(&path).unwrap().as_ref(), Some(&other));
            (entry.hard_link, other.hard_link) = (None, None);
            assert_eq!(entry, other, "{path}");
            assert_eq!(
                unpacked.xattrs(&path).unwrap(),
                listed.xattrs(&path).unwrap()
            );
            if entry.is_directory() {
                waiting.push(path);
            }
        }
    }
}

#[test]
fn accounts_are_kept_and_nothing_else() {
    let archive = Raw::default()
        .file("etc/passwd", "root:x:0:0")
        .symlink("etc/group", "../usr/group")
        .file("usr/group", "root:x:0:")
        .file("etc/shadow", "secret")
        .end();
    let (listing, _) = list(&archive[..], &MediaType::OciLayer, &Limits::default()).unwrap();
    let tree = Snapshot::empty().with_listing(Arc::new(listing));
    for (path, content) in [("/etc/passwd", "root:x:0:0"), ("/etc/group", "root:x:0:")] {
        let found = tree.read(&ImagePath::new(path), 100).unwrap().unwrap();
        assert_eq!(found, content.as_bytes());
    }
    assert!(!tree.lacked_content());
    let refused = tree.read(&ImagePath::new("/etc/shadow"), 100);
    assert!(matches!(refused, Err(TreeError::NotUnpacked(_))));
    assert!(tree.lacked_content());
}

#[test]
fn a_damaged_listing_is_refused() {
    let archive = Raw::default().file("a/b", "x").symlink("l", "a").end();
    let (listing, _) = list(&archive[..], &MediaType::OciLayer, &Limits::default()).unwrap();
    let bytes = listing.as_bytes();
    assert!(Listing::from_bytes(bytes.to_vec()).is_ok());
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x40;
        assert!(Listing::from_bytes(damaged).is_err(), "byte {at}");
        assert!(
            Listing::from_bytes(bytes[..at].to_vec()).is_err(),
            "cut at {at}"
        );
    }
}

const NAMES: [&str; 10] = [
    "a",
    "b",
    "a/b",
    "a/c",
    "b/a",
    "a/b/c",
    "etc",
    "etc/passwd",
    "l",
    "l/x",
];

const DESTINATIONS: [&str; 8] = [
    "/",
    "/a/",
    "/l/",
    "/a/b",
    "/b/a/new/",
    "/etc/passwd",
    "l",
    "/a/b/c/",
];

const SOURCES: [&str; 8] = ["/", "/a", "/a/", "/l", "/a/*", "/*", "/etc/passwd", "/b/a"];

/// A member of a random layer: its name, what it is, its mode, and where it leads if it is a link.
fn member() -> impl Strategy<Value = (usize, u8, u32, usize)> {
    (0..NAMES.len(), 0_u8..8, 0_u32..0o10000, 0_usize..3)
}

fn layer(members: &[(usize, u8, u32, usize)]) -> Vec<u8> {
    let mut raw = Raw::default();
    for &(name, what, mode, other) in members {
        let name = NAMES[name];
        let target = ["a", "../b", "/etc"][other];
        raw = match what {
            0 | 1 => raw.directory(name, mode),
            2 => raw.symlink(name, target),
            3 => raw.hard_link(name, target),
            4 => {
                let (above, name) = name.rsplit_once('/').unwrap_or(("", name));
                raw.file(&format!("{above}/.wh.{name}"), "")
            }
            5 => raw.file(&format!("{name}/.wh..wh..opq"), ""),
            6 => raw
                .pax(&[("SCHILY.xattr.user.x", b"1"), ("mtime", b"12.5")])
                .directory(name, mode),
            _ => raw.file(name, "u:x:7:8"),
        };
    }
    raw.end()
}

fn spec(destination: usize, flags: u8) -> CopySpec {
    let source = CopySource::Inline {
        name: "x".into(),
        content: b"new".to_vec(),
    };
    CopySpec {
        chown: (flags & 1 != 0).then(|| "u".to_owned()),
        workdir: if flags & 2 != 0 { "/a" } else { "/" }.to_owned(),
        ..CopySpec::new([source], DESTINATIONS[destination])
    }
}

/// The digest of what a copy makes, or why it fails.
fn copied(spec: &CopySpec, base: &Snapshot, owners: Owners) -> Result<DiffId, String> {
    copied_from(spec, &Snapshot::empty(), base, owners)
}

fn copied_from(
    spec: &CopySpec,
    from: &Snapshot,
    base: &Snapshot,
    owners: Owners,
) -> Result<DiffId, String> {
    let dir = tempfile::tempdir().unwrap();
    let onto = Onto {
        base,
        created: Timestamp::from_seconds(5),
        owners,
    };
    let layer = copy(spec, from, &onto, &dir.path().join("copied"));
    let layer = layer.map_err(|error| error.to_string())?;
    let packed = pack(&layer, &PackOptions::default(), dir.path());
    Ok(packed.unwrap().diff_id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_copy_onto_a_listing_makes_the_same_bytes(
        layers in prop::collection::vec(prop::collection::vec(member(), 0..7), 1..4),
        destination in 0..DESTINATIONS.len(),
        flags in 0_u8..4,
    ) {
        let (mut unpacked, mut listed) = (Snapshot::empty(), Snapshot::empty());
        let dir = tempfile::tempdir().unwrap();
        let (owners, limits) = (all_owners()[0], Limits::default());
        for (number, members) in layers.iter().enumerate() {
            let archive = layer(members);
            let into = dir.path().join(format!("layer{number}"));
            let result = unpack(&archive[..], &MediaType::OciLayer, &into, &limits, owners)
                .map(|(layer, id)| (Arc::new(layer), id));
            assert_listed_alike(&archive, &limits, &result);
            // A layer that is refused is refused either way.
            let Ok((layer, _)) = result else { continue };
            let (listing, _) = list(&archive[..], &MediaType::OciLayer, &limits).unwrap();
            unpacked = unpacked.with(layer);
            listed = listed.with_listing(Arc::new(listing));
        }
        assert_same_tree(&unpacked, &listed);
        let spec = spec(destination, flags);
        let from_listing = copied(&spec, &listed, owners);
        if !listed.lacked_content() {
            assert_eq!(copied(&spec, &unpacked, owners), from_listing);
        }
    }

    #[test]
    fn a_copy_from_a_listing_makes_the_same_bytes(
        layers in prop::collection::vec(prop::collection::vec(member(), 0..7), 1..4),
        source in 0..SOURCES.len(),
        guess in 0..SOURCES.len(),
        parents: bool,
    ) {
        let (mut unpacked, mut listed) = (Snapshot::empty(), Snapshot::empty());
        let dir = tempfile::tempdir().unwrap();
        let (owners, limits) = (all_owners()[0], Limits::default());
        let mut archives = Vec::new();
        for (number, members) in layers.iter().enumerate() {
            let archive = layer(members);
            let at = dir.path().join(format!("layer{number}"));
            let Ok((layer, _)) = unpack(&archive[..], &MediaType::OciLayer, &at, &limits, owners)
            else {
                continue;
            };
            unpacked = unpacked.with(Arc::new(layer));
            let (listing, _) = list(&archive[..], &MediaType::OciLayer, &limits).unwrap();
            listed = listed.with_listing(Arc::new(listing));
            archives.push(archive);
        }
        let spec = CopySpec {
            parents,
            ..CopySpec::new([CopySource::Path(SOURCES[source].into())], "/to/")
        };
        for (layer, lacking) in lacking(&spec, &listed).unwrap_or_default() {
            let wanted = Wanted {
                paths: lacking.paths,
                guesses: [Guess::of(SOURCES[guess])].into(),
            };
            let picking = Picking::new(wanted, &dir.path().join(format!("picked{layer}"))).unwrap();
            let archive = &archives[layer][..];
            let found = list_and_pick(archive, &MediaType::OciLayer, &limits, Some(picking));
            let (again, picked, _) = found.unwrap();
            assert_eq!(again.as_bytes(), lacking.listing.as_bytes());
            listed = listed.with_picked(layer, picked.into_iter().map(Arc::new).collect());
        }
        let nothing = Snapshot::empty();
        let from_listing = copied_from(&spec, &listed, &nothing, owners);
        // A name that a file had in the archive before it got another one is not among those that are asked for.
        if !listed.lacked_content() {
            assert_eq!(copied_from(&spec, &unpacked, &nothing, owners), from_listing);
            let digest = |tree| digest_inputs(&spec, tree).map(|found| found.0).ok();
            assert_eq!(digest(&unpacked), digest(&listed));
        }
    }
}
