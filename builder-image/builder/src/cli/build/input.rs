//! What the arguments of `coopery build` name on this machine: the context, the Dockerfile and the places to write to.
//! All is looked at before any work is done, so that a slip costs no build; messages name the flag and what to do.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal};
use std::path::Path;

use super::fetched::Fetched;
use crate::context::{BuildContext, ContextError};
use crate::error::{Error, SourceFile};
use crate::export::{Form, Output};
use crate::named_context::NamedContext;

/// Opens the directory of the build context.
fn open_context(path: &Path) -> Result<BuildContext, Error> {
    let shown = path.display();
    if path.to_str().is_some_and(|text| text.contains("://")) {
        return refuse(format!(
            "the build context `{shown}` is no directory, and its protocol is not supported: write an https URL"
        ));
    }
    match fs_err::metadata(path) {
        Ok(found) if !found.is_dir() => refuse(format!(
            "the build context `{shown}` is not a directory: name the directory, and the Dockerfile with --file"
        )),
        Err(error) if is_absent(&error) => refuse(format!(
            "the build context `{shown}` does not exist: name a directory, for instance `.`"
        )),
        _ => Ok(BuildContext::open(path)?),
    }
}

/// The Dockerfile and what the context offers; `fetched` is what was fetched of them already.
pub(super) fn read_definition(
    directory: &Path,
    file: Option<&Path>,
    fetched: Option<Fetched>,
) -> Result<(SourceFile, BuildContext), Error> {
    let remote = (fetched.as_ref()).and_then(|fetched| fetched.context.clone());
    let context = open_context(remote.as_deref().unwrap_or(directory))?;
    let (file, ignore_for) = if let Some(path) = fetched.and_then(|fetched| fetched.dockerfile) {
        let text = fs_err::read_to_string(path).map_err(Error::io("reading the Dockerfile"))?;
        let name = "Dockerfile".into();
        (SourceFile { name, text }, None)
    } else if remote.is_some() {
        let path = file.map(Path::to_string_lossy).unwrap_or_default();
        let (name, text) = context.read_dockerfile(&path)?;
        (SourceFile { name, text }, None)
    } else {
        read_dockerfile(&context, directory, file)?
    };
    // What was fetched has in it what it shall have.
    let context = match remote {
        Some(_) => context,
        None => context.with_dockerignore(ignore_for.as_deref())?,
    };
    Ok((file, context))
}

/// The Dockerfile: `file`, or that of the context. Its path in the context comes with it, where it is in there.
fn read_dockerfile(
    context: &BuildContext,
    directory: &Path,
    file: Option<&Path>,
) -> Result<(SourceFile, Option<String>), Error> {
    let Some(path) = file else {
        return match context.read_dockerfile("") {
            Ok((name, text)) => Ok((
                SourceFile {
                    name: name.clone(),
                    text,
                },
                Some(name),
            )),
            Err(ContextError::NoDockerfile(_)) => refuse(format!(
                "the build context `{}` has no Dockerfile: make one, or name one with --file",
                directory.display()
            )),
            Err(error) => Err(error.into()),
        };
    };
    let shown = path.display();
    match fs_err::read_to_string(path) {
        Ok(text) => {
            let inside = inside(directory, path);
            let name = inside.clone().unwrap_or_else(|| shown.to_string());
            Ok((SourceFile { name, text }, inside))
        }
        Err(error) if is_absent(&error) => {
            let meant = directory.join(path);
            let help = if meant.is_file() {
                format!(", did you mean --file {}?", meant.display())
            } else {
                String::new()
            };
            refuse(format!(
                "--file {shown}: there is no such file in the working directory{help}"
            ))
        }
        Err(error) => match error.kind() {
            ErrorKind::IsADirectory => refuse(format!(
                "--file {shown}: it is a directory, name the Dockerfile in it"
            )),
            ErrorKind::InvalidData => refuse(format!("--file {shown}: it is not text in UTF-8")),
            _ => refuse(format!("--file: {error}")),
        },
    }
}

/// Whether the directories that were given a name are there.
pub(super) fn check_contexts(contexts: &BTreeMap<String, NamedContext>) -> Result<(), Error> {
    for (name, context) in contexts {
        if let NamedContext::Directory(path) = context
            && !path.is_dir()
        {
            return refuse(format!(
                "--build-context {name}: there is no directory `{}`",
                path.display()
            ));
        }
    }
    Ok(())
}

/// Whether the outputs can be written where they are wanted.
pub(super) fn check_outputs<'a>(
    outputs: impl IntoIterator<Item = &'a Output>,
) -> Result<(), Error> {
    for output in outputs {
        let Some(path) = &output.path else {
            if std::io::stdout().is_terminal() {
                return refuse(
                    "--output: standard output is a terminal, name a file with dest=FILE",
                );
            }
            continue;
        };
        let shown = path.display();
        match (output.form, fs_err::metadata(path)) {
            (Form::OciDirectory, Ok(found)) if !found.is_dir() => {
                return refuse(format!(
                    "--output: `{shown}` is not a directory, which tar=false writes: name another, or leave tar=false out"
                ));
            }
            (form, Ok(found)) if form.is_directory() && !found.is_dir() => {
                return refuse(format!(
                    "--output: `{shown}` is not a directory, name another"
                ));
            }
            (form, _) if form.is_directory() => {}
            (Form::OciArchive, Ok(found)) if found.is_dir() => {
                return refuse(format!(
                    "--output: `{shown}` is a directory: name a file in it, or add tar=false"
                ));
            }
            _ => check_file("--output", Some(path))?,
        }
    }
    Ok(())
}

/// Whether a file can be written there.
pub(super) fn check_file(flag: &str, path: Option<&Path>) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    if path.is_dir() {
        return refuse(format!(
            "{flag}: `{}` is a directory, name a file in it",
            path.display()
        ));
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => refuse(format!(
            "{flag}: there is no directory `{}`, make it first",
            parent.display()
        )),
        _ => Ok(()),
    }
}

fn refuse<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::Request(message.into()))
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The path of `file` inside the directory `context`, where it is in it.
fn inside(context: &Path, file: &Path) -> Option<String> {
    let context = fs_err::canonicalize(context).ok()?;
    // A link counts by where it is, not by what it points to.
    let directory = fs_err::canonicalize(
        file.parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )
    .ok()?;
    let path = directory.join(file.file_name()?);
    path.strip_prefix(context).ok()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs_err::create_dir_all(path("context/sub")).unwrap();
        fs_err::write(path("context/sub/Other"), "FROM scratch\n").unwrap();
        fs_err::write(path("context/bytes"), b"\xff").unwrap();
        let message = |error: Error| {
            assert!(error.is_users());
            let root = format!("{}/", directory.path().display());
            error.to_string().replace(&root, "")
        };
        for (name, expected) in [
            (
                "absent",
                "the build context `absent` does not exist: name a directory, for instance `.`",
            ),
            (
                "context/sub/Other",
                "the build context `context/sub/Other` is not a directory: name the directory, and the Dockerfile with --file",
            ),
            (
                "context/sub/Other/x",
                "the build context `context/sub/Other/x` does not exist: name a directory, for instance `.`",
            ),
        ] {
            let error = open_context(&path(name)).map(drop).unwrap_err();
            assert_eq!(message(error), expected);
        }
        let context = open_context(&path("context")).unwrap();
        let read = |file: Option<&Path>| read_dockerfile(&context, &path("context"), file);
        let sub = path("context/sub");
        for (file, expected) in [
            (
                None,
                "the build context `context` has no Dockerfile: make one, or name one with --file",
            ),
            (
                Some(sub.as_path()),
                "--file context/sub: it is a directory, name the Dockerfile in it",
            ),
            (
                Some(&path("context/bytes")),
                "--file context/bytes: it is not text in UTF-8",
            ),
            (
                Some(&path("no")),
                "--file no: there is no such file in the working directory",
            ),
            (
                Some(Path::new("sub/Other")),
                "--file sub/Other: there is no such file in the working directory, did you mean --file context/sub/Other?",
            ),
        ] {
            assert_eq!(message(read(file).map(drop).unwrap_err()), expected);
        }
        let (found, inside) = read(Some(&path("context/sub/Other"))).unwrap();
        assert_eq!(
            (found.name.as_str(), inside.as_deref()),
            ("sub/Other", Some("sub/Other"))
        );
    }

    #[test]
    fn places_that_cannot_be_written_to_are_found_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(directory.path().join(name));
        fs_err::write(directory.path().join("file"), "").unwrap();
        let output = |form, path| Output {
            form,
            path,
            names: Vec::new(),
        };
        for (form, name, fits) in [
            (Form::OciArchive, "file", true),
            (Form::OciArchive, "new", true),
            (Form::OciArchive, "", false),
            (Form::DockerArchive, "", false),
            (Form::DockerArchive, "no/new", false),
            (Form::OciDirectory, "no/new", true),
            (Form::OciDirectory, "", true),
            (Form::OciDirectory, "file", false),
        ] {
            let checked = check_outputs(&[output(form, path(name))]);
            assert_eq!(checked.is_ok(), fits, "{form:?} {name}");
        }
        assert!(check_file("--iidfile", path("id").as_deref()).is_ok());
        let error = check_file("--iidfile", Some(Path::new("/no/such/id"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--iidfile: there is no directory `/no/such`, make it first"
        );
    }
}
