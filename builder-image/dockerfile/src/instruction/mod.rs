//! Instructions: what a stage consists of.
//!
//! Everything here is as written: a [`Word`] still has its quotes and variables. Who executes an instruction expands its
//! words with [`crate::expand()`]. Expanded are the words of ADD, ARG, COPY, ENV, EXPOSE, FROM, LABEL, STOPSIGNAL, USER,
//! VOLUME and WORKDIR and the values of `RUN --mount`; never the commands of RUN, CMD, ENTRYPOINT, SHELL and
//! HEALTHCHECK, nor `COPY --from`. All words of one instruction see the variables as they were before it.

mod command;
mod copy;
mod healthcheck;
mod pair;
mod read;
mod run;
mod verb;

pub use command::CommandForm;
pub use copy::{Add, Copy, Source};
pub use healthcheck::{Healthcheck, Probe};
pub use pair::{ArgDecl, KeyValue, Separator};
pub(crate) use read::{Statement, UnknownInstruction, missing_arguments, read};
pub use run::{Network, Run, RunCommand, Security};
pub use verb::Verb;

use crate::heredoc::Heredoc;
use crate::span::{Span, Word};

/// The name of an instruction as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyword {
    /// Which instruction it is.
    pub verb: Verb,
    /// The letters as written; upper case is only a custom.
    pub text: String,
    /// Where they stand.
    pub span: Span,
}

/// One instruction of a stage, or an ARG before the first FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// From the keyword to the end of the last continued line; bodies of heredocs are not in it.
    pub span: Span,
    /// Its name.
    pub keyword: Keyword,
    /// What it says.
    pub kind: InstructionKind,
    /// The text with continuations joined and comments dropped, as history shows it.
    pub source: String,
    /// 1-based line of the keyword.
    pub line: usize,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionKind {
    /// Copies files, unpacks local archives, fetches URLs.
    Add(Add),
    /// Declares build arguments.
    Arg(Vec<ArgDecl>),
    /// The default arguments or command of the image.
    Cmd(CommandForm),
    /// Copies files.
    Copy(Copy),
    /// The program of the image.
    Entrypoint(CommandForm),
    /// Sets environment variables; key and value are expanded.
    Env(Vec<KeyValue>),
    /// Documents ports: `[address:][host:]port[/protocol]`, each word expanded and then split at blanks.
    Expose(Vec<Word>),
    /// How to tell whether a container is well.
    Healthcheck(Healthcheck),
    /// Sets labels; key and value are expanded.
    Label(Vec<KeyValue>),
    /// The author of the image (deprecated); not expanded.
    Maintainer(Word),
    /// An instruction for builds that use the image as a base.
    Onbuild(Onbuild),
    /// Executes a command.
    Run(Run),
    /// The program that runs commands in shell form; never empty.
    Shell(Vec<String>),
    /// The signal that stops a container.
    Stopsignal(Word),
    /// The user, and group behind a colon, of later instructions and the container. The whole rest of the line.
    User(Word),
    /// Mount points.
    Volume(Vec<Word>),
    /// The working directory. The whole rest of the line.
    Workdir(Word),
}

/// `ONBUILD RUN …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The instruction that is kept for later. It is never FROM, MAINTAINER or ONBUILD.
    pub trigger: Box<Instruction>,
    /// The text that the image's configuration holds: the trigger with the bodies of its heredocs.
    pub expression: String,
}

impl InstructionKind {
    /// The documents of the instruction, in order.
    pub fn heredocs(&self) -> Vec<&Heredoc> {
        match self {
            Self::Add(add) => copy::heredocs(&add.sources),
            Self::Copy(copy) => copy::heredocs(&copy.sources),
            Self::Run(run) => run.heredocs.iter().collect(),
            Self::Onbuild(onbuild) => onbuild.trigger.kind.heredocs(),
            _ => Vec::new(),
        }
    }

    /// The words that are expanded when the instruction is executed, in no particular order. Those of ONBUILD are
    /// expanded in another build.
    pub fn expanded_words(&self) -> Vec<&Word> {
        match self {
            Self::Add(Add {
                sources,
                destination,
                chown,
                chmod,
                checksum,
                exclude,
                ..
            }) => copy::paths(sources)
                .chain([destination])
                .chain([chown, chmod, checksum].into_iter().flatten())
                .chain(exclude)
                .collect(),
            Self::Copy(Copy {
                sources,
                destination,
                chown,
                chmod,
                exclude,
                ..
            }) => copy::paths(sources)
                .chain([destination])
                .chain([chown, chmod].into_iter().flatten())
                .chain(exclude)
                .collect(),
            Self::Arg(declarations) => declarations
                .iter()
                .flat_map(|arg| std::iter::once(&arg.name).chain(&arg.default))
                .collect(),
            Self::Env(pairs) | Self::Label(pairs) => pairs
                .iter()
                .flat_map(|pair| [&pair.key, &pair.value])
                .collect(),
            Self::Expose(words) | Self::Volume(words) => words.iter().collect(),
            Self::Run(run) => run.mounts.iter().map(|mount| &mount.word).collect(),
            Self::Stopsignal(word) | Self::User(word) | Self::Workdir(word) => vec![word],
            Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Healthcheck(_)
            | Self::Maintainer(_)
            | Self::Onbuild(_)
            | Self::Shell(_) => Vec::new(),
        }
    }
}
