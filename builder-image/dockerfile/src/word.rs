//! Ways to cut the arguments of an instruction into words. Words keep their quotes and escapes; they go away when the
//! word is expanded.

use std::ops::Range;

use serde_json::value::RawValue;

/// What separates arguments of instructions that know no quoting (COPY, EXPOSE, FROM, …).
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Words between blanks; quotes mean nothing.
pub(crate) fn split_blanks(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut at = range.start;
    for word in text[range].split(is_blank) {
        if !word.is_empty() {
            words.push(at..at + word.len());
        }
        at += word.len() + 1;
    }
    words
}

/// Words between white space, where quoted and escaped white space does not separate (ARG, ENV, LABEL).
pub(crate) fn split_quoted(text: &str, range: Range<usize>, escape: char) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let base = range.start;
    let mut chars = text[range.clone()].char_indices();
    while let Some((at, c)) = chars.next() {
        let at = base + at;
        match quote {
            None if c.is_whitespace() => {
                words.extend(start.take().map(|start| start..at));
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        start.get_or_insert(at);
        // Inside single quotes the escape character is an ordinary one.
        if c == escape && quote != Some('\'') {
            chars.next();
        }
    }
    words.extend(start.map(|start| start..range.end));
    words
}

/// How a text that may be a JSON array turned out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonForm {
    /// An array of strings, each with the range of its literal.
    Strings(Vec<(String, Range<usize>)>),
    /// An array that holds something else at this range.
    NotStrings(Range<usize>),
    /// No JSON array at all.
    No,
}

/// Reads the JSON form of an instruction. A text that merely resembles one is not JSON: such an instruction is in shell
/// form.
pub(crate) fn json_form(text: &str, range: Range<usize>) -> JsonForm {
    let body = &text[range];
    if !body.trim_start().starts_with('[') {
        return JsonForm::No;
    }
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(body) else {
        return JsonForm::No;
    };
    let mut strings = Vec::with_capacity(elements.len());
    for element in elements {
        let raw = element.get();
        // Elements are slices of the text that they were read from.
        let start = raw.as_ptr() as usize - text.as_ptr() as usize;
        let place = start..start + raw.len();
        match serde_json::from_str::<String>(raw) {
            Ok(string) => strings.push((string, place)),
            Err(_) => return JsonForm::NotStrings(place),
        }
    }
    JsonForm::Strings(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_split() {
        let words = |text: &str| -> Vec<String> {
            split_blanks(text, 0..text.len())
                .into_iter()
                .map(|range| text[range].to_owned())
                .collect()
        };
        assert_eq!(
            words(" a  \"b c\"\td\u{b}e "),
            ["a", "\"b", "c\"", "d", "e"]
        );
        assert_eq!(words("a\u{a0}b"), ["a\u{a0}b"]);
        assert_eq!(words("  "), [""; 0]);
    }

    #[test]
    fn quotes_hold_together() {
        for (text, expected) in [
            ("", &[][..]),
            ("  ", &[]),
            ("a b", &["a", "b"]),
            (" a=1  b=2 ", &["a=1", "b=2"]),
            ("a=\"1 2\" b", &["a=\"1 2\"", "b"]),
            ("a='1 2' b", &["a='1 2'", "b"]),
            ("a=1\\ 2 b", &["a=1\\ 2", "b"]),
            ("a=\\\"1 b", &["a=\\\"1", "b"]),
            ("a=\"1\\\" 2\" b", &["a=\"1\\\" 2\"", "b"]),
            ("a='1\\' 2' b", &["a='1\\'", "2' b"]),
            ("a=\"1 2", &["a=\"1 2"]),
            ("'' b", &["''", "b"]),
            ("a\\", &["a\\"]),
            ("a=ä\u{a0}b", &["a=ä", "b"]),
        ] {
            let words: Vec<_> = split_quoted(text, 0..text.len(), '\\')
                .into_iter()
                .map(|range| &text[range])
                .collect();
            assert_eq!(words, expected, "{text:?}");
        }
    }

    #[test]
    fn json_or_not() {
        let strings = |text: &str| match json_form(text, 0..text.len()) {
            JsonForm::Strings(strings) => Ok(strings.into_iter().map(|(s, _)| s).collect()),
            JsonForm::NotStrings(place) => Err(text[place].to_owned()),
            JsonForm::No => Err("no".to_owned()),
        };
        for (text, expected) in [
            (r#"["a", "b c"]"#, Ok(vec!["a", "b c"])),
            (r#"  [ "a\"\u00e4\n" ]  "#, Ok(vec!["a\"ä\n"])),
            ("[]", Ok(vec![])),
            (r#"["a", 1]"#, Err("1")),
            ("[null]", Err("null")),
            (r#"[["a"]]"#, Err(r#"["a"]"#)),
            ("['a']", Err("no")),
            (r#"["a",]"#, Err("no")),
            (r#"["a"] b"#, Err("no")),
            ("[ -f x ]", Err("no")),
            (r#""a""#, Err("no")),
            ("", Err("no")),
        ] {
            let expected = expected
                .map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>())
                .map_err(str::to_owned);
            assert_eq!(strings(text), expected, "{text}");
        }
    }

    #[test]
    fn json_strings_have_places() {
        let text = r#"CMD ["a", "ä"]"#;
        let JsonForm::Strings(strings) = json_form(text, 4..text.len()) else {
            panic!("not JSON");
        };
        let places: Vec<_> = strings.into_iter().map(|(_, place)| &text[place]).collect();
        assert_eq!(places, ["\"a\"", "\"ä\""]);
    }
}
