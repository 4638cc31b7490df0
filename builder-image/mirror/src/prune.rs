//! Which tags of the destination may be deleted: those that the report says this mirror wrote, below its prefix, and that
//! the selection does not select any more; and not too many of them. Pure: nothing is deleted here.

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};

use crate::report::{Place, Report, fingerprint};

/// How much of a fingerprint is kept, in bytes.
const KEPT: usize = 6;

/// The tags that are selected, as fingerprints: small enough for a request of ten thousand. Two tags with one fingerprint
/// only keep what might have been deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(BTreeSet<[u8; KEPT]>);

impl Selection {
    /// The selection of `places`.
    pub fn of<'a>(places: impl IntoIterator<Item = &'a Place>) -> Self {
        Self(places.into_iter().map(kept).collect())
    }

    /// Whether `place` is selected, or has the fingerprint of one that is.
    pub fn contains(&self, place: &Place) -> bool {
        self.0.contains(&kept(place))
    }

    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The selection as text.
    pub fn to_text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().flatten().copied().collect();
        BASE64_STANDARD_NO_PAD.encode(bytes)
    }

    /// Reads what [`Self::to_text`] wrote; `None` for everything else.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD_NO_PAD.decode(text).ok()?;
        let (all, rest) = bytes.as_chunks::<KEPT>();
        rest.is_empty().then(|| Self(all.iter().copied().collect()))
    }
}

fn kept(place: &Place) -> [u8; KEPT] {
    let bytes = fingerprint(place).to_be_bytes();
    bytes.first_chunk().copied().unwrap_or_default()
}

/// What is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunePlan {
    /// The tags, by repository and tag.
    pub tags: Vec<Place>,
    /// How many tags the report says were written.
    pub written: usize,
    /// How many of a hundred may be deleted at once.
    pub max_percent: u32,
}

impl PrunePlan {
    /// What of `report` is to be deleted that lies below `prefix` and is not in `selection`. Where nothing is selected, a
    /// list was empty, and nothing is deleted.
    pub fn of(
        report: &Report,
        selection: &Selection,
        prefix: Option<&str>,
        max_percent: u32,
    ) -> Self {
        let below = |place: &Place| {
            prefix.is_none_or(|prefix| {
                let rest = place.repository.strip_prefix(prefix);
                rest.is_some_and(|rest| rest.starts_with('/'))
            })
        };
        let unselected = |place: &&Place| below(place) && !selection.contains(place);
        let written = report.written();
        let tags = if selection.is_empty() {
            Vec::new()
        } else {
            written.keys().filter(unselected).cloned().collect()
        };
        Self {
            tags,
            written: written.len(),
            max_percent,
        }
    }

    /// Why nothing is deleted, where that would be too much at once.
    pub fn refusal(&self) -> Option<String> {
        refusal(self.tags.len(), self.written, self.max_percent)
    }
}

/// Why nothing is deleted where `planned` of `written` tags are more than `max_percent` of a hundred: a sentence with the
/// remedy.
pub fn refusal(planned: usize, written: usize, max_percent: u32) -> Option<String> {
    if planned * 100 <= written * max_percent as usize {
        return None;
    }
    let percent = (planned * 100).div_ceil(written.max(1));
    Some(format!(
        "{planned} of {written} tags that were written are not selected any more, {percent} %, more than the {max_percent} of prune.maxPercent: correct the selection, or set maxPercent to {percent} to delete them"
    ))
}

#[cfg(test)]
mod tests {
    use distribution::copy::Platforms;
    use jiff::Timestamp;
    use oci::Digest;

    use super::*;
    use crate::report::Written;

    fn place(name: &str) -> Place {
        let (repository, tag) = name.split_once(':').unwrap();
        Place::new(repository, tag.parse().unwrap())
    }

    fn report(names: &[&str]) -> Report {
        let mut report = Report::new("uid");
        for name in names {
            let digest = Digest::of(name.as_bytes());
            let written = Written {
                digest: digest.clone(),
                source: "docker.io/x".into(),
                source_digest: digest,
                platforms: Platforms::Whole,
                synced_at: Timestamp::UNIX_EPOCH,
            };
            report.note_written(place(name), written);
        }
        report
    }

    fn selection(names: &[&str]) -> Selection {
        let places: Vec<_> = names.iter().map(|name| place(name)).collect();
        Selection::of(&places)
    }

    #[test]
    fn only_what_was_written_lies_below_and_is_not_selected_is_planned() {
        let report = report(&["m/a:1", "m/a:2", "m/b:1", "m:1", "mm/a:1", "n/a:1"]);
        for (prefix, selected, expected) in [
            // (what is below, what is selected, what goes)
            (Some("m"), &["m/a:1", "m/a:9"][..], &["m/a:2", "m/b:1"][..]),
            (Some("m/a"), &["x:1"], &[]),
            (Some("m"), &["m/a:1", "m/a:2", "m/b:1"], &[]),
            (
                None,
                &["m/a:1", "m/a:2", "m/b:1", "m:1"],
                &["mm/a:1", "n/a:1"],
            ),
            // A list that is empty deletes nothing.
            (None, &[], &[]),
            (Some("m"), &[], &[]),
        ] {
            let plan = PrunePlan::of(&report, &selection(selected), prefix, 100);
            let tags: Vec<_> = plan.tags.iter().map(ToString::to_string).collect();
            assert_eq!(tags, expected, "{prefix:?} {selected:?}");
            assert_eq!(plan.written, 6);
        }
    }

    #[test]
    fn too_much_at_once_is_refused_with_the_remedy() {
        for (written, planned, max_percent, refused) in [
            (100, 10, 10, false),
            (100, 11, 10, true),
            (9, 1, 10, true),
            (10, 1, 10, false),
            (10, 1, 0, true),
            (10, 0, 0, false),
            (3, 3, 100, false),
            (3, 1, 34, false),
            (3, 1, 33, true),
        ] {
            let plan = PrunePlan {
                tags: (0..planned).map(|n| place(&format!("a:{n}"))).collect(),
                written,
                max_percent,
            };
            assert_eq!(
                plan.refusal().is_some(),
                refused,
                "{written} {planned} {max_percent}"
            );
        }
        let plan = PrunePlan {
            tags: vec![place("a:1")],
            written: 3,
            max_percent: 10,
        };
        assert_eq!(
            plan.refusal().unwrap(),
            "1 of 3 tags that were written are not selected any more, 34 %, more than the 10 of prune.maxPercent: correct the selection, or set maxPercent to 34 to delete them"
        );
    }

    #[test]
    fn a_selection_of_ten_thousand_fits_into_a_request() {
        let places: Vec<_> = (0..10_000)
            .map(|n| place(&format!("mirror/team/app:{n:040x}")))
            .collect();
        let selection = Selection::of(&places);
        let text = selection.to_text();
        assert!(text.len() <= 80_000, "{}", text.len());
        let read = Selection::parse(&text).unwrap();
        assert_eq!(read, selection);
        assert!(places.iter().all(|place| read.contains(place)));
        assert!(!read.contains(&place("mirror/team/app:other")));
        for broken in ["%", "AAAA", "AAAAAAAAA"] {
            assert_eq!(Selection::parse(broken), None, "{broken}");
        }
        assert!(Selection::parse("").unwrap().is_empty());
    }
}
