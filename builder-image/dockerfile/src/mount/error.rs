//! Why a mount is wrong.

use super::{KEYS, MountType, SHARING, TYPES};
use crate::expand::ExpandError;
use crate::suggest::did_you_mean;

/// Why a mount is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// A quote inside an unquoted field, or one that is not closed.
    #[error("the fields are not valid CSV")]
    Csv,
    /// A variable that can not be expanded.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// `from` with a variable.
    #[error("variables are not expanded in `from`")]
    VariableInFrom,
    /// A key that does not exist.
    #[error("unknown key `{0}`")]
    UnknownKey(String),
    /// A key without the value that it needs.
    #[error("key `{0}` needs a value")]
    MissingValue(String),
    /// A value that the key can not have.
    #[error("invalid value `{value}` of key `{key}`")]
    InvalidValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A key that this type of mount does not take.
    #[error("key `{key}` is not allowed for mounts of type {}", name_of(TYPES, *.kind))]
    NotAllowed {
        /// The key.
        key: String,
        /// The type.
        kind: MountType,
    },
    /// A secret without a name.
    #[error("a secret mount needs one of `id`, `source` and `target`")]
    UnnamedSecret,
    /// A secret with two names.
    #[error("a secret mount takes `id` or `source`, not both")]
    TwoSecretNames,
}

impl MountError {
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::Csv => Some(
                "write `type=cache,target=/path`; a field with a comma stands in double quotes"
                    .into(),
            ),
            Self::VariableInFrom => {
                Some("define a stage with `FROM … AS name` and mount from that".into())
            }
            Self::UnknownKey(key) => did_you_mean(key, KEYS.into_iter().chain(["env"])),
            Self::MissingValue(key) => Some(format!("write `{key}=VALUE`")),
            Self::InvalidValue { key, value } => match key.as_str() {
                "type" => Some(choose(value, &TYPES.map(|(name, _)| name))),
                "sharing" => Some(choose(value, &SHARING.map(|(name, _)| name))),
                "mode" => Some("write the mode in octal".into()),
                "size" => Some("write bytes, or a number with a unit such as `64m`".into()),
                "uid" | "gid" => Some("write a number".into()),
                _ => Some("write `true` or `false`".into()),
            },
            _ => None,
        }
    }
}

fn choose(value: &str, names: &[&'static str]) -> String {
    did_you_mean(value, names.iter().copied())
        .unwrap_or_else(|| format!("it is one of {}", names.join(", ")))
}

fn name_of<T: PartialEq + Copy, const N: usize>(
    table: [(&'static str, T); N],
    value: T,
) -> &'static str {
    table
        .into_iter()
        .find(|(_, known)| *known == value)
        .map_or("", |(name, _)| name)
}
