//! What is wrong with a text, where, and what to do about it; rendering for people.
//!
//! A message is one lower-case sentence without a period, names things in backticks, and says what is wrong. What to do
//! belongs into `help`, background into `note`. Ids are stable and are never reused for something else.

use std::fmt;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use crate::span::{LineIndex, Span};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file can be built, but probably does not do what was meant.
    Warning,
    /// The file cannot be built.
    Error,
}

/// A further place that explains a diagnostic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is to be said of it.
    pub text: String,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable name of the kind of finding, in kebab case: `unknown-instruction`.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, as one sentence without a period.
    pub message: String,
    /// Where it is wrong.
    pub primary: Span,
    /// A remark on the primary span; may be empty.
    pub primary_label: String,
    /// Other places that matter.
    pub labels: Vec<Label>,
    /// Background.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// A finding that prevents the build.
    pub fn error(id: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(id, Severity::Error, span, message.into())
    }

    /// A finding that does not.
    pub fn warning(id: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, span, message.into())
    }

    fn new(id: &'static str, severity: Severity, primary: Span, message: String) -> Self {
        Self {
            id,
            severity,
            message,
            primary,
            primary_label: String::new(),
            labels: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Sets the remark on the primary span.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        self.primary_label = text.into();
        self
    }

    /// Points at another place.
    #[must_use]
    pub fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        let text = text.into();
        self.labels.push(Label { span, text });
        self
    }

    /// Adds background.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Adds a remedy.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// Adds a remedy if there is one.
    #[must_use]
    pub(crate) fn maybe_help(self, text: Option<impl Into<String>>) -> Self {
        match text {
            Some(text) => self.help(text),
            None => self,
        }
    }

    /// Whether the finding prevents the build.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The 1-based line of `text` that the finding points at.
    pub fn line(&self, text: &str) -> usize {
        LineIndex::new(text).line(self.primary.start)
    }

    /// One line for a status or a log: ``Dockerfile:7: unknown instruction `RUNN` ``.
    pub fn one_line(&self, file: &str, text: &str) -> String {
        format!("{file}:{}: {}", self.line(text), self.message)
    }

    /// The finding with the lines that it is about, drawn as rustc does. `text` is the text that was parsed.
    pub fn render(&self, file: &str, text: &str, color: bool) -> String {
        let primary = AnnotationKind::Primary
            .span(within(self.primary, text))
            .label(Some(self.primary_label.as_str()).filter(|label| !label.is_empty()));
        let context = self.labels.iter().map(|label| {
            AnnotationKind::Context
                .span(within(label.span, text))
                .label(label.text.as_str())
        });
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let snippet = Snippet::source(text)
            .path(file)
            .annotation(primary)
            .annotations(context);
        let notes = self.notes.iter().map(|note| Level::NOTE.message(note));
        let help = self.help.iter().map(|help| Level::HELP.message(help));
        let group = level
            .primary_title(&self.message)
            .id(self.id)
            .element(snippet)
            .elements(notes)
            .elements(help);
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        renderer.render(&[group])
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// Keeps drawing safe where a diagnostic meets a text that it was not made for.
fn within(span: Span, text: &str) -> std::ops::Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}
