//! COPY and ADD.
//!
//! Sources and destination are not expanded here, so what a variable turns out to be (a URL in a COPY, an empty
//! destination) is for the engine to judge, with [`crate::source`].

use crate::diagnostic::Diagnostic;
use crate::flag::Flags;
use crate::heredoc::{self, Heredoc};
use crate::instruction::{Statement, Verb, command};
use crate::mode::{Mode, SYNTAX};
use crate::source::SourceLocation;
use crate::span::{Span, Spanned, Word};
use crate::word::{JsonForm, json_form, split_blanks};

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern; in ADD also a URL.
    Path(Word),
    /// A document in the Dockerfile; its name is the name of the file.
    Heredoc(Heredoc),
}

/// `COPY [flags] source… destination`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// What is copied; never empty.
    pub sources: Vec<Source>,
    /// Where to.
    pub destination: Word,
    /// `--from`: stage, image or named context. Never expanded.
    pub from: Option<Word>,
    /// `--chown`, expanded.
    pub chown: Option<Word>,
    /// `--chmod`, expanded; see [`Mode`].
    pub chmod: Option<Word>,
    /// `--link`
    pub link: Option<Spanned<bool>>,
    /// `--parents`
    pub parents: Option<Spanned<bool>>,
    /// `--exclude`, expanded.
    pub exclude: Vec<Word>,
}

/// `ADD [flags] source… destination`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// What is added; never empty.
    pub sources: Vec<Source>,
    /// Where to.
    pub destination: Word,
    /// `--chown`, expanded.
    pub chown: Option<Word>,
    /// `--chmod`, expanded; see [`Mode`].
    pub chmod: Option<Word>,
    /// `--checksum`, expanded.
    pub checksum: Option<Word>,
    /// `--link`
    pub link: Option<Spanned<bool>>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<Spanned<bool>>,
    /// `--unpack`
    pub unpack: Option<Spanned<bool>>,
    /// `--exclude`, expanded.
    pub exclude: Vec<Word>,
}

pub(super) fn heredocs(sources: &[Source]) -> Vec<&Heredoc> {
    sources
        .iter()
        .filter_map(|source| match source {
            Source::Heredoc(heredoc) => Some(heredoc),
            Source::Path(_) => None,
        })
        .collect()
}

pub(super) fn paths(sources: &[Source]) -> impl Iterator<Item = &Word> {
    sources.iter().filter_map(|source| match source {
        Source::Path(path) => Some(path),
        Source::Heredoc(_) => None,
    })
}

pub(super) fn read_copy(
    statement: &Statement<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Copy> {
    let (sources, destination) = sources_and_destination(statement, diagnostics)?;
    let flags = &statement.flags;
    check_chmod(flags, diagnostics);
    let from = flags.value("from");
    match (&from, flags.find("from")) {
        (Some(from), _) if from.value.contains('$') => diagnostics.push(
            Diagnostic::error(
                "variable-in-from",
                from.span,
                "variables are not expanded in `COPY --from`",
            )
            .help(format!(
                "define a stage instead, `FROM {} AS name`, and copy from that",
                from.value
            )),
        ),
        (None, Some(flag)) => diagnostics.push(
            Diagnostic::error(
                "invalid-flag",
                flag.span,
                "flag `--from` of COPY needs a value",
            )
            .help("write `--from=STAGE`; without the flag the build context is copied"),
        ),
        _ => {}
    }
    for source in &sources {
        let Source::Path(path) = source else { continue };
        let kind = match SourceLocation::of(&path.value) {
            SourceLocation::Local => continue,
            SourceLocation::Http => "a URL",
            SourceLocation::Git => "a git repository",
        };
        diagnostics.push(
            Diagnostic::error(
                "copy-from-url",
                path.span,
                format!("COPY can not copy from {kind}"),
            )
            .help("use ADD"),
        );
    }
    Some(Copy {
        sources,
        destination,
        from,
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.switch("link"),
        parents: flags.switch("parents"),
        exclude: flags.values("exclude"),
    })
}

pub(super) fn read_add(
    statement: &Statement<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Add> {
    let (sources, destination) = sources_and_destination(statement, diagnostics)?;
    let flags = &statement.flags;
    check_chmod(flags, diagnostics);
    let checksum = flags.value("checksum");
    if let Some(checksum) = &checksum {
        check_checksum(checksum, &sources, diagnostics);
    }
    Some(Add {
        sources,
        destination,
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        checksum,
        link: flags.switch("link"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
        exclude: flags.values("exclude"),
    })
}

/// A mode without variables can be judged now.
fn check_chmod(flags: &Flags, diagnostics: &mut Vec<Diagnostic>) {
    let Some(chmod) = flags.value("chmod") else {
        return;
    };
    if !chmod.value.contains('$')
        && let Err(error) = Mode::parse(&chmod.value)
    {
        diagnostics
            .push(Diagnostic::error("invalid-mode", chmod.span, error.to_string()).help(SYNTAX));
    }
}

fn check_checksum(checksum: &Word, sources: &[Source], diagnostics: &mut Vec<Diagnostic>) {
    let error = |message: &str| Diagnostic::error("invalid-checksum", checksum.span, message);
    let [Source::Path(source)] = sources else {
        diagnostics.push(
            error("`--checksum` takes exactly one source, an HTTP(S) URL or a git repository")
                .help("write one ADD per source"),
        );
        return;
    };
    if source.value.contains('$') {
        return;
    }
    match SourceLocation::of(&source.value) {
        SourceLocation::Local => diagnostics.push(
            error("`--checksum` takes an HTTP(S) URL or a git repository as its source")
                .also(source.span, "this is a file of the build context"),
        ),
        SourceLocation::Http if !checksum.value.contains('$') && !is_digest(&checksum.value) => {
            diagnostics.push(
                error("the checksum is not a digest")
                    .help("write `sha256:` and 64 hexadecimal digits"),
            );
        }
        _ => {}
    }
}

fn is_digest(text: &str) -> bool {
    let (algorithm, hex) = text.split_once(':').unwrap_or_default();
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn sources_and_destination(
    statement: &Statement<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(Vec<Source>, Word)> {
    let line = statement.line;
    let words: Vec<Word> = match json_form(&line.text, statement.arguments.clone()) {
        JsonForm::Strings(strings) => strings
            .into_iter()
            .map(|(string, place)| Spanned::new(string, line.span(place)))
            .collect(),
        JsonForm::NotStrings(place) => {
            diagnostics.push(command::not_strings(statement.verb, line.span(place)));
            return None;
        }
        JsonForm::No => split_blanks(&line.text, statement.arguments.clone())
            .into_iter()
            .map(|range| Spanned::new(line.text[range.clone()].to_owned(), line.span(range)))
            .inspect(|word| check_read(word, statement.heredocs, diagnostics))
            .collect(),
    };
    let mut sources = with_heredocs(words, statement.heredocs);
    let destination = sources.pop();
    match destination {
        Some(Source::Path(destination)) if !sources.is_empty() => Some((sources, destination)),
        Some(Source::Heredoc(heredoc)) => {
            diagnostics.push(
                Diagnostic::error(
                    "heredoc-destination",
                    heredoc.span,
                    format!(
                        "a heredoc can not be the destination of {}",
                        statement.verb.name()
                    ),
                )
                .help(format!(
                    "write the path of the file behind it: `<<{} /path`",
                    heredoc.name
                )),
            );
            None
        }
        other => {
            diagnostics.push(too_few(statement.verb, other, statement.span()));
            None
        }
    }
}

/// A line whose quotes do not close has no heredocs, so what looks like one in it is neither that nor surely a path.
fn check_read(word: &Word, heredocs: &[Heredoc], diagnostics: &mut Vec<Diagnostic>) {
    let read = heredocs
        .iter()
        .any(|heredoc| heredoc.span.overlaps(word.span));
    if !read && heredoc::is_only(&word.value) {
        diagnostics.push(
            Diagnostic::error(
                "heredoc-not-read",
                word.span,
                format!("heredoc `{}` has no body", word.value),
            )
            .note("a line with a quote or `${` that is not closed has no heredocs")
            .help("close or escape the quote; a path that looks like a heredoc is written in JSON form"),
        );
    }
}

/// Puts each heredoc in the place of the words that it consists of; a quoted delimiter may have blanks.
fn with_heredocs(words: Vec<Word>, heredocs: &[Heredoc]) -> Vec<Source> {
    let mut sources = Vec::with_capacity(words.len());
    let mut last: Option<Span> = None;
    for word in words {
        match heredocs
            .iter()
            .find(|heredoc| heredoc.span.overlaps(word.span))
        {
            None => sources.push(Source::Path(word)),
            Some(heredoc) if last == Some(heredoc.span) => {}
            Some(heredoc) => {
                last = Some(heredoc.span);
                sources.push(Source::Heredoc(heredoc.clone()));
            }
        }
    }
    sources
}

fn too_few(verb: Verb, only: Option<Source>, whole: Span) -> Diagnostic {
    let name = verb.name();
    let (span, label) = match only {
        Some(Source::Path(path)) => (path.span, "only this is given"),
        _ => (whole, ""),
    };
    Diagnostic::error(
        "missing-argument",
        span,
        format!("{name} needs at least one source and a destination"),
    )
    .label(label)
    .help(format!("write {name} SOURCE… DESTINATION"))
}
