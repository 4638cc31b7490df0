//! COPY and ADD: what they become once their words are expanded.

use dockerfile::{
    Add, Copy, Diagnostic, Heredoc, Instruction, Mode, Source, SourceLocation, Spanned, Word,
};

use super::instruction::{Outcome, absolute};
use super::stage::Builder;
use super::{Action, ContextId, CopyAction, GitDir, Input};

/// Sources of a copy: paths, and documents by name and content.
type Selected = (Vec<String>, Vec<(String, String)>);

impl Builder<'_> {
    pub(super) fn copy(
        &mut self,
        position: usize,
        instruction: &Instruction,
        copy: &Copy,
    ) -> Outcome {
        let from = self.source(position, 0);
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
                git_dir: GitDir::Removed,
                link: is_set(copy.link.as_ref()),
                parents: is_set(copy.parents.as_ref()),
                exclude: &copy.exclude,
                unpack: None,
            },
        )
    }

    pub(super) fn add(&mut self, instruction: &Instruction, add: &Add) -> Outcome {
        let (sources, documents) = self.sources(&add.sources, true)?;
        self.copy_step(
            instruction,
            CopyParts {
                add: true,
                from: Input::Context(ContextId::Build),
                sources,
                documents,
                destination: &add.destination,
                chown: add.chown.as_ref(),
                chmod: add.chmod.as_ref(),
                checksum: add.checksum.as_ref(),
                git_dir: if is_set(add.keep_git_dir.as_ref()) {
                    GitDir::Kept
                } else {
                    GitDir::Removed
                },
                link: is_set(add.link.as_ref()),
                parents: false,
                exclude: &add.exclude,
                unpack: add.unpack.as_ref().map(|unpack| unpack.value),
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
        let exclude = parts.exclude.iter().map(|pattern| self.expand(pattern));
        let exclude = exclude.collect::<Outcome<Vec<_>>>()?;
        let mut created_by = String::from(if parts.add { "ADD" } else { "COPY" });
        if parts.parents {
            created_by.push_str(" --parents");
        }
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
            // The reference copies onto what is below as soon as there is a mode.
            link: parts.link && chmod.is_none(),
            chmod,
            checksum,
            git_dir: parts.git_dir,
            parents: parts.parents,
            exclude,
            unpack: parts.unpack,
        });
        let text = instruction.source.clone();
        self.step(instruction, action, created_by, &text);
        Ok(())
    }
}

/// What COPY and ADD have in common, sources expanded.
struct CopyParts<'a> {
    add: bool,
    from: Input,
    sources: Vec<String>,
    documents: Vec<(String, String)>,
    destination: &'a Word,
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    checksum: Option<&'a Word>,
    git_dir: GitDir,
    link: bool,
    parents: bool,
    exclude: &'a [Word],
    unpack: Option<bool>,
}

fn is_set(flag: Option<&Spanned<bool>>) -> bool {
    flag.is_some_and(|flag| flag.value)
}

/// Refuses what a source must not turn out to be once its variables are replaced.
fn check_source(path: &str, word: &Word, add: bool) -> Outcome {
    let mut help = "use ADD";
    let message = match SourceLocation::of(path) {
        SourceLocation::Local => return Ok(()),
        SourceLocation::Http if add => return Ok(()),
        SourceLocation::Git if add && path.starts_with("http") => return Ok(()),
        SourceLocation::Git if add => {
            help = "write an https URL; a private repository takes the secret GIT_AUTH_TOKEN";
            format!("git is fetched by https only: `{path}`")
        }
        SourceLocation::Http => format!("COPY can not copy from a URL: `{path}`"),
        SourceLocation::Git => format!("COPY can not copy from a git repository: `{path}`"),
    };
    Err(Box::new(
        Diagnostic::error("unsupported", word.span, message).help(help),
    ))
}

fn ends_in_dot(path: &str) -> bool {
    matches!(path.rsplit('/').next(), Some("." | ".."))
}
