//! Findings as lines, and the examples of the rules that the text alone tells.

use super::*;

/// `line: Rule: message`, in the order of the text, with those of parsing and without what `# check=` leaves out.
fn found(text: &str) -> Vec<String> {
    let parsed = crate::parse("f", text);
    let mut found = parsed.diagnostics;
    let file = parsed.dockerfile.expect("a stage");
    found.extend(lint(&file, text));
    found.sort_by_key(|finding| finding.primary.start);
    let check = file
        .directives
        .check
        .clone()
        .map(|check| check.value)
        .unwrap_or_default();
    found
        .iter()
        .filter(|finding| check.reports(finding.id))
        .map(|finding| {
            format!(
                "{}: {}: {}",
                finding.line(text),
                finding.id,
                finding.message
            )
        })
        .collect()
}

fn rules(text: &str) -> Vec<String> {
    let name = |line: String| line.split(": ").nth(1).unwrap_or_default().to_owned();
    found(text).into_iter().map(name).collect()
}

/// Rules that need more than the text; the engine tests their examples.
const OF_THE_ENGINE: [Rule; 10] = [
    Rule::CopyIgnoredFile,
    Rule::ExposeInvalidFormat,
    Rule::ExposeProtoCasing,
    Rule::FromPlatformFlagConstDisallowed,
    Rule::InvalidBaseImagePlatform,
    Rule::InvalidDefaultArgInFrom,
    Rule::JSONArgsRecommended,
    Rule::UndefinedArgInFrom,
    Rule::UndefinedVar,
    Rule::WorkdirRelativePath,
];

#[test]
fn examples_break_their_rule_and_no_other() {
    for rule in Rule::ALL
        .iter()
        .filter(|rule| !OF_THE_ENGINE.contains(rule))
    {
        let about = rule.about();
        assert_eq!(rules(about.bad), [rule.name()], "{}", about.bad);
        assert_eq!(rules(about.good), [""; 0], "{}", about.good);
    }
    for rule in OF_THE_ENGINE {
        assert_eq!(rules(rule.about().bad), [""; 0], "{rule} is found here");
    }
}

#[test]
fn there_are_the_rules_of_the_reference() {
    assert_eq!(Rule::ALL.len(), 22);
    let names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert!(names.is_sorted(), "the documentation lists them in order");
    assert_eq!(Rule::named("UndefinedVar"), Some(Rule::UndefinedVar));
    assert_eq!(Rule::similar("UndefindVar"), Some("UndefinedVar"));
}

#[test]
fn secrets_are_known_by_parts_of_names() {
    for (name, expected) in [
        ("API_TOKEN", true),
        ("PASSWORD", true),
        ("db_passwd", true),
        ("AWS_SECRET_ACCESS_KEY", true),
        ("APIKEY", true),
        ("GPG_KEY", true),
        ("PUBLIC_KEY", false),
        ("SIGNING_PUBLIC_KEY", false),
        ("AUTHOR", false),
        ("TOKENIZER", false),
        ("MONKEY", false),
    ] {
        for text in [
            format!("FROM x\nARG {name}\n"),
            format!("FROM x\nENV {name}=1\n"),
            format!("FROM x\nONBUILD ENV {name}=1\n"),
        ] {
            assert_eq!(!found(&text).is_empty(), expected, "{text}");
        }
        // Only FROM sees it, and nothing records it.
        assert_eq!(found(&format!("ARG {name}\nFROM x\n")), [""; 0]);
    }
}

#[test]
fn letter_case_follows_the_majority() {
    let mixed = found("from x\nrun a\nCOPY a b\nEnv a=b\n");
    let lower = |line, word| {
        format!(
            "{line}: ConsistentInstructionCasing: command '{word}' should match the case of the command majority (lowercase)"
        )
    };
    assert_eq!(mixed, [lower(3, "COPY"), lower(4, "Env")]);
    let names = rules("FROM x as Y\nRUN a\nrun b\nfrom y AS Z\n");
    assert_eq!(
        names,
        [
            "FromAsCasing",
            "StageNameCasing",
            "ConsistentInstructionCasing",
            "ConsistentInstructionCasing",
            "FromAsCasing",
            "StageNameCasing"
        ]
    );
}

#[test]
fn comments_describe_what_is_below_them() {
    let with = |text: &str| found(&format!("# check=experimental=all\n{text}"));
    let text =
        "ARG A=1\n# A is\nARG A=1\n# b\nFROM x AS c\n# other\n\nARG D\n# e\nARG F G\n# e\nRUN x\n";
    let about = |line, what, form| {
        format!(
            "{line}: InvalidDefinitionDescription: comment for {what} should follow the format: `# {form} <description>`"
        )
    };
    assert_eq!(
        with(text),
        [about(6, "build stage", "c"), about(11, "arg", "<arg_key>")]
    );
    // Without being asked for, and for a directive that stands above an instruction.
    assert_eq!(found("# A\nFROM x AS b\n"), [""; 0]);
    assert_eq!(with("FROM x AS b\n"), [""; 0]);
}

#[test]
fn the_directive_leaves_rules_out() {
    let text = "FROM x as A\nMAINTAINER m\n";
    assert_eq!(
        rules(text),
        ["FromAsCasing", "StageNameCasing", "MaintainerDeprecated"]
    );
    let with = |check: &str| rules(&format!("# check={check}\n{text}"));
    assert_eq!(
        with("skip=FromAsCasing,StageNameCasing"),
        ["MaintainerDeprecated"]
    );
    assert_eq!(with("skip=all"), [""; 0]);
    assert_eq!(with("skip=StageNameCasin")[0], "unknown-rule");
}
