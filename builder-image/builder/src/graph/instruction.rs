//! What one instruction does to the state of its stage, and the step that it makes.

use dockerfile::{
    ArgDecl, CommandForm, Diagnostic, Instruction, InstructionKind, KeyValue, Scope as _, Word,
};
use oci::Healthcheck;

use super::environment::{expand_word, expansion};
use super::reach::{label, makes_layer};
use super::stage::Builder;
use super::text::{plain_list, quote_healthcheck, quote_list};
use super::{Action, ContextId, Entry, Filesystem, Input, StageBase, Step, StepId, WorkdirAction};

/// What came of an instruction, or the diagnostic that prevents the build.
pub(super) type Outcome<T = ()> = Result<T, Box<Diagnostic>>;

impl Builder<'_> {
    /// Carries out an instruction; `position` is its position in the stage.
    pub(super) fn instruction(&mut self, position: usize, instruction: &Instruction) -> Outcome {
        match &instruction.kind {
            InstructionKind::Add(add) => self.add(instruction, add)?,
            InstructionKind::Arg(declarations) => self.arg(declarations)?,
            InstructionKind::Cmd(command) => {
                let args = command.to_args(&self.shell());
                self.note(format!("CMD {}", quote_list(&args)));
                // An empty list is none, for those who read the image, too.
                self.state.config.cmd = Some(args).filter(|args| !args.is_empty());
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
            InstructionKind::Onbuild(onbuild) => {
                let expression = onbuild.expression.clone();
                self.state.config.on_build.push(expression);
            }
            InstructionKind::Run(run) => self.run(position, instruction, run)?,
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

    pub(super) fn expand(&self, word: &Word) -> Outcome<String> {
        expand_word(word, self.plan.dockerfile.escape, &self.state.variables)
    }

    pub(super) fn expand_option(&self, word: Option<&Word>) -> Outcome<Option<String>> {
        word.map(|word| self.expand(word)).transpose()
    }

    /// The shell of shell-form commands.
    pub(super) fn shell(&self) -> Vec<String> {
        match self.state.config.shell.as_slice() {
            [] => vec!["/bin/sh".into(), "-c".into()],
            shell => shell.to_vec(),
        }
    }

    /// What `--from` names in the instruction at `position`, in its mount `index`; the build context where there is none.
    pub(super) fn source(&self, position: usize, index: usize) -> Input {
        let Some(source) = self.planned.sources.get(&(position, index)) else {
            return Input::Context(ContextId::Build);
        };
        Input::Files(match source {
            StageBase::Context(id) => return Input::Context(ContextId::Named(*id)),
            StageBase::Scratch => Filesystem::Scratch,
            StageBase::Image(id) => Filesystem::Base(*id),
            StageBase::Stage(index) => {
                let state = self.finished[*index].as_ref();
                state
                    .expect("a stage comes behind those that it reads")
                    .filesystem
            }
        })
    }

    /// Records an instruction that makes no layer.
    fn note(&mut self, created_by: String) {
        self.state.entries.push(Entry {
            created_by,
            step: None,
        });
    }

    /// Adds a step and its history, and moves the stage onto what it leaves.
    pub(super) fn step(
        &mut self,
        instruction: &Instruction,
        action: Action,
        created_by: String,
        text: &str,
    ) {
        let id = StepId(self.steps.len());
        self.steps.push(Step {
            below: self.state.filesystem,
            action,
            label: label(&self.planned.name, self.position, self.total, text),
            instruction: instruction.source.clone(),
            span: instruction.span,
            line: instruction.line,
            platform: self.planned.platform.clone(),
            stage: self.stage.to_owned(),
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
        self.state.config.entrypoint = Some(args).filter(|args| !args.is_empty());
        if !self.cmd_set {
            self.state.config.cmd = None;
        }
    }

    fn expose(&mut self, words: &[Word]) -> Outcome {
        let mut ports = Vec::new();
        // Sorted as they are written, so that their order never changes an image.
        let mut words: Vec<&Word> = words.iter().collect();
        words.sort_by_key(|word| &word.value);
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

    /// `|2 A=1 B=2 `: the declared arguments with the values in effect, each once.
    pub(super) fn history_args(&self) -> String {
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
}

/// `path` as seen from the directory `from`, normalised and absolute.
pub(super) fn absolute(from: &str, path: &str) -> String {
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
pub(super) fn summary(content: &str) -> String {
    let mut lines = content.trim().lines();
    let first = lines.next().unwrap_or_default().to_owned();
    if lines.next().is_some() {
        format!("{first}...")
    } else {
        first
    }
}
