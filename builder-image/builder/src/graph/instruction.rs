//! What one instruction does to the state of its stage, and the step that it makes.

use dockerfile::{
    Add, ArgDecl, CommandForm, Copy, Diagnostic, Heredoc, Instruction, InstructionKind, KeyValue,
    Mode, Run, RunCommand, Scope as _, Source, SourceLocation, Word,
};
use oci::Healthcheck;

use super::environment::{expand_word, expansion};
use super::reach::{label, makes_layer};
use super::stage::Builder;
use super::text::{plain_list, quote_healthcheck, quote_list};
use super::{
    Action, CopyAction, Entry, Filesystem, RunAction, StageBase, Step, StepId, WorkdirAction,
};

type Outcome<T = ()> = Result<T, Box<Diagnostic>>;

/// Sources of a copy: paths, and documents by name and content.
type Selected = (Vec<String>, Vec<(String, String)>);

impl Builder<'_> {
    /// Carries out an instruction; `position` is its position in the stage.
    pub(super) fn instruction(&mut self, position: usize, instruction: &Instruction) -> Outcome {
        match &instruction.kind {
            InstructionKind::Add(add) => self.add(instruction, add)?,
            InstructionKind::Arg(declarations) => self.arg(declarations)?,
            InstructionKind::Cmd(command) => {
                let args = command.to_args(&self.shell());
                self.note(format!("CMD {}", quote_list(&args)));
                self.state.config.cmd = Some(args);
                self.state.config.args_escaped = Some(true);
                self.cmd_set = true;
            }
            InstructionKind::Copy(copy) => self.copy(position, instruction, copy)?,
            InstructionKind::Entrypoint(command) => self.entrypoint(command),
            InstructionKind::Env(pairs) => self.env(pairs)?,
            InstructionKind::Expose(words) => self.expose(words)?,
            InstructionKind::Healthcheck(check) => self.healthcheck(check),
            InstructionKind::Label(pairs) => self.label(pairs)?,
            InstructionKind::Maintainer(name) => {
                self.state.author = Some(name.value.clone());
                self.note(format!("MAINTAINER {}", name.value));
            }
            InstructionKind::Onbuild(_) => {
                unreachable!("ONBUILD is refused before the graph is built")
            }
            InstructionKind::Run(run) => self.run(instruction, run),
            InstructionKind::Shell(shell) => {
                self.state.config.shell.clone_from(shell);
                self.note(format!("SHELL {}", plain_list(shell)));
            }
            InstructionKind::Stopsignal(word) => {
                let signal = self.expand(word)?;
                dockerfile::signal::parse(&signal).map_err(|error| {
                    Box::new(Diagnostic::error(
                        "invalid-signal",
                        word.span,
                        error.to_string(),
                    ))
                })?;
                self.note(format!("STOPSIGNAL {signal}"));
                self.state.config.stop_signal = signal;
            }
            InstructionKind::User(word) => {
                let user = self.expand(word)?;
                self.note(format!("USER {user}"));
                self.state.config.user = user;
            }
            InstructionKind::Volume(words) => self.volume(words)?,
            InstructionKind::Workdir(word) => self.workdir(instruction, word)?,
        }
        if makes_layer(instruction) {
            self.position += 1;
        }
        Ok(())
    }

    fn expand(&self, word: &Word) -> Outcome<String> {
        expand_word(word, self.plan.dockerfile.escape, &self.state.variables)
    }

    fn expand_option(&self, word: Option<&Word>) -> Outcome<Option<String>> {
        word.map(|word| self.expand(word)).transpose()
    }

    /// The shell of shell-form commands.
    fn shell(&self) -> Vec<String> {
        match self.state.config.shell.as_slice() {
            [] => vec!["/bin/sh".into(), "-c".into()],
            shell => shell.to_vec(),
        }
    }

    /// Records an instruction that makes no layer.
    fn note(&mut self, created_by: String) {
        self.state.entries.push(Entry {
            created_by,
            step: None,
        });
    }

    /// Adds a step and its history, and moves the stage onto what it leaves.
    fn step(&mut self, instruction: &Instruction, action: Action, created_by: String, text: &str) {
        let id = StepId(self.steps.len());
        self.steps.push(Step {
            below: self.state.filesystem,
            action,
            label: label(&self.planned.name, self.position, self.total, text),
            instruction: instruction.source.clone(),
            span: instruction.span,
            line: instruction.line,
        });
        self.state.filesystem = Filesystem::Step(id);
        self.state.entries.push(Entry {
            created_by,
            step: Some(id),
        });
    }

    fn arg(&mut self, declarations: &[ArgDecl]) -> Outcome {
        // All words of an instruction see the variables as they were before it.
        let mut expanded = Vec::new();
        for declaration in declarations {
            let name = self.expand(&declaration.name)?;
            let value = match (
                self.plan.options.build_args.get(&name),
                &declaration.default,
            ) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(default)?),
                (None, None) => self.plan.globals.get(&name).map(str::to_owned),
            };
            expanded.push((name, value));
        }
        let mut texts = Vec::new();
        for (name, value) in expanded {
            texts.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            if let Some(value) = &value {
                self.state.variables.set(&name, value);
            }
            self.state.build_args.push((name, value));
        }
        self.note(format!("ARG {}", texts.join(" ")));
        Ok(())
    }

    fn pairs(&self, pairs: &[KeyValue]) -> Outcome<Vec<(String, String)>> {
        pairs
            .iter()
            .map(|pair| Ok((self.expand(&pair.key)?, self.expand(&pair.value)?)))
            .collect()
    }

    fn env(&mut self, pairs: &[KeyValue]) -> Outcome {
        let pairs = self.pairs(pairs)?;
        let mut text = String::from("ENV");
        for (name, value) in pairs {
            text.extend([" ", &name, "=", &value]);
            let env = &mut self.state.config.env;
            let entry = format!("{name}={value}");
            match env
                .iter_mut()
                .find(|env| env.split('=').next() == Some(name.as_str()))
            {
                Some(known) => *known = entry,
                None => env.push(entry),
            }
            self.state.variables.set(&name, value);
        }
        self.note(text);
        Ok(())
    }

    fn label(&mut self, pairs: &[KeyValue]) -> Outcome {
        let pairs = self.pairs(pairs)?;
        let mut text = String::from("LABEL");
        for (name, value) in pairs {
            text.extend([" ", &name, "=", &value]);
            self.state.config.labels.insert(name, value);
        }
        self.note(text);
        Ok(())
    }

    fn entrypoint(&mut self, command: &CommandForm) {
        let args = command.to_args(&self.shell());
        self.note(format!("ENTRYPOINT {}", quote_list(&args)));
        self.state.config.entrypoint = Some(args);
        if !self.cmd_set {
            self.state.config.cmd = None;
        }
    }

    fn expose(&mut self, words: &[Word]) -> Outcome {
        let mut ports = Vec::new();
        for word in words {
            let escape = self.plan.dockerfile.escape;
            let expanded = dockerfile::expand_words(&word.value, escape, &self.state.variables)
                .map_err(|error| expansion(word, &error))?;
            for text in expanded {
                let parsed = dockerfile::port::parse(&text).map_err(|error| {
                    Box::new(Diagnostic::error(
                        "invalid-port",
                        word.span,
                        error.to_string(),
                    ))
                })?;
                ports.extend(parsed.iter().map(ToString::to_string));
            }
        }
        self.note(format!("EXPOSE {}", plain_list(&ports)));
        self.state.config.exposed_ports.extend(ports);
        Ok(())
    }

    fn healthcheck(&mut self, check: &dockerfile::Healthcheck) {
        let nanos = |duration: std::time::Duration| {
            i64::try_from(duration.as_nanos())
                .ok()
                .filter(|nanos| *nanos != 0)
        };
        let mut config = Healthcheck {
            test: check.test(),
            ..Healthcheck::default()
        };
        if let dockerfile::Healthcheck::Probe(probe) = check {
            config.interval = nanos(probe.interval);
            config.timeout = nanos(probe.timeout);
            config.start_period = nanos(probe.start_period);
            config.start_interval = nanos(probe.start_interval);
            config.retries = Some(i64::from(probe.retries)).filter(|retries| *retries != 0);
        }
        self.note(format!("HEALTHCHECK {}", quote_healthcheck(&config)));
        self.state.config.healthcheck = Some(config);
    }

    fn volume(&mut self, words: &[Word]) -> Outcome {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(word)?;
            if volume.is_empty() {
                return Err(Box::new(Diagnostic::error(
                    "blank-volume",
                    word.span,
                    "a volume can not be an empty string",
                )));
            }
            volumes.push(volume);
        }
        self.note(format!("VOLUME {}", plain_list(&volumes)));
        self.state.config.volumes.extend(volumes);
        Ok(())
    }

    fn workdir(&mut self, instruction: &Instruction, word: &Word) -> Outcome {
        let path = self.expand(word)?;
        let path = absolute(&self.state.config.working_dir, &path);
        self.state.config.working_dir.clone_from(&path);
        let created_by = format!("WORKDIR {path}");
        if path == "/" {
            self.note(created_by);
            return Ok(());
        }
        let action = Action::Workdir(WorkdirAction {
            path,
            user: self.state.config.user.clone(),
        });
        let text = instruction.source.clone();
        self.step(instruction, action, created_by, &text);
        Ok(())
    }

    fn run(&mut self, instruction: &Instruction, run: &Run) {
        let mut script = None;
        let args = match run.command_to_execute() {
            RunCommand::Exec(args) => args,
            RunCommand::Shell(line) => CommandForm::Shell(line).to_args(&self.shell()),
            RunCommand::File { name, content } => {
                let path = format!("/dev/pipes/{name}");
                script = Some((name, content));
                CommandForm::Shell(path).to_args(&self.shell())
            }
        };
        let created_by = format!("RUN {}{} # buildkit", self.history_args(), args.join(" "));
        let mut text = instruction.source.clone();
        if let Some(first) = run.heredocs.first() {
            text.extend([" (", &summary(&first.content), ")"]);
        }
        let action = Action::Run(RunAction {
            args,
            env: self.state.variables.to_env(),
            cwd: absolute(&self.state.config.working_dir, ""),
            user: self.state.config.user.clone(),
            script,
            network: true,
        });
        self.step(instruction, action, created_by, &text);
    }

    /// `|2 A=1 B=2 `: the declared arguments with the values in effect, each once.
    fn history_args(&self) -> String {
        let mut args: Vec<(&str, String)> = Vec::new();
        for (name, value) in &self.state.build_args {
            let value = self
                .state
                .variables
                .get(name)
                .or(value.as_deref())
                .unwrap_or_default();
            match args.iter_mut().find(|(known, _)| known == name) {
                Some(known) => value.clone_into(&mut known.1),
                None => args.push((name, value.to_owned())),
            }
        }
        if args.is_empty() {
            return String::new();
        }
        let texts: Vec<_> = args
            .iter()
            .map(|(name, value)| format!("{name}={value} "))
            .collect();
        format!("|{} {}", args.len(), texts.concat())
    }

    fn copy(&mut self, position: usize, instruction: &Instruction, copy: &Copy) -> Outcome {
        let from = self
            .planned
            .sources
            .get(&position)
            .map(|source| match source {
                StageBase::Scratch => Filesystem::Scratch,
                StageBase::Image(id) => Filesystem::Base(*id),
                StageBase::Stage(index) => {
                    let state = self.finished[*index].as_ref();
                    state
                        .expect("a stage comes behind what it copies from")
                        .filesystem
                }
            });
        let (sources, documents) = self.sources(&copy.sources, false)?;
        self.copy_step(
            instruction,
            CopyParts {
                add: false,
                from,
                sources,
                documents,
                destination: &copy.destination,
                chown: copy.chown.as_ref(),
                chmod: copy.chmod.as_ref(),
                checksum: None,
            },
        )
    }

    fn add(&mut self, instruction: &Instruction, add: &Add) -> Outcome {
        let (sources, documents) = self.sources(&add.sources, true)?;
        self.copy_step(
            instruction,
            CopyParts {
                add: true,
                from: None,
                sources,
                documents,
                destination: &add.destination,
                chown: add.chown.as_ref(),
                chmod: add.chmod.as_ref(),
                checksum: add.checksum.as_ref(),
            },
        )
    }

    fn sources(&self, sources: &[Source], add: bool) -> Outcome<Selected> {
        let mut paths = Vec::new();
        let mut documents = Vec::new();
        for source in sources {
            match source {
                Source::Path(word) => {
                    let path = self.expand(word)?;
                    check_source(&path, word, add)?;
                    paths.push(path);
                }
                Source::Heredoc(heredoc) => {
                    documents.push((heredoc.name.clone(), self.document(heredoc)?));
                }
            }
        }
        Ok((paths, documents))
    }

    fn document(&self, heredoc: &Heredoc) -> Outcome<String> {
        let text = heredoc.text();
        if !heredoc.expand {
            return Ok(text);
        }
        dockerfile::expand_heredoc(&text, &self.state.variables).map_err(|error| {
            Box::new(Diagnostic::error(
                "expansion",
                heredoc.body,
                error.to_string(),
            ))
        })
    }

    fn copy_step(&mut self, instruction: &Instruction, parts: CopyParts<'_>) -> Outcome {
        let destination = self.expand(parts.destination)?;
        let chown = self
            .expand_option(parts.chown)?
            .filter(|chown| !chown.is_empty());
        let chmod = self
            .expand_option(parts.chmod)?
            .filter(|chmod| !chmod.is_empty());
        if let (Some(mode), Some(word)) = (&chmod, parts.chmod) {
            Mode::parse(mode).map_err(|error| {
                Box::new(Diagnostic::error(
                    "invalid-mode",
                    word.span,
                    error.to_string(),
                ))
            })?;
        }
        let checksum = self.expand_option(parts.checksum)?;
        let mut created_by = String::from(if parts.add { "ADD" } else { "COPY" });
        for (flag, value) in [("chown", &chown), ("chmod", &chmod)] {
            if let Some(value) = value {
                created_by.extend([" --", flag, "=", value]);
            }
        }
        for source in &parts.sources {
            created_by.extend([" ", source]);
        }
        for (name, _) in &parts.documents {
            created_by.extend([" <<", name]);
        }
        created_by.extend([" ", &destination, " # buildkit"]);
        let mut path = absolute(&self.state.config.working_dir, &destination);
        let names_directory =
            destination.is_empty() || destination.ends_with('/') || ends_in_dot(&destination);
        if names_directory && path != "/" {
            path.push('/');
        }
        let action = Action::Copy(CopyAction {
            add: parts.add,
            from: parts.from,
            sources: parts.sources,
            documents: parts.documents,
            destination: path,
            chown,
            chmod,
            checksum,
        });
        let text = instruction.source.clone();
        self.step(instruction, action, created_by, &text);
        Ok(())
    }
}

/// What COPY and ADD have in common, sources expanded.
struct CopyParts<'a> {
    add: bool,
    from: Option<Filesystem>,
    sources: Vec<String>,
    documents: Vec<(String, String)>,
    destination: &'a Word,
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    checksum: Option<&'a Word>,
}

/// Refuses what a source must not turn out to be once its variables are replaced.
fn check_source(path: &str, word: &Word, add: bool) -> Outcome {
    let message = match SourceLocation::of(path) {
        SourceLocation::Local => return Ok(()),
        SourceLocation::Http if add => return Ok(()),
        SourceLocation::Http => format!("COPY can not copy from a URL: `{path}`"),
        SourceLocation::Git if add => {
            format!("a git repository as a source of ADD is not supported: `{path}`")
        }
        SourceLocation::Git => format!("COPY can not copy from a git repository: `{path}`"),
    };
    let help = if add {
        "clone it in a RUN, or ADD the URL of an archive"
    } else {
        "use ADD"
    };
    Err(Box::new(
        Diagnostic::error("unsupported", word.span, message).help(help),
    ))
}

fn ends_in_dot(path: &str) -> bool {
    matches!(path.rsplit('/').next(), Some("." | ".."))
}

/// `path` as seen from the directory `from`, normalised and absolute.
fn absolute(from: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{from}/{path}")
    };
    let mut components: Vec<&str> = Vec::new();
    for component in joined.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            name => components.push(name),
        }
    }
    format!("/{}", components.join("/"))
}

/// The first line of a heredoc, for progress.
fn summary(content: &str) -> String {
    let mut lines = content.trim().lines();
    let first = lines.next().unwrap_or_default().to_owned();
    if lines.next().is_some() {
        format!("{first}...")
    } else {
        first
    }
}
