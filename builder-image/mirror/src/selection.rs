//! Which tags of a repository are mirrored: `names ∪ (semver ∩ regex)`, minus `exclude`, then the `newest`. Pure.
//!
//! Tags are versions where they can be read as such: `v1.2`, `1.27.4-alpine`. A pattern is compiled within bounds and
//! matched in linear time, so that nobody's spec can hold up the operator.

use std::cmp::{Ordering, Reverse};
use std::collections::HashSet;
use std::fmt;

use crds::image_mirror::TagSelection;
use oci::Tag;
use regex::{Regex, RegexBuilder};
use semver::{Prerelease, Version, VersionReq};

/// The memory that one compiled pattern may take, in bytes.
const PATTERN_SIZE: usize = 256 * 1024;
/// How deep groups of a pattern may be nested.
const PATTERN_NESTING: u32 = 32;

/// Which tags of a repository are mirrored.
#[derive(Clone, Debug)]
pub struct Selector {
    names: Vec<Tag>,
    listed: Option<Listed>,
    newest: Option<usize>,
}

/// Which of the tags that a repository lists are mirrored.
#[derive(Clone, Debug)]
struct Listed {
    semver: Option<Range>,
    regex: Option<Regex>,
    exclude: Option<Regex>,
}

/// What is wrong with a selection: the field below `tags`, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSelection {
    /// `names[2]`, `regex`; empty for all of it.
    pub field: String,
    /// Why.
    pub message: String,
    /// Whether it is a tag that breaks the grammar.
    pub is_tag: bool,
}

impl Selector {
    /// Reads a selection.
    ///
    /// # Errors
    /// The first field that cannot be read; or that nothing is selected.
    pub fn of(tags: &TagSelection) -> Result<Self, InvalidSelection> {
        let invalid = |field: &str, message: String| InvalidSelection {
            field: field.to_owned(),
            message,
            is_tag: false,
        };
        let mut names: Vec<Tag> = Vec::new();
        let mut seen = HashSet::new();
        for (at, name) in tags.names.iter().enumerate() {
            let tag: Tag = name.parse().map_err(|error| InvalidSelection {
                is_tag: true,
                ..invalid(&format!("names[{at}]"), format!("{error}"))
            })?;
            if seen.insert(tag.clone()) {
                names.push(tag);
            }
        }
        let pattern = |field: &str, text: &Option<String>| {
            let compiled = text.as_deref().map(compile).transpose();
            compiled.map_err(|message| invalid(field, message))
        };
        let semver = tags.semver.as_deref().map(Range::parse).transpose();
        let semver = semver.map_err(|message| invalid("semver", message))?;
        let listed = Listed {
            semver,
            regex: pattern("regex", &tags.regex)?,
            exclude: pattern("exclude", &tags.exclude)?,
        };
        let all = tags.all.unwrap_or(false);
        let has_pattern = listed.semver.is_some() || listed.regex.is_some();
        if all && (has_pattern || !names.is_empty()) {
            return Err(invalid(
                "all",
                "it goes with neither names, semver nor regex".into(),
            ));
        }
        if !all && !has_pattern && names.is_empty() {
            let message = "it selects nothing: set names, semver, regex or all";
            return Err(invalid("", message.into()));
        }
        let newest = tags
            .newest
            .map(|count| usize::try_from(count).unwrap_or(0))
            .filter(|count| *count > 0);
        Ok(Self {
            names,
            listed: (all || has_pattern).then_some(listed),
            newest,
        })
    }

    /// The tags that are named.
    pub fn names(&self) -> &[Tag] {
        &self.names
    }

    /// Whether the tags of the repository must be listed to select.
    pub const fn needs_list(&self) -> bool {
        self.listed.is_some()
    }

    /// The tags that are selected of those that a repository lists: first the names, whether they are listed or not, then
    /// the others, the newest first.
    pub fn select(&self, tags: &[Tag]) -> Vec<Tag> {
        let mut selected = self.names.clone();
        let Some(listed) = &self.listed else {
            return selected;
        };
        let named: HashSet<&Tag> = self.names.iter().collect();
        let mut matching: Vec<(Reverse<Age>, &Tag)> = tags
            .iter()
            .filter(|tag| !named.contains(tag))
            .filter_map(|tag| {
                let version = TagVersion::read(tag.as_str());
                listed
                    .matches(tag.as_str(), version.as_ref())
                    .then(|| (Reverse(Age::of(tag.as_str(), version)), tag))
            })
            .collect();
        matching.sort_unstable();
        matching.dedup_by(|a, b| a.1 == b.1);
        matching.truncate(self.newest.unwrap_or(usize::MAX));
        selected.extend(matching.into_iter().map(|(_, tag)| tag.clone()));
        selected
    }
}

impl Listed {
    fn matches(&self, tag: &str, version: Option<&TagVersion>) -> bool {
        if self
            .regex
            .as_ref()
            .is_some_and(|regex| !regex.is_match(tag))
        {
            return false;
        }
        if self.exclude.as_ref().is_some_and(|out| out.is_match(tag)) {
            return false;
        }
        let Some(range) = &self.semver else {
            return true;
        };
        // With a pattern, the suffixes that are wanted are the pattern's matter.
        version.is_some_and(|version| range.contains(version, self.regex.is_some()))
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(PATTERN_SIZE)
        .dfa_size_limit(PATTERN_SIZE)
        .nest_limit(PATTERN_NESTING)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "the pattern is too large when compiled".to_owned(),
            regex::Error::Syntax(text) => {
                // The last line says what is wrong, those before show where.
                let last = text.lines().last().unwrap_or_default();
                format!("not a pattern: {}", last.trim_start_matches("error: "))
            }
            _ => "not a pattern".to_owned(),
        })
}

/// A range of versions: comparators that all must hold, alternatives divided by `||`.
#[derive(Clone, Debug, PartialEq)]
struct Range(Vec<VersionReq>);

impl Range {
    /// Reads `>=1.25 <2`, `~1.4 || ^2`, `1.25` (that version only, as far as it is given).
    fn parse(text: &str) -> Result<Self, String> {
        let alternatives: Result<Vec<_>, _> = text.split("||").map(alternative).collect();
        Ok(Self(alternatives?))
    }

    /// Whether `version` is within. One with a suffix is a pre-release, which is only within a range that names one of the
    /// same version; with `any_suffix`, only the numbers count.
    fn contains(&self, version: &TagVersion, any_suffix: bool) -> bool {
        let plain = version.semver(!any_suffix);
        let exact = version.semver(true);
        self.0
            .iter()
            .any(|range| range.matches(&plain) || range.matches(&exact))
    }
}

fn alternative(text: &str) -> Result<VersionReq, String> {
    const OPERATORS: &[char] = &['<', '>', '=', '~', '^'];
    let wrong = |why: &str| format!("not a range of versions: `{}`{why}", text.trim());
    // A space divides comparators, but not an operator from its version.
    let mut comparators: Vec<String> = Vec::new();
    let mut open = false;
    for word in text.split([' ', ',', '\t']).filter(|word| !word.is_empty()) {
        let is_operator = word.chars().all(|c| OPERATORS.contains(&c));
        match comparators.last_mut() {
            Some(last) if open => last.push_str(word),
            _ => comparators.push(word.to_owned()),
        }
        open = is_operator;
    }
    if comparators.is_empty() || open {
        return Err(wrong(" lacks a version"));
    }
    for comparator in &mut comparators {
        let version = comparator.trim_start_matches(OPERATORS);
        let operator = comparator[..comparator.len() - version.len()].to_owned();
        let version = version.strip_prefix(['v', 'V']).unwrap_or(version);
        let is_wild = version.contains(['*', 'x', 'X']) && !version.contains('-');
        // `1.25` alone is that version, not what is compatible with it.
        let operator = match operator.as_str() {
            "" if !is_wild => "=",
            other => other,
        };
        *comparator = format!("{operator}{version}");
    }
    VersionReq::parse(&comparators.join(", ")).map_err(|error| wrong(&format!(": {error}")))
}

/// A tag read as a version: numbers divided by dots, with or without a `v`, and what follows them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TagVersion {
    numbers: Vec<u64>,
    suffix: String,
}

impl TagVersion {
    fn read(tag: &str) -> Option<Self> {
        let mut rest = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
        let mut numbers = Vec::new();
        loop {
            let digits = rest.find(|c: char| !c.is_ascii_digit());
            let (number, after) = rest.split_at(digits.unwrap_or(rest.len()));
            numbers.push(number.parse().ok()?);
            rest = after;
            match rest.strip_prefix('.') {
                Some(next) if next.starts_with(|c: char| c.is_ascii_digit()) => rest = next,
                _ => break,
            }
        }
        Some(Self {
            numbers,
            suffix: rest.to_owned(),
        })
    }

    /// The version as semver has it: three numbers, a fourth and all else a pre-release unless that is left out.
    fn semver(&self, with_suffix: bool) -> Version {
        let number = |at: usize| self.numbers.get(at).copied().unwrap_or(0);
        let mut version = Version::new(number(0), number(1), number(2));
        if with_suffix && !self.suffix.is_empty() {
            let text: String = self
                .suffix
                .trim_start_matches(['-', '_', '.'])
                .chars()
                .map(|c| if c == '_' { '-' } else { c })
                .collect();
            // What is no pre-release by its rules (a leading zero) is one all the same.
            version.pre = Prerelease::new(&text)
                .or_else(|_| Prerelease::new("x"))
                .unwrap_or(Prerelease::EMPTY);
        }
        version
    }
}

/// How new a tag is by its name: versions by their numbers, those without a suffix above those with one; all other names
/// below them, numbers within them by their value.
#[derive(Debug, PartialEq, Eq)]
struct Age {
    version: Option<TagVersion>,
    name: String,
}

impl Age {
    fn of(tag: &str, version: Option<TagVersion>) -> Self {
        Self {
            version,
            name: tag.to_owned(),
        }
    }
}

impl Ord for Age {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_version = match (&self.version, &other.version) {
            (Some(a), Some(b)) => by_numbers(&a.numbers, &b.numbers)
                .then_with(|| a.suffix.is_empty().cmp(&b.suffix.is_empty()))
                .then_with(|| natural(&a.suffix, &b.suffix)),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        by_version
            .then_with(|| natural(&self.name, &other.name))
            .then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn by_numbers(a: &[u64], b: &[u64]) -> Ordering {
    let number = |of: &[u64], at: usize| of.get(at).copied().unwrap_or(0);
    let places = 0..a.len().max(b.len());
    places
        .map(|at| number(a, at).cmp(&number(b, at)))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Text with the numbers in it compared by their value.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let ((left, a_rest), (right, b_rest)) = (chunk(a), chunk(b));
        let numbers = [left, right].map(|text| {
            let is_number = text.starts_with(|c: char| c.is_ascii_digit());
            is_number.then(|| text.trim_start_matches('0'))
        });
        let order = match numbers {
            [Some(x), Some(y)] => x.len().cmp(&y.len()).then_with(|| x.cmp(y)),
            _ => left.cmp(right),
        };
        if order.is_ne() || (a_rest.is_empty() && b_rest.is_empty()) {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
}

/// The digits, or the rest, that `text` begins with.
fn chunk(text: &str) -> (&str, &str) {
    let is_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != is_digit);
    text.split_at(end.unwrap_or(text.len()))
}

impl fmt::Display for InvalidSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, ".{}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests;
