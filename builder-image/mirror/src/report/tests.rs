//! The report of a mirror, written and read again.

use std::collections::HashSet;

use super::*;

fn place(number: usize) -> Place {
    let tag = format!("v{number}").parse().unwrap();
    Place::new(&format!("mirror/team/app-{}", number % 40), tag)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn written(number: usize) -> Written {
    let digest = Digest::of(number.to_string().as_bytes());
    Written {
        digest: digest.clone(),
        source: format!("docker.io/team/app-{}", number % 40).into(),
        source_digest: digest,
        platforms: Platforms::Whole,
        synced_at: at(1_800_000_000),
    }
}

fn failed(message: &str, second: i64) -> Failed {
    Failed {
        source: "docker.io/team/app:v1".into(),
        reason: "RegistryUnavailable".into(),
        message: message.into(),
        at: at(second),
    }
}

fn many(count: usize) -> Report {
    let mut report = Report::new("uid");
    for number in 0..count {
        report.note_written(place(number), written(number));
    }
    report
}

fn read(artifact: &Artifact, owner: &str) -> Result<Report, ReportError> {
    let (mut report, layers) = Report::read_manifest(&artifact.manifest, owner)?;
    for layer in layers {
        let blob = artifact.blobs.iter().find(|(blob, _)| *blob == layer);
        report.read_layer(&layer, &blob.unwrap().1)?;
    }
    Ok(report)
}

#[test]
fn a_report_survives_writing_and_reading() {
    let mut report = many(20);
    let platforms = vec!["linux/amd64".parse().unwrap()];
    for (number, platforms) in [
        (1, Platforms::Sparse(platforms.clone())),
        (2, Platforms::Rewrite(platforms)),
    ] {
        let mut other = written(number);
        other.source_digest = Digest::of(b"whole");
        other.platforms = platforms;
        report.note_written(place(number), other);
    }
    report.note_failed(place(99), failed("it answered 503", 1_800_000_000));
    let artifact = report.to_artifact();
    assert_eq!(read(&artifact, "uid").unwrap(), report);
    assert_eq!(report.to_artifact(), artifact, "the same bytes each time");
    let manifest = Document::parse(&MediaType::OciManifest, &artifact.manifest).unwrap();
    let Document::Manifest(manifest) = manifest else {
        panic!("not a manifest")
    };
    assert_eq!(manifest.annotations[WRITTEN], "20");
    assert_eq!(manifest.annotations[FAILED], "1");
}

#[test]
fn a_line_says_all_of_a_tag() {
    let mut report = Report::new("uid");
    report.note_written(place(1), written(1));
    let artifact = report.to_artifact();
    let mut text = String::new();
    let mut list = GzDecoder::new(&artifact.blobs[1].1[..]);
    list.read_to_string(&mut text).unwrap();
    let digest = Digest::of(b"1");
    assert_eq!(
        text,
        format!(
            r#"{{"repository":"mirror/team/app-1","tag":"v1","digest":"{digest}","source":"docker.io/team/app-1","sourceDigest":"{digest}","syncedAt":"2027-01-15T08:00:00Z"}}
"#
        )
    );
}

#[test]
fn a_hundred_thousand_tags_fit_and_one_more_changes_little() {
    let mut report = many(100_000);
    let before = report.to_artifact();
    let size = |artifact: &Artifact| -> u64 {
        let blobs = artifact.blobs.iter();
        blobs.map(|(blob, _)| blob.size).sum::<u64>() + artifact.manifest.len() as u64
    };
    assert!(before.manifest.len() < 256 * 1024);
    assert!(before.blobs.iter().all(|(b, _)| b.size < MAX_LAYER_BYTES));
    assert!(size(&before) < 16 * 1024 * 1024, "{}", size(&before));
    assert_eq!(read(&before, "uid").unwrap(), report);
    report.note_written(place(100_001), written(100_001));
    let after = report.to_artifact();
    let known: HashSet<_> = before.blobs.iter().map(|(blob, _)| &blob.digest).collect();
    let new = after.blobs.iter();
    let new = new.filter(|(blob, _)| !known.contains(&blob.digest));
    assert!(new.count() <= 2);
}

#[test]
fn what_succeeds_or_is_gone_has_not_failed() {
    let mut report = Report::new("uid");
    for number in 0..4 {
        report.note_failed(place(number), failed("503", 1_800_000_000));
    }
    report.note_written(place(0), written(0));
    report.note_equal(&place(1));
    report.forget(&place(2));
    let left: Vec<_> = report.failed().keys().cloned().collect();
    assert_eq!(left, [place(3)]);
    // What was written stays when writing something newer fails.
    report.note_failed(place(0), failed("503", 1_800_000_001));
    assert!(report.written().contains_key(&place(0)));
    let week = 7 * 24 * 3600;
    report.forget_old_failures(at(1_800_000_000 + week));
    let left: Vec<_> = report.failed().keys().cloned().collect();
    assert_eq!(left, [place(0)]);
    report.note_failed(place(5), failed(&"é".repeat(4000), 1));
    assert!(report.failed()[&place(5)].message.len() <= MAX_MESSAGE_BYTES);
}

#[test]
fn what_is_no_report_of_this_mirror_is_refused() {
    let artifact = many(3).to_artifact();
    assert!(matches!(
        read(&artifact, "other"),
        Err(ReportError::Foreign)
    ));
    let text = String::from_utf8(artifact.manifest.to_vec()).unwrap();
    let change = |from: &str, to: &str| Artifact {
        manifest: text.replace(from, to).into_bytes().into(),
        blobs: artifact.blobs.clone(),
    };
    let other_type = change("coopery.report.v1", "coopery.report.v2");
    assert!(matches!(
        read(&other_type, "uid"),
        Err(ReportError::Foreign)
    ));
    let size = artifact.blobs[1].0.size;
    let huge = change(&format!("\"size\":{size}"), "\"size\":99999999");
    assert!(matches!(read(&huge, "uid"), Err(ReportError::TooLarge(_))));
    let (mut report, layers) = Report::read_manifest(&artifact.manifest, "uid").unwrap();
    assert!(matches!(
        report.read_layer(&layers[0], b"not compressed"),
        Err(ReportError::Compression { .. })
    ));
    let mut list = encoder();
    list.write_all(b"{}\n").unwrap();
    assert!(matches!(
        report.read_layer(&layers[0], &list.finish().unwrap()),
        Err(ReportError::Line { line: 1, .. })
    ));
}
