//! Entry point of `coopery`: nothing but the call into the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::SUCCESS
}
