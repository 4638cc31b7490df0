//! File modes of `--chmod`: octal, or symbolic as chmod(1) takes them (`u=rwX,go=rX`).

/// How to write a mode, for help lines.
pub(crate) const SYNTAX: &str =
    "write an octal mode up to 7777, such as `755`, or a symbolic one, such as `u=rwX,go=rX`";

/// Why a text is not a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// An octal number above 7777.
    #[error("the mode is larger than 7777")]
    TooLarge,
    /// Neither octal nor symbolic.
    #[error("the mode is neither octal nor symbolic")]
    Malformed,
}

/// A mode to give to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// These bits, whatever the file has.
    Absolute(u32),
    /// Changes to the bits that the file has, in order.
    Symbolic(Vec<Change>),
}

/// One change of a symbolic mode: `go-w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which of the three groups of bits change: 0o700, 0o070 and 0o007, joined.
    who: u32,
    action: char,
    permissions: Permissions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permissions {
    /// Letters of `rwxXst`.
    Letters {
        /// `rwx` as one octal digit.
        bits: u32,
        /// `X`: execute for directories, and for files that somebody may execute.
        search: bool,
        /// `s`
        set_id: bool,
        /// `t`
        sticky: bool,
    },
    /// What another group has: the shift of `u`, `g` or `o`.
    Same(u32),
}

impl Mode {
    /// Reads a mode.
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Self::Absolute(mode)),
                Ok(_) => Err(ModeError::TooLarge),
                Err(_) => Err(ModeError::Malformed),
            };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut changes)?;
        }
        Ok(Self::Symbolic(changes))
    }

    /// The mode bits (at most 0o7777) that a file with `mode` gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Absolute(mode) => *mode,
            Self::Symbolic(changes) => changes.iter().fold(mode & 0o7777, |mode, change| {
                change.apply(mode, is_directory)
            }),
        }
    }
}

impl Change {
    fn apply(self, mode: u32, is_directory: bool) -> u32 {
        let mut bits = 0;
        let mut special = 0;
        match self.permissions {
            Permissions::Same(shift) => bits = (mode >> shift) & 0o7,
            Permissions::Letters {
                bits: letters,
                search,
                set_id,
                sticky,
            } => {
                bits |= letters;
                if search && (is_directory || mode & 0o111 != 0) {
                    bits |= 0o1;
                }
                if set_id {
                    special |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                    special |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                if sticky {
                    special |= 0o1000;
                }
            }
        }
        let wanted = (bits * 0o111) & self.who | special;
        match self.action {
            '+' => mode | wanted,
            '-' => mode & !wanted,
            _ => {
                let mut cleared = self.who;
                cleared |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                cleared |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                cleared |= if self.who == 0o777 { 0o1000 } else { 0 };
                mode & !cleared | wanted
            }
        }
    }
}

/// `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`
fn parse_clause(clause: &str, changes: &mut Vec<Change>) -> Result<(), ModeError> {
    let operation = clause.find(['+', '-', '=']).ok_or(ModeError::Malformed)?;
    let mut who = 0;
    for letter in clause[..operation].chars() {
        who |= match letter {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return Err(ModeError::Malformed),
        };
    }
    if operation == 0 {
        who = 0o777;
    }
    let mut rest = &clause[operation..];
    while let Some(action) = rest.chars().next() {
        let body = &rest[1..];
        let length = body.find(['+', '-', '=']).unwrap_or(body.len());
        let permissions = parse_permissions(&body[..length])?;
        changes.push(Change {
            who,
            action,
            permissions,
        });
        rest = &body[length..];
    }
    Ok(())
}

fn parse_permissions(text: &str) -> Result<Permissions, ModeError> {
    match text {
        "u" => return Ok(Permissions::Same(6)),
        "g" => return Ok(Permissions::Same(3)),
        "o" => return Ok(Permissions::Same(0)),
        _ => {}
    }
    let (mut bits, mut search, mut set_id, mut sticky) = (0, false, false, false);
    for letter in text.chars() {
        match letter {
            'r' => bits |= 0o4,
            'w' => bits |= 0o2,
            'x' => bits |= 0o1,
            'X' => search = true,
            's' => set_id = true,
            't' => sticky = true,
            _ => return Err(ModeError::Malformed),
        }
    }
    Ok(Permissions::Letters {
        bits,
        search,
        set_id,
        sticky,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_applied() {
        for (text, mode, is_directory, expected) in [
            ("755", 0o644, false, 0o755),
            ("0644", 0o755, false, 0o644),
            ("4755", 0, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("go-rwx", 0o777, false, 0o700),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("u-s", 0o4755, false, 0o755),
            ("u=rx", 0o4755, false, 0o555),
            ("g=u", 0o750, false, 0o770),
            ("o=g-w", 0o770, false, 0o775),
            ("u=", 0o755, false, 0o055),
            ("=r", 0o755, false, 0o444),
        ] {
            let parsed = Mode::parse(text).unwrap();
            assert_eq!(
                parsed.apply(mode, is_directory),
                expected,
                "{text} on {mode:o}"
            );
        }
    }

    #[test]
    fn malformed_modes_are_refused() {
        for text in [
            "", "u", "rwx", "u=rwy", "x+r", "u=r,", "0x1ff", "789", "u+ur", "-1",
        ] {
            assert_eq!(Mode::parse(text), Err(ModeError::Malformed), "{text}");
        }
        assert_eq!(Mode::parse("17777"), Err(ModeError::TooLarge));
        assert_eq!(Mode::parse("77777777777777"), Err(ModeError::Malformed));
    }
}
