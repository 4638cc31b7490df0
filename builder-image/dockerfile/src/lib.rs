//! The Dockerfile language: text to instructions.
//!
//! [`parse`] reads a whole file and returns what it could read together with everything that is wrong with it. Every
//! node knows where it stands in the text. Words stay as written until [`expand`](fn@expand) replaces their variables, because only
//! the engine knows their values. [`unsupported`] tells what of a file the engine does not execute.
//!
//! The reference is the Dockerfile frontend of BuildKit, syntax 1.26, up to its source where that and its documentation
//! disagree. There is no I/O here: no file is opened, no image or URL is asked for, no `# syntax=` frontend is run.
//!
//! ```
//! let text = "FROM alpine:3.22 AS base\nRUNN true\n";
//! let parsed = dockerfile::parse("Dockerfile", text);
//! let error = parsed.first_error().expect("RUNN is no instruction");
//! assert_eq!(error.one_line("Dockerfile", text), "Dockerfile:2: unknown instruction `RUNN`");
//! assert_eq!(error.help, ["did you mean `RUN`?"]);
//! assert_eq!(parsed.dockerfile.expect("the stage was read").stages[0].name.as_deref(), Some("base"));
//! ```
//!
//! # Where this crate is stricter than the reference
//!
//! - RUN, CMD and ENTRYPOINT without arguments, and `RUN []`, are errors; the reference runs an empty shell command.
//! - Flags of instructions that have none are errors everywhere; the reference ignores those of ARG.
//! - The trigger of ONBUILD is checked at once, not only in the build that inherits it.
//! - Ports, signals, modes and checksums without variables are checked while parsing, in all stages.
//! - An empty `COPY --from=` is an error instead of meaning the build context.
//!
//! And where it does what the reference means: blanks behind `<<` are allowed in COPY and ADD as they are in RUN, a
//! delimiter may have blanks there, flags may hold any Unicode text, and EXPOSE keeps what stands before a `${…:-…}`.
//!
//! Reading order of the modules: `parse` (the loop), `line` (continuations), [`instruction`], `heredoc`, [`stage`],
//! [`expand`](mod@expand), [`diagnostic`].

mod check;
pub mod diagnostic;
pub mod directive;
pub mod duration;
pub mod expand;
mod flag;
mod heredoc;
pub mod instruction;
mod line;
pub mod lint;
pub mod mode;
pub mod mount;
mod parse;
pub mod port;
pub mod signal;
pub mod source;
pub mod span;
pub mod stage;
mod suggest;
mod supported;
mod word;

pub use check::check_expansions;
pub use diagnostic::{Diagnostic, Label, Severity};
pub use directive::{Check, Directives, InvalidCheck};
pub use expand::{
    ExpandError, ExpandErrorKind, Expansion, Scope, expand, expand_heredoc, expand_traced,
    expand_words,
};
pub use heredoc::Heredoc;
pub use instruction::{
    Add, ArgDecl, CommandForm, Copy, Healthcheck, Instruction, InstructionKind, KeyValue, Keyword,
    Network, Onbuild, Probe, Run, RunCommand, Security, Source, Verb,
};
pub use lint::{Rule, lint};
pub use mode::Mode;
pub use mount::{Mount, MountSpec, MountType, Sharing, parse_size};
pub use parse::{Parsed, parse, parse_trigger};
pub use source::SourceLocation;
pub use span::{LineIndex, Span, Spanned, Word};
pub use stage::{Dockerfile, From, Stage, UnknownStage};
pub use suggest::nearest;
pub use supported::unsupported;
