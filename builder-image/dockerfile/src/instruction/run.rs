//! RUN: its command, its heredocs and its flags.

use crate::diagnostic::Diagnostic;
use crate::heredoc::{self, Heredoc};
use crate::instruction::{CommandForm, Statement, Verb, command};
use crate::mount::MountSpec;
use crate::span::{Spanned, Word};
use crate::suggest::did_you_mean;

/// `RUN [flags] command`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command as written; with heredocs, see [`Run::command_to_execute`].
    pub command: CommandForm,
    /// The documents of the command, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`
    pub mounts: Vec<MountSpec>,
    /// `--network`
    pub network: Option<Spanned<Network>>,
    /// `--security`
    pub security: Option<Spanned<Security>>,
    /// `--device`, as written.
    pub devices: Vec<Word>,
}

/// `RUN --network`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The network of the build.
    Default,
    /// No network.
    None,
    /// The network of the machine.
    Host,
}

/// `RUN --security`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// As isolated as any step.
    Sandbox,
    /// With all capabilities.
    Insecure,
}

/// What a RUN executes once its heredocs are put where they belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunCommand {
    /// Program and arguments.
    Exec(Vec<String>),
    /// A script for the shell in effect.
    Shell(String),
    /// A program in a file of its own, executed directly: the only heredoc begins with `#!`. The file is
    /// `/dev/pipes/NAME`, mode 0755, and not part of the image.
    File {
        /// The name of the heredoc.
        name: String,
        /// The content of the file.
        content: String,
    },
}

impl Run {
    /// What is executed. Variables in heredocs are left to the shell.
    ///
    /// A command that is nothing but one heredoc is that heredoc's text. Any other command with heredocs is handed to
    /// the shell together with their unchanged bodies.
    pub fn command_to_execute(&self) -> RunCommand {
        let line = match &self.command {
            CommandForm::Exec(args) => return RunCommand::Exec(args.clone()),
            CommandForm::Shell(line) => line,
        };
        let Some(first) = self.heredocs.first() else {
            return RunCommand::Shell(line.clone());
        };
        if !heredoc::is_only(line) {
            let mut script = line.clone();
            for heredoc in &self.heredocs {
                script.push('\n');
                script.push_str(&heredoc.content);
                script.push_str(&heredoc.name);
            }
            return RunCommand::Shell(script);
        }
        if first.content.starts_with("#!") {
            return RunCommand::File {
                name: first.name.clone(),
                content: first.text(),
            };
        }
        RunCommand::Shell(first.text())
    }
}

pub(super) fn read(statement: &Statement<'_>, diagnostics: &mut Vec<Diagnostic>) -> Option<Run> {
    let flags = &statement.flags;
    let command = command::read(
        Verb::Run,
        statement.line,
        statement.arguments.clone(),
        diagnostics,
    );
    let mounts = flags
        .values("mount")
        .into_iter()
        .filter_map(|mount| MountSpec::read(mount, diagnostics))
        .collect();
    let network = flags.value("network").and_then(|value| {
        let choices = [
            ("default", Network::Default),
            ("none", Network::None),
            ("host", Network::Host),
        ];
        choice("network", &value, choices, diagnostics)
    });
    let security = flags.value("security").and_then(|value| {
        let choices = [
            ("sandbox", Security::Sandbox),
            ("insecure", Security::Insecure),
        ];
        choice("security", &value, choices, diagnostics)
    });
    let command = command?;
    if command == CommandForm::Exec(Vec::new()) {
        diagnostics.push(
            Diagnostic::error(
                "missing-argument",
                statement.span(),
                "RUN needs a command to execute",
            )
            .help("write RUN COMMAND or RUN [\"PROGRAM\", \"ARGUMENT\"]"),
        );
        return None;
    }
    Some(Run {
        command,
        heredocs: statement.heredocs.to_vec(),
        mounts,
        network,
        security,
        devices: flags.values("device"),
    })
}

fn choice<T: Copy, const N: usize>(
    flag: &str,
    value: &Word,
    choices: [(&'static str, T); N],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Spanned<T>> {
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value.value) {
        return Some(Spanned::new(*choice, value.span));
    }
    let names = choices.map(|(name, _)| name);
    let list = names.map(|name| format!("`{name}`")).join(", ");
    diagnostics.push(
        Diagnostic::error(
            "invalid-flag",
            value.span,
            format!("flag `--{flag}` of RUN does not know `{}`", value.value),
        )
        .maybe_help(did_you_mean(&value.value, names))
        .note(format!("it takes one of {list}")),
    );
    None
}
