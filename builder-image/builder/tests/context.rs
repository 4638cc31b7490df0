//! `coopery build` on contexts that are no directories of this machine. Neither root nor a network is needed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coopery");

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The context that most cases are built from: what its ignore file names is copied only where that file does not count.
fn files() -> Vec<u8> {
    archive(&[
        ("Dockerfile", "FROM scratch\nCOPY a* /\n"),
        ("other/Dockerfile", "FROM scratch\nCOPY other/b /\n"),
        ("other/b", "b"),
        ("a", "a"),
        ("a.md", "ignored"),
        (".dockerignore", "*.md\n"),
    ])
}

/// Builds in `directory`; the names of the image's files, or the message.
fn build(directory: &Path, arguments: &[&str], input: &[u8]) -> Result<Vec<String>, String> {
    let output = directory.join("output");
    let _ = fs_err::remove_dir_all(&output);
    let mut child = Command::new(PROGRAM)
        .args(["build", "--progress", "quiet", "--root"])
        .arg(directory.join("root"))
        .arg("-o")
        .arg(format!("type=local,dest={}", output.display()))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    let ended = child.wait_with_output().unwrap();
    let left = fs_err::read_dir(directory.join("root/tmp"));
    assert_eq!(left.map_or(0, Iterator::count), 0, "something is left over");
    if !ended.status.success() {
        assert_eq!(ended.status.code(), Some(1));
        return Err(String::from_utf8(ended.stderr).unwrap());
    }
    let mut names: Vec<_> = fs_err::read_dir(output)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    Ok(names)
}

#[test]
fn standard_input_is_an_archive_or_a_dockerfile() {
    let directory = tempfile::tempdir().unwrap();
    let context = directory.path().join("context");
    tar::Archive::new(&files()[..]).unpack(&context).unwrap();
    let text = b"FROM scratch\nCOPY <<EOF /text\nx\nEOF\n";
    let copies = b"FROM scratch\nCOPY a* /from-input/\n";
    for (arguments, input, expected) in [
        (&["-"][..], &files()[..], Ok(&["a", "a.md"][..])),
        (&["-"], &gzip(&files()), Ok(&["a", "a.md"])),
        (&["-f", "other/Dockerfile", "-"], &files(), Ok(&["b"])),
        (&["-"], text, Ok(&["text"])),
        (&["context"], b"", Ok(&["a"])),
        (&["-f", "-", "context"], copies, Ok(&["from-input"])),
        (&["-"], copies, Ok(&[])),
        (&["-f", "-", "-"], text, Err("cannot be both")),
        (&["-f", "none", "-"], &files(), Err("has no file `none`")),
        (
            &["-"],
            b"\xff\xfe",
            Err("neither a tar archive nor the text"),
        ),
        (&["-"], b"RUNN x\n", Err("unknown instruction `RUNN`")),
        (
            &["ftp://h/x.tar"],
            b"",
            Err("its protocol is not supported"),
        ),
    ] {
        match (build(directory.path(), arguments, input), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{arguments:?}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (found, _) => panic!("{arguments:?}: {found:?}"),
        }
    }
}

/// A server of the archive of [`files`] and of a Dockerfile.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let (status, body) = match request.split(' ').nth(1).unwrap_or_default() {
                "/app.tar.gz?x=1" => ("200 OK", gzip(&files())),
                "/Dockerfile" => ("200 OK", b"FROM scratch\nWORKDIR /made\n".to_vec()),
                _ => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    server
}

#[test]
fn urls_are_archives_or_dockerfiles() {
    let server = serve();
    let directory = tempfile::tempdir().unwrap();
    for (path, expected) in [
        ("/app.tar.gz?x=1", Ok(&["a", "a.md"][..])),
        ("/Dockerfile", Ok(&["made"])),
        ("/gone.tar", Err("not found")),
    ] {
        let url = format!("{server}{path}");
        match (build(directory.path(), &[&url], b""), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{path}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (found, _) => panic!("{path}: {found:?}"),
        }
    }
}

/// A Dockerfile behind its first FROM, the contexts, and the files of the image or a part of the message.
type Row<'a> = (&'a str, &'a [&'a str], Result<&'a [&'a str], &'a str>);

#[test]
fn contexts_with_names_are_directories_urls_and_stages() {
    let server = serve();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (name, content) in [
        ("context/main", "main"),
        ("one/of-one", "1"),
        ("one/ignored", ""),
        ("one/.dockerignore", "ignored\n.dockerignore\n"),
        ("two/of-two", "2"),
    ] {
        fs_err::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs_err::write(at(name), content).unwrap();
    }
    let archive = format!("url={server}/app.tar.gz?x=1");
    let gone = format!("gone={server}/gone.tar");
    let other = if cfg!(target_arch = "x86_64") {
        "linux/arm64"
    } else {
        "linux/amd64"
    };
    let of_other = format!("dir::{other}=two");
    let dir = "dir=one";
    let rows: &[Row<'_>] = &[
        // Files to copy from, and to begin with.
        ("COPY --from=dir / /", &[dir], Ok(&["of-one"])),
        (
            "COPY --from=dir / /\nFROM dir\nCOPY main /",
            &[dir],
            Ok(&["main", "of-one"]),
        ),
        ("COPY --from=url a* /", &[&archive], Ok(&["a", "a.md"])),
        // In place of a stage, whose instructions do not count.
        (
            "COPY main /\nFROM scratch AS dir\nCOPY none /\nFROM scratch\nCOPY --from=dir / /",
            &[dir],
            Ok(&["of-one"]),
        ),
        // For one platform.
        ("COPY --from=dir / /", &[dir, &of_other], Ok(&["of-one"])),
        (
            "COPY main /\nFROM --platform=OTHER scratch\nCOPY --from=dir / /",
            &[dir, &of_other],
            Ok(&["of-two"]),
        ),
        // Stages and other contexts.
        (
            "COPY main /\nFROM scratch AS src\nWORKDIR /of-src\nFROM scratch\nCOPY --from=lib / /",
            &["lib=target:src"],
            Ok(&["of-src"]),
        ),
        (
            "COPY --from=lib / /",
            &["lib=target:dir", dir],
            Ok(&["of-one"]),
        ),
        (
            "COPY --from=lib / /",
            &["lib=target:dir", "dir=target:lib"],
            Err("and so on in a circle"),
        ),
        (
            "COPY --from=lib / /",
            &["lib=target:none"],
            Err("`none`, which does not exist"),
        ),
        (
            "COPY --from=dir / /",
            &["dir=three"],
            Err("there is no directory `three`"),
        ),
        ("COPY --from=gone / /", &[&gone], Err("the context `gone`")),
        // What nothing needs is not asked for.
        (
            "COPY main /",
            &["gone=https://127.0.0.1:1/x.git"],
            Ok(&["main"]),
        ),
    ];
    for (text, contexts, expected) in rows {
        let text = format!("FROM scratch\n{text}\n").replace("OTHER", other);
        fs_err::write(at("context/Dockerfile"), &text).unwrap();
        let mut arguments = vec!["context"];
        for context in *contexts {
            arguments.extend(["--build-context", context]);
        }
        match (build(directory.path(), &arguments, b""), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, *expected, "{text}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
}
