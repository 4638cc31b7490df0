//! Logs: one JSON object a line, or text for people. No traces are exported.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::settings::{LogFormat, Settings};

/// Starts logging to standard error. A filter that cannot be read is replaced by `info`, and that is said.
pub fn install(settings: &Settings) {
    let filter = EnvFilter::try_new(&settings.log_level);
    let refused = filter.as_ref().err().map(ToString::to_string);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    match settings.log_format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .init(),
        LogFormat::Text => builder.init(),
    }
    if let Some(error) = refused {
        tracing::warn!(
            filter = settings.log_level,
            error,
            "log filter not understood, using info"
        );
    }
}
