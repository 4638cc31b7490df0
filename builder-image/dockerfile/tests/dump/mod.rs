//! Writes a parsed file as short lines, for comparing it with an expected text.

use std::fmt::Write;

use dockerfile::{
    CommandForm, Dockerfile, Healthcheck, Heredoc, Instruction, InstructionKind, KeyValue,
    RunCommand, Source, Spanned, Stage, Word,
};

pub(crate) fn dump(dockerfile: &Dockerfile) -> String {
    let mut out = String::new();
    let directives = &dockerfile.directives;
    if let Some(syntax) = &directives.syntax {
        line(&mut out, 0, &format!("syntax {:?}", syntax.value));
    }
    if let Some(escape) = &directives.escape {
        line(&mut out, 0, &format!("escape {:?}", escape.value));
    }
    if let Some(check) = &directives.check {
        line(&mut out, 0, &format!("check {:?}", check.value));
    }
    for arg in &dockerfile.global_args {
        instruction(&mut out, 0, arg);
    }
    for stage in &dockerfile.stages {
        dump_stage(&mut out, stage);
    }
    out
}

fn line(out: &mut String, indent: usize, text: &str) {
    writeln!(out, "{:indent$}{text}", "").expect("writing to a string works");
}

fn dump_stage(out: &mut String, stage: &Stage) {
    let from = &stage.from;
    let mut text = format!(
        "{}: stage {} FROM {:?}",
        from.line, stage.index, from.image.value
    );
    option(&mut text, "platform", from.platform.as_ref());
    if let Some(name) = &stage.name {
        write!(text, " as {name:?}").expect("writing to a string works");
    }
    line(out, 0, &text);
    for one in &stage.instructions {
        instruction(out, 2, one);
    }
}

fn instruction(out: &mut String, indent: usize, instruction: &Instruction) {
    let name = instruction.keyword.verb.name();
    let detail = match &instruction.kind {
        InstructionKind::Add(add) => {
            let mut text = copied(&add.sources, &add.destination);
            option(&mut text, "chown", add.chown.as_ref());
            option(&mut text, "chmod", add.chmod.as_ref());
            option(&mut text, "checksum", add.checksum.as_ref());
            switch(&mut text, "link", add.link.as_ref());
            switch(&mut text, "keep-git-dir", add.keep_git_dir.as_ref());
            switch(&mut text, "unpack", add.unpack.as_ref());
            for exclude in &add.exclude {
                option(&mut text, "exclude", Some(exclude));
            }
            text
        }
        InstructionKind::Copy(copy) => {
            let mut text = copied(&copy.sources, &copy.destination);
            option(&mut text, "from", copy.from.as_ref());
            option(&mut text, "chown", copy.chown.as_ref());
            option(&mut text, "chmod", copy.chmod.as_ref());
            switch(&mut text, "link", copy.link.as_ref());
            switch(&mut text, "parents", copy.parents.as_ref());
            for exclude in &copy.exclude {
                option(&mut text, "exclude", Some(exclude));
            }
            text
        }
        InstructionKind::Arg(declarations) => declarations
            .iter()
            .map(|arg| match &arg.default {
                Some(default) => format!("{:?}={:?}", arg.name.value, default.value),
                None => format!("{:?}", arg.name.value),
            })
            .collect::<Vec<_>>()
            .join(" "),
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
        }
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => form(command),
        InstructionKind::Expose(words) | InstructionKind::Volume(words) => words
            .iter()
            .map(|word| format!("{:?}", word.value))
            .collect::<Vec<_>>()
            .join(" "),
        InstructionKind::Healthcheck(Healthcheck::None) => "none".to_owned(),
        InstructionKind::Healthcheck(check @ Healthcheck::Probe(probe)) => format!(
            "{:?} interval={:?} timeout={:?} start-period={:?} start-interval={:?} retries={}",
            check.test(),
            probe.interval,
            probe.timeout,
            probe.start_period,
            probe.start_interval,
            probe.retries,
        ),
        InstructionKind::Maintainer(word)
        | InstructionKind::Stopsignal(word)
        | InstructionKind::User(word)
        | InstructionKind::Workdir(word) => format!("{:?}", word.value),
        InstructionKind::Onbuild(onbuild) => format!("{:?}", onbuild.expression),
        InstructionKind::Run(run) => {
            let mut text = if run.heredocs.is_empty() {
                form(&run.command)
            } else {
                match run.command_to_execute() {
                    RunCommand::Exec(args) => format!("exec {args:?}"),
                    RunCommand::Shell(script) => format!("script {script:?}"),
                    RunCommand::File { name, content } => format!("file {name:?} {content:?}"),
                }
            };
            for mount in &run.mounts {
                option(&mut text, "mount", Some(&mount.word));
            }
            for device in &run.devices {
                option(&mut text, "device", Some(device));
            }
            if let Some(network) = &run.network {
                write!(text, " network={:?}", network.value).expect("writing to a string works");
            }
            if let Some(security) = &run.security {
                write!(text, " security={:?}", security.value).expect("writing to a string works");
            }
            text
        }
        InstructionKind::Shell(args) => format!("{args:?}"),
    };
    line(
        out,
        indent,
        &format!("{}: {name} {detail}", instruction.line),
    );
    if let InstructionKind::Onbuild(onbuild) = &instruction.kind {
        self::instruction(out, indent + 2, &onbuild.trigger);
    }
}

fn form(command: &CommandForm) -> String {
    match command {
        CommandForm::Shell(line) => format!("shell {line:?}"),
        CommandForm::Exec(args) => format!("exec {args:?}"),
    }
}

fn pair(pair: &KeyValue) -> String {
    format!("{:?}={:?}", pair.key.value, pair.value.value)
}

fn copied(sources: &[Source], destination: &Word) -> String {
    let sources: Vec<_> = sources
        .iter()
        .map(|source| match source {
            Source::Path(path) => format!("{:?}", path.value),
            Source::Heredoc(heredoc) => self::heredoc(heredoc),
        })
        .collect();
    format!("{} -> {:?}", sources.join(" "), destination.value)
}

fn heredoc(heredoc: &Heredoc) -> String {
    let expand = if heredoc.expand { "" } else { " literal" };
    format!("<<{:?}{expand} {:?}", heredoc.name, heredoc.text())
}

fn option(text: &mut String, name: &str, value: Option<&Word>) {
    if let Some(value) = value {
        write!(text, " {name}={:?}", value.value).expect("writing to a string works");
    }
}

fn switch(text: &mut String, name: &str, value: Option<&Spanned<bool>>) {
    if let Some(value) = value {
        write!(text, " {name}={}", value.value).expect("writing to a string works");
    }
}
