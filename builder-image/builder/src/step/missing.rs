//! Why a source of COPY or ADD is not in the context, as far as that can be guessed. Only for messages.

use crate::context::BuildContext;
use crate::tree::{ImagePath, Tree};

/// What to do about `source`, which the context does not have.
pub fn hint(context: &BuildContext, source: &str) -> Option<String> {
    if context.ignores(source) {
        return Some(".dockerignore leaves it out; write a line `!PATH` for it there".into());
    }
    let path = ImagePath::new(source);
    if source.split('/').any(|component| component == "..") {
        return Some(
            "sources stand below the context, and nothing above it can be copied: build with a directory above as context"
                .into(),
        );
    }
    if let Some(near) = near(context, &path) {
        return Some(format!("did you mean `{near}`?"));
    }
    source.starts_with('/').then(|| {
        let relative = source.trim_start_matches('/');
        format!(
            "a leading `/` means the context, not the machine: this is `{relative}` in the context"
        )
    })
}

/// A file beside the one that is asked for, with a similar name.
fn near(context: &BuildContext, path: &ImagePath) -> Option<String> {
    let directory = path.parent()?;
    let entries = context.read_dir(&directory).ok()?;
    let names: Vec<_> = entries
        .iter()
        .filter_map(|(name, _)| name.to_str())
        .collect();
    let found = dockerfile::nearest(path.name()?.to_str()?, names)?;
    let near = directory.child(found);
    Some(near.as_relative().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs_err::create_dir(at("src")).unwrap();
        for (name, text) in [
            ("app.txt", ""),
            ("src/main.c", ""),
            (".dockerignore", "*.log\n"),
        ] {
            fs_err::write(at(name), text).unwrap();
        }
        let context = BuildContext::open(directory.path()).unwrap();
        let context = context.with_dockerignore(None).unwrap();
        for (source, expected) in [
            ("ap.txt", Some("did you mean `app.txt`?")),
            ("src/mian.c", Some("did you mean `src/main.c`?")),
            (
                "a.log",
                Some(".dockerignore leaves it out; write a line `!PATH` for it there"),
            ),
            (
                "../x",
                Some(
                    "sources stand below the context, and nothing above it can be copied: build with a directory above as context",
                ),
            ),
            (
                "/etc/passwd",
                Some(
                    "a leading `/` means the context, not the machine: this is `etc/passwd` in the context",
                ),
            ),
            ("other", None),
        ] {
            assert_eq!(hint(&context, source).as_deref(), expected, "{source}");
        }
    }
}
