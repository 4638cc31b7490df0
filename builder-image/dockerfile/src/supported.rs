//! What of the language the engine does not execute yet. Parsing is complete; this table is what stands between a
//! parsed file and the engine, so that nothing is ever silently ignored.

use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, InstructionKind, Network, Security};
use crate::span::{Span, Spanned};
use crate::stage::Dockerfile;

/// Something that the language has and the engine has not.
struct Refusal {
    /// What it is, as the subject of a sentence.
    what: String,
    span: Span,
    /// What to write instead.
    remedy: &'static str,
}

/// Everything in the stages that `reachable` names (by index) that the engine can not execute. Other stages are not
/// built, so what they use does not matter. `frontend` is asked for in place of what `# syntax=` names.
pub fn unsupported(
    dockerfile: &Dockerfile,
    frontend: Option<&str>,
    reachable: impl Fn(usize) -> bool,
) -> Vec<Diagnostic> {
    let mut refusals = Vec::new();
    let asked = frontend.map(|name| {
        let start = dockerfile.stages.first().map(|stage| stage.from.span);
        (name, start.unwrap_or_default())
    });
    let written = dockerfile.directives.syntax.as_ref();
    let written = written.map(|syntax| (syntax.value.as_str(), syntax.span));
    if let Some((name, span)) = asked.or(written) {
        let remedy = match Frontend::of(name) {
            Frontend::Known => None,
            Frontend::Newer => {
                Some("name `docker/dockerfile:1`, and write only what syntax 1.28 has")
            }
            Frontend::Foreign => {
                Some("frontends are never executed; remove it, or name `docker/dockerfile:1`")
            }
        };
        refusals.extend(remedy.map(|remedy| Refusal {
            what: format!("frontend `{name}`"),
            span,
            remedy,
        }));
    }
    for stage in dockerfile
        .stages
        .iter()
        .filter(|stage| reachable(stage.index))
    {
        // Triggers were judged when they were put in.
        for instruction in &stage.instructions[stage.triggers..] {
            refuse(instruction, &mut refusals);
        }
    }
    refusals
        .into_iter()
        .map(|refusal| {
            Diagnostic::error(
                "unsupported",
                refusal.span,
                format!("{} is not supported", refusal.what),
            )
            .help(refusal.remedy)
        })
        .collect()
}

/// The newest minor version of syntax 1 whose instructions and flags this crate knows.
const NEWEST: u32 = 28;

/// What a `# syntax=` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Frontend {
    /// The official frontend in a version that is known: the language of this crate.
    Known,
    /// The official frontend in a later version.
    Newer,
    /// Anything else.
    Foreign,
}

impl Frontend {
    fn of(reference: &str) -> Self {
        let reference = reference.split('@').next().unwrap_or_default();
        let (name, tag) = match reference.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (reference, "latest"),
        };
        if name.strip_prefix("docker.io/").unwrap_or(name) != "docker/dockerfile" {
            return Self::Foreign;
        }
        // `1.20.0-labs` and `1-labs` are the same language with features that are refused one by one.
        let version = tag.split('-').next().unwrap_or_default();
        let mut numbers = version.split('.');
        match (numbers.next(), numbers.next().map(str::parse::<u32>)) {
            (Some("latest" | "labs" | "1"), None) => Self::Known,
            (Some("1"), Some(Ok(minor))) if minor <= NEWEST => Self::Known,
            (Some("1"), Some(Ok(_))) => Self::Newer,
            _ => Self::Foreign,
        }
    }
}

fn refuse(instruction: &Instruction, refusals: &mut Vec<Refusal>) {
    let mut flag = |span: Option<Span>, what: &str, remedy: &'static str| {
        refusals.extend(span.map(|span| Refusal {
            what: what.to_owned(),
            span,
            remedy,
        }));
    };
    let InstructionKind::Run(run) = &instruction.kind else {
        return;
    };
    let host = |network: &&Spanned<Network>| network.value == Network::Host;
    flag(
        run.network.as_ref().filter(host).map(|host| host.span),
        "`RUN --network=host`",
        "remove the flag: a step never gets the network of the machine, because it could reach what only listens there",
    );
    let insecure = |security: &&Spanned<Security>| security.value == Security::Insecure;
    flag(
        run.security
            .as_ref()
            .filter(insecure)
            .map(|insecure| insecure.span),
        "`RUN --security=insecure`",
        "remove the flag: every step is sandboxed, because the engine itself has no privileges to hand on",
    );
    for device in &run.devices {
        flag(
            Some(device.span),
            "`RUN --device`",
            "remove the flag: a step gets no device, because the pod that it runs in has none",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontends() {
        for (reference, expected) in [
            ("docker/dockerfile", Frontend::Known),
            ("docker/dockerfile:1", Frontend::Known),
            ("docker/dockerfile:1.4", Frontend::Known),
            ("docker/dockerfile:1.4.3", Frontend::Known),
            ("docker/dockerfile:1-labs", Frontend::Known),
            ("docker/dockerfile:1.7-labs", Frontend::Known),
            ("docker/dockerfile:labs", Frontend::Known),
            ("docker.io/docker/dockerfile:1", Frontend::Known),
            ("docker/dockerfile:1@sha256:00", Frontend::Known),
            ("docker/dockerfile:1.99", Frontend::Newer),
            ("docker/dockerfile:2", Frontend::Foreign),
            ("docker/dockerfile:master", Frontend::Foreign),
            ("docker/dockerfile-upstream:1", Frontend::Foreign),
            ("registry:5000/docker/dockerfile", Frontend::Foreign),
            ("example.com/a", Frontend::Foreign),
            ("", Frontend::Foreign),
        ] {
            assert_eq!(Frontend::of(reference), expected, "{reference}");
        }
    }

    #[test]
    fn only_reachable_stages_are_judged() {
        let text = "FROM a AS unused\nRUN --device=x b\nFROM c\nRUN d\n";
        let dockerfile = crate::parse("f", text).dockerfile.expect("two stages");
        assert_eq!(unsupported(&dockerfile, None, |stage| stage == 1), []);
        let refused = unsupported(&dockerfile, None, |_| true);
        assert_eq!(refused.len(), 1);
        assert_eq!(
            refused[0].one_line("f", text),
            "f:2: `RUN --device` is not supported"
        );
    }
}
