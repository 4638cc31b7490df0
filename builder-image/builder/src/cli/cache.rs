//! `coopery cache`: what the engine's directory holds, and removing what nobody uses, with the flags of
//! `docker buildx du` and `prune`.

use std::collections::{BTreeMap, HashSet};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use super::{output, root, size};
use crate::cache::collect::Policy;
use crate::cache::{Cache, Kind, Object};
use crate::error::Error;
use crate::exec::enter_user_namespace;
use crate::progress::escape;

const EXAMPLES: &str = "\
Examples:
  coopery cache du
  coopery cache prune --max-used-space 20GB
  coopery cache prune --all --force --filter until=168h";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: Command,
    /// Directory of cache and layers (default: $XDG_DATA_HOME/coopery)
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// List the steps whose results are kept, the latest use first
    Ls {
        /// How to show them
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show how much is kept, by kind
    Du {
        /// Only until=DURATION (not used for so long), type=KIND or id=START
        #[arg(long, value_name = "KEY=VALUE")]
        filter: Vec<Filter>,
        /// Show each object
        #[arg(long)]
        verbose: bool,
        /// How to show it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove what no build uses
    Prune(PruneArgs),
}

#[derive(Args)]
struct PruneArgs {
    /// Remove cache mounts, too
    #[arg(short, long)]
    all: bool,
    /// Only until=DURATION (not used for so long), type=KIND or id=START
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// Remove only until no more than this is left, what was not used for longest first
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = size::parse,
        alias = "keep-storage",
        alias = "reserved-space"
    )]
    max_used_space: Option<u64>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// How to show what was removed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people
    #[default]
    Table,
    /// JSON
    Json,
}

/// One `--filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    Until(Duration),
    Kind(Kind),
    Id(String),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
        match key {
            "until" => dockerfile::duration::parse(value)
                .map(Self::Until)
                .map_err(|error| format!("`{value}` is no duration: {error}")),
            "type" => match value {
                // What buildx calls them.
                "exec.cachemount" => Ok(Self::Kind(Kind::CacheMount)),
                "regular" => Ok(Self::Kind(Kind::Layer)),
                name => {
                    let known = Kind::ALL.iter().find(|kind| kind.as_str() == name);
                    known.copied().map(Self::Kind).ok_or_else(|| {
                        let names = Kind::ALL.map(Kind::as_str).join(", ");
                        format!("`{name}` is no kind: known are {names}")
                    })
                }
            },
            "id" => Ok(Self::Id(value.to_owned())),
            other => Err(format!(
                "`{other}` is not supported; known are until, type and id"
            )),
        }
    }
}

pub(super) fn run(args: &CacheArgs) -> Result<(), Error> {
    let root = root::directory(args.root.as_deref())?;
    if !root.is_dir() {
        return Err(Error::Request(format!(
            "there is no cache in `{}`; name another directory with --root",
            root.display()
        )));
    }
    if let Command::Prune(prune) = &args.command
        && !prune.force
        && !confirmed()?
    {
        return Ok(());
    }
    // Layers that were made by an ordinary user's builds belong to ids that only exist inside.
    if !rustix::process::geteuid().is_root() && has_foreign_files(&root) {
        enter_user_namespace(&root)?;
    }
    let cache = Cache::open(root).map_err(Error::io("opening the engine's directory"))?;
    match &args.command {
        Command::Ls { format } => list(&cache, *format),
        Command::Du {
            filter,
            verbose,
            format,
        } => du(&cache, &policy(filter), *verbose, *format),
        Command::Prune(prune) => prune.run(&cache),
    }
}

/// Whether there are files of other users below the layers.
fn has_foreign_files(root: &std::path::Path) -> bool {
    let entries = fs_err::read_dir(root.join("layers")).into_iter().flatten();
    let mut names = entries.filter_map(Result::ok).map(|entry| entry.path());
    names.any(|path| path.is_dir() && path.extension().is_none_or(|end| end != "recorded"))
        || root.join("mounts").is_dir()
}

/// Asks the person at the terminal.
fn confirmed() -> Result<bool, Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::Request(
            "prune removes what the next builds would use; say --force where nobody can be asked"
                .into(),
        ));
    }
    let _ = write!(
        std::io::stderr().lock(),
        "This removes what no build uses at the moment. Go on? [y/N] "
    );
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(Error::io("reading the answer"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn policy(filters: &[Filter]) -> Policy {
    let mut policy = Policy {
        mounts: true,
        ..Policy::default()
    };
    for filter in filters {
        match filter {
            Filter::Until(duration) => policy.unused_for = Some(*duration),
            Filter::Kind(kind) => {
                policy.kinds.insert(*kind);
            }
            Filter::Id(start) => policy.name = Some(start.clone()),
        }
    }
    policy
}

fn list(cache: &Cache, format: Format) -> Result<(), Error> {
    let records = cache.records().map_err(Error::io("reading the cache"))?;
    // A step may be found by two keys.
    let mut seen = HashSet::new();
    let records = records
        .into_iter()
        .filter(|(_, _, record)| seen.insert(record.key.clone()));
    if format == Format::Json {
        let rows: Vec<_> = records
            .map(|(_, used, record)| {
                serde_json::json!({
                    "key": record.key, "instruction": record.instruction, "created": record.created,
                    "lastUsed": date(used), "packed": record.packed.map(|packed| packed.descriptor),
                    "unpacked": record.layer,
                })
            })
            .collect();
        return output::line(&serde_json::json!(rows).to_string());
    }
    output::line(&format!(
        "{:14}{:22}{:>10}  STEP",
        "KEY", "LAST USED", "PACKED"
    ))?;
    for (_, used, record) in records {
        let packed = record.packed.as_ref();
        let packed = packed.map_or("-".into(), |packed| size::show(packed.descriptor.size));
        let step = escape(record.instruction.as_bytes());
        let key = &record.key.hex()[..12];
        output::line(&format!("{key:14}{:22}{packed:>10}  {step}", date(used)))?;
    }
    Ok(())
}

fn du(cache: &Cache, policy: &Policy, verbose: bool, format: Format) -> Result<(), Error> {
    let objects = cache.objects().map_err(Error::io("reading the cache"))?;
    let free: HashSet<usize> = cache.removable(&objects, policy).into_iter().collect();
    let asked = *policy
        != Policy {
            mounts: true,
            ..Policy::default()
        };
    let shown: Vec<_> = (0..objects.len())
        .filter(|position| !asked || free.contains(position))
        .map(|position| (&objects[position], free.contains(&position)))
        .collect();
    let mut kinds: BTreeMap<Kind, (usize, u64, u64)> = BTreeMap::new();
    for (object, is_free) in &shown {
        let of_kind = kinds.entry(object.kind).or_default();
        of_kind.0 += 1;
        of_kind.1 += object.bytes;
        of_kind.2 += if *is_free { object.bytes } else { 0 };
    }
    let total: u64 = kinds.values().map(|kind| kind.1).sum();
    let reclaimable: u64 = kinds.values().map(|kind| kind.2).sum();
    if format == Format::Json {
        let kinds: BTreeMap<_, _> = kinds
            .iter()
            .map(|(kind, (count, bytes, reclaimable))| {
                let value = serde_json::json!({"count": count, "bytes": bytes, "reclaimableBytes": reclaimable});
                (kind.as_str(), value)
            })
            .collect();
        let mut result = serde_json::json!({
            "kinds": kinds, "bytes": total, "reclaimableBytes": reclaimable,
        });
        if verbose {
            result["objects"] = shown
                .iter()
                .map(|(object, free)| row(object, *free))
                .collect();
        }
        return output::line(&result.to_string());
    }
    if verbose {
        output::line(&format!(
            "{:13}{:>10}  {:22}{:13}ID",
            "KIND", "SIZE", "LAST USED", "RECLAIMABLE"
        ))?;
        for (object, is_free) in &shown {
            output::line(&format!(
                "{:13}{:>10}  {:22}{:13}{}",
                object.kind.as_str(),
                size::show(object.bytes),
                date(object.used),
                is_free,
                object.name
            ))?;
        }
        output::line("")?;
    }
    output::line(&format!(
        "{:13}{:>8}{:>12}{:>14}",
        "KIND", "COUNT", "SIZE", "RECLAIMABLE"
    ))?;
    for (kind, (count, bytes, reclaimable)) in &kinds {
        let (bytes, reclaimable) = (size::show(*bytes), size::show(*reclaimable));
        output::line(&format!(
            "{:13}{count:>8}{bytes:>12}{reclaimable:>14}",
            kind.as_str()
        ))?;
    }
    let (total, reclaimable) = (size::show(total), size::show(reclaimable));
    output::line(&format!(
        "{:13}{:>8}{total:>12}{reclaimable:>14}",
        "total",
        shown.len()
    ))
}

impl PruneArgs {
    fn run(&self, cache: &Cache) -> Result<(), Error> {
        let policy = Policy {
            keep_bytes: self.max_used_space,
            mounts: self.all,
            ..policy(&self.filter)
        };
        let prune = || {
            let objects = cache.objects()?;
            let mut removed = cache.remove(&objects, &policy)?;
            let orphans = cache.remove_orphans()?;
            removed.bytes += orphans.bytes;
            removed.objects.extend(orphans.objects);
            Ok(removed)
        };
        let removed = prune().map_err(Error::io("removing from the cache"))?;
        if self.format == Format::Json {
            let objects: Vec<_> = removed
                .objects
                .iter()
                .map(|object| row(object, true))
                .collect();
            let result = serde_json::json!({"objects": objects, "bytes": removed.bytes});
            return output::line(&result.to_string());
        }
        for object in &removed.objects {
            output::line(&format!(
                "{:13}{:>10}  {}",
                object.kind.as_str(),
                size::show(object.bytes),
                object.name
            ))?;
        }
        output::line(&format!("{:13}{:>10}", "total", size::show(removed.bytes)))
    }
}

fn row(object: &Object, is_free: bool) -> serde_json::Value {
    serde_json::json!({
        "kind": object.kind, "id": object.name, "bytes": object.bytes, "lastUsed": date(object.used),
        "reclaimable": is_free,
    })
}

/// A time to the second, RFC 3339.
fn date(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or_default();
    let seconds = Timestamp::from_second(time.as_second()).unwrap_or_default();
    seconds.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        for (text, expected) in [
            ("until=24h", Ok(Filter::Until(Duration::from_secs(86400)))),
            ("type=blob", Ok(Filter::Kind(Kind::Blob))),
            ("type=exec.cachemount", Ok(Filter::Kind(Kind::CacheMount))),
            ("id=abc", Ok(Filter::Id("abc".into()))),
            ("until=x", Err("`x` is no duration")),
            (
                "type=x",
                Err("known are record, blob, layer, listing, cache-mount"),
            ),
            ("inuse=true", Err("`inuse` is not supported")),
            ("until", Err("expected KEY=VALUE")),
        ] {
            match (text.parse::<Filter>(), expected) {
                (Ok(filter), Ok(expected)) => assert_eq!(filter, expected),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                (other, expected) => panic!("{text}: {other:?}, not {expected:?}"),
            }
        }
    }
}
