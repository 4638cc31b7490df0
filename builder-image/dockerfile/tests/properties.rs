//! Whatever the text: parsing and expanding end without a panic, every span lies in the text on character boundaries,
//! and every diagnostic can be drawn.

use dockerfile::{
    Diagnostic, Dockerfile, Instruction, InstructionKind, Parsed, Span, Word, check_expansions,
    expand, expand_heredoc, expand_words, parse, unsupported,
};
use proptest::prelude::*;

/// Pieces that mean something to the parser, so that random files reach deep into it.
const PIECES: &[&str] = &[
    "\n",
    "\n",
    "\n",
    "\r\n",
    " ",
    "\t",
    "\\",
    "\\\n",
    "\\ \n",
    "`",
    "`\n",
    "#",
    "# ",
    "\u{feff}",
    "FROM ",
    "FROM a\n",
    "FROM a AS b\n",
    "from",
    " AS ",
    "RUN ",
    "RUN <<A\n",
    "COPY ",
    "COPY a b\n",
    "ADD ",
    "ARG ",
    "ENV ",
    "LABEL ",
    "CMD ",
    "ENTRYPOINT ",
    "EXPOSE ",
    "HEALTHCHECK ",
    "ONBUILD ",
    "ONBUILD ONBUILD ",
    "SHELL ",
    "STOPSIGNAL ",
    "USER ",
    "VOLUME ",
    "WORKDIR ",
    "MAINTAINER ",
    "NONE",
    "CMD",
    "--from=",
    "--chown=",
    "--chmod=",
    "--mount=",
    "--mount",
    "--link",
    "--platform=",
    "--interval=",
    "--retries=",
    "--checksum=",
    "--",
    "--x=",
    "<<",
    "<<A",
    "<<-A",
    "<<'A'",
    "<<\"A B\"",
    "A\n",
    "\tA\n",
    "A",
    "$",
    "${",
    "}",
    "$a",
    "${a",
    "${a:-",
    "${a#",
    "${a//",
    "/",
    ":",
    "=",
    "a=b",
    "'",
    "\"",
    "[",
    "]",
    "[\"",
    "\"]",
    ",",
    "[\"a\",\"b\"]",
    "é",
    "😀",
    "\u{a0}",
    "\u{2028}",
    "\0",
    "# escape=`\n",
    "# syntax=a\n",
    "# check=skip=all\n",
    "type=cache",
    "target=/a",
    "30s",
    "80/tcp",
    "0",
    "http://a/b",
    "a@b:c.git",
];

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => proptest::collection::vec(proptest::sample::select(PIECES), 0..60)
            .prop_map(|pieces| pieces.concat()),
        1 => "(?s).{0,200}",
    ]
}

fn words() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "$", "{", "}", "${", "$a", "${a", "${b", ":", "-", "+", "?", "#", "##", "%", "%%", "/",
        "//", "*", "\\", "`", "'", "\"", " ", "a", "b", "ab", "é", "😀", "\n", "\\*", "\\}", "1",
    ];
    prop_oneof![
        3 => proptest::collection::vec(proptest::sample::select(PIECES), 0..30)
            .prop_map(|pieces| pieces.concat()),
        1 => "(?s).{0,60}",
    ]
}

fn scope() -> Vec<(&'static str, &'static str)> {
    vec![("a", "one two é"), ("b", ""), ("ab", "*a?b"), ("1", "x")]
}

fn check_span(span: Span, text: &str) {
    assert!(span.start <= span.end && span.end <= text.len(), "{span:?}");
    assert!(text.is_char_boundary(span.start), "{span:?}");
    assert!(text.is_char_boundary(span.end), "{span:?}");
}

fn check_word(word: &Word, text: &str) {
    check_span(word.span, text);
    let source = &text[word.span.start..word.span.end];
    let verbatim = source.len() == word.value.len() && !source.contains(['\\', '"', '\'', '\n']);
    assert!(!verbatim || source == word.value, "{word:?} is {source:?}");
}

fn check_instruction(instruction: &Instruction, text: &str) {
    check_span(instruction.span, text);
    check_span(instruction.keyword.span, text);
    let keyword = instruction.keyword.span;
    assert_eq!(&text[keyword.start..keyword.end], instruction.keyword.text);
    let above = &text[..instruction.span.start];
    assert_eq!(instruction.line, above.matches('\n').count() + 1);
    for word in instruction.kind.expanded_words() {
        check_word(word, text);
    }
    for heredoc in instruction.kind.heredocs() {
        check_span(heredoc.span, text);
        check_span(heredoc.body, text);
        assert_eq!(&text[heredoc.body.start..heredoc.body.end], heredoc.content);
    }
    if let InstructionKind::Onbuild(onbuild) = &instruction.kind {
        check_instruction(&onbuild.trigger, text);
    }
    if let InstructionKind::Run(run) = &instruction.kind {
        run.command_to_execute();
    }
}

fn check_file(dockerfile: &Dockerfile, text: &str) {
    assert!(!dockerfile.stages.is_empty());
    for arg in &dockerfile.global_args {
        check_instruction(arg, text);
    }
    for (index, stage) in dockerfile.stages.iter().enumerate() {
        assert_eq!(stage.index, index);
        check_span(stage.span, text);
        check_span(stage.from.span, text);
        check_word(&stage.from.image, text);
        for instruction in &stage.instructions {
            check_instruction(instruction, text);
        }
    }
}

fn check_diagnostics(diagnostics: &[Diagnostic], text: &str) {
    for diagnostic in diagnostics {
        check_span(diagnostic.primary, text);
        for label in &diagnostic.labels {
            check_span(label.span, text);
        }
        assert!(!diagnostic.render("Dockerfile", text, false).is_empty());
        assert!(!diagnostic.one_line("Dockerfile", text).contains('\n'));
    }
}

fn check_all(parsed: &Parsed, text: &str) {
    check_diagnostics(&parsed.diagnostics, text);
    assert!(parsed.dockerfile.is_some() || parsed.has_errors());
    if let Some(dockerfile) = &parsed.dockerfile {
        check_file(dockerfile, text);
        check_diagnostics(&unsupported(dockerfile, None, |_| true), text);
        check_diagnostics(&check_expansions(dockerfile, |_| true), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_parsed(text in texts()) {
        check_all(&parse("Dockerfile", &text), &text);
    }

    #[test]
    fn any_word_is_expanded_or_refused(word in words()) {
        let scope = scope();
        for escape in ['\\', '`'] {
            let whole = expand(&word, escape, scope.as_slice());
            let split = expand_words(&word, escape, scope.as_slice());
            prop_assert_eq!(whole.is_ok(), split.is_ok());
            if let Err(error) = whole {
                prop_assert!(word.is_char_boundary(error.offset), "{:?}", error);
            }
        }
        let _ = expand_heredoc(&word, scope.as_slice());
    }

    #[test]
    fn text_without_special_characters_stays(word in "[^$'\"\\\\]*") {
        prop_assert_eq!(expand(&word, '\\', &()), Ok(word.clone()));
        let words: Vec<_> = word.split_whitespace().map(str::to_owned).collect();
        prop_assert_eq!(expand_words(&word, '\\', &()), Ok(words));
    }

    #[test]
    fn single_quotes_protect_everything(word in "[^']*") {
        prop_assert_eq!(expand(&format!("'{word}'"), '\\', &()), Ok(word));
    }

    #[test]
    fn escaped_characters_are_literal(word in "(?s).*") {
        let escaped: String = word.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert_eq!(expand(&escaped, '\\', &()), Ok(word));
    }

    #[test]
    fn a_written_value_is_read_back(value in "[^\\r\\n]*") {
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
        let text = format!("FROM a\nENV k=\"{quoted}\" l=m\n");
        let parsed = parse("Dockerfile", &text);
        prop_assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let dockerfile = parsed.dockerfile.expect("one stage");
        let InstructionKind::Env(pairs) = &dockerfile.stages[0].instructions[0].kind else {
            panic!("no ENV");
        };
        prop_assert_eq!(expand(&pairs[0].value.value, '\\', &()), Ok(value));
        prop_assert_eq!(pairs[1].value.as_str(), "m");
    }

    #[test]
    fn a_heredoc_body_is_kept(body in "([^\\r\\n]{0,20}\\n){0,5}") {
        prop_assume!(!body.lines().any(|line| line == "END"));
        let text = format!("FROM a\nRUN <<END\n{body}END\nRUN b\n");
        let dockerfile = parse("Dockerfile", &text).dockerfile.expect("one stage");
        let InstructionKind::Run(run) = &dockerfile.stages[0].instructions[0].kind else {
            panic!("no RUN");
        };
        prop_assert_eq!(&run.heredocs[0].content, &body);
        prop_assert_eq!(dockerfile.stages[0].instructions.len(), 2);
    }
}

#[test]
fn hostile_texts_end_soon() {
    let deep = |piece: &str| format!("FROM a\nRUN {}\n", piece.repeat(20_000 / piece.len()));
    for text in [
        "ONBUILD ".repeat(5000),
        format!("FROM a\n{}", "ONBUILD ".repeat(5000)),
        deep("${a:-"),
        deep("<<A "),
        deep("["),
        deep("\"${a#"),
        format!("FROM a\nENV {}\n", "a=\"".repeat(5000)),
        "\\\n".repeat(50_000),
        "FROM a\n".repeat(5_000),
        format!("{}\n", "{".repeat(50_000)),
    ] {
        check_span(Span::new(0, 0), &text);
        let parsed = parse("Dockerfile", &text);
        if let Some(dockerfile) = &parsed.dockerfile {
            check_expansions(dockerfile, |_| true);
        }
    }
}
