//! The context as it is offered, and where it comes from.

#![allow(clippy::unwrap_used, reason = "tests")]
use std::os::unix::fs::symlink;

use super::*;

fn context(files: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in files {
        let path = directory.path().join(file);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, file).unwrap();
    }
    directory
}

fn names(context: &BuildContext, path: &str) -> Vec<String> {
    let entries = context.read_dir(&ImagePath::new(path)).unwrap();
    entries
        .into_iter()
        .map(|(name, _)| name.into_string().unwrap())
        .collect()
}

#[test]
fn ignored_files_are_not_there_and_parents_of_excepted_ones_are() {
    let directory = context(&[
        "a.md",
        "keep.md",
        "src/deep/file.rs",
        "src/deep/other",
        "src/x",
        "target/big",
        "empty/no",
    ]);
    fs_err::write(
        directory.path().join(".dockerignore"),
        "*\n!keep.md\n!src/**/*.rs\n",
    )
    .unwrap();
    let context = BuildContext::open(directory.path())
        .unwrap()
        .with_dockerignore(Some("Dockerfile"))
        .unwrap();
    assert_eq!(names(&context, "/"), ["keep.md", "src"]);
    assert_eq!(names(&context, "/src"), ["deep"]);
    assert_eq!(names(&context, "/src/deep"), ["file.rs"]);
    let look = |path: &str| context.lookup(&ImagePath::new(path)).unwrap().is_some();
    assert!(look("/") && look("src") && look("src/deep/file.rs"));
    assert!(!look("src/x") && !look("target") && !look("target/big") && !look("nothing"));
    assert!(context.open(&ImagePath::new("src/x")).is_err());
    assert_eq!(
        context
            .lookup(&ImagePath::new("keep.md"))
            .unwrap()
            .unwrap()
            .uid,
        0
    );
}

#[test]
fn the_ignore_file_of_the_dockerfile_wins() {
    let directory = context(&["a", "b", "docker/Dockerfile"]);
    fs_err::write(directory.path().join(".dockerignore"), "a").unwrap();
    fs_err::write(directory.path().join("docker/Dockerfile.dockerignore"), "b").unwrap();
    let open = |dockerfile| {
        BuildContext::open(directory.path())
            .unwrap()
            .with_dockerignore(dockerfile)
            .unwrap()
    };
    assert_eq!(
        names(&open(Some("docker/Dockerfile")), "/"),
        [".dockerignore", "a", "docker"]
    );
    assert_eq!(names(&open(None), "/"), [".dockerignore", "b", "docker"]);
    fs_err::write(directory.path().join(".dockerignore"), "x\n[").unwrap();
    let error = BuildContext::open(directory.path())
        .unwrap()
        .with_dockerignore(None)
        .unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn dockerfiles_are_found() {
    let directory = context(&["sub/dockerfile", "other"]);
    symlink("sub/dockerfile", directory.path().join("link")).unwrap();
    symlink("/etc/passwd", directory.path().join("leak")).unwrap();
    let context = BuildContext::open(directory.path()).unwrap();
    let read = |path: &str| context.read_dockerfile(path);
    assert_eq!(
        read("sub/Dockerfile").unwrap(),
        ("sub/dockerfile".into(), "sub/dockerfile".into())
    );
    assert_eq!(read("link").unwrap().1, "sub/dockerfile");
    // An absolute link is one inside of the context.
    assert!(matches!(read("leak"), Err(ContextError::NoDockerfile(_))));
    assert!(matches!(read(""), Err(ContextError::NoDockerfile(name)) if name == "Dockerfile"));
}

#[test]
fn subdirectories_stay_inside() {
    let directory = context(&["svc/app/file", "file"]);
    let root = directory.path().canonicalize().unwrap();
    for (target, link) in [
        ("svc/app", "inside"),
        ("/etc", "absolute"),
        ("../..", "up"),
        ("svc/../../x", "sneaky"),
        ("loop", "loop"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    let rows: [(&str, Option<&str>); 5] = [
        ("", Some("")),
        ("svc/app", Some("svc/app")),
        ("svc/app/", Some("svc/app")),
        ("./svc", Some("svc")),
        ("inside", Some("svc/app")),
    ];
    for (path, expected) in rows {
        assert_eq!(
            enter_subdirectory(&root, path).ok(),
            expected.map(|path| root.join(path)),
            "{path}"
        );
    }
    for path in [
        "..",
        "../..",
        "svc/../..",
        "/etc",
        "/svc",
        "absolute",
        "up",
        "sneaky",
        "loop",
    ] {
        assert!(
            matches!(
                enter_subdirectory(&root, path),
                Err(ContextError::Outside(_))
            ),
            "{path}"
        );
    }
    for path in ["nothing", "file", "svc/nothing"] {
        assert!(
            matches!(
                enter_subdirectory(&root, path),
                Err(ContextError::NoSubdirectory(_))
            ),
            "{path}"
        );
    }
}

#[test]
fn files_that_did_not_change_are_not_read_again() {
    use std::time::Duration;

    use crate::step::copy::{CopySource, CopySpec};

    let (root, directory) = (tempfile::tempdir().unwrap(), context(&["deep/a", "b", "c"]));
    let cache = Cache::open(root.path()).unwrap();
    let open = |later: u64| {
        let now = SystemTime::now() + Duration::from_secs(later);
        let context = BuildContext::open(directory.path()).unwrap();
        context.remembering_at(&cache, now)
    };
    let known = |context: &BuildContext| {
        ["deep/a", "b", "c"].map(|path| context.known_digest(&ImagePath::new(path)))
    };
    let spec = CopySpec::new([CopySource::Path(".".into())], "/");
    let read = |context: &BuildContext| crate::step::digest_inputs(&spec, context).unwrap().0;
    let digests = ["deep/a", "b", "c"].map(|text| Some(Digest::of(text.as_bytes())));

    // Files of this very moment could change without a trace.
    let context = open(0);
    let first = read(&context);
    assert_eq!(known(&context), [None, None, None]);
    let context = open(60);
    assert_eq!(read(&context), first);
    assert_eq!(known(&context), digests);
    context.keep_digests(&cache);
    let context = open(60);
    assert_eq!(known(&context), digests);
    assert_eq!(read(&context), first);

    // As long as before, and with the time that it had.
    let path = directory.path().join("b");
    let stamp = || {
        let context = BuildContext::open(directory.path()).unwrap();
        context.stamp(&ImagePath::new("b"))
    };
    let before = stamp();
    let time = fs_err::metadata(&path).unwrap().modified().unwrap();
    // Until the clock of the file system has gone on.
    while stamp() == before {
        fs_err::write(&path, "B").unwrap();
        let file = fs_err::File::options().append(true).open(&path).unwrap();
        file.file().set_modified(time).unwrap();
    }
    let context = open(60);
    assert_eq!(known(&context)[1], None);
    assert_ne!(read(&context), first);
    assert_eq!(known(&context)[1], Some(Digest::of(b"B")));
}
