//! Sparse files: whatever way an archive says where its data belongs, the file is whole afterwards. What says it twice, or
//! contradicts itself, is refused.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

/// A piece of data and where it belongs.
type Piece = (u64, Vec<u8>);

/// The block with its checksum.
fn sealed(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// As GNU tar's own format has it: four pieces in the header, 21 in each block that follows.
fn gnu(pieces: &[Piece], size: u64) -> Vec<u8> {
    let data: Vec<u8> = pieces.iter().flat_map(|(_, data)| data.clone()).collect();
    let mut header: [u8; 512] = Raw::default()
        .header(b"s", b'S', b"", data.len() as u64, 0o644)
        .0
        .try_into()
        .unwrap();
    header[257..265].copy_from_slice(b"ustar  \0");
    header[483..494].copy_from_slice(format!("{size:011o}").as_bytes());
    let numbers = |(offset, data): &Piece| format!("{offset:011o}\0{:011o}\0", data.len());
    let (first, rest) = pieces.split_at(pieces.len().min(4));
    for (at, piece) in (386..).step_by(24).zip(first) {
        header[at..at + 24].copy_from_slice(numbers(piece).as_bytes());
    }
    header[482] = u8::from(!rest.is_empty());
    let mut archive = sealed(header).to_vec();
    let mut blocks = rest.chunks(21).peekable();
    while let Some(pieces) = blocks.next() {
        let mut block = [0; 512];
        for (at, piece) in (0..).step_by(24).zip(pieces) {
            block[at..at + 24].copy_from_slice(numbers(piece).as_bytes());
        }
        block[504] = u8::from(blocks.peek().is_some());
        archive.extend_from_slice(&block);
    }
    Raw(archive).data(&data).end()
}

/// As format 0.1 has it: the map in one record.
fn in_records(pieces: &[Piece], size: u64) -> Vec<u8> {
    let data: Vec<u8> = pieces.iter().flat_map(|(_, data)| data.clone()).collect();
    let map = pieces
        .iter()
        .map(|(offset, data)| format!("{offset},{}", data.len()));
    let map = map.collect::<Vec<_>>().join(",");
    let records: [(&str, &[u8]); 3] = [
        ("GNU.sparse.size", &size.to_string().into_bytes()),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.map", map.as_bytes()),
    ];
    let length = data.len() as u64;
    let raw = Raw::default().pax(&records);
    raw.header(b"GNUSparseFile.1/s", b'0', b"", length, 0o644)
        .data(&data)
        .end()
}

/// As format 1.0 has it: the map before the data, in blocks of its own.
fn before_data(pieces: &[Piece], size: u64) -> Vec<u8> {
    let lines = pieces
        .iter()
        .map(|(offset, data)| format!("{offset}\n{}\n", data.len()));
    let map = format!("{}\n{}", pieces.len(), lines.collect::<String>());
    let mut content = map.into_bytes();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend(pieces.iter().flat_map(|(_, data)| data.clone()));
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", &size.to_string().into_bytes()),
    ];
    let length = content.len() as u64;
    let raw = Raw::default().pax(&records);
    raw.header(b"GNUSparseFile.1/s", b'0', b"", length, 0o644)
        .data(&content)
        .end()
}

fn content_of(archive: &[u8], path: &str) -> Vec<u8> {
    let unpacked = unpack_with(archive, &Limits::default(), all_owners()[0]);
    let (layer, _) = unpacked.result.as_ref().unwrap();
    let tree = Snapshot::new(vec![Arc::clone(layer)]);
    let mut content = Vec::new();
    let path = ImagePath::new(path);
    tree.open(&path).unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(
        tree.lookup(&path).unwrap().unwrap().size,
        content.len() as u64
    );
    content
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_sparse_file_is_whole_in_every_format(
        pieces in prop::collection::vec((0_u64..3000, prop::collection::vec(any::<u8>(), 0..700)), 0..40),
        tail in 0_u64..3000,
    ) {
        let (mut whole, mut placed) = (Vec::new(), Vec::new());
        for (hole, data) in pieces {
            whole.resize(whole.len() + usize::try_from(hole).unwrap(), 0);
            placed.push((whole.len() as u64, data.clone()));
            whole.extend(data);
        }
        whole.resize(whole.len() + usize::try_from(tail).unwrap(), 0);
        // A piece of nothing at offset 0 cannot be told from the end of the map.
        placed.retain(|piece| *piece != (0, Vec::new()));
        for write in [gnu, in_records, before_data] {
            prop_assert_eq!(&content_of(&write(&placed, whole.len() as u64), "/s"), &whole);
        }
    }
}

#[test]
fn sparse_files_of_gnu_tar_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs_err::File::create(dir.path().join("holes")).unwrap();
    let size = 40 << 20;
    file.set_len(size).unwrap();
    let mut whole = vec![0; usize::try_from(size).unwrap()];
    // More pieces than a header has room for.
    for number in 0..30 {
        let (offset, data) = (number * (1 << 20) + 5, format!("piece {number}"));
        file.file().write_all_at(data.as_bytes(), offset).unwrap();
        let offset = usize::try_from(offset).unwrap();
        whole[offset..offset + data.len()].copy_from_slice(data.as_bytes());
    }
    let archive = |flags: &[&str]| {
        let mut command = std::process::Command::new("tar");
        let command = command.args(["-S", "--owner=0", "--group=0", "-c", "holes"]);
        let output = command
            .args(flags)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{flags:?}");
        // Otherwise nothing of it is tested here.
        assert!(output.stdout.len() < 1 << 20, "the archive is not sparse");
        output.stdout
    };
    for flags in [
        &["--format=gnu"][..],
        &["--format=oldgnu"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        assert!(content_of(&archive(flags), "/holes") == whole, "{flags:?}");
    }
    let refused = show_unpacked(&archive(&["--format=posix", "--sparse-version=0.0"]));
    assert!(
        refused.contains("make the archive with GNU tar's --format=gnu"),
        "{refused}"
    );
}

#[test]
#[rustfmt::skip] // One row, one line.
fn maps_that_lie_are_refused() {
    let one = |offset, data: &str| vec![(offset, data.as_bytes().to_vec())];
    let limits = Limits { bytes: 100_000, ..Limits::default() };
    for (name, archive, expected) in [
        ("data beyond the end", gnu(&one(10, "data"), 12), "contradicts itself"),
        ("pieces that overlap", in_records(&[(0, b"abc".to_vec()), (2, b"d".to_vec())], 9), "contradicts itself"),
        ("more than there is", before_data(&one(u64::MAX - 1, "data"), u64::MAX), "contradicts itself"),
        ("a file that is too large", in_records(&one(0, "x"), 1 << 60), "bytes of sparse files exceeds"),
        ("a header of another format", Raw::default().header(b"s", b'S', b"", 0, 0o644).end(), "a sparse file of unknown format"),
        ("no size", Raw::default().pax(&[("GNU.sparse.major", b"1")]).file("s", "").end(), "a sparse file has no size"),
        ("a directory", Raw::default().pax(&[("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"")]).directory("d", 0o755).end(), "what is no file is sparse"),
        ("a map that does not end", Raw::default().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")]).file("s", "9\n1\n").end(), "exceeds"),
        ("a map that is none", Raw::default().pax(&[("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"1,x")]).file("s", "").end(), "is none"),
    ] {
        let found = unpack_with(&archive, &limits, all_owners()[0]).show();
        assert!(found.starts_with("error: ") && found.contains(expected), "{name}: {found}");
    }
}
