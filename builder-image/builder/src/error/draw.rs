//! Failures as people read them: the place in the Dockerfile drawn, and what to do.

use dockerfile::Diagnostic;

use super::{Error, chain};

impl Error {
    /// The failure for people: the place drawn where there is one, else one line.
    pub fn render(&self, color: bool) -> String {
        match self.root() {
            Self::Dockerfile { file, diagnostics } => {
                let drawn: Vec<_> = diagnostics
                    .iter()
                    .map(|diagnostic| diagnostic.render(&file.name, &file.text, color))
                    .collect();
                drawn.join("\n\n")
            }
            Self::Base { place, name, source, help } => {
                let message = format!("base image `{name}`: {source}");
                let mut diagnostic = Diagnostic::error("base-image", place.span, message);
                if let Some(help) = help {
                    diagnostic = diagnostic.help(help);
                }
                diagnostic.render(&place.file.name, &place.file.text, color)
            }
            Self::Step { place, source, help, .. } => {
                let message = chain(source.as_ref());
                let mut diagnostic = Diagnostic::error("step-failed", place.span, message);
                diagnostic.help.extend(help.clone());
                diagnostic.render(&place.file.name, &place.file.text, color)
            }
            Self::NoRun(place) => Diagnostic::error(
                "no-run",
                place.span,
                "RUN is not available in isolation mode NoRun",
            )
            .help("build without RUN, or in isolation mode UserNamespace")
            .render(&place.file.name, &place.file.text, color),
            Self::ForeignRun { place, platform } => Diagnostic::error(
                "foreign-run",
                place.span,
                format!("RUN cannot be executed for {platform} on this machine"),
            )
            .help("build on a machine of that platform, register an interpreter for it (binfmt_misc, with the flag F), or use FROM --platform=$BUILDPLATFORM and cross-compile")
            .render(&place.file.name, &place.file.text, color),
            Self::Refused(message) => message.clone(),
            other => format!("error: {}", chain(other)),
        }
    }
}
