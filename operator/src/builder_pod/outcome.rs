//! From what a builder pod reports as its failure to the reason and message that people see.

use std::fmt::Write;

use protocol::{Failure, FailureKind};

use crate::reason::Reason;

/// Room for the last lines of a step's output in a message, in bytes; the rest of the 1 KiB is for the sentence.
const MAX_OUTPUT_BYTES: usize = 560;
/// Room for the sentence, in bytes.
const MAX_SENTENCE_BYTES: usize = 320;

/// Why a pod failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFailure {
    /// The reason in conditions and events.
    pub reason: Reason,
    /// What happened, for people; the remedy is not in it.
    pub message: String,
    /// Whether the same may succeed when it is tried again.
    pub transient: bool,
    /// The base image that its registry does not have: another attempt can succeed once it is there.
    pub missing_image: Option<String>,
}

impl PodFailure {
    /// A failure of what people wrote: trying again does not help.
    pub fn lasting(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            transient: false,
            missing_image: None,
        }
    }

    /// A failure of machines and networks: trying again may help.
    pub fn transient(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            transient: true,
            missing_image: None,
        }
    }

    /// What the pod reported.
    pub fn reported(failure: &Failure) -> Self {
        Self {
            reason: reason_of(failure.kind),
            message: describe(failure),
            transient: failure.kind.is_transient(),
            missing_image: failure
                .image
                .clone()
                .filter(|_| failure.kind == FailureKind::BaseImageNotFound)
                // A pod may claim anything.
                .filter(|image| image.parse::<oci::Reference>().is_ok()),
        }
    }
}

/// The reason that stands for a kind of failure.
pub const fn reason_of(kind: FailureKind) -> Reason {
    match kind {
        FailureKind::InvalidRequest => Reason::InvalidSpec,
        FailureKind::ForeignPlatform => Reason::ForeignPlatform,
        FailureKind::Dockerfile | FailureKind::ContextFile => Reason::InvalidDockerfile,
        FailureKind::StepFailed => Reason::BuildFailed,
        FailureKind::OutOfMemory => Reason::OOMKilled,
        FailureKind::OutOfDisk => Reason::OutOfDisk,
        FailureKind::IsolationUnavailable => Reason::IsolationUnavailable,
        FailureKind::SourceNotFound => Reason::RevisionNotFound,
        FailureKind::SourceUnauthorized => Reason::SourceUnauthorized,
        FailureKind::SourceUnavailable => Reason::SourceUnavailable,
        FailureKind::SourceChanged | FailureKind::SourceRefused => Reason::SourceInvalid,
        FailureKind::BaseImageNotFound => Reason::BaseImageNotFound,
        FailureKind::BaseImageUnauthorized => Reason::ImageUnauthorized,
        FailureKind::RegistryUnauthorized => Reason::RegistryUnauthorized,
        FailureKind::RegistryUnavailable => Reason::RegistryUnavailable,
        FailureKind::RegistryRefused => Reason::PushFailed,
        FailureKind::DigestMismatch => Reason::DigestMismatch,
        FailureKind::ImageUntrusted => Reason::ImageUntrusted,
        FailureKind::AddressRefused => Reason::AddressRefused,
        FailureKind::Cancelled => Reason::PodLost,
        FailureKind::Internal => Reason::BuilderFailed,
    }
}

/// One text of step, sentence, exit code and the last lines of output.
fn describe(failure: &Failure) -> String {
    let mut text = String::new();
    if let Some(step) = &failure.step
        && !failure.message.contains(step.as_str())
    {
        text.push_str(step);
        text.push_str(": ");
    }
    text.push_str(failure.message.trim_end_matches('.'));
    if let Some(code) = failure.exit_code
        && !failure.message.contains(&format!("{code}"))
    {
        let _ = write!(text, " (exit code {code})");
    }
    let mut text = crds::condition::truncate(&printable(&text), MAX_SENTENCE_BYTES);
    let output = printable(&failure.output);
    let output = last_lines(output.trim(), MAX_OUTPUT_BYTES);
    if !output.is_empty() {
        text.push_str("; its last lines:\n");
        text.push_str(output);
    }
    text
}

/// `text` without control characters but line ends, so that a step's output cannot change a terminal that shows it.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' => clean.push('\n'),
            '\t' => clean.push(' '),
            // A control sequence: ESC [ parameters, and one final byte.
            '\u{1b}' if characters.peek() == Some(&'[') => {
                characters.next();
                for part in characters.by_ref() {
                    if ('@'..='~').contains(&part) {
                        break;
                    }
                }
            }
            other if other.is_control() => {}
            other => clean.push(other),
        }
    }
    clean
}

/// As many whole lines of the end of `text` as fit into `max` bytes; the end of the last one where it alone is longer.
fn last_lines(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut start = text.len() - max;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let tail = &text[start..];
    match tail.split_once('\n') {
        Some((_, whole)) if !whole.is_empty() => whole,
        _ => tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_names_line_exit_code_and_last_lines() {
        let mut failure = Failure::new(FailureKind::StepFailed, "the command failed.");
        failure.step = Some("Dockerfile:7: RUN make".into());
        failure.exit_code = Some(3);
        failure.output = "cc -c a.c\n\u{1b}[31ma.c:1: error\u{1b}[0m\n".into();
        let failure = PodFailure::reported(&failure);
        assert_eq!(failure.reason, Reason::BuildFailed);
        assert!(!failure.transient);
        assert_eq!(
            failure.message,
            "Dockerfile:7: RUN make: the command failed (exit code 3); its last lines:\ncc -c a.c\na.c:1: error"
        );
    }

    #[test]
    fn what_the_message_says_already_is_not_repeated() {
        let mut failure = Failure::new(
            FailureKind::Dockerfile,
            "Dockerfile:7: unknown instruction `RUNN`",
        );
        failure.step = Some("Dockerfile:7".into());
        assert_eq!(
            PodFailure::reported(&failure).message,
            "Dockerfile:7: unknown instruction `RUNN`"
        );
    }

    #[test]
    fn long_texts_keep_the_sentence_and_whole_last_lines() {
        let mut failure = Failure::new(FailureKind::StepFailed, "é".repeat(900));
        failure.output = format!("{}\nlast line", "ü".repeat(2000));
        let message = PodFailure::reported(&failure).message;
        assert!(
            message.len() <= crds::condition::MAX_MESSAGE_BYTES,
            "{}",
            message.len()
        );
        assert!(message.ends_with("\nlast line"), "{message}");
        assert_eq!(last_lines(&"x".repeat(10), 4), "xxxx");
        assert_eq!(last_lines("one\ntwo\nthree", 9), "three");
    }

    #[test]
    fn only_failures_of_machines_and_networks_are_tried_again() {
        for (kind, reason, transient) in [
            (FailureKind::StepFailed, Reason::BuildFailed, false),
            (FailureKind::OutOfMemory, Reason::OOMKilled, false),
            (
                FailureKind::RegistryUnavailable,
                Reason::RegistryUnavailable,
                true,
            ),
            (
                FailureKind::RegistryUnauthorized,
                Reason::RegistryUnauthorized,
                false,
            ),
            (
                FailureKind::BaseImageUnauthorized,
                Reason::ImageUnauthorized,
                false,
            ),
            (
                FailureKind::BaseImageNotFound,
                Reason::BaseImageNotFound,
                false,
            ),
            (FailureKind::Internal, Reason::BuilderFailed, true),
        ] {
            let failure = PodFailure::reported(&Failure::new(kind, "x"));
            assert_eq!((failure.reason, failure.transient), (reason, transient));
        }
    }

    #[test]
    fn the_image_that_is_missing_is_taken_where_it_can_be_asked_for() {
        let missing = |kind, image: &str| {
            let mut failure = Failure::new(kind, "x");
            failure.image = Some(image.to_owned());
            PodFailure::reported(&failure).missing_image
        };
        let base = FailureKind::BaseImageNotFound;
        for (kind, image, taken) in [
            (base, "h.example.com:5000/a:1", true),
            (base, "docker.io/library/alpine:3", true),
            (base, "no reference", false),
            (base, &format!("h.example.com/{}", "a/".repeat(600)), false),
            (FailureKind::StepFailed, "h.example.com:5000/a:1", false),
        ] {
            assert_eq!(missing(kind, image).is_some(), taken, "{image}");
        }
    }
}
