//! Writes `docs/cli.md` from the command line's own definitions, and fails where it is stale; `UPDATE=1` writes it.
#![expect(
    clippy::format_push_string,
    reason = "a page is written piece by piece"
)]

use clap::{Command, CommandFactory};

use super::Cli;

const INTRODUCTION: &str = include_str!("reference/introduction.md");

/// Commands with documentation of their own, or for machines.
const ELSEWHERE: [(&str, &str); 2] = [
    ("build", "All flags are in [build.md](build.md)."),
    ("cache", "All flags are in [cache.md](cache.md)."),
];
const FOR_MACHINES: [&str; 2] = ["pod", "exec-probe"];

fn page() -> String {
    let mut program = Cli::command();
    program.build();
    let mut page = INTRODUCTION.to_owned();
    let mut commands: Vec<_> = program.get_subcommands().collect();
    commands.sort_by_key(|command| command.get_name());
    for command in commands {
        if !FOR_MACHINES.contains(&command.get_name()) {
            describe(command, &mut page);
        }
    }
    page
}

fn describe(command: &Command, page: &mut String) {
    let name = command.get_name();
    let about = command.get_about().map(ToString::to_string);
    page.push_str(&format!("\n## {name}\n\n{}.", about.unwrap_or_default()));
    let aliases: Vec<_> = command
        .get_visible_aliases()
        .map(|alias| format!("`{alias}`"))
        .collect();
    if !aliases.is_empty() {
        page.push_str(&format!(" Also {}.", aliases.join(", ")));
    }
    if let Some((_, text)) = ELSEWHERE.iter().find(|(known, _)| *known == name) {
        page.push_str(&format!(" {text}\n"));
        return;
    }
    let verbs: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
    if !verbs.is_empty() {
        let verbs: Vec<_> = verbs
            .iter()
            .map(|verb| format!("`{name} {verb}`"))
            .collect();
        page.push_str(&format!(
            " Alone it prints its commands: {}.\n",
            verbs.join(", ")
        ));
        if name == "image" {
            return;
        }
        for verb in command.get_subcommands() {
            page.push('\n');
            rows(verb, page);
        }
        return;
    }
    page.push_str("\n\n");
    rows(command, page);
}

fn rows(command: &Command, page: &mut String) {
    page.push_str(&format!("    {}\n\n", usage(command)));
    let mut rows = String::new();
    for argument in command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
    {
        let values = argument.get_value_names().unwrap_or_default();
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        let takes_value = argument.get_action().takes_values();
        let value = if takes_value {
            values.join(" ")
        } else {
            String::new()
        };
        let long = argument.get_long().map(|long| format!("--{long}"));
        let short = argument.get_short().map(|short| format!("-{short}"));
        let names: Vec<_> = short.into_iter().chain(long).collect();
        let is_help = names
            .iter()
            .any(|name| name == "--help" || name == "--version");
        if is_help {
            continue;
        }
        let names = if names.is_empty() {
            format!("`{value}`")
        } else {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let value = if value.is_empty() {
                value
            } else {
                format!(" `{value}`")
            };
            format!("{}{value}", names.join(", "))
        };
        let help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        rows.push_str(&format!(
            "| {} | {} |\n",
            names.replace('|', "\\|"),
            help.replace('|', "\\|")
        ));
    }
    if !rows.is_empty() {
        page.push_str(&format!("| Argument | Means |\n|---|---|\n{rows}"));
    }
}

fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    usage.trim_start_matches("Usage:").trim().to_owned()
}

#[test]
fn the_reference_is_that_of_the_program() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        fs_err::write(path, page).unwrap();
        return;
    }
    let written = fs_err::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/cli.md is stale: run `UPDATE=1 cargo test -p builder --lib reference` and commit"
    );
}
