//! Why the cache had no answer: which input of a step differs from the last time that its instruction was executed. Pure;
//! where trails are kept is the business of [`crate::cache`].
//!
//! A [`Trail`] is taken down while a key is made, so it names every input of the key, and holds a short digest of each:
//! never a value, because an argument may be one that nobody should read in a cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use oci::{Digest, Digester};
use serde::{Deserialize, Serialize};

use self::file_marks::Delta;
pub use self::file_marks::{FileMarks, Mark};

mod file_marks;

/// How many names of one kind a reason lists.
const NAMED: usize = 3;

/// The input that stands for everything below a step.
const BELOW: &str = "below";

/// What an environment variable's input is called, before its name.
const VARIABLE: &str = "env ";

/// The names of all variables, in order. Told only where nothing else about them differs.
const ORDER: &str = "order";

/// The inputs of one key by name, each with a digest of 64 bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    inputs: BTreeMap<String, u64>,
    /// The files that a COPY or ADD read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    files: Option<FileMarks>,
}

impl Trail {
    /// Notes an input. One that occurs again counts with all that it had before.
    pub fn note(&mut self, name: &str, value: &str) {
        let known = self.inputs.entry(name.to_owned()).or_default();
        let mut digester = Digester::sha256();
        for part in [
            &known.to_le_bytes()[..],
            name.as_bytes(),
            b"=",
            value.as_bytes(),
        ] {
            digester.update(part);
        }
        *known = short(&digester.finish());
    }

    /// Notes a variable, `NAME=value`.
    pub fn note_variable(&mut self, assignment: &str) {
        let (name, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        self.note(&format!("{VARIABLE}{name}"), value);
        self.note(ORDER, name);
    }

    /// Notes the files that are copied.
    pub fn note_files(&mut self, files: FileMarks) {
        self.files = Some(files);
    }

    /// Why a step with these inputs missed, where `earlier` are those of the same instruction, the newest first.
    pub fn cause(&self, earlier: &[Self], names: &Names<'_>) -> Cause {
        let changes = earlier.iter().map(|earlier| self.changes(earlier, names));
        match changes.min_by_key(Vec::len) {
            None => Cause::First,
            Some(changes) if changes.is_empty() => Cause::Pruned,
            Some(changes) => Cause::Changed(changes),
        }
    }

    fn has_variables_of(&self, other: &Self) -> bool {
        let names = |trail: &Self| -> Vec<String> {
            let all = trail.inputs.keys();
            all.filter(|name| name.starts_with(VARIABLE))
                .cloned()
                .collect()
        };
        names(self) == names(other)
    }

    fn changes(&self, earlier: &Self, names: &Names<'_>) -> Vec<Change> {
        let mut changes = Vec::new();
        let all: BTreeSet<_> = self.inputs.keys().chain(earlier.inputs.keys()).collect();
        let told_by_files = self.files.is_some() && earlier.files.is_some();
        for name in all {
            let (new, old) = (self.inputs.get(name), earlier.inputs.get(name));
            if new == old || (told_by_files && name == "content") {
                continue;
            }
            if name == ORDER && !self.has_variables_of(earlier) {
                continue;
            }
            let how = match (old, new) {
                (None, _) => How::New,
                (_, None) => How::Gone,
                _ => How::Changed,
            };
            changes.push(Change::Input(names.of(name), how));
        }
        if let (Some(new), Some(old)) = (&self.files, &earlier.files) {
            let delta = new.delta(old);
            if !delta.is_empty() {
                changes.push(Change::Files(delta));
            } else if self.inputs.get("content") != earlier.inputs.get("content") {
                changes.push(Change::Input("what is copied".into(), How::Changed));
            }
        }
        changes
    }
}

/// How the inputs of a step are called for people.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Line of the step below; none where that is a base image, or nothing.
    pub below_line: Option<usize>,
    /// Variables that ARG declares.
    pub arguments: &'a BTreeSet<String>,
}

impl Names<'_> {
    fn of(&self, input: &str) -> String {
        if let Some(name) = input.strip_prefix(VARIABLE) {
            let kind = if self.arguments.contains(name) {
                "argument"
            } else {
                "variable"
            };
            return format!("{kind} {name}");
        }
        match (input, self.below_line) {
            (BELOW, Some(line)) => format!("the step before it (line {line})"),
            (BELOW, None) => "base".into(),
            ("args" | "script" | "document", _) => "command or document".into(),
            ("generation", _) => "version of the engine".into(),
            ("content", _) => "what is copied".into(),
            ("mounted", _) => "what is mounted".into(),
            ("mount", _) => "mounts".into(),
            ("host", _) => "hosts".into(),
            (ORDER, _) => "order of the variables".into(),
            ("cwd", _) => "working directory".into(),
            ("epoch", _) => "SOURCE_DATE_EPOCH".into(),
            ("chown" | "chmod" | "exclude", _) => format!("--{input}"),
            (other, _) => other.into(),
        }
    }
}

/// Why a step was executed although the cache was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The instruction was never executed before, as far as the cache knows.
    First,
    /// Everything is as it was, but the result was removed since.
    Pruned,
    /// These inputs differ; never empty.
    Changed(Vec<Change>),
}

/// An input that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The name of the input, and how it differs.
    Input(String, How),
    /// Files that are copied.
    Files(Delta),
}

/// How an input differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is another one.
    Changed,
    /// It was not there.
    New,
    /// It is no longer there.
    Gone,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("first build of this step"),
            Self::Pruned => f.write_str("pruned: its result is no longer in the cache"),
            Self::Changed(changes) => {
                for (position, change) in changes.iter().enumerate() {
                    let comma = if position == 0 { "" } else { "; " };
                    write!(f, "{comma}{change}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(name, How::Changed) => write!(f, "{name} changed"),
            Self::Input(name, How::New) => write!(f, "{name} is new"),
            Self::Input(name, How::Gone) => write!(f, "{name} is gone"),
            Self::Files(delta) => {
                let mut comma = "";
                for (what, names) in [
                    ("changed", &delta.changed),
                    ("added", &delta.added),
                    ("removed", &delta.removed),
                ] {
                    if names.is_empty() {
                        continue;
                    }
                    write!(f, "{comma}files {what}: {}", list(names))?;
                    comma = "; ";
                }
                Ok(())
            }
        }
    }
}

fn list(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The first 64 bits of a digest.
fn short(digest: &Digest) -> u64 {
    u64::from_str_radix(&digest.hex()[..16], 16)
        .expect("digests have at least 16 hexadecimal digits")
}

#[cfg(test)]
mod tests;
