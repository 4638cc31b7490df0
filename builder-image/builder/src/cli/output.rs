//! Results on standard output, failures on standard error.

use std::io::{IsTerminal, Write};

use crate::error::Error;

/// Writes one line of result.
pub(super) fn line(text: &str) -> Result<(), Error> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Error::io("writing the result"))
}

/// Writes a failure, drawn where it has a place.
pub(super) fn error(error: &Error) {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = writeln!(std::io::stderr().lock(), "{}", error.render(color));
}
