//! Entry point of `coopery`: the process-wide settings, then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Credentials are in this process's memory; nobody of the same user shall be able to read it. Without success there
    // is no reason to refuse work: the engine of a RUN insists on it by itself.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // Fails only when there is a provider already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    builder::cli::run()
}
