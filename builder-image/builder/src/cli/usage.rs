//! Mistakes in arguments, with advice that fits: what is missing, and what needs quotes. The parsing itself is clap's.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The error with better advice, where there is some.
pub(super) fn explain(mut error: clap::Error) -> clap::Error {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.clone(),
        Some(ContextValue::Strings(arguments)) => arguments.join(" "),
        _ => return error,
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            // Nobody who misspells a flag means a value that looks like one.
            error.remove(ContextKind::Suggested);
            if !argument.starts_with('-') {
                advise(&mut error, "values of flags that hold spaces need quotes");
            }
        }
        ErrorKind::MissingRequiredArgument if argument.contains("<CONTEXT>") => advise(
            &mut error,
            "name the directory to build last, as in `coopery build --tag NAME .`",
        ),
        _ => {}
    }
    error
}

fn advise(error: &mut clap::Error, advice: impl Into<String>) {
    let advice = ContextValue::StyledStrs(vec![StyledStr::from(advice.into())]);
    error.insert(ContextKind::Suggested, advice);
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    #[test]
    fn advice_fits_the_mistake() {
        for (args, words) in [
            (
                &["build"][..],
                &["<CONTEXT>", "coopery build --tag NAME ."][..],
            ),
            (
                &["build", "-t", "."],
                &["a directory, not the name of an image", "--tag NAME ."],
            ),
            (
                &["build", "-t", "./app", "."],
                &["a directory, not the name of an image"],
            ),
            (
                &["build", "--cache-to=type=inlin", "."],
                &["did you mean `inline`?"],
            ),
            (
                &["build", "--secret", "file", "."],
                &["`file` is not KEY=VALUE: write id=ID,src=FILE"],
            ),
            (
                &["build", "--targte", "x", "."],
                &["a similar argument exists: '--target'"],
            ),
            (&["build", ".", "other"], &["'other'", "need quotes"]),
            (&["build", "-o", "app.tar", "."], &["type=oci,dest=app.tar"]),
        ] {
            let args = ["coopery"].iter().chain(args);
            let Err(error) = Cli::try_parse_from(args.clone()) else {
                panic!("{args:?} is no mistake");
            };
            assert!(error.use_stderr());
            let text = explain(error).to_string();
            for word in words {
                assert!(text.contains(word), "{args:?}: no `{word}` in {text}");
            }
            assert!(!text.contains("as a value"), "{text}");
        }
    }
}
