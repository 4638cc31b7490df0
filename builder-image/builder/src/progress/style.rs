//! Which form progress has: by the flag, the environment, and whether a terminal is there. Pure.

/// How progress is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// A view that is redrawn on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Lines
    Plain,
    /// A view that is redrawn; lines where there is no terminal
    Tty,
    /// One JSON object a line
    Json,
    /// JSON as `BuildKit` streams it
    Rawjson,
    /// Nothing
    #[value(alias = "none")]
    Quiet,
}

impl Style {
    /// The form that is wanted: of the flag where there is one, else of the first variable of `environment` that has a value.
    ///
    /// # Errors
    /// When a variable names no form; the message names the variable.
    pub fn wanted(
        flag: Option<Self>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        if let Some(style) = flag {
            return Ok(style);
        }
        for name in ["COOPERY_PROGRESS", "BUILDKIT_PROGRESS"] {
            if let Some(value) = environment(name).filter(|value| !value.is_empty()) {
                let found = <Self as clap::ValueEnum>::from_str(&value, true);
                return found.map_err(|_| {
                    format!(
                        "{name}: `{value}` is none of auto, plain, tty, json, rawjson and quiet"
                    )
                });
            }
        }
        Ok(Self::Auto)
    }

    /// The form that can be had.
    #[must_use]
    pub fn possible(self, terminal: bool) -> Self {
        match self {
            Self::Auto | Self::Tty if terminal => Self::Tty,
            Self::Auto | Self::Tty => Self::Plain,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_decides_then_the_environment_then_the_terminal() {
        let environment = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                let found = pairs.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        let ours = &[("COOPERY_PROGRESS", "json"), ("BUILDKIT_PROGRESS", "none")][..];
        for (flag, pairs, terminal, expected) in [
            (None, &[][..], true, Style::Tty),
            (None, &[], false, Style::Plain),
            (Some(Style::Tty), &[], false, Style::Plain),
            (Some(Style::Auto), ours, true, Style::Tty),
            (Some(Style::Plain), ours, true, Style::Plain),
            (None, ours, true, Style::Json),
            (None, &ours[1..], true, Style::Quiet),
            (None, &[("BUILDKIT_PROGRESS", "")], false, Style::Plain),
        ] {
            let wanted = Style::wanted(flag, environment(pairs)).unwrap();
            assert_eq!(wanted.possible(terminal), expected, "{flag:?} {pairs:?}");
        }
        let error = Style::wanted(None, environment(&[("BUILDKIT_PROGRESS", "loud")])).unwrap_err();
        assert!(
            error.starts_with("BUILDKIT_PROGRESS: `loud` is none of"),
            "{error}"
        );
    }
}
