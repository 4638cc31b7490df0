//! An attempt that needs a pod for each platform, because a RUN is for a processor that the first pod's node does not
//! execute. Pure.
//!
//! ```text
//! pod of the attempt -> reports ForeignPlatform, has built nothing
//!   part linux/amd64 -> pod on a node with kubernetes.io/arch=amd64, pushes <tag>-linux-amd64 ─┐
//!   part linux/arm64 -> pod on a node with kubernetes.io/arch=arm64, pushes <tag>-linux-arm64 ─┤
//!   part join        -> pod that executes nothing, makes the index and writes the tags       <─┘
//! ```
//! The parts are in `status.attempt`, with what became of each: one that fails by machines or networks is retried alone. A
//! later attempt at the same key keeps the platforms that an earlier one has made (`kept`).
//! What the status has lost is read from the pods, whose names follow from attempt, part and number of the retry.

mod account;
mod kept;
mod start;

use crds::image_build::{Attempt, AttemptPart};
use jiff::Timestamp;

use super::account::{FAILED, SUCCEEDED};
use super::validate::ValidatedBuild;
use crate::builder_pod::PodView;

pub use account::{Told, account, outcome};
pub use kept::{Made, made_before};
pub use start::PartStart;
use start::tag_for_platform;

/// The part that makes the index.
pub const JOIN: &str = "join";
/// The label by which nodes tell their architecture.
pub const ARCHITECTURE_LABEL: &str = "kubernetes.io/arch";

/// Parts `attempt`: one for each platform, and one that joins them where there are several. One platform alone goes to the
/// destinations by itself. What is `kept` of earlier attempts needs no pod. False when the spec names no platforms: then only
/// people know which node is wanted.
pub fn begin(attempt: &mut Attempt, spec: &ValidatedBuild, kept: &[Made]) -> bool {
    let platforms = &spec.dockerfile.platforms;
    let join = (platforms.len() > 1).then_some(JOIN);
    attempt.parts = platforms
        .iter()
        .map(String::as_str)
        .chain(join)
        .map(|name| {
            let made = kept.iter().find(|made| made.platform == name);
            made.map_or_else(
                || AttemptPart {
                    name: name.to_owned(),
                    ..AttemptPart::default()
                },
                Made::part,
            )
        })
        .collect();
    for made in kept {
        account::note_bases(attempt, &made.built);
    }
    !attempt.parts.is_empty()
}

/// The architecture of the nodes that execute programs of `platform` (`linux/arm/v7`), as their label has it.
pub fn node_architecture(platform: &str) -> &str {
    match platform.split('/').nth(1).unwrap_or_default() {
        "386" => "amd64",
        other => other,
    }
}

/// The parts that are to be started now, with the number of retries before: each platform at once, the index when all are
/// there, a failed one when its time has come.
pub fn due(attempt: &Attempt, now: Timestamp) -> Vec<(&AttemptPart, u32)> {
    let is_there = |part: &&AttemptPart| part.result.as_deref() == Some(SUCCEEDED);
    let joinable = attempt
        .parts
        .iter()
        .filter(|part| part.name != JOIN)
        .all(|part| is_there(&part));
    attempt
        .parts
        .iter()
        .filter(|part| part.name != JOIN || joinable)
        .filter_map(|part| {
            let retries = u32::try_from(part.retries).unwrap_or(0);
            match (part.result.as_deref(), &part.next_time) {
                (None, _) => Some((part, 0)),
                (Some(FAILED), Some(next)) if next.0 <= now => Some((part, retries + 1)),
                _ => None,
            }
        })
        .collect()
}

/// The pods of `part` of `attempt`.
fn pods_of<'a>(
    attempt: &Attempt,
    part: &str,
    pods: &'a [PodView],
) -> impl Iterator<Item = &'a PodView> {
    pods_of_attempt(attempt, pods).filter(move |view| {
        let of = view.pod.attempt.part.as_ref();
        of.is_some_and(|of| of.name == part)
    })
}

/// The pods of the parts of `attempt`.
pub fn pods_of_attempt<'a>(
    attempt: &Attempt,
    pods: &'a [PodView],
) -> impl Iterator<Item = &'a PodView> {
    pods.iter().filter(|view| {
        let made = &view.pod.attempt;
        made.key == attempt.key && i64::from(made.number) == i64::from(attempt.number)
    })
}

/// Which parts are where, for people.
pub fn progress(attempt: &Attempt) -> String {
    let parts = attempt.parts.iter().map(|part| {
        let pod = part.pod.as_deref();
        match (part.result.as_deref(), pod) {
            (Some(SUCCEEDED), _) => format!("{} is there", part.name),
            (Some(_), Some(pod)) => format!("{}: pod {pod}", part.name),
            _ => format!("{} comes", part.name),
        }
    });
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn nodes_are_found_by_the_architecture_that_executes_the_platform() {
        for (platform, architecture) in [
            ("linux/amd64", "amd64"),
            ("linux/amd64/v3", "amd64"),
            ("linux/386", "amd64"),
            ("linux/arm64", "arm64"),
            ("linux/arm/v7", "arm"),
            ("linux/s390x", "s390x"),
        ] {
            assert_eq!(node_architecture(platform), architecture, "{platform}");
        }
    }

    #[test]
    fn platforms_start_at_once_the_index_last_and_failures_at_their_time() {
        let now = Timestamp::from_second(100).unwrap();
        let part = |name: &str, result: Option<&str>, next: Option<i64>| AttemptPart {
            name: name.to_owned(),
            result: result.map(str::to_owned),
            retries: 1,
            next_time: next.map(|next| Time(Timestamp::from_second(next).unwrap())),
            ..AttemptPart::default()
        };
        let (done, failed, runs) = (Some("Succeeded"), Some("Failed"), Some("Running"));
        for (a, b, join, expected) in [
            ((None, None), (None, None), None, vec![("a", 0), ("b", 0)]),
            ((done, None), (runs, None), None, vec![]),
            ((done, None), (failed, Some(101)), None, vec![]),
            ((runs, None), (failed, Some(100)), None, vec![("b", 2)]),
            ((done, None), (failed, None), None, vec![]),
            ((done, None), (done, None), None, vec![(JOIN, 0)]),
            ((done, None), (done, None), runs, vec![]),
        ] {
            let attempt = Attempt {
                parts: vec![
                    part("a", a.0, a.1),
                    part("b", b.0, b.1),
                    part(JOIN, join, None),
                ],
                ..Attempt::default()
            };
            let due: Vec<(&str, u32)> = due(&attempt, now)
                .into_iter()
                .map(|(part, retries)| (part.name.as_str(), retries))
                .collect();
            assert_eq!(due, expected, "{a:?} {b:?} {join:?}");
        }
    }
}
