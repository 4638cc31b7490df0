//! The program `coopery-operator`: reads the command line and runs the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use operator::settings::{Command, Settings};
use operator::{RunError, reason, run, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        // Only main installs a provider, and only once.
        return ExitCode::from(2);
    }
    let settings = Settings::parse();
    if let Some(Command::Reasons) = settings.command {
        let page = reason::documentation();
        return match std::io::stdout().write_all(page.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(2),
        };
    }
    telemetry::install(&settings);
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        // Another may lead in a moment: nothing more may be written, not even by tasks that are still running.
        Err(error @ RunError::LeaseLost) => {
            tracing::error!("{error}");
            std::process::exit(3)
        }
        Err(error) => {
            tracing::error!("{:#}", anyhow::Error::new(error));
            ExitCode::from(1)
        }
    }
}
