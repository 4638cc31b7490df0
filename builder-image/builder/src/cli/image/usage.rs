//! What a group of commands prints when nothing is asked of it: its commands, as docker lists them.

use clap::Command;

/// The usage of the group `name` of the program.
pub(in crate::cli) fn group_usage(program: &Command, name: &str) -> String {
    let Some(group) = program.find_subcommand(name) else {
        return String::new();
    };
    let mut commands: Vec<_> = group
        .get_subcommands()
        .filter(|c| !c.is_hide_set())
        .collect();
    commands.sort_by_key(|command| command.get_name());
    let about = |command: &Command| command.get_about().map(ToString::to_string);
    let program = program.get_name();
    let lines = commands.into_iter().map(|command| {
        let about = about(command).unwrap_or_default();
        format!("  {:11} {about}\n", command.get_name())
    });
    format!(
        "\nUsage:  {program} {name} COMMAND\n\n{}\n\nCommands:\n{}\nRun '{program} {name} COMMAND --help' for more information on a command.\n",
        about(group).unwrap_or_default(),
        lines.collect::<String>()
    )
}
