//! Fetching from real repositories, served by `git http-backend` on loopback.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{os::unix::fs::MetadataExt, sync::Arc};

use distribution::{HttpClient, HttpSettings, RetryPolicy};
use protocol::{FailureKind, Network, Source};

use super::{
    super::git_server::{Repository, Served, with_tls},
    *,
};

fn client() -> HttpClient {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let retry = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    HttpClient::new(&HttpSettings {
        guard: Guard::Open,
        retry,
        ..HttpSettings::default()
    })
    .unwrap()
}

#[tokio::test]
async fn https_with_a_private_authority_through_the_guard() {
    let repository = Repository::new();
    let served = Served {
        authorization: Some("Basic YW5uOnMzY3IzdA==".into()),
        ..repository.served()
    };
    let (server, pem) = with_tls(&served.start().await).await;
    let url = format!("{server}/app");
    let revision = repository.revision("second", Some("refs/heads/main"));
    let loopback = ["127.0.0.0/8", "::1/128"];
    let rows = [
        (Guard::closed(loopback).unwrap(), Some(&pem), None),
        (Guard::Open, Some(&pem), None),
        (
            Guard::closed(loopback).unwrap(),
            None,
            Some(FailureKind::SourceUnavailable),
        ),
        (
            Guard::default(),
            Some(&pem),
            Some(FailureKind::AddressRefused),
        ),
    ];
    for (guard, authority, expected) in rows {
        let http = HttpClient::new(&HttpSettings {
            guard: guard.clone(),
            ca_pem: authority.map(|pem| pem.clone().into_bytes()),
            retry: RetryPolicy {
                attempts: 1,
                ..RetryPolicy::default()
            },
            ..HttpSettings::default()
        });
        let http = http.unwrap();
        let network = Network {
            ca_certificates: authority.cloned(),
            ..Network::default()
        };
        let fetcher = Fetcher {
            bases: None,
            plain_http: false,
            ..Fetcher::for_tests(&http, &network)
        };
        let work = tempfile::tempdir().unwrap();
        let credentials = SourceCredentials::basic("ann", "s3cr3t");
        let result = fetch(
            &url,
            &revision,
            Some(credentials),
            GitDir::Removed,
            &fetcher,
            &work.path().join("context"),
        )
        .await;
        assert_eq!(
            result.as_ref().err().map(ContextError::kind),
            expected,
            "{guard:?} {result:?}"
        );
        assert_eq!(
            work.path().join("context/version").exists(),
            expected.is_none()
        );
        // Nothing with the credentials was written beside.
        assert!(fs_err::read_dir(work.path()).unwrap().count() <= 1);
    }
}

/// Fetches into a new directory.
async fn fetch_to(
    url: &str,
    revision: &GitRevision,
    credentials: Option<SourceCredentials>,
) -> (tempfile::TempDir, Result<PathBuf, ContextError>) {
    let work = tempfile::tempdir().unwrap();
    let into = work.path().join("context");
    let (http, network) = (client(), Network::default());
    let fetcher = Fetcher::for_tests(&http, &network);
    let result = fetch(url, revision, credentials, GitDir::Removed, &fetcher, &into).await;
    (work, result.map(|_| into))
}

#[tokio::test]
async fn branches_tags_and_commits() {
    let repository = Repository::new();
    let rows: &[(&str, Option<&str>, bool, &str)] = &[
        ("third", Some("refs/heads/main"), false, "3"),
        ("side", Some("refs/heads/side"), false, "side"),
        ("first", Some("refs/tags/v1"), false, "1"),
        ("third", None, false, "3"),
        // The branch has moved on, or is gone.
        ("second", Some("refs/heads/main"), false, "2"),
        ("second", Some("refs/heads/gone"), false, "2"),
        // A server that gives out nothing but the tips of its branches.
        ("third", Some("refs/heads/main"), true, "3"),
        ("second", Some("refs/heads/main"), true, "2"),
        ("second", None, true, "2"),
    ];
    let new = format!("{}/app", repository.served().start().await);
    let old = format!(
        "{}/app/.git",
        Served {
            old: true,
            ..repository.served()
        }
        .start()
        .await
    );
    for (commit, reference, is_old, version) in rows {
        let url = if *is_old { &old } else { &new };
        let (_work, into) = fetch_to(url, &repository.revision(commit, *reference), None).await;
        let into = into.unwrap_or_else(|error| panic!("{commit} {reference:?} {is_old}: {error}"));
        assert_eq!(
            fs_err::read_to_string(into.join("version")).unwrap(),
            *version,
            "{commit} {reference:?}"
        );
    }
}

#[tokio::test]
async fn the_tree_is_normalised() {
    let repository = Repository::new();
    let url = format!("{}/app", repository.served().start().await);
    let (_work, into) = fetch_to(&url, &repository.revision("third", None), None).await;
    let into = into.unwrap();
    assert!(!into.join(".git").exists());
    for (path, mode) in [
        ("", 0o755),
        ("version", 0o644),
        ("build.sh", 0o755),
        ("svc", 0o755),
        ("svc/deep/file", 0o644),
    ] {
        let found = fs_err::metadata(into.join(path)).unwrap();
        assert_eq!(
            (found.mode() & 0o7777, found.mtime()),
            (mode, 1_588_655_105),
            "{path}"
        );
    }
    assert_eq!(
        fs_err::read_link(into.join("secrets")).unwrap(),
        Path::new("/etc")
    );
    assert_eq!(
        fs_err::symlink_metadata(into.join("link")).unwrap().mtime(),
        1_588_655_105
    );
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let repository = Repository::new();
    let server = repository.served().start().await;
    let unknown = GitRevision {
        commit: "0123456789".repeat(4),
        reference: None,
    };
    let real = repository.revision("first", None);
    let rows = [
        (
            "/app",
            &unknown,
            FailureKind::SourceNotFound,
            "no commit 0123456789",
        ),
        ("/nothing", &real, FailureKind::SourceNotFound, "not found"),
        (
            "/page",
            &real,
            FailureKind::SourceNotFound,
            "not as a git repository",
        ),
        ("/broken", &real, FailureKind::SourceUnavailable, ""),
    ];
    for (path, revision, kind, text) in rows {
        let (_work, result) = fetch_to(&format!("{server}{path}"), revision, None).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {error}");
        assert!(error.to_string().contains(text), "{path}: {error}");
    }
    let (_work, result) = fetch_to("http://127.0.0.1:1/app", &real, None).await;
    assert_eq!(result.unwrap_err().kind(), FailureKind::SourceUnavailable);
}

#[tokio::test]
async fn credentials_are_needed_and_used() {
    let repository = Repository::new();
    let served = Served {
        authorization: Some("Basic YW5uOnMzY3IzdA==".into()),
        ..repository.served()
    };
    let url = format!("{}/app", served.start().await);
    let revision = repository.revision("third", Some("refs/heads/main"));
    let (_work, result) = fetch_to(&url, &revision, None).await;
    assert_eq!(result.unwrap_err().kind(), FailureKind::SourceUnauthorized);
    let (_work, result) = fetch_to(
        &url,
        &revision,
        Some(SourceCredentials::basic("ann", "wrong")),
    )
    .await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), FailureKind::SourceUnauthorized);
    assert!(!error.to_string().contains("wrong"));
    let (_work, result) = fetch_to(
        &url,
        &revision,
        Some(SourceCredentials::basic("ann", "s3cr3t")),
    )
    .await;
    assert!(result.is_ok(), "{result:?}");
}

#[tokio::test]
async fn credentials_never_cross_hosts() {
    let repository = Repository::new();
    let other = repository.served();
    let seen = Arc::clone(&other.seen);
    let first = Served {
        redirect: Some(other.start().await),
        ..repository.served()
    };
    let (seen_first, url) = (
        Arc::clone(&first.seen),
        format!("{}/app", first.start().await),
    );
    let credentials = SourceCredentials::basic("ann", "s3cr3t");
    let (_work, result) =
        fetch_to(&url, &repository.revision("third", None), Some(credentials)).await;
    assert!(result.is_ok(), "{result:?}");
    assert!(seen_first.lock().unwrap().iter().all(Option::is_some));
    let seen = seen.lock().unwrap();
    assert!(
        seen.len() >= 2 && seen.iter().all(Option::is_none),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_subdirectory_does_not_lead_out() {
    let repository = Repository::new();
    let server = repository.served().start().await;
    let (http, network) = (client(), Network::default());
    let fetcher = Fetcher::for_tests(&http, &network);
    let source = Source::Git {
        url: format!("{server}/app"),
        revision: repository.revision("third", Some("refs/heads/main")),
        credentials: false,
    };
    let rows = [
        ("svc", Some("deep")),
        ("secrets", None),
        ("secrets/ssl", None),
        ("../..", None),
        ("/etc", None),
        ("gone", None),
    ];
    for (subdirectory, expected) in rows {
        let work = tempfile::tempdir().unwrap();
        let found = super::super::fetch(
            &source,
            subdirectory,
            &fetcher,
            &work.path().join("context"),
        )
        .await;
        match expected {
            Some(name) => assert!(found.unwrap().directory.join(name).exists()),
            None => assert!(found.is_err(), "{subdirectory}: {found:?}"),
        }
    }
}

#[test]
fn revisions() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let rows: &[(&str, Option<&str>, bool)] = &[
        (commit, None, true),
        (commit, Some("refs/heads/main"), true),
        (commit, Some("refs/tags/v1.0-rc_1"), true),
        (commit, Some("refs/heads/feature/über"), true),
        (&format!("{commit}{}", &commit[..24]), None, true),
        ("main", None, false),
        ("--upload-pack=/bin/sh", None, false),
        ("", None, false),
        (&commit[..39], None, false),
        (&commit.to_uppercase(), None, false),
        (commit, Some("--upload-pack=/bin/sh"), false),
        (commit, Some("main"), false),
        (commit, Some("refs/heads/-x"), false),
        (commit, Some("refs/heads/a b"), false),
        (commit, Some("refs/heads/*"), false),
        (commit, Some("refs/heads/a:refs/heads/b"), false),
        (commit, Some("refs/heads/../x"), false),
        (commit, Some("refs/heads/a^{commit}"), false),
        (commit, Some("refs/heads/a@{1}"), false),
        (commit, Some("refs/heads//a"), false),
        (commit, Some("refs/heads/a.lock"), false),
        (commit, Some("refs/heads/a\nb"), false),
    ];
    for (commit, reference, good) in rows {
        let revision = GitRevision {
            commit: (*commit).to_owned(),
            reference: reference.map(str::to_owned),
        };
        assert_eq!(
            check_revision(&revision).is_ok(),
            *good,
            "{commit} {reference:?}"
        );
    }
}

#[test]
fn the_configuration_allows_one_protocol_and_binds_credentials() {
    let url = Url::parse("https://git.example.com:8443/team/app.git").unwrap();
    let text = config(&Settings {
        url: &url,
        plain_http: false,
        authorities: Some(Path::new("/work/a \"b\".pem")),
        proxy: Some("http://127.0.0.1:9".into()),
        authorization: Some("Basic c2VjcmV0".into()),
    });
    for line in [
        "[protocol]\n\tallow = never\n[protocol \"https\"]\n\tallow = always\n",
        "followRedirects = false",
        "hooksPath = /dev/null",
        "[http \"https://git.example.com:8443/\"]\n\textraHeader = \"Authorization: Basic c2VjcmV0\"\n",
        "sslCAInfo = \"/work/a \\\"b\\\".pem\"",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("protocol \"http\"") && !text.contains("protocol \"file\""));
}

#[test]
fn messages_of_git() {
    let url = Url::parse("https://git.example.com/app").unwrap();
    let rows = [
        ("fatal: couldn't find remote ref refs/heads/x", None),
        ("fatal: remote error: upload-pack: not our ref 01", None),
        (
            "error: Server does not allow request for unadvertised object 01",
            None,
        ),
        (
            "fatal: Authentication failed for 'https://git.example.com/app/'",
            Some(FailureKind::SourceUnauthorized),
        ),
        (
            "fatal: unable to access 'x': The requested URL returned error: 403",
            Some(FailureKind::SourceUnauthorized),
        ),
        (
            "fatal: write error: No space left on device",
            Some(FailureKind::OutOfDisk),
        ),
        (
            "fatal: unable to access 'x': Could not resolve host",
            Some(FailureKind::SourceUnavailable),
        ),
        ("", Some(FailureKind::SourceUnavailable)),
    ];
    for (message, expected) in rows {
        let kind = match explain(&url, message) {
            Failed::Missing => None,
            Failed::Otherwise(error) => Some(error.kind()),
        };
        assert_eq!(kind, expected, "{message}");
    }
}

#[tokio::test]
async fn a_url_names_ref_and_directory() {
    use super::super::remote::{RemoteContext, fetch_remote};
    let repository = Repository::new();
    let url = format!("{}/app", repository.served().start().await);
    let third = repository.revision("third", None).commit;
    let (http, network) = (client(), Network::default());
    let fetcher = Fetcher::for_tests(&http, &network);
    for (fragment, file, expected) in [
        (String::new(), "version", Ok("3")),
        ("#side".into(), "version", Ok("side")),
        ("#v1".into(), "version", Ok("1")),
        (format!("#{third}"), "version", Ok("3")),
        (format!("?commit={}", &third[..12]), "version", Ok("3")),
        ("#v1:svc/deep".into(), "file", Ok("deep")),
        ("?branch=side&subdir=svc".into(), "deep/file", Ok("deep")),
        ("#none".into(), "version", Err("no branch or tag `none`")),
        ("#v1:none".into(), "version", Err("no directory `none`")),
        ("#main:secrets".into(), "passwd", Err("out of the source")),
        ("?tag=v1&commit=abc".into(), "version", Err("not abc")),
    ] {
        let work = tempfile::tempdir().unwrap();
        let source = RemoteContext::Git(format!("{url}{fragment}"));
        let fetched = fetch_remote(&source, &fetcher, work.path()).await;
        let read = || fs_err::read_to_string(work.path().join("context").join(file)).unwrap();
        match (fetched, expected) {
            (Ok(_), Ok(expected)) => assert_eq!(read(), expected, "{fragment}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, _) => panic!("{fragment}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn the_repository_stays_where_that_is_asked_for() {
    use super::super::remote::{RemoteContext, fetch_remote};
    let repository = Repository::new();
    let url = format!("{}/app", repository.served().start().await);
    let third = repository.revision("third", None).commit;
    let (http, network) = (client(), Network::default());
    for (query, asked, kept) in [
        ("", GitDir::Removed, false),
        ("", GitDir::Kept, true),
        ("?keep-git-dir=1", GitDir::Removed, true),
        ("?keep-git-dir=0", GitDir::Kept, false),
    ] {
        let fetcher = Fetcher {
            git_dir: asked,
            ..Fetcher::for_tests(&http, &network)
        };
        let work = tempfile::tempdir().unwrap();
        let source = RemoteContext::Git(format!("{url}{query}#main"));
        let fetched = fetch_remote(&source, &fetcher, work.path()).await.unwrap();
        // 2020-05-05T05:05:05Z
        assert_eq!(fetched.time, Some(1_588_655_105));
        let git = work.path().join("context/.git");
        assert_eq!(git.exists(), kept, "{query} {asked:?}");
        if kept {
            let show = |arguments: &[&str]| {
                let output = std::process::Command::new("git")
                    .args(["-c", "safe.directory=*"])
                    .args(arguments)
                    .current_dir(work.path().join("context"))
                    .output()
                    .unwrap();
                String::from_utf8(output.stdout).unwrap().trim().to_owned()
            };
            assert_eq!(
                show(&["rev-parse", "HEAD", "origin/main"]),
                format!("{third}\n{third}")
            );
            assert_eq!(show(&["status", "--porcelain", "-z"]), "");
            assert_eq!(show(&["remote", "get-url", "origin"]), url);
            assert!(!git.join("FETCH_HEAD").exists() && !git.join("logs").exists());
            assert_eq!(show(&["for-each-ref", "refs/coopery"]), "");
        }
    }
}
