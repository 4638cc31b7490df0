//! Finds what the sources of COPY and ADD name: wildcards, symbolic links, filters; and walks it, for the digest and
//! for the copy alike. Reading only.

use std::ffi::OsStr;

use crate::{
    context::{
        dockerignore::{Dockerignore, Matched},
        pattern::{Pattern, has_wildcard},
    },
    step::{StepError, copy::CopySpec},
    tree::{Entry, ImagePath, Tree},
};

/// A source that exists.
#[derive(Debug)]
pub(super) struct Source {
    /// The path as it was named or matched: its last component names the copy.
    pub(super) named: ImagePath,
    /// The path behind all symbolic links.
    pub(super) path: ImagePath,
    /// What is there.
    pub(super) entry: Entry,
}

/// A source with what of it is taken.
pub(super) struct Selection {
    pub(super) source: Source,
    pub(super) filter: Filter,
}

/// What the source `text` of `spec` selects in `from`.
pub(super) fn select(
    spec: &CopySpec,
    from: &dyn Tree,
    text: &str,
) -> Result<Vec<Selection>, StepError> {
    let mut selections = Vec::new();
    if !spec.parents {
        for source in find(from, text)? {
            let filter = Filter::new(&[], &spec.exclude)?;
            let named = source.named.name().unwrap_or_default();
            if source.entry.is_directory() || filter.takes_source(named) {
                selections.push(Selection { source, filter });
            }
        }
        return Ok(selections);
    }
    // The walk begins at the pivot, or at the top.
    let (start, pattern) = text.split_once("/./").unwrap_or(("/", text));
    let pattern = ImagePath::new(pattern);
    let literal = |path: &ImagePath| !path.components().any(has_wildcard);
    let whole = ImagePath::new(start).join(pattern.as_bytes());
    if literal(&whole) && from.stat(&whole)?.is_none() {
        return Err(StepError::SourceNotFound(text.to_owned()));
    }
    let include = if pattern.is_root() {
        Vec::new()
    } else {
        vec![pattern.as_relative().to_string_lossy().into_owned()]
    };
    for source in find(from, start)? {
        selections.push(Selection {
            source,
            filter: Filter::new(&include, &spec.exclude)?,
        });
    }
    Ok(selections)
}

/// An entry that a walk comes by.
pub(super) struct Visit<'a> {
    pub(super) path: &'a ImagePath,
    pub(super) entry: &'a Entry,
    /// The path below the source; the root for the source itself.
    pub(super) relative: &'a ImagePath,
    /// A directory that no pattern takes, but something in it.
    pub(super) implied: bool,
}

/// Visits what `selection` takes in `from`: directories before what is in them, the source itself first.
pub(super) fn walk(
    from: &dyn Tree,
    selection: &Selection,
    visit: &mut dyn FnMut(&Visit<'_>) -> Result<(), StepError>,
) -> Result<(), StepError> {
    let mut walk = Walk {
        from,
        filter: &selection.filter,
        visit,
        waiting: Vec::new(),
    };
    let Source { path, entry, .. } = &selection.source;
    walk.entry(path, entry, &ImagePath::root(), &Seen::default())
}

struct Walk<'a> {
    from: &'a dyn Tree,
    filter: &'a Filter,
    visit: &'a mut dyn FnMut(&Visit<'_>) -> Result<(), StepError>,
    /// The directories above the current entry that nothing was taken of yet; `None` for those that were visited.
    waiting: Vec<Option<(ImagePath, Entry, ImagePath)>>,
}

impl Walk<'_> {
    fn entry(
        &mut self,
        path: &ImagePath,
        entry: &Entry,
        relative: &ImagePath,
        above: &Seen,
    ) -> Result<(), StepError> {
        let (taken, seen) = if relative.is_root() {
            (true, Seen::default())
        } else {
            self.filter.takes(relative, above)
        };
        if taken {
            for (path, entry, relative) in self.waiting.iter_mut().filter_map(Option::take) {
                (self.visit)(&Visit {
                    path: &path,
                    entry: &entry,
                    relative: &relative,
                    implied: true,
                })?;
            }
            (self.visit)(&Visit {
                path,
                entry,
                relative,
                implied: false,
            })?;
        }
        if entry.is_directory() {
            let waiting = (!taken).then(|| (path.clone(), entry.clone(), relative.clone()));
            self.waiting.push(waiting);
            for (name, below) in self.from.read_dir(path)? {
                self.entry(&path.child(&name), &below, &relative.child(&name), &seen)?;
            }
            self.waiting.pop();
        }
        Ok(())
    }
}

/// Everything in `tree` that `text` names, in the order of a walk. A text without wildcards must name something; a
/// pattern may match nothing, but the directory before its first wildcard must be there.
fn find(tree: &dyn Tree, text: &str) -> Result<Vec<Source>, StepError> {
    let named = ImagePath::new(text);
    let components: Vec<&OsStr> = named.components().collect();
    let first = components
        .iter()
        .position(|component| has_wildcard(component));
    let matches = match first {
        None => vec![named],
        Some(first) => {
            let above = ImagePath::new(join(&components[..first]));
            let patterns = components[first..]
                .iter()
                .map(|component| Pattern::parse(&component.to_string_lossy()))
                .collect::<Result<Vec<_>, _>>()?;
            let start = tree.resolve(&above)?;
            let mut found = Vec::new();
            match tree.lookup(&start)? {
                None => return Err(StepError::SourceNotFound(text.to_owned())),
                Some(entry) if entry.is_directory() => {
                    matching(tree, &start, &patterns, &mut found)?;
                }
                Some(_) => {}
            }
            found
        }
    };
    let mut sources = Vec::with_capacity(matches.len());
    for named in matches {
        match tree.stat(&named)? {
            Some((path, entry)) => sources.push(Source { named, path, entry }),
            None => return Err(StepError::SourceNotFound(text.to_owned())),
        }
    }
    Ok(sources)
}

/// The entries below `directory` that match `patterns`, one component each. Links on the way are not followed.
fn matching(
    tree: &dyn Tree,
    directory: &ImagePath,
    patterns: &[Pattern],
    found: &mut Vec<ImagePath>,
) -> Result<(), StepError> {
    let Some((pattern, rest)) = patterns.split_first() else {
        return Ok(());
    };
    for (name, entry) in tree.read_dir(directory)? {
        if !pattern.matches(&name.to_string_lossy()) {
            continue;
        }
        let path = directory.child(&name);
        if rest.is_empty() {
            found.push(path);
        } else if entry.is_directory() {
            matching(tree, &path, rest, found)?;
        }
    }
    Ok(())
}

fn join(components: &[&OsStr]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    components
        .iter()
        .map(|component| component.as_bytes())
        .collect::<Vec<_>>()
        .join(&b'/')
}

/// Which entries below a source are copied: the patterns of `--parents` and `--exclude`.
#[derive(Debug, Default)]
pub(super) struct Filter {
    include: Option<Dockerignore>,
    exclude: Option<Dockerignore>,
}

/// What the filters found of a directory, for what is below it.
#[derive(Clone, Debug, Default)]
struct Seen {
    include: Matched,
    exclude: Matched,
}

impl Filter {
    /// A filter that takes what `include` matches, everything if it is empty, but nothing that `exclude` matches.
    fn new(include: &[String], exclude: &[String]) -> Result<Self, StepError> {
        Ok(Self {
            include: patterns(include)?,
            exclude: patterns(exclude)?,
        })
    }

    /// Whether the entry at `relative`, below the source, is taken, and what to hand in for what is below it.
    fn takes(&self, relative: &ImagePath, above: &Seen) -> (bool, Seen) {
        let text = String::from_utf8_lossy(relative.as_bytes()).into_owned();
        let test = |patterns: &Option<Dockerignore>, above: &Matched| {
            patterns
                .as_ref()
                .map(|patterns| patterns.matches(&text, above))
        };
        let (included, include) =
            test(&self.include, &above.include).unwrap_or((true, Matched::default()));
        let (excluded, exclude) = test(&self.exclude, &above.exclude).unwrap_or_default();
        (included && !excluded, Seen { include, exclude })
    }

    /// Whether the file `name`, itself a source, is taken.
    fn takes_source(&self, name: &OsStr) -> bool {
        let (excluded, _) = (self.exclude.as_ref())
            .map(|patterns| patterns.matches(&name.to_string_lossy(), &Matched::default()))
            .unwrap_or_default();
        !excluded
    }
}

fn patterns(patterns: &[String]) -> Result<Option<Dockerignore>, StepError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    for pattern in patterns {
        Dockerignore::parse(pattern).map_err(|source| StepError::Filter {
            pattern: pattern.clone(),
            source,
        })?;
    }
    let text = patterns.join("\n");
    let all = Dockerignore::parse(&text).map_err(|source| StepError::Filter {
        pattern: text.clone(),
        source,
    })?;
    Ok(Some(all))
}
