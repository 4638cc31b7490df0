//! Values of flags that are lists, as docker reads them: fields separated by commas; a field in double quotes may hold
//! commas, and two quotes stand for one (RFC 4180).

/// The fields of `text`.
pub(super) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_none() => break,
                    Some(c) => field.push(c),
                    None => return Err(format!("a quote has no end in `{text}`")),
                }
            }
            if chars.peek().is_some_and(|&c| c != ',') {
                return Err(format!("a quote ends inside a field of `{text}`"));
            }
        } else {
            while let Some(c) = chars.next_if(|&c| c != ',') {
                field.push(c);
            }
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas() {
        for (text, expected) in [
            ("a", &["a"][..]),
            ("a,b=c", &["a", "b=c"]),
            ("\"name=a,b\",push=true", &["name=a,b", "push=true"]),
            ("\"a\"\"b\"", &["a\"b"]),
            ("a=\"b\"", &["a=\"b\""]),
            ("a,,", &["a", "", ""]),
        ] {
            assert_eq!(fields(text).unwrap(), expected, "{text}");
        }
        for text in ["\"a", "\"a\"b"] {
            assert!(fields(text).is_err(), "{text}");
        }
    }
}
