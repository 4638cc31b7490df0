//! The examples of all rules, what `# check=` makes of findings, and `docs/lint.md`, which is written from the examples.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use oci::ImageConfig;

use super::*;
use crate::graph;

fn config(architecture: &str) -> ImageConfig {
    serde_json::from_str(&format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["PATH=/bin","HOME=/root"]}},
            "rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    ))
    .unwrap()
}

/// The findings of a file, whose context ignores `*.log` but `kept/*.log`.
fn checked(text: &str, args: &[(&str, &str)]) -> Result<Findings, Error> {
    let directory = tempfile::tempdir().unwrap();
    fs_err::write(
        directory.path().join(".dockerignore"),
        "**/*.log\nout\n!out/kept\n",
    )
    .unwrap();
    let context = BuildContext::open(directory.path()).unwrap();
    let context = context.with_dockerignore(None).unwrap();
    let file = Arc::new(SourceFile {
        name: "Dockerfile".into(),
        text: text.into(),
    });
    let options = Options {
        target: None,
        build_args: args
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect(),
        labels: BTreeMap::new(),
        platform: "linux/amd64".parse().unwrap(),
        build_platform: "linux/amd64".parse().unwrap(),
        contexts: BTreeMap::new(),
        surroundings: graph::Surroundings::default(),
    };
    let (dockerfile, parsed) = crate::build::parse(&file)?;
    let plan = graph::plan_all(&dockerfile, &options).map_err(|e| Error::graph(e, &file))?;
    let architecture = |base: &graph::Base| match base.name.to_string() {
        name if name.contains("other-platform") => "arm64",
        _ => "amd64",
    };
    let configs: Vec<_> = plan
        .bases
        .iter()
        .map(|base| config(architecture(base)))
        .collect();
    let graph = graph::build(&plan, &configs).map_err(|e| Error::graph(e, &file))?;
    findings(&file, &options, &dockerfile, parsed, &graph, &context)
}

fn rules(text: &str) -> Vec<&'static str> {
    let found = checked(text, &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
    found.warnings.iter().map(|warning| warning.id).collect()
}

/// What an example that cannot be built without its argument is built with.
fn rules_with_tag(text: &str) -> Vec<&'static str> {
    let found = checked(text, &[("TAG", "1")]).unwrap();
    found.warnings.iter().map(|warning| warning.id).collect()
}

#[test]
fn examples_break_their_rule_and_no_other() {
    for &rule in Rule::ALL {
        let about = rule.about();
        let rules = if rule == Rule::InvalidDefaultArgInFrom {
            rules_with_tag
        } else {
            rules
        };
        assert_eq!(rules(about.bad), [rule.name()], "{}", about.bad);
        assert_eq!(rules(about.good), [""; 0], "{}", about.good);
    }
}

#[test]
fn variables_are_known_from_where_they_are_inherited() {
    for (text, expected) in [
        // From the base image, a stage below, and the search path that every image has.
        ("FROM x\nENV A=$HOME:$PATH\n", false),
        ("FROM scratch\nENV A=$PATH\n", false),
        ("FROM x AS a\nARG B=1\nFROM a\nENV C=$B\n", false),
        ("FROM x AS a\nENV B=1\nFROM a\nENV C=$B\n", false),
        // Global and predefined arguments are not seen in a stage until it declares them.
        ("ARG B=1\nFROM x\nENV C=$B\n", true),
        ("ARG B=1\nFROM x\nARG B\nENV C=$B\n", false),
        ("FROM x\nENV C=$TARGETARCH\n", true),
        ("FROM x\nARG TARGETARCH\nENV C=$TARGETARCH\n", false),
        // One instruction sees what was set before it.
        ("FROM x\nENV A=1 B=$A\n", true),
        ("FROM x\nENV A=$A\n", true),
        // A word for the case that it is not set.
        ("FROM x\nENV B=${A:-1} C=${A-1} D=${A:+1} E=${A+1}\n", false),
        // Not expanded by the builder.
        ("FROM x\nRUN echo $A\nCMD [\"$A\"]\n", false),
        ("FROM x\nCOPY $A /\n", true),
        ("FROM x\nWORKDIR /$A\n", true),
    ] {
        assert_eq!(
            rules(text) == ["UndefinedVar"],
            expected,
            "{text}: {:?}",
            rules(text)
        );
    }
}

#[test]
fn stages_inherit_what_silences_a_rule() {
    for (text, expected) in [
        (
            "FROM x AS a\nWORKDIR /b\nFROM a\nWORKDIR c\n",
            &[] as &[&str],
        ),
        (
            "FROM x AS a\nWORKDIR b\nWORKDIR c\n",
            &["WorkdirRelativePath"],
        ),
        ("FROM x\nARG A=/b\nWORKDIR $A\n", &[]),
        ("FROM x\nSHELL [\"/bin/sh\", \"-ec\"]\nCMD a\n", &[]),
        (
            "FROM x AS a\nSHELL [\"/bin/sh\", \"-ec\"]\nFROM a\nENTRYPOINT a\n",
            &[],
        ),
        ("FROM --platform=linux/amd64 x AS amd64-tools\n", &[]),
        (
            "FROM --platform=amd64 x AS tools\n",
            &["FromPlatformFlagConstDisallowed"],
        ),
        // Stages that nothing needs are looked at, too.
        ("FROM x\nCMD a\nFROM x\n", &["JSONArgsRecommended"]),
    ] {
        assert_eq!(rules(text), expected, "{text}");
    }
}

#[test]
fn ignored_files_are_those_of_the_context() {
    for (text, expected) in [
        ("FROM x\nCOPY a.log b /\n", true),
        ("FROM x\nADD ./dir/a.log /\n", true),
        ("FROM x\nCOPY a.txt /\n", false),
        ("FROM x\nCOPY *.log /\n", false),
        ("FROM x\nCOPY . /\n", false),
        ("FROM x\nCOPY out /\n", false),
        ("FROM x\nCOPY out/other /\n", true),
        ("FROM x AS a\nFROM x\nCOPY --from=a a.log /\n", false),
        ("FROM x\nADD https://example.com/a.log /\n", false),
        ("FROM x\nCOPY <<a.log /\nx\na.log\n", false),
    ] {
        assert_eq!(
            rules(text) == ["CopyIgnoredFile"],
            expected,
            "{text}: {:?}",
            rules(text)
        );
    }
    let text = "FROM x\nCOPY a b.log /\n";
    let found = checked(text, &[]).unwrap().warnings;
    let span = found[0].primary;
    assert_eq!(&text[span.start..span.end], "b.log");
}

#[test]
fn checks_are_errors_where_that_is_asked_for() {
    let text = "# check=skip=StageNameCasing;error=true\nFROM x AS B\nMAINTAINER m\n";
    let found = checked(text, &[]).unwrap();
    let told: Vec<_> = found
        .to_warnings()
        .into_iter()
        .map(|w| (w.rule, w.line))
        .collect();
    assert_eq!(told, [("MaintainerDeprecated", 3)]);
    let error = found.into_result().unwrap_err();
    assert_eq!(
        error.to_string(),
        "Dockerfile:3: maintainer instruction is deprecated in favor of using label"
    );
    // The build argument replaces the directive.
    let argument = |value| checked(text, &[(ARGUMENT, value)]);
    let found = argument("skip=MaintainerDeprecated").unwrap();
    assert_eq!(found.warnings[0].id, "StageNameCasing");
    found.into_result().unwrap();
    assert_eq!(
        argument("skip").unwrap_err().to_string(),
        "build argument BUILDKIT_DOCKERFILE_CHECK: invalid check option `skip`: write \
         `check=skip=RuleA,RuleB;error=true`; `skip=all` leaves out every rule"
    );
}

#[test]
fn the_documentation_is_written_from_the_rules() {
    let mut text = String::from(include_str!("introduction.md"));
    for &rule in Rule::ALL {
        writeln!(
            text,
            "| [{rule}](#{}) | {} |",
            rule.name().to_lowercase(),
            rule.about().description
        )
        .unwrap();
    }
    for &rule in Rule::ALL {
        let about = rule.about();
        write!(
            text,
            "\n## {rule}\n\n{}.\n{}\n\nBad:\n\n```dockerfile\n{}```\n\nGood:\n\n```dockerfile\n{}```\n",
            about.description, about.why, about.bad, about.good
        )
        .unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lint.md");
    if std::env::var_os("UPDATE").is_some() {
        fs_err::write(path, &text).unwrap();
    }
    let written = fs_err::read_to_string(path).unwrap();
    assert!(
        written == text,
        "docs/lint.md is stale: run this test with UPDATE=1"
    );
}
