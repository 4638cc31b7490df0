//! Variables: an ordered list of names and values, in which a later assignment replaces the earlier one in its place.

use dockerfile::{Diagnostic, ExpandError, Scope, Word};
use oci::Platform;

/// Names of proxies: every RUN gets them from the build arguments, and neither cache keys nor history know them.
pub(super) const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Variables in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Variables(Vec<(String, String)>);

impl Variables {
    /// Sets a variable.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// `NAME=value` in order.
    pub(super) fn to_env(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

impl Scope for Variables {
    fn get(&self, name: &str) -> Option<&str> {
        Scope::get(self.0.as_slice(), name)
    }
}

/// The arguments that every Dockerfile has without declaring them in the global scope.
pub(super) fn platform_args(build: &Platform, target: &Platform, stage: &str) -> Variables {
    let mut variables = Variables::default();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        let os_version = platform.os_version.clone().unwrap_or_default();
        let variant = platform.variant.clone().unwrap_or_default();
        for (suffix, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", os_version),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", variant),
        ] {
            variables.set(&format!("{prefix}{suffix}"), value);
        }
    }
    variables.set(
        "TARGETSTAGE",
        if stage.is_empty() { "default" } else { stage },
    );
    variables
}

/// Expands a word; a mistake becomes a diagnostic at its place in the word.
pub(super) fn expand_word(
    word: &Word,
    escape: char,
    scope: &impl Scope,
) -> Result<String, Box<Diagnostic>> {
    dockerfile::expand(&word.value, escape, scope).map_err(|error| expansion(word, &error))
}

/// The diagnostic of a failed expansion.
pub(super) fn expansion(word: &Word, error: &ExpandError) -> Box<Diagnostic> {
    Box::new(Diagnostic::expansion(word, error))
}
