//! `RUN --mount=type=…,key=value,…`
//!
//! Values may hold variables (except `from`), so a mount is read in two steps: [`MountSpec`] is the list of fields as
//! written, [`MountSpec::resolve`] makes a [`Mount`] of it once the variables are known. A mount without variables is
//! checked completely while parsing.

mod error;
mod value;

pub use error::MountError;
use value::fields;
pub use value::parse_size;

use crate::diagnostic::Diagnostic;
use crate::directive::parse_bool;
use crate::expand::{Scope, expand};
use crate::span::Word;

const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
];

const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

const SHARING: [(&str, Sharing); 3] = [
    ("shared", Sharing::Shared),
    ("private", Sharing::Private),
    ("locked", Sharing::Locked),
];

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountType {
    /// Files of the context, a stage or an image; writes are discarded.
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// A directory in memory.
    Tmpfs,
    /// A secret, as a file or a variable.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// One step each; others get a directory of their own.
    Private,
    /// One step; others wait.
    Locked,
}

/// A mount as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// The value of the flag.
    pub word: Word,
    /// Keys in lower case, with their values if they have any.
    fields: Vec<(String, Option<String>)>,
}

/// A mount with all values known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountType,
    /// Stage, image or named context that the files come from.
    pub from: Option<String>,
    /// Path in `from`, or the id of a secret.
    pub source: Option<String>,
    /// Where it is mounted. Relative to the working directory.
    pub target: Option<String>,
    /// Whether writing is refused. By default bind, secret and ssh are read-only.
    pub read_only: bool,
    /// Name of the cache, secret or agent.
    pub id: Option<String>,
    /// Only for caches.
    pub sharing: Option<Sharing>,
    /// Secret and ssh: the step fails without it.
    pub required: bool,
    /// Limit of a tmpfs in bytes.
    pub size: Option<u64>,
    /// Mode of the file or directory.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Secret: the variable that holds it.
    pub env: Option<String>,
}

impl MountSpec {
    /// Reads the value of a `--mount` flag.
    pub(crate) fn read(word: Word, diagnostics: &mut Vec<Diagnostic>) -> Option<Self> {
        let report = |error: &MountError| report(&word, error);
        let fields = match fields(&word.value) {
            Ok(fields) => fields,
            Err(error) => {
                diagnostics.push(report(&error));
                return None;
            }
        };
        let variables = word.value.contains('$');
        let checked = if variables {
            check_from(&fields)
        } else {
            build(fields.clone()).map(drop)
        };
        if let Err(error) = checked {
            diagnostics.push(report(&error));
            return None;
        }
        Some(Self { word, fields })
    }

    /// The value of `from` as written, which is never expanded: stages that a mount needs are known without variables.
    pub fn from(&self) -> Option<&str> {
        self.fields
            .iter()
            .rev()
            .find(|(key, _)| key == "from")
            .and_then(|(_, value)| value.as_deref())
    }

    /// The stage, image or named context that files come from, for the types that have files.
    pub fn source(&self) -> Option<Word> {
        let kind = self.fields.iter().rev().find(|(key, _)| key == "type");
        let kind = kind.and_then(|(_, value)| value.as_deref());
        let files = ["bind", "cache"];
        if kind.is_some_and(|kind| !files.iter().any(|known| known.eq_ignore_ascii_case(kind))) {
            return None;
        }
        let from = self.from().filter(|from| !from.is_empty())?;
        Some(Word::new(from.to_owned(), self.word.span))
    }

    /// Expands the values and checks the mount.
    ///
    /// # Errors
    /// The diagnostic for the flag, where something is wrong.
    pub fn expand<S: Scope + ?Sized>(
        &self,
        escape: char,
        scope: &S,
    ) -> Result<Mount, Box<Diagnostic>> {
        self.resolve(escape, scope)
            .map_err(|error| Box::new(report(&self.word, &error)))
    }

    /// Expands the values and checks the mount.
    pub fn resolve<S: Scope + ?Sized>(&self, escape: char, scope: &S) -> Result<Mount, MountError> {
        let mut fields = Vec::with_capacity(self.fields.len());
        for (key, value) in &self.fields {
            let value = value
                .as_deref()
                .map(|value| expand(value, escape, scope))
                .transpose()?;
            fields.push((key.clone(), value));
        }
        build(fields)
    }
}

fn report(word: &Word, error: &MountError) -> Diagnostic {
    Diagnostic::error(
        "invalid-mount",
        word.span,
        format!("invalid mount: {error}"),
    )
    .maybe_help(error.help())
}

fn check_from(fields: &[(String, Option<String>)]) -> Result<(), MountError> {
    let variable = fields
        .iter()
        .filter(|(key, _)| key == "from")
        .filter_map(|(_, value)| value.as_ref())
        .any(|value| value.contains('$'));
    if variable {
        return Err(MountError::VariableInFrom);
    }
    Ok(())
}

fn build(fields: Vec<(String, Option<String>)>) -> Result<Mount, MountError> {
    let mut mount = Mount {
        kind: MountType::Bind,
        from: None,
        source: None,
        target: None,
        read_only: false,
        id: None,
        sharing: None,
        required: false,
        size: None,
        mode: None,
        uid: None,
        gid: None,
        env: None,
    };
    let mut read_only = None;
    for (key, value) in fields {
        let key = key.as_str();
        if value.is_none() && !matches!(key, "readonly" | "ro" | "readwrite" | "rw" | "required") {
            let known = key == "env" || KEYS.contains(&key);
            let key = key.to_owned();
            return Err(if known {
                MountError::MissingValue(key)
            } else {
                MountError::UnknownKey(key)
            });
        }
        let value = value.unwrap_or_else(|| "true".to_owned());
        let invalid = || MountError::InvalidValue {
            key: key.to_owned(),
            value: value.clone(),
        };
        match key {
            "type" => mount.kind = lookup(TYPES, &value).ok_or_else(invalid)?,
            "from" => mount.from = Some(value).filter(|from| !from.is_empty()),
            "source" | "src" => mount.source = Some(value),
            "target" | "dst" | "destination" => mount.target = Some(value),
            "readonly" | "ro" => read_only = Some(parse_bool(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => read_only = Some(!parse_bool(&value).ok_or_else(invalid)?),
            "id" => mount.id = Some(value),
            "sharing" => mount.sharing = Some(lookup(SHARING, &value).ok_or_else(invalid)?),
            "required" => mount.required = parse_bool(&value).ok_or_else(invalid)?,
            "size" => mount.size = Some(parse_size(&value).ok_or_else(invalid)?),
            "mode" => mount.mode = Some(u32::from_str_radix(&value, 8).map_err(|_| invalid())?),
            "uid" => mount.uid = Some(value.parse().map_err(|_| invalid())?),
            "gid" => mount.gid = Some(value.parse().map_err(|_| invalid())?),
            "env" => mount.env = Some(value),
            _ => return Err(MountError::UnknownKey(key.to_owned())),
        }
        check_key(key, &mount)?;
    }
    let writable = matches!(mount.kind, MountType::Cache | MountType::Tmpfs);
    mount.read_only = read_only.unwrap_or(!writable);
    check_whole(&mount)?;
    Ok(mount)
}

/// Keys whose meaning hangs on the type that stands before them, as in the reference frontend.
fn check_key(key: &str, mount: &Mount) -> Result<(), MountError> {
    let allowed = match key {
        "required" => matches!(mount.kind, MountType::Secret | MountType::Ssh),
        "size" => mount.kind == MountType::Tmpfs,
        _ => true,
    };
    allowed.then_some(()).ok_or_else(|| not_allowed(key, mount))
}

fn check_whole(mount: &Mount) -> Result<(), MountError> {
    let owned = matches!(
        mount.kind,
        MountType::Secret | MountType::Ssh | MountType::Cache
    );
    let secret = mount.kind == MountType::Secret;
    for (key, forbidden) in [
        ("mode", mount.mode.is_some() && !owned),
        ("uid", mount.uid.is_some() && !owned),
        ("gid", mount.gid.is_some() && !owned),
        ("env", mount.env.is_some() && !secret),
        ("from", mount.from.is_some() && secret),
        (
            "sharing",
            mount.sharing.is_some() && mount.kind != MountType::Cache,
        ),
    ] {
        if forbidden {
            return Err(not_allowed(key, mount));
        }
    }
    if secret {
        let given = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
        if !given(&mount.source) && !given(&mount.target) && !given(&mount.id) {
            return Err(MountError::UnnamedSecret);
        }
        if given(&mount.source) && given(&mount.id) {
            return Err(MountError::TwoSecretNames);
        }
    }
    Ok(())
}

fn not_allowed(key: &str, mount: &Mount) -> MountError {
    MountError::NotAllowed {
        key: key.to_owned(),
        kind: mount.kind,
    }
}

fn lookup<T: Copy, const N: usize>(table: [(&'static str, T); N], name: &str) -> Option<T> {
    table
        .into_iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::span::{Span, Spanned};

    fn spec(text: &str) -> Result<MountSpec, String> {
        let mut diagnostics = Vec::new();
        let word = Spanned::new(text.to_owned(), Span::default());
        MountSpec::read(word, &mut diagnostics)
            .ok_or_else(|| diagnostics.iter().map(ToString::to_string).collect())
    }

    fn mount(text: &str) -> Mount {
        spec(text).unwrap().resolve('\\', &()).unwrap()
    }

    #[test]
    fn fields_and_their_aliases() {
        let bind = mount("from=build,src=/a,dst=/b");
        assert_eq!(bind.kind, MountType::Bind);
        assert_eq!(bind.from.as_deref(), Some("build"));
        assert_eq!(bind.source.as_deref(), Some("/a"));
        assert_eq!(bind.target.as_deref(), Some("/b"));
        let cache = mount("TYPE=Cache,Target=/c,id=x,sharing=LOCKED,mode=0755,uid=1,gid=2");
        assert_eq!(cache.sharing, Some(Sharing::Locked));
        assert_eq!(
            (cache.mode, cache.uid, cache.gid),
            (Some(0o755), Some(1), Some(2))
        );
        assert_eq!(mount("type=tmpfs,target=/t,size=1.5g").size, Some(3 << 29));
        assert_eq!(
            mount("type=secret,id=s,env=TOKEN,required").env.as_deref(),
            Some("TOKEN")
        );
        assert_eq!(
            mount("\"target=/a,b\",type=cache").target.as_deref(),
            Some("/a,b")
        );
    }

    #[test]
    fn read_only_by_default_depends_on_the_type() {
        for (text, expected) in [
            ("target=/a", true),
            ("target=/a,rw", false),
            ("target=/a,rw=false", true),
            ("target=/a,readonly=false", false),
            ("type=cache,target=/a", false),
            ("type=cache,target=/a,ro", true),
            ("type=tmpfs,target=/a", false),
            ("type=secret,id=a", true),
            ("type=ssh", true),
        ] {
            assert_eq!(mount(text).read_only, expected, "{text}");
        }
    }

    #[test]
    fn wrong_mounts_are_refused() {
        for (text, message) in [
            ("type=volume", "invalid value `volume` of key `type`"),
            (
                "type=cache,sharing=some",
                "invalid value `some` of key `sharing`",
            ),
            ("target", "key `target` needs a value"),
            ("nonsense", "unknown key `nonsense`"),
            ("tarket=/a", "unknown key `tarket`"),
            ("ro=perhaps", "invalid value `perhaps` of key `ro`"),
            (
                "required",
                "key `required` is not allowed for mounts of type bind",
            ),
            (
                "type=cache,size=1",
                "key `size` is not allowed for mounts of type cache",
            ),
            ("type=tmpfs,size=x", "invalid value `x` of key `size`"),
            (
                "mode=0755",
                "key `mode` is not allowed for mounts of type bind",
            ),
            (
                "type=tmpfs,uid=1",
                "key `uid` is not allowed for mounts of type tmpfs",
            ),
            ("type=cache,mode=9", "invalid value `9` of key `mode`"),
            ("type=ssh,gid=x", "invalid value `x` of key `gid`"),
            (
                "sharing=locked",
                "key `sharing` is not allowed for mounts of type bind",
            ),
            (
                "type=cache,env=A",
                "key `env` is not allowed for mounts of type cache",
            ),
            (
                "type=secret",
                "a secret mount needs one of `id`, `source` and `target`",
            ),
            (
                "type=secret,id=a,src=b",
                "a secret mount takes `id` or `source`, not both",
            ),
            (
                "type=secret,id=a,from=b",
                "key `from` is not allowed for mounts of type secret",
            ),
            ("from=$x", "variables are not expanded in `from`"),
            ("\"target=/a", "the fields are not valid CSV"),
            ("target=\"/a\"", "the fields are not valid CSV"),
        ] {
            assert_eq!(
                spec(text),
                Err(format!("invalid mount: {message}")),
                "{text}"
            );
        }
    }

    #[test]
    fn variables_are_judged_when_they_are_known() {
        let spec = spec("type=$t,target=${d:-/x}").unwrap();
        let scope = |kind: &str| BTreeMap::from([("t".to_owned(), kind.to_owned())]);
        let mount = spec.resolve('\\', &scope("cache")).unwrap();
        assert_eq!(
            (mount.kind, mount.target.as_deref()),
            (MountType::Cache, Some("/x"))
        );
        assert!(spec.resolve('\\', &scope("volume")).is_err());
    }
}
