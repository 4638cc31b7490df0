//! Unpacking: attacks that must stay inside, formats, whiteouts, bounds. Archives are written byte by byte, as no writer
//! makes what an attacker makes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{io::Write, path::PathBuf, sync::Arc};

mod listing;
mod sparse;

use super::*;
use crate::fixture::{all_owners, lines, show, show_layer, snapshot};

/// An archive in the making.
#[derive(Default, Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn header(mut self, name: &[u8], flag: u8, link: &[u8], size: u64, mode: u32) -> Self {
        let mut block = [0_u8; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[136..147].copy_from_slice(b"00000001750");
        block[156] = flag;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        if matches!(flag, b'3' | b'4') {
            block[329..336].copy_from_slice(b"0000001");
            block[337..344].copy_from_slice(b"0000003");
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.header(name.as_bytes(), b'0', b"", content.len() as u64, 0o644)
            .data(content.as_bytes())
    }

    fn directory(self, name: &str, mode: u32) -> Self {
        self.header(name.as_bytes(), b'5', b"", 0, mode)
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.header(name.as_bytes(), b'2', target.as_bytes(), 0, 0o777)
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.header(name.as_bytes(), b'1', target.as_bytes(), 0, 0o644)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..rest + 9)
                .find(|length| *length == rest + length.to_string().len())
                .unwrap();
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.raw_pax(&content)
    }

    fn raw_pax(self, content: &[u8]) -> Self {
        self.header(b"pax", b'x', b"", content.len() as u64, 0o644)
            .data(content)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

struct Unpacked {
    dir: tempfile::TempDir,
    result: Result<(Arc<LayerDir>, DiffId), UnpackError>,
}

impl Unpacked {
    fn show(&self) -> String {
        match &self.result {
            Ok((layer, _)) => show_layer(layer),
            Err(error) => format!("error: {error}"),
        }
    }

    fn probe(&self) -> PathBuf {
        self.dir.path().join("probe")
    }
}

fn unpack_with(archive: &[u8], limits: &Limits, owners: Owners) -> Unpacked {
    let dir = tempfile::tempdir().unwrap();
    // What no archive may reach: beside the layer.
    fs_err::create_dir(dir.path().join("probe")).unwrap();
    fs_err::write(dir.path().join("probe/file"), "untouched").unwrap();
    let into = dir.path().join("layer");
    let result = unpack(archive, &MediaType::OciLayer, &into, limits, owners)
        .map(|(layer, id)| (Arc::new(layer), id));
    listing::assert_listed_alike(archive, limits, &result);
    Unpacked { dir, result }
}

fn show_unpacked(archive: &[u8]) -> String {
    let shown: Vec<_> = all_owners()
        .into_iter()
        .map(|owners| unpack_with(archive, &Limits::default(), owners).show())
        .collect();
    assert!(
        shown.windows(2).all(|pair| pair[0] == pair[1]),
        "owners make no difference: {shown:?}"
    );
    shown[0].clone()
}

#[test]
#[rustfmt::skip] // One row, one line.
fn nothing_leaves_the_root() {
    use std::os::unix::fs::PermissionsExt;
    let up = "../probe/file";
    for (name, archive, expected) in [
        ("dots", Raw::default().file(up, "x"), "/probe/; /probe/file = x"),
        ("dots in the middle", Raw::default().file("a/../../probe/file", "x"), "/probe/; /probe/file = x"),
        ("absolute", Raw::default().file("/etc/passwd", "x"), "/etc/; /etc/passwd = x"),
        ("backslashes", Raw::default().file("..\\probe\\file", "x"), "/..\\probe\\file = x"),
        ("a link up, then through it", Raw::default().symlink("l", "../probe").file("l/file", "x"), "/l -> ../probe; /probe/; /probe/file = x"),
        ("a link to the root, then through it", Raw::default().symlink("l", "/").file("l/etc/p", "x"), "/etc/; /etc/p = x; /l -> /"),
        ("links of links", Raw::default().symlink("a", "b").symlink("b", "..").file("a/probe/file", "x"), "/a -> b; /b -> ..; /probe/; /probe/file = x"),
        ("a directory over a link (CVE-2026-33056)", Raw::default().symlink("d", "../probe").directory("d", 0o777), "777 /d/"),
        ("a file over a link", Raw::default().symlink("f", "../probe/file").file("f", "x"), "/f = x"),
        ("a hard link up", Raw::default().hard_link("h", up), "error: the archive's member `h` is a hard link to /probe/file, which is not there"),
        ("a hard link to an absolute path", Raw::default().hard_link("h", "/etc/passwd"), "error: the archive's member `h` is a hard link to /etc/passwd, which is not there"),
        ("a hard link through a link", Raw::default().symlink("l", "../probe").hard_link("h", "l/file"), "error: the archive's member `h` is a hard link to /probe/file, which is not there"),
        ("a hard link to a link, then written", Raw::default().symlink("l", up).hard_link("h", "l").file("h", "x"), "/h = x; /l -> ../probe/file"),
        ("a hard link to a directory", Raw::default().directory("d", 0o755).hard_link("h", "d"), "error: the archive's member `h` is a hard link to /d, which is not there or is a directory"),
        ("a hard link to the root", Raw::default().hard_link("h", "/"), "error: the archive's member `h` is a hard link to /, which"),
        ("a whiteout through a link", Raw::default().symlink("l", "../probe").file("l/.wh.file", ""), "/l -> ../probe; /probe/"),
        ("a whiteout of dots", Raw::default().file(".wh...", ""), "error: the archive's member `.wh...` has a name that no file can have"),
        ("a whiteout of a dot", Raw::default().file("d/.wh..", ""), "error: the archive's member `.wh..` has a name that no file can have"),
        ("a whiteout of nothing", Raw::default().file("d/.wh.", ""), "error: the archive's member `.wh.` has a name that no file can have"),
        ("opaque through a link", Raw::default().symlink("l", "../probe").file("l/.wh..wh..opq", ""), "/l -> ../probe; /probe/"),
        ("below a file", Raw::default().file("f", "x").file("f/g", "y"), "error: /f: not a directory"),
        ("a loop of links", Raw::default().symlink("a", "b").symlink("b", "a").file("a/x", ""), "error: /a: too many levels of symbolic links"),
        ("a NUL in a name", Raw::default().pax(&[("path", b"a\0b")]).file("a", "x"), "error: the archive's header of `a\0b` has a malformed name"),
    ] {
        for owners in all_owners() {
            let unpacked = unpack_with(&archive.clone().end(), &Limits::default(), owners);
            let found = unpacked.show();
            match expected.strip_prefix("error: ") {
                Some(part) => assert!(found.starts_with(&format!("error: {part}")), "{name} ({owners:?}): {found}"),
                None => assert_eq!(found, lines(expected), "{name} ({owners:?})"),
            }
            assert_eq!(fs_err::read_to_string(unpacked.probe().join("file")).unwrap(), "untouched", "{name}");
            assert_eq!(fs_err::read_dir(unpacked.probe()).unwrap().count(), 1, "{name}");
            let mode = fs_err::metadata(unpacked.probe()).unwrap().permissions().mode();
            assert_ne!(mode & 0o777, 0o777, "{name}");
        }
    }
}

#[test]
#[rustfmt::skip] // One row, one line.
fn what_readers_would_take_differently_is_refused() {
    let nested = Raw::default().file("hidden", "x").end();
    let size = nested.len().to_string();
    for (name, archive, expected) in [
        // The size of PAX counts, for Go and GNU alike: the nested archive is the data of `outer`.
        ("CVE-2026-33055: a size in PAX only", Raw::default().pax(&[("size", size.as_bytes())]).header(b"outer", b'0', b"", 0, 0o644).data(&nested), "/outer = "),
        ("two extended headers", Raw::default().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("c", ""), "error: the archive has a malformed extended header: two of them"),
        ("GNU and PAX names that differ", Raw::default().header(b"long", b'L', b"", 4, 0o644).data(b"gnu\0").pax(&[("path", b"pax")]).file("c", ""), "error: the archive's member `pax` is ambiguous: its GNU and PAX headers differ"),
        ("GNU and PAX names that agree", Raw::default().header(b"long", b'L', b"", 5, 0o644).data(b"same\0").pax(&[("path", b"same")]).file("c", ""), "/same"),
        ("a directory with a size", Raw::default().header(b"d", b'5', b"", 512, 0o755).file("x", ""), "error: the archive's member `d` is ambiguous: it has a size"),
        ("a hard link with data", Raw::default().file("a", "").pax(&[("size", b"512")]).hard_link("b", "a"), "error: the archive's member `b` is ambiguous: a hard link has data"),
        ("a record without an end", Raw::default().raw_pax(b"30 path=short\n").file("c", ""), "error: the archive has a malformed extended header: a record's length is wrong"),
        ("a record without a length", Raw::default().raw_pax(b"path=a\n").file("c", ""), "error: the archive has a malformed extended header: a record has no length"),
        ("a record of length zero", Raw::default().raw_pax(b"0 path=a\n").file("c", ""), "error: the archive has a malformed extended header: a record's length is wrong"),
        ("a negative length", Raw::default().raw_pax(b"-9 path=a\n").file("c", ""), "error: the archive has a malformed extended header: a record's length is no number"),
        ("a size that is no number", Raw::default().pax(&[("size", b"1e3")]).file("c", ""), "error: the archive has a malformed extended header: a size is no number"),
        ("an unknown type", Raw::default().header(b"u", b'Z', b"", 0, 0o644), "error: the archive's member `u` is of an unknown type"),
        ("members after a block of zeros", Raw(vec![0; 512]).file("a", ""), "error: the archive's member `` is ambiguous: a block of zeros"),
        ("an extended header for nothing", Raw::default().pax(&[("path", b"a")]), "error: the archive ends in the middle"),
        ("global records do not apply", Raw::default().header(b"g", b'g', b"", 10, 0o644).data(b"10 path=b\n").file("a", "x"), "/a = x"),
        ("an empty value takes back", Raw::default().pax(&[("path", b"b"), ("path", b"")]).file("a", "x"), "/a = x"),
        ("the last of two members counts", Raw::default().file("a", "one").file("a", "two"), "/a = two"),
        ("a file becomes a directory", Raw::default().file("a", "one").directory("a", 0o755).file("a/b", "x"), "/a/; /a/b = x"),
        ("a directory becomes a file", Raw::default().directory("a", 0o755).file("a/b", "x").file("a", "two"), "/a = two"),
        ("an old directory has no type", Raw::default().header(b"d/", 0, b"", 0, 0o755), "/d/"),
    ] {
        let found = show_unpacked(&archive.end());
        match expected.strip_prefix("error: ") {
            Some(part) => assert!(found.starts_with(&format!("error: {part}")), "{name}: {found}"),
            None if expected == "/outer = " => {
                assert!(found.starts_with("/outer = hidden") && found.lines().count() == 1, "{name}: {found:?}");
            }
            None => assert_eq!(found, lines(expected), "{name}"),
        }
    }
}

#[test]
fn damaged_archives_are_errors() {
    let good = Raw::default().file("a", "content").end();
    let mut wrong_sum = good.clone();
    wrong_sum[0] = b'b';
    let error = show_unpacked(&wrong_sum);
    assert!(
        error.starts_with("error: not a tar archive, or a damaged one"),
        "{error}"
    );
    for length in [100, 512, 515] {
        let error = show_unpacked(&good[..length]);
        assert!(
            error.starts_with("error: the archive ends in the middle"),
            "{length}: {error}"
        );
    }
    assert_eq!(
        show_unpacked(&good[..1024]),
        lines("/a = content"),
        "the end may be missing, as with Go's reader"
    );
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&good).unwrap();
    let mut gzip = gzip.finish().unwrap();
    let last = gzip.len() - 6;
    gzip[last] ^= 1;
    assert!(show_unpacked(&gzip).starts_with("error: reading the archive failed"));
    assert!(show_unpacked(&gzip[..gzip.len() / 2]).starts_with("error: "));
}

#[test]
fn kinds_owners_and_attributes() {
    let capability = [
        1, 0, 0, 2, b'\n', 4, 0, 0, 0, 0, b'=', 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let archive = Raw::default()
        .directory("./", 0o711)
        .directory("d/", 0o1777)
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.a", b"b"),
            ("uid", b"70000"),
            ("mtime", b"12.5"),
        ])
        .header(b"ping", b'0', b"", 1, 0o4755)
        .data(b"x")
        .pax(&[
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"l"),
        ])
        .file("plain", "")
        .header(b"null", b'3', b"", 0, 0o666)
        .header(b"disk", b'4', b"", 0, 0o660)
        .header(b"pipe", b'6', b"", 0, 0o600)
        .symlink("l", "anything at all")
        .hard_link("pong", "ping")
        .hard_link("null2", "null")
        .end();
    for owners in all_owners() {
        let unpacked = unpack_with(&archive, &Limits::default(), owners);
        let (layer, diff_id) = unpacked.result.as_ref().unwrap();
        assert_eq!(*diff_id, DiffId(oci::Digest::of(&archive)));
        let tree = Snapshot::new(vec![Arc::clone(layer)]);
        assert_eq!(
            show(&tree),
            lines(
                "1777 /d/; 660 /disk b1:3; /l -> anything at all; 666 /null c1:3; 666 /null2 c1:3; 600 /pipe fifo; \
                 4755 70000:0 /ping = x; /plain; 4755 70000:0 /pong = x"
            )
        );
        let entry = |path: &str| tree.lookup(&ImagePath::new(path)).unwrap().unwrap();
        assert_eq!(
            (entry("ping").mtime.seconds, entry("ping").mtime.nanos),
            (12, 500_000_000)
        );
        assert_eq!(
            (
                entry("d").mtime.seconds,
                entry("l").mtime.seconds,
                entry("/").mode
            ),
            (1000, 1000, 0o711)
        );
        assert_eq!(entry("ping").hard_link, entry("pong").hard_link);
        let xattrs = tree.xattrs(&ImagePath::new("ping")).unwrap();
        assert_eq!(xattrs["security.capability"], capability);
        assert_eq!(xattrs["user.a"], b"b");
        assert!(tree.xattrs(&ImagePath::new("plain")).unwrap().is_empty());
        // Another process finds the same.
        let again = Snapshot::new(vec![Arc::new(LayerDir::open(&layer.path).unwrap())]);
        assert_eq!(show(&again), show(&tree));
    }
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    let base = "/a = old; /d/x = old; /d/y = old; /e/x = old; /f/x/y = old; /g = old; /k/z = old";
    let archive = Raw::default()
        .file(".wh.a", "")
        .file("d/.wh.x", "")
        .directory("e/", 0o755)
        .file("e/new", "n")
        .file("e/.wh..wh..opq", "")
        .file(".wh.f", "")
        .directory("f/", 0o755)
        .file("f/own", "o")
        .file("g", "new")
        .file(".wh.g", "")
        .directory("k/", 0o755)
        .file("k/own", "o")
        .file(".wh.k", "")
        .file(".wh..wh.plnk", "")
        .file(".wh.never-there", "")
        .end();
    for owners in all_owners() {
        let unpacked = unpack_with(&archive, &Limits::default(), owners);
        let (layer, _) = unpacked.result.as_ref().unwrap();
        let below = tempfile::tempdir().unwrap();
        let tree = snapshot(&[base], below.path(), owners).with(Arc::clone(layer));
        assert_eq!(
            show(&tree),
            lines("/d/; /d/y = old; /e/; /e/new = n; /f/; /f/own = o; /g = new; /k/; /k/own = o")
        );
    }
}

#[test]
fn implied_directories_are_those_below() {
    let archive = Raw::default().file("p/q/f", "x").file("new/f", "y").end();
    for owners in all_owners() {
        let unpacked = unpack_with(&archive, &Limits::default(), owners);
        let (layer, _) = unpacked.result.as_ref().unwrap();
        let below = tempfile::tempdir().unwrap();
        let base = snapshot(&["700 1:2 /p/; 711 3:4 /p/q/"], below.path(), owners);
        let expected = lines("/new/; /new/f = y; 700 1:2 /p/; 711 3:4 /p/q/; /p/q/f = x");
        assert_eq!(show(&base.with(Arc::clone(layer))), expected);
        crate::snapshot::settle_implied(layer, &base).unwrap();
        assert_eq!(show(&base.with(Arc::clone(layer))), expected);
        if owners == Owners::OnDisk {
            use std::os::unix::fs::MetadataExt;
            let on_disk = fs_err::metadata(layer.path.join("p/q")).unwrap();
            assert_eq!(
                (on_disk.mode() & 0o7777, on_disk.uid(), on_disk.gid()),
                (0o711, 3, 4),
                "as overlayfs shows it"
            );
        }
    }
}

#[test]
fn bounds_are_kept() {
    let limits = Limits {
        entries: 3,
        bytes: 1 << 20,
        ratio: 50,
        path: 100,
        depth: 4,
        header: 2000,
    };
    let many = (0..4)
        .fold(Raw::default(), |raw, number| {
            raw.file(&number.to_string(), "")
        })
        .end();
    let large = Raw::default()
        .header(b"a", b'0', b"", 2 << 20, 0o644)
        .data(&vec![1; 2 << 20])
        .end();
    let long = Raw::default()
        .pax(&[("path", &[b'a'; 101])])
        .file("a", "")
        .end();
    let long_link = Raw::default()
        .pax(&[("linkpath", &[b'a'; 101])])
        .symlink("a", "b")
        .end();
    let deep = Raw::default().file("a/b/c/d/e", "").end();
    let header = Raw::default()
        .pax(&[("comment", &[b'a'; 2000])])
        .file("a", "")
        .end();
    let endless = Raw::default().header(b"x", b'x', b"", 1 << 32, 0o644).0;
    let gnu = Raw::default().header(b"x", b'L', b"", 1 << 32, 0o644).0;
    for (name, archive, expected) in [
        (
            "entries",
            &many,
            "the archive exceeds the limit of 3 entries",
        ),
        (
            "bytes",
            &large,
            "the archive exceeds the limit of 1048576 uncompressed bytes",
        ),
        ("path", &long, "the archive's name exceeds 100"),
        ("link", &long_link, "the archive's link target exceeds 100"),
        (
            "depth",
            &deep,
            "the archive exceeds the limit of 4 components of a path",
        ),
        (
            "header",
            &header,
            "the archive's extended header exceeds 2000",
        ),
        (
            "endless header",
            &endless,
            "the archive's extended header exceeds 2000",
        ),
        (
            "endless name",
            &gnu,
            "the archive's extended header exceeds 2000",
        ),
    ] {
        for owners in all_owners() {
            let error = unpack_with(archive, &limits, owners).result.unwrap_err();
            assert_eq!(error.to_string(), expected, "{name}");
        }
    }
}

#[test]
fn bombs_are_stopped_by_their_ratio() {
    // 256 MiB of zeros behind the end of an archive, in a few kilobytes.
    let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
    zstd.write_all(&Raw::default().file("a", "").end()).unwrap();
    for _ in 0..256 {
        zstd.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = zstd.finish().unwrap();
    assert!(bomb.len() < 64 << 10);
    let error = unpack_with(&bomb, &Limits::default(), Owners::Recorded)
        .result
        .unwrap_err();
    assert!(
        matches!(error, UnpackError::Limit(LimitExceeded { limit: 1100, .. })),
        "{error}"
    );
}

#[test]
fn layers_are_read_in_all_their_compressions() {
    let archive = Raw::default().file("a", "content").end();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let members: Vec<u8> = archive.chunks(300).flat_map(gzip).collect();
    let frames: Vec<u8> = archive
        .chunks(300)
        .flat_map(|part| zstd::encode_all(part, 1).unwrap())
        .collect();
    let mut padded = archive.clone();
    padded.resize(20 * 512, 0);
    for (bytes, content) in [
        (&archive, &archive),
        (&gzip(&archive), &archive),
        (&members, &archive),
        (&frames, &archive),
        (&padded, &padded),
    ] {
        let unpacked = unpack_with(bytes, &Limits::default(), Owners::Recorded);
        assert_eq!(unpacked.show(), lines("/a = content"));
        assert_eq!(unpacked.result.unwrap().1, DiffId(oci::Digest::of(content)));
    }
    let dir = tempfile::tempdir().unwrap();
    let error = unpack(
        &archive[..],
        &MediaType::OciConfig,
        &dir.path().join("x"),
        &Limits::default(),
        Owners::Recorded,
    );
    assert!(matches!(error, Err(UnpackError::MediaType(_))));
}

#[test]
fn gnu_tar_archives_are_read_like_gnu_tar_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    fs_err::create_dir_all(source.join(Path::new(&long).parent().unwrap())).unwrap();
    fs_err::write(source.join(&long), "long").unwrap();
    fs_err::write(source.join("a"), "x").unwrap();
    fs_err::hard_link(source.join("a"), source.join("b")).unwrap();
    std::os::unix::fs::symlink("t".repeat(150), source.join("link")).unwrap();
    for format in ["gnu", "oldgnu", "pax", "ustar"] {
        if format == "ustar" {
            fs_err::remove_dir_all(source.join("d".repeat(120))).unwrap();
            fs_err::remove_file(source.join("link")).unwrap();
        }
        let output = std::process::Command::new("tar")
            .args([
                "--format",
                format,
                "--owner=0",
                "--group=0",
                "--mode=u=rwX,go=rX",
                "--sort=name",
                "-c",
                ".",
            ])
            .current_dir(&source)
            .output()
            .unwrap();
        assert!(output.status.success());
        let mut expected = "/a = x; /b = x;".to_owned();
        if format != "ustar" {
            let (directory, target) = ("d".repeat(120), "t".repeat(150));
            expected = format!("{expected} /{directory}/; /{long} = long; /link -> {target}");
        }
        assert_eq!(show_unpacked(&output.stdout), lines(&expected), "{format}");
    }
}
