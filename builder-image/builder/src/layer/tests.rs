//! Packing: what goes in comes out, the same each time, and other programs agree.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    num::NonZero,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use oci::{Digest, MediaType};
use proptest::prelude::*;

use super::*;
use crate::{
    fixture::{FIXTURE_TIME, all_owners, layer, lines, show, show_layer},
    snapshot::Snapshot,
    tree::{Attributes, ImagePath, Timestamp, Tree},
    unpack::{Limits, unpack},
    upper::Upper,
};

const EVERYTHING: &str = "700 1:2 /d/; 4755 /d/f = content; 600 70000:3000000 /d/e; /d/h == /d/f; 5:5 /l -> /d/f; /p fifo; \
     666 /null c1:3; 660 0:6 /sda b8:300; /gone whiteout; /o/; /o/in = x; /o opaque; /z/gone whiteout; 1777 /tmp/";

fn options(compression: Compression, threads: usize) -> PackOptions {
    PackOptions {
        compression,
        clamp_mtime: None,
        threads: NonZero::new(threads).unwrap(),
    }
}

fn read_blob(packed: &PackedLayer) -> Vec<u8> {
    fs_err::read(&packed.blob).unwrap()
}

fn pack_plain(layer: &LayerDir, blobs: &Path) -> PackedLayer {
    pack(layer, &options(Compression::None, 1), blobs).unwrap()
}

#[test]
fn packed_unpacked_and_packed_again_is_the_same() {
    for owners in all_owners() {
        for compression in [
            Compression::default(),
            Compression::Zstd { level: 3 },
            Compression::None,
        ] {
            let dir = tempfile::tempdir().unwrap();
            let first = layer(EVERYTHING, &dir.path().join("first"), owners);
            let packed = pack(&first, &options(compression, 2), dir.path()).unwrap();
            let blob = read_blob(&packed);
            assert_eq!(Digest::of(&blob), packed.descriptor.digest);
            assert_eq!(blob.len() as u64, packed.descriptor.size);
            assert_eq!(packed.descriptor.media_type, compression.media_type());
            assert_eq!(
                packed.blob,
                dir.path()
                    .join("sha256")
                    .join(packed.descriptor.digest.hex())
            );
            for again in all_owners() {
                let into = dir.path().join(format!("{again:?}"));
                let (second, diff_id) = unpack(
                    &blob[..],
                    &packed.descriptor.media_type,
                    &into,
                    &Limits::default(),
                    again,
                )
                .unwrap();
                assert_eq!(diff_id, packed.diff_id);
                let second = Arc::new(second);
                assert_eq!(show_layer(&second), show_layer(&first));
                assert_eq!(
                    pack(&second, &options(compression, 1), dir.path()).unwrap(),
                    packed,
                    "{owners:?} {again:?}"
                );
            }
            let left = fs_err::read_dir(dir.path().join("sha256")).unwrap().count();
            assert_eq!(left, 1, "nothing but the blob stays");
        }
    }
}

#[test]
fn owners_on_disk_and_recorded_make_the_same_blob() {
    let dir = tempfile::tempdir().unwrap();
    let blobs: Vec<_> = all_owners()
        .into_iter()
        .map(|owners| {
            let layer = layer(EVERYTHING, &dir.path().join(format!("{owners:?}")), owners);
            pack_plain(&layer, dir.path()).descriptor.digest
        })
        .collect();
    assert!(blobs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn gnu_tar_lists_what_was_packed() {
    let dir = tempfile::tempdir().unwrap();
    let layer = layer(EVERYTHING, &dir.path().join("layer"), Owners::Recorded);
    let packed = pack(&layer, &PackOptions::default(), dir.path()).unwrap();
    let listing = Command::new("tar")
        .args(["--numeric-owner", "--utc", "--full-time", "-tvzf"])
        .arg(&packed.blob)
        .output()
        .unwrap();
    assert!(listing.status.success() && listing.stderr.is_empty());
    let text = String::from_utf8(listing.stdout).unwrap();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let found: Vec<_> = text.lines().map(words).collect();
    let expected = [
        "drwx------ 1/2 0 1970-01-12 13:46:40 d/",
        "-rw------- 70000/3000000 0 1970-01-12 13:46:40 d/e",
        "-rwsr-xr-x 0/0 7 1970-01-12 13:46:40 d/f",
        "hrwsr-xr-x 0/0 0 1970-01-12 13:46:40 d/h link to d/f",
        "---------- 0/0 0 1970-01-01 00:00:00 .wh.gone",
        "lrwxrwxrwx 5/5 0 1970-01-12 13:46:40 l -> /d/f",
        "crw-rw-rw- 0/0 1,3 1970-01-12 13:46:40 null",
        "drwxr-xr-x 0/0 0 1970-01-12 13:46:40 o/",
        "---------- 0/0 0 1970-01-01 00:00:00 o/.wh..wh..opq",
        "-rw-r--r-- 0/0 1 1970-01-12 13:46:40 o/in",
        "prw-r--r-- 0/0 0 1970-01-12 13:46:40 p",
        "brw-rw---- 0/6 8,300 1970-01-12 13:46:40 sda",
        "drwxrwxrwt 0/0 0 1970-01-12 13:46:40 tmp/",
        "drwxr-xr-x 0/0 0 1970-01-12 13:46:40 z/",
        "---------- 0/0 0 1970-01-01 00:00:00 z/.wh.gone",
    ];
    assert_eq!(found, expected);
}

#[test]
fn long_names_times_and_attributes_are_read_by_gnu_tar() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Snapshot::empty();
    let mut upper = Upper::create(&scratch, &dir.path().join("layer"), Owners::Recorded).unwrap();
    let long = ImagePath::new(format!("{}/{}", "d".repeat(90), "ä".repeat(100)));
    let attributes = Attributes {
        mode: 0o600,
        mtime: Timestamp::from_seconds(-5),
        ..Attributes::default()
    };
    upper
        .make_directories(&long.parent().unwrap(), &attributes, false)
        .unwrap();
    upper.file(&long, &attributes, &mut &b"x"[..]).unwrap();
    let target = "t".repeat(300);
    upper
        .symlink(&ImagePath::new("link"), OsStr::new(&target), &attributes)
        .unwrap();
    let layer = upper.finish().unwrap();
    let packed = pack_plain(&layer, dir.path());
    let listing = Command::new("tar")
        .args(["--utc", "--full-time", "--quoting-style=literal", "-tvf"])
        .arg(&packed.blob)
        .output()
        .unwrap();
    let text = String::from_utf8(listing.stdout).unwrap();
    assert!(
        text.contains(&format!(
            "1969-12-31 23:59:55 {}/{}\n",
            "d".repeat(90),
            "ä".repeat(100)
        )),
        "{text}"
    );
    assert!(text.contains(&format!("link -> {target}\n")), "{text}");
}

#[test]
fn times_are_clamped_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let first = layer("/a = x", &dir.path().join("a"), Owners::Recorded);
    let plain = pack_plain(&first, dir.path());
    let later = PackOptions {
        clamp_mtime: Some(FIXTURE_TIME.seconds),
        ..options(Compression::None, 1)
    };
    assert_eq!(pack(&first, &later, dir.path()).unwrap(), plain);
    let earlier = PackOptions {
        clamp_mtime: Some(7),
        ..options(Compression::None, 1)
    };
    let blob = read_blob(&pack(&first, &earlier, dir.path()).unwrap());
    assert_eq!(&blob[136..147], b"00000000007");
}

#[test]
fn fractions_of_seconds_are_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let digests: Vec<_> = [0, 999_999_999]
        .map(|nanos| {
            let scratch = Snapshot::empty();
            let into = dir.path().join(nanos.to_string());
            let mut upper = Upper::create(&scratch, &into, Owners::Recorded).unwrap();
            let mtime = Timestamp { seconds: 5, nanos };
            let attributes = Attributes {
                mode: 0o644,
                mtime,
                ..Attributes::default()
            };
            upper
                .file(&ImagePath::new("a"), &attributes, &mut &b""[..])
                .unwrap();
            pack_plain(&upper.finish().unwrap(), dir.path()).diff_id
        })
        .into();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn an_empty_layer_is_the_well_known_one() {
    let dir = tempfile::tempdir().unwrap();
    let empty = layer("", &dir.path().join("empty"), Owners::Recorded);
    let packed = pack_plain(&empty, dir.path());
    assert_eq!(packed.diff_id.0, Digest::of(&[0; 1024]));
    assert_eq!(packed.diff_id.0.short(), "5f70bf18a086");
}

#[test]
fn gzip_of_a_layer_does_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Snapshot::empty();
    let mut upper = Upper::create(&scratch, &dir.path().join("layer"), Owners::Recorded).unwrap();
    let attributes = Attributes {
        mode: 0o644,
        ..Attributes::default()
    };
    for number in 0..16_u32 {
        let lines: Vec<_> = (0..12_000)
            .map(|line| format!("{} {}", line * number, line ^ number))
            .collect();
        let content = lines.join("\n");
        upper
            .file(
                &ImagePath::new(number.to_string()),
                &attributes,
                &mut content.as_bytes(),
            )
            .unwrap();
    }
    let layer = upper.finish().unwrap();
    let packed: Vec<_> = [1, 2, 3, 8]
        .into_iter()
        .map(|threads| {
            pack(
                &layer,
                &options(Compression::default(), threads),
                dir.path(),
            )
            .unwrap()
        })
        .collect();
    assert!(packed.windows(2).all(|pair| pair[0] == pair[1]));
    let tested = Command::new("gzip")
        .arg("-t")
        .stdin(Stdio::from(
            fs_err::File::open(&packed[0].blob).unwrap().into_parts().0,
        ))
        .status();
    assert!(tested.unwrap().success());
    let (again, diff_id) = unpack(
        fs_err::File::open(&packed[0].blob).unwrap(),
        &MediaType::DockerLayerGzip,
        &dir.path().join("again"),
        &Limits::default(),
        Owners::Recorded,
    )
    .unwrap();
    assert_eq!(diff_id, packed[0].diff_id);
    assert_eq!(
        show(&Snapshot::new(vec![Arc::new(again)])),
        show(&Snapshot::new(vec![Arc::new(layer)]))
    );
}

#[test]
fn sockets_are_left_out_and_reserved_names_refused() {
    let dir = tempfile::tempdir().unwrap();
    let upper = dir.path().join("upper");
    fs_err::create_dir(&upper).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    let packed = pack_plain(&LayerDir::open(&upper).unwrap(), dir.path());
    assert_eq!(packed.diff_id.0, Digest::of(&[0; 1024]));
    fs_err::write(upper.join(".wh.x"), "").unwrap();
    let error = pack(
        &LayerDir::open(&upper).unwrap(),
        &PackOptions::default(),
        dir.path(),
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/.wh.x: a name that begins with `.wh.`"),
        "{error}"
    );
}

#[test]
fn a_layer_moves_with_its_index() {
    let dir = tempfile::tempdir().unwrap();
    for owners in all_owners() {
        let path = dir.path().join(format!("{owners:?}"));
        let made = Arc::into_inner(layer(EVERYTHING, &path, owners)).unwrap();
        let shown = show_layer(&Arc::new(LayerDir::open(&path).unwrap()));
        let moved = made
            .rename_to(dir.path().join(format!("{owners:?}-moved")))
            .unwrap();
        let opened = Arc::new(LayerDir::open(&moved.path).unwrap());
        assert_eq!(opened.owners, owners);
        assert_eq!(show_layer(&opened), shown);
        assert!(!path.exists());
        moved.remove().unwrap();
    }
    assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_survives_packing(
        entries in proptest::collection::btree_map("[a-c]{1,2}(/([a-c.ä]{1,3}|[d-e]{90,200})){0,2}", (0..7, 0_u32..0o10000, any::<u16>(), "[ -:<-~]{0,40}"), 0..12),
    ) {
        // What hard links are names of.
        let mut text = vec!["640 7:7 /a0 = linked".to_owned()];
        let described = entries
            .iter()
            .filter(|(path, _)| {
                // No entry may be below one that is no directory.
                !entries.keys().any(|other| path.starts_with(&format!("{other}/"))) && !path.split('/').any(|part| matches!(part, "." | ".."))
            })
            .map(|(path, (kind, mode, id, content))| match kind {
                0 => format!("{mode:o} {id}:{id} /{path}/"),
                1 => format!("{id}:7 /{path} -> t{}", content.trim()),
                2 => format!("{mode:o} {id}:{id} /{path} fifo"),
                3 => format!("{mode:o} {id}:{id} /{path} b{}:{id}", id % 256),
                4 => format!("/{path} == /a0"),
                _ => format!("{mode:o} {id}:{id} /{path} = x{}", content.trim()),
            });
        text.extend(described);
        let dir = tempfile::tempdir().unwrap();
        let first = layer(&text.join("\n"), &dir.path().join("first"), Owners::Recorded);
        let packed = pack(&first, &options(Compression::default(), 2), dir.path()).unwrap();
        let (second, diff_id) = unpack(&read_blob(&packed)[..], &MediaType::OciLayerGzip, &dir.path().join("second"), &Limits::default(), Owners::Recorded).unwrap();
        prop_assert_eq!(diff_id, packed.diff_id);
        prop_assert_eq!(show_layer(&Arc::new(second)), show_layer(&first));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]
    #[test]
    fn any_attributes_survive_packing(
        files in proptest::collection::btree_map("[a-e]{1,3}", (
            proptest::collection::btree_map("user\\.[a-nA-Z0-9._]{1,40}", proptest::collection::vec(any::<u8>(), 0..200), 0..4),
            // What file systems keep.
            -2_000_000_000_i64..10_000_000_000,
            0..u32::MAX,
        ), 1..6),
    ) {
        for owners in all_owners() {
            let dir = tempfile::tempdir().unwrap();
            let scratch = Snapshot::empty();
            let mut upper = Upper::create(&scratch, &dir.path().join("first"), owners).unwrap();
            for (name, (xattrs, seconds, id)) in &files {
                let mtime = Timestamp::from_seconds(*seconds);
                let attributes = Attributes { mode: 0o644, uid: *id, gid: id / 2, mtime, xattrs: xattrs.clone() };
                upper.file(&ImagePath::new(name), &attributes, &mut &b"x"[..]).unwrap();
            }
            let packed = pack_plain(&upper.finish().unwrap(), dir.path());
            let (second, diff_id) = unpack(&read_blob(&packed)[..], &MediaType::OciLayer, &dir.path().join("second"), &Limits::default(), owners).unwrap();
            prop_assert_eq!(&diff_id, &packed.diff_id);
            let tree = Snapshot::new(vec![Arc::new(second)]);
            for (name, (xattrs, seconds, id)) in &files {
                let path = ImagePath::new(name);
                prop_assert_eq!(&tree.xattrs(&path).unwrap(), xattrs);
                let entry = tree.lookup(&path).unwrap().unwrap();
                prop_assert_eq!((entry.mtime.seconds, entry.uid, entry.gid), (*seconds, *id, id / 2));
            }
        }
    }
}

#[test]
fn a_file_that_was_there_is_replaced_by_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let first = layer("/a = x", &dir.path().join("a"), Owners::Recorded);
    let one = pack_plain(&first, dir.path());
    let two = pack_plain(&first, dir.path());
    assert_eq!(one, two);
    let tree = Snapshot::new(vec![first]);
    assert_eq!(show(&tree), lines("/a = x"));
    assert!(tree.xattrs(&ImagePath::new("/a")).unwrap().is_empty());
}
