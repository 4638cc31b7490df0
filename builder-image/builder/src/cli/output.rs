//! Results on standard output, failures on standard error.

use std::io::{IsTerminal, Write};

use crate::error::Error;

/// Writes one line of result.
pub(super) fn line(text: &str) -> Result<(), Error> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Error::io("writing the result"))
}

/// Writes a failure, drawn where it has a place.
pub(super) fn error(error: &Error) {
    let text = error.render(is_colored());
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Whether standard error is drawn in colors: for a person who does not object (<https://no-color.org>).
pub(super) fn is_colored() -> bool {
    let objection = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !objection
}
