//! Signals of STOPSIGNAL.

use crate::suggest::did_you_mean;

const NAMES: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
];

/// A text that is no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal `{0}`")]
pub struct SignalError(String);

impl SignalError {
    /// A remedy.
    pub(crate) fn help(&self) -> Option<String> {
        let name = self.0.to_uppercase();
        let bare = name.strip_prefix("SIG").unwrap_or(&name);
        did_you_mean(bare, NAMES)
            .map(|help| help.replace('`', "").replace("mean ", "mean SIG"))
            .or_else(|| Some("write a name, such as `SIGTERM`, or a number".to_owned()))
    }
}

/// Checks a signal after expansion: a number other than 0, or a Linux name with or without `SIG`, in any letter case.
pub fn parse(text: &str) -> Result<(), SignalError> {
    let failure = || SignalError(text.to_owned());
    if let Ok(number) = text.parse::<i64>() {
        return if number == 0 { Err(failure()) } else { Ok(()) };
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |prefix: &str, sign: char, most: u32| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            rest.is_empty()
                || rest
                    .strip_prefix(sign)
                    .and_then(|offset| offset.parse::<u32>().ok())
                    .is_some_and(|offset| (1..=most).contains(&offset))
        })
    };
    if NAMES.contains(&name) || real_time("RTMIN", '+', 15) || real_time("RTMAX", '-', 14) {
        Ok(())
    } else {
        Err(failure())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for text in [
            "SIGTERM",
            "TERM",
            "sigterm",
            "9",
            "SIGRTMIN",
            "SIGRTMIN+3",
            "RTMAX-14",
            "RTMAX",
            "SIGUSR1",
        ] {
            assert_eq!(parse(text), Ok(()), "{text}");
        }
        for text in [
            "", "0", "SIG", "SIGNAL", "RTMIN+16", "RTMAX-15", "RTMIN-1", "9x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn misspelled_signals_are_suggested() {
        let help = |text: &str| parse(text).err().and_then(|error| error.help());
        assert_eq!(help("SIGTREM").as_deref(), Some("did you mean SIGTERM?"));
        assert_eq!(
            help("nothing at all").as_deref(),
            Some("write a name, such as `SIGTERM`, or a number")
        );
    }
}
