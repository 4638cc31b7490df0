//! The table of expansions: what a word becomes with which variables. Rows of `SAME` hold for both escape characters,
//! those of `BACKSLASH` and `BACKTICK` for one.

use super::expander::{MAX_DEPTH, MAX_GROWTH};
use super::*;

/// Variables of every row.
const SCOPE: [(&str, &str); 15] = [
    ("v", "value"),
    ("empty", ""),
    ("two", "one two"),
    ("three", "  a  b "),
    ("path", "/usr/local/lib/x.tar.gz"),
    ("abc", "abcabc"),
    ("star", "a*b?c"),
    ("slash", r"a\b"),
    ("dollar", "$v"),
    ("quote", r#"a"b'c"#),
    ("p", "a*"),
    ("_x1", "under"),
    ("ä", "umlaut"),
    ("1", "one"),
    ("nl", "a\nb"),
];

const SAME: &[(&str, &str)] = &[
    // No variables.
    ("", ""),
    ("word", "word"),
    ("a b", "a b"),
    ("  a  ", "  a  "),
    ("äöü", "äöü"),
    ("a#b", "a#b"),
    ("{v}", "{v}"),
    ("v}", "v}"),
    // Plain variables.
    ("$v", "value"),
    ("${v}", "value"),
    ("a$v", "avalue"),
    ("$v.b", "value.b"),
    ("${v}b", "valueb"),
    ("$vb", ""),
    ("$v$v", "valuevalue"),
    ("$v/$v", "value/value"),
    ("$v-b", "value-b"),
    ("$_x1", "under"),
    ("${_x1}", "under"),
    ("$ä", "umlaut"),
    ("${ä}", "umlaut"),
    ("$unset", ""),
    ("${unset}", ""),
    ("a${unset}b", "ab"),
    ("$empty", ""),
    ("$two", "one two"),
    ("$three", "  a  b "),
    // Values are not expanded again.
    ("$dollar", "$v"),
    ("${dollar}", "$v"),
    ("$quote", r#"a"b'c"#),
    ("$slash", r"a\b"),
    // A dollar that begins no name.
    ("$", "$"),
    ("a$", "a$"),
    ("$ v", "$ v"),
    ("$/v", "$/v"),
    ("$.", "$."),
    ("$=v", "$=v"),
    ("$(v)", "$(v)"),
    ("$((1+1))", "$((1+1))"),
    ("$\"v\"", "$v"),
    // Digits and special parameters are names of their own.
    ("$1", "one"),
    ("$1a", "onea"),
    ("$12", ""),
    ("${1}", "one"),
    ("$@x", "x"),
    ("$*x", "x"),
    ("$#x", "x"),
    ("$?x", "x"),
    ("$-x", "x"),
    ("$$v", "v"),
    ("$!x", "x"),
    ("$0x", "x"),
    ("${@}", ""),
    ("${#}", ""),
    ("${?:-a}", "a"),
    // Single quotes.
    ("'$v'", "$v"),
    ("'a b'", "a b"),
    ("''", ""),
    ("a''b", "ab"),
    ("'\"'", "\""),
    ("'${v'", "${v"),
    ("a'b'c'd'", "abcd"),
    // Double quotes.
    ("\"$v\"", "value"),
    ("\"${v}\"", "value"),
    ("\"a b\"", "a b"),
    ("\"\"", ""),
    ("\"'$v'\"", "'value'"),
    ("'\"'$v'\"'", "\"value\""),
    ("\"$\"", "$"),
    ("\"$unset\"", ""),
    ("\"${unset:-a b}\"", "a b"),
    ("\"${unset:-\"a b\"}\"", "a b"),
    ("x\"$v\"y", "xvaluey"),
    // Defaults.
    ("${v:-d}", "value"),
    ("${v-d}", "value"),
    ("${unset:-d}", "d"),
    ("${unset-d}", "d"),
    ("${empty:-d}", "d"),
    ("${empty-d}", ""),
    ("${unset:-}", ""),
    ("${unset-}", ""),
    ("${unset:-a b}", "a b"),
    ("${unset:-$v}", "value"),
    ("${unset:-${v}}", "value"),
    ("${unset:-${empty:-$v}}", "value"),
    ("${unset:-'$v'}", "$v"),
    ("${unset:-'}'}", "}"),
    ("${unset:-\"}\"}", "}"),
    ("${unset:-a}b}", "ab}"),
    ("${unset:--}", "-"),
    ("${unset:-:-}", ":-"),
    ("${unset:-{}", "{"),
    ("a${unset:-/}b", "a/b"),
    // Alternatives.
    ("${v:+a}", "a"),
    ("${v+a}", "a"),
    ("${unset:+a}", ""),
    ("${unset+a}", ""),
    ("${empty:+a}", ""),
    ("${empty+a}", "a"),
    ("${v:+$v$v}", "valuevalue"),
    ("${v:+${unset:-a}}", "a"),
    ("x${v:+:$v}", "x:value"),
    ("x${unset:+:$unset}", "x"),
    // Required values that are there.
    ("${v:?m}", "value"),
    ("${v?m}", "value"),
    ("${v:?}", "value"),
    ("${empty?m}", ""),
    // Prefixes.
    ("${v#va}", "lue"),
    ("${v#x}", "value"),
    ("${v#}", "value"),
    ("${v#*}", "value"),
    ("${v##*}", ""),
    ("${v#?}", "alue"),
    ("${v#??}", "lue"),
    ("${v#value}", ""),
    ("${path#*/}", "usr/local/lib/x.tar.gz"),
    ("${path##*/}", "x.tar.gz"),
    ("${path#/usr}", "/local/lib/x.tar.gz"),
    ("${path##*.}", "gz"),
    ("${abc#a*c}", "abc"),
    ("${abc##a*c}", ""),
    ("${abc#b}", "abcabc"),
    ("${unset#a}", ""),
    ("${empty#*}", ""),
    ("${abc#$p}", "bcabc"),
    ("${abc##$p}", ""),
    ("${abc#${unset:-ab}}", "cabc"),
    ("${abc#'a*'}", "bcabc"),
    ("${abc#\"a\"}", "bcabc"),
    ("${v#[v]}", "value"),
    ("${abc#.}", "abcabc"),
    ("${abc#(a|b)}", "abcabc"),
    // Suffixes.
    ("${v%ue}", "val"),
    ("${v%x}", "value"),
    ("${v%}", "value"),
    ("${v%*}", "value"),
    ("${v%%*}", ""),
    ("${v%?}", "valu"),
    ("${v%value}", ""),
    ("${path%/*}", "/usr/local/lib"),
    ("${path%%/*}", ""),
    ("${path%.*}", "/usr/local/lib/x.tar"),
    ("${path%%.*}", "/usr/local/lib/x"),
    ("${path%.gz}", "/usr/local/lib/x.tar"),
    ("${abc%a*c}", "abc"),
    ("${abc%%a*c}", ""),
    ("${abc%%b*}", "a"),
    ("${unset%a}", ""),
    ("${abc%${unset:-bc}}", "abca"),
    ("${ä%t}", "umlau"),
    // Replacement.
    ("${v/a/b}", "vblue"),
    ("${v/x/b}", "value"),
    ("${v/a/}", "vlue"),
    ("${abc/b/x}", "axcabc"),
    ("${abc//b/x}", "axcaxc"),
    ("${abc//b/}", "acac"),
    ("${abc/a*c/x}", "x"),
    ("${abc//?/x}", "xxxxxx"),
    ("${abc/?/x}", "xbcabc"),
    ("${abc//*/x}", "x"),
    ("${abc//b/$v}", "avaluecavaluec"),
    ("${abc/$p/x}", "x"),
    ("${abc//${unset:-c}/${v}}", "abvalueabvalue"),
    ("${two/ /-}", "one-two"),
    ("${two// /}", "onetwo"),
    ("${abc/a/'$v'}", "$vbcabc"),
    ("${abc//a/b}${v}", "bbcbbcvalue"),
    ("${unset/a/b}", ""),
    ("${abc//a/$dollar}", "$vbc$vbc"),
    ("${abc/a/a/b}", "a/bbcabc"),
    ("\"${abc/b/ }\"", "a cabc"),
    // Neither wildcard matches a newline.
    ("${nl#*b}", "a\nb"),
    ("${nl#a?b}", "a\nb"),
];

const BACKSLASH: &[(&str, &str)] = &[
    (r"\$v", "$v"),
    (r"\\$v", r"\value"),
    (r"\\\$v", r"\$v"),
    (r"\a\b", "ab"),
    (r"\\", r"\"),
    (r"a\", "a"),
    (r"\ ", " "),
    (r"\'a\'", "'a'"),
    (r#"\"$v\""#, "\"value\""),
    (r"a\ b", "a b"),
    (r"\ä", "ä"),
    ("`$v", "`value"),
    // In double quotes only the quote, the dollar and the escape itself are escaped.
    (r#""\$v""#, "$v"),
    (r#""\"""#, "\""),
    (r#""\\""#, r"\"),
    (r#""\a""#, r"\a"),
    (r#""\n""#, r"\n"),
    (r#""\'""#, r"\'"),
    (r#""\ ""#, r"\ "),
    // In single quotes nothing is.
    (r"'\$v'", r"\$v"),
    (r"'\'", r"\"),
    (r"'a\'b", r"a\b"),
    // In substitutions.
    (r"${unset:-\$v}", "$v"),
    (r"${unset:-\}}", "}"),
    (r"${unset:-a\ b}", "a b"),
    (r"\${v}", "${v}"),
    (r"$\{v}", "${v}"),
    (r"${star#a\*}", "b?c"),
    (r"${star#a*b\?}", "c"),
    (r"${star%\?c}", "a*b"),
    (r"${star//\*/x}", "axb?c"),
    (r"${star/\?/x}", "a*bxc"),
    (r"${slash#a\\}", "b"),
    (r"${slash//\\/x}", "axb"),
    (r"${path//\//:}", ":usr:local:lib:x.tar.gz"),
    (r"${path/\/usr/}", "/local/lib/x.tar.gz"),
    (r"${v/a/\}}", r"v\}lue"),
    (r"${v#\}}", "value"),
];

const BACKTICK: &[(&str, &str)] = &[
    ("`$v", "$v"),
    ("``$v", "`value"),
    ("`a", "a"),
    (r"\$v", r"\value"),
    (r"C:\$v", r"C:\value"),
    (r"\\", r"\\"),
    ("\"`\"\"", "\""),
    ("\"`$v\"", "$v"),
    ("\"`a\"", "`a"),
    (r#""\a""#, r"\a"),
    ("'`'", "`"),
    ("a`", "a"),
    ("${unset:-`}}", "}"),
    (r"${star#a\*}", "b?c"),
];

#[test]
fn words_expand() {
    for escape in ['\\', '`'] {
        let rows = if escape == '\\' { BACKSLASH } else { BACKTICK };
        for (word, expected) in SAME.iter().chain(rows) {
            assert_eq!(
                expand(word, escape, &SCOPE[..]).as_deref(),
                Ok(*expected),
                "{word} with escape {escape}"
            );
        }
    }
}

#[test]
fn malformed_words_are_refused() {
    use ExpandErrorKind::{BadSubstitution, MissingBrace, MissingSlash, UnterminatedQuote};
    let modifier = |text: &str| ExpandErrorKind::UnsupportedModifier(text.to_owned());
    let required = |name: &str, message: &str| ExpandErrorKind::Required {
        name: name.to_owned(),
        message: message.to_owned(),
    };
    let pattern = |pattern: &str, reason: &str| ExpandErrorKind::InvalidPattern {
        pattern: pattern.to_owned(),
        reason: reason.to_owned(),
    };
    for (word, offset, kind) in [
        ("${", 0, MissingBrace),
        ("a${v", 1, MissingBrace),
        ("a${v:", 1, MissingBrace),
        ("${v:-", 0, MissingBrace),
        ("${v:-${v}", 0, MissingBrace),
        ("${v:-${v", 5, MissingBrace),
        ("\"${v\"", 4, modifier("\"")),
        ("${v#a", 0, MissingBrace),
        ("${v/a", 0, MissingSlash),
        ("${v/a}", 0, MissingSlash),
        ("${v//}", 0, MissingSlash),
        ("${v/a/b", 0, MissingBrace),
        ("${}", 0, BadSubstitution),
        ("${:}", 0, BadSubstitution),
        ("${:-a}", 0, BadSubstitution),
        ("a${{v}}", 1, BadSubstitution),
        ("${ v}", 2, modifier(" ")),
        ("${v }", 3, modifier(" ")),
        ("${v^}", 3, modifier("^")),
        ("${v,,}", 3, modifier(",")),
        ("${v@Q}", 3, modifier("@")),
        ("${v=a}", 3, modifier("=")),
        ("${v:=a}", 3, modifier(":=")),
        ("${v:x}", 3, modifier(":x")),
        ("${v:}", 3, modifier(":}")),
        ("${v:#a}", 3, modifier(":#")),
        ("${v:%a}", 3, modifier(":%")),
        ("${v:/a/b}", 3, modifier(":/")),
        ("${v:0:1}", 3, modifier(":0")),
        ("${#v}", 3, modifier("v")),
        ("${!v}", 3, modifier("v")),
        ("${1a}", 3, modifier("a")),
        ("${v.a}", 3, modifier(".")),
        ("'", 0, UnterminatedQuote('\'')),
        ("a'b", 1, UnterminatedQuote('\'')),
        ("\"a", 0, UnterminatedQuote('"')),
        ("\"a'", 0, UnterminatedQuote('"')),
        (r#""a\""#, 0, UnterminatedQuote('"')),
        ("${v:-'}", 5, UnterminatedQuote('\'')),
        ("${unset:?gone}", 0, required("unset", "gone")),
        ("${unset?gone}", 0, required("unset", "gone")),
        (
            "${unset:?}",
            0,
            required("unset", "is not allowed to be unset"),
        ),
        (
            "${empty:?}",
            0,
            required("empty", "is not allowed to be empty"),
        ),
        ("${empty:?no $v}", 0, required("empty", "no value")),
        ("${v:-${unset?x}}", 5, required("unset", "x")),
        (r"${v#\x}", 4, pattern(r"\x", r"invalid escape `\x`")),
        (r"${v%a\.b}", 4, pattern(r"a\.b", r"invalid escape `\.`")),
        (r"${v//\./x}", 5, pattern(r"\.", r"invalid escape `\.`")),
    ] {
        assert_eq!(
            expand(word, '\\', &SCOPE[..]),
            Err(ExpandError { offset, kind }),
            "{word}"
        );
    }
}

#[test]
fn results_are_split_at_unquoted_blanks() {
    for (word, expected) in [
        ("", &[][..]),
        ("  ", &[]),
        ("a b", &["a", "b"]),
        ("  a \t b ", &["a", "b"]),
        ("$two", &["one", "two"]),
        ("x$two", &["xone", "two"]),
        ("$three", &["a", "b"]),
        ("$two$two", &["one", "twoone", "two"]),
        ("\"$two\"", &["one two"]),
        ("'a b' c", &["a b", "c"]),
        ("a\"b c\"d", &["ab cd"]),
        (r"a\ b c", &["a b", "c"]),
        ("$empty", &[]),
        ("\"\"", &[]),
        ("'' a", &["a"]),
        ("a $unset b", &["a", "b"]),
        ("${unset:-a b}", &["a", "b"]),
        ("${unset:-'a b'}", &["a", "b"]),
        ("\"${unset:-a b}\"", &["a b"]),
        ("80 $two 90", &["80", "one", "two", "90"]),
    ] {
        let words = expand_words(word, '\\', &SCOPE[..]).expect(word);
        assert_eq!(words, expected, "{word}");
    }
}

#[test]
fn heredoc_bodies_keep_their_quotes() {
    for (body, expected) in [
        ("a '$v' \"$v\"\n", "a 'value' \"value\"\n"),
        ("it's $v\n", "it's value\n"),
        ("\\$v \\a \\\\\n", "$v a \\\n"),
        ("${unset:-'a'}", "'a'"),
        ("`$v`", "`value`"),
    ] {
        assert_eq!(expand_heredoc(body, &SCOPE[..]).as_deref(), Ok(expected));
    }
}

#[test]
fn variables_that_are_asked_for_are_told() {
    let expansion =
        expand_traced("$v ${unset:-$two} ${v:+$nope}", '\\', &SCOPE[..]).expect("valid");
    assert_eq!(expansion.used.into_iter().collect::<Vec<_>>(), ["two", "v"]);
    assert_eq!(
        expansion.unset.into_iter().collect::<Vec<_>>(),
        ["nope", "unset"]
    );
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| "${unset:-".repeat(depth) + "a" + &"}".repeat(depth);
    assert_eq!(expand(&nested(MAX_DEPTH), '\\', &()).as_deref(), Ok("a"));
    let error = expand(&nested(MAX_DEPTH + 1), '\\', &()).map_err(|error| error.kind);
    assert_eq!(error, Err(ExpandErrorKind::TooDeep));
    assert!(expand(&nested(100_000), '\\', &()).is_err());
}

#[test]
fn growth_is_bounded() {
    let scope = [("v", "x".repeat(MAX_GROWTH / 4))];
    let kind = |word: &str| {
        expand(word, '\\', &scope[..])
            .map(|text| text.len())
            .map_err(|error| error.kind)
    };
    assert_eq!(kind("$v$v$v$v"), Ok(MAX_GROWTH));
    for word in [
        "$v$v$v$v$v",
        "\"$v$v$v$v$v\"",
        "${v//?/$v}",
        "${w:-$v$v$v$v$v}",
    ] {
        assert_eq!(kind(word), Err(ExpandErrorKind::TooLong), "{word}");
    }
}

#[test]
fn every_kind_of_scope_answers() {
    use std::collections::{BTreeMap, HashMap};
    let pairs = [("a", "1"), ("a", "2")];
    assert_eq!(expand("$a", '\\', &pairs[..]).as_deref(), Ok("2"));
    let ordered = BTreeMap::from([("a".to_owned(), "3")]);
    assert_eq!(expand("$a", '\\', &ordered).as_deref(), Ok("3"));
    let hashed = HashMap::from([("a".to_owned(), "4".to_owned())]);
    assert_eq!(expand("$a", '\\', &&hashed).as_deref(), Ok("4"));
    assert_eq!(expand("$a", '\\', &()).as_deref(), Ok(""));
}
