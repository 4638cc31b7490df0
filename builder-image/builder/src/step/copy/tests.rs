//! The semantics of COPY, one row each. Rows name the test of BuildKit or the case of buildah that they mirror, where
//! there is one.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use super::*;
use crate::{
    fixture::{FIXTURE_TIME, all_owners, lines, show_layer, snapshot},
    layer::{Compression, PackOptions, pack},
    tree::{Attributes, Kind, SharedTree, Xattrs},
};

const NOW: Timestamp = Timestamp::from_seconds(2_000_000);
const PASSWD: &str = "/etc/passwd = app:x:100:101::/:;";

/// `[flags] source… destination`; `''` is the empty text.
fn parse(text: &str, unpack: Unpack) -> CopySpec {
    let mut spec = CopySpec {
        unpack,
        ..CopySpec::new([], "")
    };
    let mut words: Vec<&str> = text.split(' ').collect();
    spec.destination = words.pop().unwrap().trim_matches('\'').to_owned();
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("--chown", owner) => spec.chown = Some(owner.to_owned()),
            ("--chmod", _) => {
                let (_, mode) = word.split_once('=').unwrap();
                spec.chmod = Some(Mode::parse(mode).unwrap());
            }
            ("--exclude", pattern) => spec.exclude.push(pattern.to_owned()),
            ("--workdir", workdir) => workdir.clone_into(&mut spec.workdir),
            ("--link", _) => spec.link = true,
            ("--parents", _) => spec.parents = true,
            _ => match word.strip_prefix("<<") {
                Some(name) => spec.sources.push(CopySource::Inline {
                    name: name.to_owned(),
                    content: b"inline".to_vec(),
                }),
                None => spec.sources.push(CopySource::Path(word.to_owned())),
            },
        }
    }
    spec
}

fn run(
    base: &str,
    from: &str,
    spec: &CopySpec,
    owners: Owners,
) -> Result<(tempfile::TempDir, Arc<LayerDir>), StepError> {
    let dir = tempfile::tempdir().unwrap();
    fs_err::create_dir(dir.path().join("base")).unwrap();
    fs_err::create_dir(dir.path().join("from")).unwrap();
    let base = snapshot(&[base], &dir.path().join("base"), owners);
    let from = snapshot(&[from], &dir.path().join("from"), owners);
    let onto = Onto {
        base: &base,
        created: NOW,
        owners,
    };
    let layer = copy(spec, &from, &onto, &dir.path().join("new"));
    let from: SharedTree = Arc::new(from);
    let lent = lend(spec, &from, &onto);
    let options = PackOptions {
        compression: Compression::None,
        ..PackOptions::default()
    };
    let blobs = dir.path().join("blobs");
    match (&layer, &lent) {
        // Which files are where they were makes no difference in the image.
        (Ok(layer), Ok(lent)) => assert_eq!(
            pack(layer, &options, &blobs).unwrap(),
            lent.pack(&options, &blobs).unwrap()
        ),
        (Err(error), Err(other)) => assert_eq!(error.to_string(), other.to_string()),
        (copied, lent) => panic!("copied: {:?}, lent: {:?}", copied.is_ok(), lent.is_ok()),
    }
    Ok((dir, Arc::new(layer?)))
}

/// What is done to a context.
type Change = fn(&Path) -> std::io::Result<()>;

#[test]
fn a_lent_file_that_was_changed_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let base = Snapshot::empty();
    let onto = Onto {
        base: &base,
        created: NOW,
        owners: Owners::Recorded,
    };
    let spec = parse(". /", Unpack::Never);
    let changes: [(&str, Change, bool); 6] = [
        ("nothing", |_| Ok(()), true),
        (
            "a new file",
            |dir| fs_err::write(dir.join("new"), "new"),
            true,
        ),
        (
            "longer",
            |dir| fs_err::write(dir.join("a"), "longer"),
            false,
        ),
        ("shorter", |dir| fs_err::write(dir.join("a"), ""), false),
        (
            "other bytes",
            |dir| fs_err::write(dir.join("a"), "y"),
            false,
        ),
        ("gone", |dir| fs_err::remove_file(dir.join("a")), false),
    ];
    for (name, change, is_packed) in changes {
        let context = path(name);
        fs_err::create_dir(&context).unwrap();
        fs_err::write(context.join("a"), "x").unwrap();
        let from: SharedTree = Arc::new(BuildContext::open(&context).unwrap());
        let lent = lend(&spec, &from, &onto).unwrap();
        change(&context).unwrap();
        let packed = lent.pack(&PackOptions::default(), &path("blobs"));
        let right = match &packed {
            Ok(_) => is_packed,
            Err(error) => !is_packed && error.is_of_source(),
        };
        assert!(right, "{name}: {packed:?}");
    }
}

/// name, base, source tree, instruction, what the layer has or `error: part of its message`
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

fn check(rows: &[Row]) {
    let mut failures = Vec::new();
    for (name, base, from, instruction, expected) in rows {
        for owners in all_owners() {
            let found = match run(base, from, &parse(instruction, Unpack::Never), owners) {
                Ok((_dir, layer)) => show_layer(&layer),
                Err(error) => format!("error: {error}"),
            };
            let right = match expected.strip_prefix("error: ") {
                Some(part) => found.starts_with("error: ") && found.contains(part),
                None => found == lines(expected),
            };
            if !right {
                failures.push(format!(
                    "{name} ({owners:?}): COPY {instruction}\nexpected:\n{}\nfound:\n{found}",
                    expected.replace("; ", "\n")
                ));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} rows:\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

#[test]
#[rustfmt::skip] // One row, one line.
fn names_of_the_destination() {
    check(&[
        ("a file gets the name of the destination", "", "/a = x", "a /b", "/b = x"),
        ("missing directories are made", "", "/a = x", "a /p/q/b", "/p/; /p/q/; /p/q/b = x"),
        ("a slash means a directory", "", "/a = x", "a /d/", "/d/; /d/a = x"),
        ("slash and dot mean a directory", "", "/a = x", "a /d/.", "/d/; /d/a = x"),
        ("an existing directory takes the file", "/d/", "/a = x", "a /d", "/d/; /d/a = x"),
        ("a file of the image is replaced", "/b = old", "/a = x", "a /b", "/b = x"),
        ("a directory is copied by content", "", "/s/a = x; /s/t/b = y", "s /d", "/d/; /d/a = x; /d/t/; /d/t/b = y"),
        ("so it is with a slash at the destination", "", "/s/a = x", "s /d/", "/d/; /d/a = x"),
        ("a slash at the source changes nothing", "", "/s/a = x", "s/ /d", "/d/; /d/a = x"),
        ("a slash and a dot at the source change nothing", "", "/s/a = x", "s/. /d", "/d/; /d/a = x"),
        ("a directory is merged into an existing one", "/d/old = o", "/s/a = x", "s /d", "/d/; /d/a = x"),
        ("the root of the source", "", "/a = x; /s/b = y", ". /d/", "/d/; /d/a = x; /d/s/; /d/s/b = y"),
        ("the root to the root", "", "/a = x; /s/b = y", ". /", "/a = x; /s/; /s/b = y"),
        ("an empty directory", "", "/s/", "s /d", "/d/"),
        ("EmptyDestDir: the empty text is the working directory", "/w/", "/a = x", "--workdir=/w a ''", "/w/; /w/a = x"),
        ("a dot is the working directory", "", "/a = x", "--workdir=/w a .", "/w/; /w/a = x"),
        ("a relative destination", "/w/", "/a = x", "--workdir=/w a b", "/w/; /w/b = x"),
        ("a relative directory", "", "/a = x", "--workdir=/w a d/", "/w/; /w/d/; /w/d/a = x"),
        ("above the working directory", "/w/", "/a = x", "--workdir=/w a ../b", "/b = x"),
        ("the destination stays in the image", "", "/a = x", "a ../../b", "/b = x"),
        ("WorkdirCopyIgnoreRelative: sources are relative to the root", "", "/a = x; /w/a = y", "--workdir=/w a b", "/w/; /w/b = x"),
        ("the source stays in its tree", "", "/a = x", "../../a /b", "/b = x"),
        ("a source with a leading slash", "", "/s/a = x", "/s/a /b", "/b = x"),
        ("dots in a source", "", "/s/a = x", "./s/../s/./a /b", "/b = x"),
        ("several sources to a directory", "", "/a = x; /b = y", "a b /d/", "/d/; /d/a = x; /d/b = y"),
        ("several sources to the working directory", "", "/a = x; /b = y", "a b .", "/a = x; /b = y"),
        ("several sources need a directory", "", "/a = x; /b = y", "a b /d", "error: several sources need a directory as destination: write `/d/`"),
        ("where there is one, a slash is not needed", "/d/", "/a = x; /b = y", "a b /d", "/d/; /d/a = x; /d/b = y"),
        ("several directories need no slash", "", "/s/a = x; /t/b = y", "s t /d", "/d/; /d/a = x; /d/b = y"),
        ("the first makes the directory", "", "/s/a = x; /b = y", "s b /d", "/d/; /d/a = x; /d/b = y"),
        ("a file first does not", "", "/s/a = x; /b = y", "b s /d", "error: several sources"),
        ("files and directories together", "", "/a = x; /s/b = y", "a s /d/", "/d/; /d/a = x; /d/b = y"),
        ("a later source replaces an earlier one", "", "/a = x; /s/a = y", "a s /d/", "/d/; /d/a = y"),
        ("a missing source is named", "", "/a = x", "b /c", "error: `b`: no such file or directory"),
        ("a missing source beside one that is there", "", "/a = x", "a b /c/", "error: `b`: no such"),
        ("below a file is nothing", "", "/a = x", "a/b /c", "error: `a/b`: no such"),
        ("odd names", "", "/a\\b = x", "a\\b /c\td", "/c\td = x"),
    ]);
}

#[test]
#[rustfmt::skip] // One row, one line.
fn wildcards() {
    let files = "/a.txt = a; /b.txt = b; /c.md = c; /s/d.txt = d; /s/t/e.txt = e; /.hidden = h; /[x] = br";
    check(&[
        ("a star", "", files, "*.txt /d/", "/d/; /d/a.txt = a; /d/b.txt = b"),
        ("a star takes hidden files, as Go's does", "", files, "* /d/", "/d/; /d/.hidden = h; /d/[x] = br; /d/a.txt = a; /d/b.txt = b; /d/c.md = c; /d/d.txt = d; /d/t/; /d/t/e.txt = e"),
        ("a question mark", "", files, "?.md /d/", "/d/; /d/c.md = c"),
        ("a class", "", files, "[ab].txt /d/", "/d/; /d/a.txt = a; /d/b.txt = b"),
        ("a negated class", "", files, "[^a].txt /d/", "/d/; /d/b.txt = b"),
        ("a star stays in its directory", "", files, "s/*.txt /d/", "/d/; /d/d.txt = d"),
        ("a wildcard in the middle", "", files, "*/t/*.txt /d/", "/d/; /d/e.txt = e"),
        ("a matched directory is copied by content", "", files, "s* /d/", "/d/; /d/d.txt = d; /d/t/; /d/t/e.txt = e"),
        ("an escaped bracket", "", files, "[[]x] /d/", "/d/; /d/[x] = br"),
        ("EmptyWildcard: no match is fine beside one", "", files, "c.md nothing* /d/", "/d/; /d/c.md = c"),
        ("no match alone makes nothing", "", files, "nothing* /d/", ""),
        ("one match renames", "", files, "c* /d", "/d = c"),
        ("several matches need a directory", "", files, "*.txt /d", "error: several sources need a directory"),
        ("several matches into an existing one", "/d/", files, "*.txt /d", "/d/; /d/a.txt = a; /d/b.txt = b"),
        ("a malformed pattern", "", files, "[ /d/", "error: syntax error in pattern"),
        ("a wildcard below a missing directory", "", files, "none/* /d/", "error: `none/*`: no such file"),
        ("a wildcard below a file", "", files, "c.md/* /d/", ""),
        ("wildcards do not walk through links", "", "/s/x/f = f; /s/l -> x", "s/*/f /d/", "/d/; /d/f = f"),
    ]);
}

#[test]
#[rustfmt::skip] // One row, one line.
fn symbolic_links() {
    check(&[
        ("SymlinkDestination: a link to a directory is followed", "/real/; /link -> real", "/a = x", "a /link/", "/real/; /real/a = x"),
        ("without the slash, too", "/real/; /link -> /real", "/a = x", "a /link", "/real/; /real/a = x"),
        ("CopyThroughSymlinkContext: in the middle", "/real/; /link -> real", "/a = x", "a /link/s/b", "/real/; /real/s/; /real/s/b = x"),
        ("a link to a file is written through", "/real = old; /link -> real", "/a = x", "a /link", "/real = x"),
        ("a link to nothing is written through", "/link -> gone/f", "/a = x", "a /link", "/gone/; /gone/f = x"),
        ("a link cannot leave the image", "/link -> ../../../../etc", "/a = x", "a /link/b", "/etc/; /etc/b = x"),
        ("a loop of links", "/l -> m; /m -> l", "/a = x", "a /l/b", "error: too many levels of symbolic links"),
        ("a link inside the destination directory is replaced", "/d/a -> /etc/passwd", "/a = x", "a /d/", "/d/; /d/a = x"),
        ("a directory onto a link to a directory merges there", "/real/; /link -> real", "/s/a = x", "s /link", "/real/; /real/a = x"),
        ("CopyFollowAllSymlinks: a source that is a link is dereferenced", "", "/f = x; /l -> f", "l /d/", "/d/; /d/l = x"),
        ("a source that is a link to a directory", "", "/s/a = x; /l -> s", "l /d", "/d/; /d/a = x"),
        ("a link above a source", "", "/s/t/a = x; /l -> s", "l/t/a /d/", "/d/; /d/a = x"),
        ("wildcard hits are dereferenced", "", "/f = x; /l1 -> f; /l2 -> /f", "l* /d/", "/d/; /d/l1 = x; /d/l2 = x"),
        ("an absolute link of a source stays in its tree", "", "/etc/f = inside; /l -> /etc/f", "l /d/", "/d/; /d/l = inside"),
        ("a source that links to nothing", "", "/l -> gone", "l /d/", "error: `l`: no such file"),
        ("CopySymlinks: links in a directory are kept", "", "/s/f = x; /s/l -> f; /s/gone -> nowhere; /s/abs -> /etc", "s /d", "/d/; /d/abs -> /etc; /d/f = x; /d/gone -> nowhere; /d/l -> f"),
        ("links are not chmodded but chowned", "", "/s/l -> f", "--chmod=600 --chown=5 s /d/", "600 5:5 /d/; 5:5 /d/l -> f"),
    ]);
}

#[test]
#[rustfmt::skip] // One row, one line.
fn replacing_what_is_there() {
    check(&[
        ("a file does not replace a directory", "/d/a/b = y", "/a = x", "a /d/", "error: cannot replace the directory /d/a with a file"),
        ("ContextChangeDirToFile: nor within a directory", "/d/a/b = y", "/s/a = x", "s /d", "error: cannot replace the directory /d/a with a file"),
        ("a link does not replace a directory", "/d/a/b = y", "/s/a -> x", "s /d", "error: cannot replace the directory"),
        ("a directory does not replace a file", "/d/a = y", "/s/a/b = x", "s /d", "error: cannot copy the directory `/s/a` to /d/a, which is not a directory"),
        ("a directory does not replace a link", "/real/; /d/a -> /real", "/s/a/b = x", "s /d", "error: which is not a directory"),
        ("a directory onto a file", "/d = y", "/s/a = x", "s /d", "error: which is not a directory"),
        ("a file below a file", "/d = y", "/a = x", "a /d/b", "error: /d: not a directory"),
        ("a file into a file", "/d = y", "/a = x", "a /d/", "error: /d: not a directory"),
        ("a file replaces a link in a directory", "/d/a -> b; /d/b = old", "/s/a = x", "s /d", "/d/; /d/a = x"),
        ("a link replaces a file", "/d/a = y", "/s/a -> b", "s /d", "/d/; /d/a -> b"),
        ("a link replaces a link", "/d/a -> c", "/s/a -> b", "s /d", "/d/; /d/a -> b"),
        ("what was deleted can come back", "/d/; /d/a whiteout", "/s/a/b = x", "s /d", "/d/; /d/a/; /d/a/b = x"),
        ("a name that marks deletions", "", "/s/x.wh.y = fine", "s /d/", "/d/; /d/x.wh.y = fine"),
        ("pipes and devices", "", "/s/p fifo; 666 /s/null c1:3; 660 0:6 /s/sda b8:0", "s /d", "/d/; 666 /d/null c1:3; /d/p fifo; 660 0:6 /d/sda b8:0"),
    ]);
}

#[test]
#[rustfmt::skip] // One row, one line.
fn owners_and_modes() {
    let passwd = PASSWD;
    let with_passwd = "/etc/passwd = app:x:100:101::/:; /etc/group = staff:x:50:";
    check(&[
        ("the source's owner is kept", "", "600 3:4 /a = x; 700 7:8 /s/; 5:6 /s/b = y", "a s /d/", "/d/; 600 3:4 /d/a = x; 5:6 /d/b = y"),
        ("the new directory is not the source's", "", "700 7:8 /s/; 750 7:8 /s/t/", "s /d", "/d/; 750 7:8 /d/t/"),
        ("--chown by number", "", "3:4 /a = x", "--chown=5:6 a /d/", "5:6 /d/; 5:6 /d/a = x"),
        ("a lone number is also the group", "", "/a = x", "--chown=5 a /b", "5:5 /b = x"),
        ("a name has its primary group", with_passwd, "/a = x", "--chown=app a /b", "100:101 /b = x"),
        ("a name and a group", with_passwd, "/a = x", "--chown=app:staff a /b", "100:50 /b = x"),
        ("a name and nothing", passwd, "/a = x", "--chown=app: a /b", "100:0 /b = x"),
        ("an unknown name is root", passwd, "3:4 /a = x", "--chown=nobody a /b", "/b = x"),
        ("no passwd file", "", "3:4 /a = x", "--chown=app a /b", "/b = x"),
        ("names are those of the image, not of the source", passwd, "/etc/passwd = app:x:7:7::/:; /a = x", "--chown=app a /b", "100:101 /b = x"),
        ("a passwd file behind a link", "/usr/passwd = app:x:9:9::/:; /etc/passwd -> ../usr/passwd", "/a = x", "--chown=app a /b", "9:9 /b = x"),
        ("new parents have the owner", "", "/a = x", "--chown=5 a /p/q/b", "5:5 /p/; 5:5 /p/q/; 5:5 /p/q/b = x"),
        ("CopyChownExistingDir: an existing directory keeps its owner", "700 1:2 /d/", "/s/a = x", "--chown=5 s /d", "700 1:2 /d/; 5:5 /d/a = x"),
        ("existing parents keep theirs", "700 1:2 /p/", "/a = x", "--chown=5 a /p/q/b", "700 1:2 /p/; 5:5 /p/q/; 5:5 /p/q/b = x"),
        ("an existing directory further down does not", "/d/t/", "711 3:4 /s/t/; /s/t/a = x", "s /d", "/d/; 711 3:4 /d/t/; /d/t/a = x"),
        ("--chown reaches everything", "", "/s/t/a = x; /s/l -> t", "--chown=5 s /d", "5:5 /d/; 5:5 /d/l -> t; 5:5 /d/t/; 5:5 /d/t/a = x"),
        ("modes are kept", "", "4755 /a = x; 1777 /s/t/", "a s /d/", "/d/; 4755 /d/a = x; 1777 /d/t/"),
        ("--chmod in octal", "", "/a = x", "--chmod=4711 a /b", "4711 /b = x"),
        ("--chmod sets new parents, as BuildKit does", "", "/a = x", "--chmod=700 a /p/b", "700 /p/; 700 /p/b = x"),
        ("--chmod keeps an existing directory", "711 /d/", "/s/a = x; /s/t/", "--chmod=600 s /d", "711 /d/; 600 /d/a = x; 600 /d/t/"),
        ("--chmod by letters", "", "600 /s/a = x; 700 /s/t/; 700 /s/b = y", "--chmod=u=rwX,go=rX s /d", "/d/; /d/a = x; 755 /d/b = y; /d/t/"),
        ("--chmod by letters adds", "", "640 /a = x", "--chmod=g+w,o+r a /b", "664 /b = x"),
        ("a document", "", "", "<<doc /d/", "/d/; /d/doc = inline"),
        ("a document renamed", "", "", "<<doc /conf", "/conf = inline"),
        ("a document with owner and mode", "", "", "--chown=5 --chmod=600 <<doc /conf", "600 5:5 /conf = inline"),
        ("a document and a file", "", "/a = x", "a <<doc /d/", "/d/; /d/a = x; /d/doc = inline"),
        ("a document does not replace a directory", "/d/doc/", "", "<<doc /d/", "error: cannot replace the directory"),
    ]);
}

#[test]
#[rustfmt::skip] // One row, one line.
fn link_exclude_and_parents() {
    let tree = "/a.txt = a; /a.md = m; /s/b.txt = b; /s/b.md = n; /s/t/c.md = o; /s/t/c.txt = c; 700 3:4 /p/; 711 5:6 /p/q/; /p/q/f = f; /p/q2/f = g";
    check(&[
        ("--link does not look below", "/d -> elsewhere; 700 1:2 /e/", tree, "--link a.txt /d/", "/d/; /d/a.txt = a"),
        ("--link describes its directories itself", "700 1:2 /e/", tree, "--link a.txt /e/", "/e/; /e/a.txt = a"),
        ("--link with numbers", "", tree, "--link --chown=5:6 a.txt /e/", "5:6 /e/; 5:6 /e/a.txt = a"),
        ("--link with a name", PASSWD, tree, "--link --chown=app a.txt /e/", "error: needs numbers instead of `app`"),
        ("--exclude below a directory", "", tree, "--exclude=**/*.md s /d", "/d/; /d/b.txt = b; /d/t/; /d/t/c.txt = c"),
        ("--exclude at the top of it", "", tree, "--exclude=*.md s /d", "/d/; /d/b.txt = b; /d/t/; /d/t/c.md = o; /d/t/c.txt = c"),
        ("--exclude a directory", "", tree, "--exclude=t s /d", "/d/; /d/b.md = n; /d/b.txt = b"),
        ("--exclude and take back", "", tree, "--exclude=t --exclude=!t/c.md s /d", "/d/; /d/b.md = n; /d/b.txt = b; /d/t/; /d/t/c.md = o"),
        ("--exclude files that are sources", "", tree, "--exclude=*.md a.* /d/", "/d/; /d/a.txt = a"),
        ("--parents keeps directories and what they are", "", tree, "--parents p/q/f /d/", "/d/; 700 3:4 /d/p/; 711 5:6 /d/p/q/; /d/p/q/f = f"),
        ("--parents from the pivot on", "", tree, "--parents p/./q/f /d/", "/d/; 711 5:6 /d/q/; /d/q/f = f"),
        ("--parents with a wildcard", "", tree, "--parents p/q*/f /d/", "/d/; 700 3:4 /d/p/; 711 5:6 /d/p/q/; /d/p/q/f = f; /d/p/q2/; /d/p/q2/f = g"),
        ("--parents at any depth", "", tree, "--parents s/**/c.md /d/", "/d/; /d/s/; /d/s/t/; /d/s/t/c.md = o"),
        ("--parents with a directory", "", tree, "--parents s/t /d/", "/d/; /d/s/; /d/s/t/; /d/s/t/c.md = o; /d/s/t/c.txt = c"),
        ("--parents with wildcards before the pivot", "", tree, "--parents p/q*/./f /d/", "/d/; /d/f = g"),
        ("--parents and --exclude", "", tree, "--parents --exclude=**/*.md s /d/", "/d/; /d/s/; /d/s/b.txt = b; /d/s/t/; /d/s/t/c.txt = c"),
        ("--parents with nothing", "", tree, "--parents s/none /d/", "error: `s/none`: no such file"),
        ("--parents with a pattern that matches nothing", "", tree, "--parents s/none* /d/", "/d/"),
        ("--parents into an existing directory changes its mode only", "700 1:2 /d/p/", tree, "--parents p/q/f /d/", "/d/; 700 1:2 /d/p/; 711 5:6 /d/p/q/; /d/p/q/f = f"),
        ("--parents to the root", "", tree, "--parents s/b.txt /", "/s/; /s/b.txt = b"),
    ]);
}

#[test]
fn times_are_kept() {
    for owners in all_owners() {
        let (_dir, layer) = run(
            "/old/",
            "/s/a = x; /s/t/b = y; /s/l -> a",
            &parse("s /new/d", Unpack::Never),
            owners,
        )
        .unwrap();
        let tree = Snapshot::new(vec![layer]);
        let mtime = |path: &str| tree.lookup(&ImagePath::new(path)).unwrap().unwrap().mtime;
        assert_eq!(mtime("/new"), NOW, "made by the step");
        for path in ["/new/d", "/new/d/a", "/new/d/t", "/new/d/t/b", "/new/d/l"] {
            assert_eq!(mtime(path), FIXTURE_TIME, "{path}");
        }
        let (_dir, layer) = run(
            "/old/t/",
            "/s/a = x",
            &parse("s/a <<doc /old/t/", Unpack::Never),
            owners,
        )
        .unwrap();
        let tree = Snapshot::new(vec![layer]);
        let mtime = |path: &str| tree.lookup(&ImagePath::new(path)).unwrap().unwrap().mtime;
        assert_eq!(
            mtime("/old/t"),
            FIXTURE_TIME,
            "a directory of the image is as it was"
        );
        assert_eq!(mtime("/old/t/doc"), NOW);
    }
}

#[test]
fn hard_links_are_kept_within_a_source() {
    let linked = |layer: &Arc<LayerDir>, a: &str, b: &str| {
        let tree = Snapshot::new(vec![Arc::clone(layer)]);
        let id = |path: &str| {
            tree.lookup(&ImagePath::new(path))
                .unwrap()
                .unwrap()
                .hard_link
        };
        id(a).is_some() && id(a) == id(b)
    };
    let from = "/s/a = x; /s/b == /s/a; /s/t/c == /s/a; /s/d = x";
    for owners in all_owners() {
        let (_dir, layer) = run("", from, &parse("--chown=5 s /d", Unpack::Never), owners).unwrap();
        assert!(linked(&layer, "/d/a", "/d/b") && linked(&layer, "/d/a", "/d/t/c"));
        assert!(!linked(&layer, "/d/a", "/d/d"));
        assert_eq!(
            show_layer(&layer),
            lines("5:5 /d/; 5:5 /d/a = x; 5:5 /d/b = x; 5:5 /d/d = x; 5:5 /d/t/; 5:5 /d/t/c = x")
        );
        let (_dir, layer) = run("", from, &parse("s/a s/b /d/", Unpack::Never), owners).unwrap();
        assert!(
            !linked(&layer, "/d/a", "/d/b"),
            "two sources are two copies"
        );
    }
}

#[test]
fn names_of_whiteouts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    fs_err::create_dir_all(context.join("s")).unwrap();
    fs_err::write(context.join("s/.wh.x"), "").unwrap();
    let from = Snapshot::new(vec![Arc::new(LayerDir::open(&context).unwrap())]);
    let base = Snapshot::empty();
    for (number, owners) in all_owners().into_iter().enumerate() {
        let onto = Onto {
            base: &base,
            created: NOW,
            owners,
        };
        let into = dir.path().join(number.to_string());
        let error = copy(&parse("s /d", Unpack::Never), &from, &onto, &into).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/d/.wh.x: a name that begins with"),
            "{error}"
        );
    }
}

#[test]
fn capabilities_and_user_attributes_survive() {
    let capability = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let xattrs = Xattrs::from([
        ("security.capability".into(), capability),
        ("user.note".into(), b"a\nb\0c".to_vec()),
    ]);
    for owners in all_owners() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Snapshot::empty();
        let mut upper = Upper::create(&scratch, &dir.path().join("from"), owners).unwrap();
        let attributes = Attributes {
            mode: 0o755,
            xattrs: xattrs.clone(),
            ..Attributes::default()
        };
        upper
            .file(&ImagePath::new("a"), &attributes, &mut &b"x"[..])
            .unwrap();
        let from = Snapshot::new(vec![Arc::new(upper.finish().unwrap())]);
        let onto = Onto {
            base: &scratch,
            created: NOW,
            owners,
        };
        let layer = copy(
            &parse("--chown=5 a /b", Unpack::Never),
            &from,
            &onto,
            &dir.path().join("new"),
        )
        .unwrap();
        let copied = Snapshot::new(vec![Arc::new(layer)]);
        assert_eq!(
            copied.xattrs(&ImagePath::new("b")).unwrap(),
            xattrs,
            "{owners:?}"
        );
    }
}

#[test]
fn a_socket_becomes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    fs_err::create_dir(&context).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(context.join("s")).unwrap();
    let from = Snapshot::new(vec![Arc::new(LayerDir::open(&context).unwrap())]);
    let base = Snapshot::empty();
    let onto = Onto {
        base: &base,
        created: NOW,
        owners: Owners::Recorded,
    };
    let layer = copy(
        &parse(". /d/", Unpack::Never),
        &from,
        &onto,
        &dir.path().join("new"),
    )
    .unwrap();
    let tree = Snapshot::new(vec![Arc::new(layer)]);
    assert_eq!(
        tree.lookup(&ImagePath::new("/d/s")).unwrap().unwrap().kind,
        Kind::File
    );
}
