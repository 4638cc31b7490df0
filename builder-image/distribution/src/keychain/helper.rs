//! Docker's credential helpers: programs named `docker-credential-<name>` that keep passwords elsewhere. For command lines
//! only: what a configuration in a cluster names is not run there.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    io::{Read, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use oci::Repository;
use serde::Deserialize;

use super::{Credentials, Keychain, KeychainError};

/// How long a helper may take: some ask the user.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer of a helper.
const MAX_ANSWER: u64 = 64 * 1024;
/// What helpers call Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The credential helpers that a docker configuration names. Each is asked once for each registry.
///
/// Asking blocks the thread, which a command line can bear.
#[derive(Debug, Clone, Default)]
pub struct CredentialHelpers {
    by_host: BTreeMap<String, String>,
    store: Option<String>,
    /// Where programs are looked for instead of `PATH`.
    path: Option<OsString>,
    asked: Arc<Mutex<HashMap<String, Option<Credentials>>>>,
}

impl CredentialHelpers {
    /// The helpers of a docker configuration: `credHelpers` for single registries, `credsStore` for all others.
    ///
    /// # Errors
    /// When it is not JSON of that shape, or names a helper by something else than a word.
    pub fn parse(json: &[u8]) -> Result<Self, KeychainError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct File {
            #[serde(default)]
            cred_helpers: Option<BTreeMap<String, String>>,
            #[serde(default)]
            creds_store: Option<String>,
        }
        let file: File =
            serde_json::from_slice(json).map_err(|error| KeychainError::json(&error))?;
        let helpers = Self {
            by_host: file.cred_helpers.unwrap_or_default(),
            store: file.creds_store.filter(|name| !name.is_empty()),
            ..Self::default()
        };
        match helpers
            .by_host
            .values()
            .chain(&helpers.store)
            .find(|name| !is_word(name))
        {
            Some(name) => Err(KeychainError::Helper(name.clone())),
            None => Ok(helpers),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_host.is_empty() && self.store.is_none()
    }

    /// The helper for a registry, and what it calls the registry.
    fn helper(&self, repository: &Repository) -> Option<(&str, String)> {
        let host = repository.host().as_str();
        let names: &[&str] = if host == "docker.io" {
            &[DOCKER_HUB, "docker.io", "index.docker.io"]
        } else {
            &[host]
        };
        let own = names.iter().find_map(|name| {
            let helper = self.by_host.get(*name)?;
            Some((helper.as_str(), (*name).to_owned()))
        });
        own.or_else(|| Some((self.store.as_deref()?, names[0].to_owned())))
    }

    /// # Errors
    /// What is wrong with the helper or its answer, without anything of the answer.
    fn ask(&self, helper: &str, server: &str) -> Result<Option<Credentials>, String> {
        let program = format!("docker-credential-{helper}");
        let mut command = Command::new(&program);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{program} cannot be run: {error}"))?;
        if let Some(mut input) = child.stdin.take() {
            // A helper that does not read says so by its answer.
            let _ = input.write_all(server.as_bytes());
        }
        let (send, receive) = mpsc::channel();
        let output = child.stdout.take();
        std::thread::spawn(move || {
            let mut answer = Vec::new();
            if let Some(output) = output {
                let _ = output.take(MAX_ANSWER).read_to_end(&mut answer);
            }
            // Nobody waits any more after the timeout.
            let _ = send.send(answer);
        });
        let answer = receive.recv_timeout(PATIENCE);
        if answer.is_err() {
            // It may have ended just now.
            let _ = child.kill();
        }
        let status = child
            .wait()
            .map_err(|error| format!("{program} cannot be waited for: {error}"))?;
        let answer = answer.map_err(|_| format!("{program} did not answer in time"))?;
        if status.success() {
            return parse(&answer)
                .map(Some)
                .ok_or_else(|| format!("the answer of {program} is malformed"));
        }
        // What helpers say by the protocol when they know of nothing.
        let text = String::from_utf8_lossy(&answer);
        if text.contains("credentials not found") {
            return Ok(None);
        }
        Err(format!("{program} failed ({status})"))
    }
}

impl Keychain for CredentialHelpers {
    fn credentials(&self, repository: &Repository) -> Option<Credentials> {
        let (helper, server) = self.helper(repository)?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = asked.get(&server) {
            return known.clone();
        }
        let credentials = self.ask(helper, &server).unwrap_or_else(|problem| {
            tracing::warn!("no credentials for {server}: {problem}");
            None
        });
        asked.insert(server, credentials.clone());
        credentials
    }
}

fn parse(answer: &[u8]) -> Option<Credentials> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let Answer { username, secret } = serde_json::from_slice(answer).ok()?;
    Some(if username == "<token>" {
        Credentials::Identity(secret)
    } else {
        Credentials::basic(username, secret)
    })
}

/// Names of programs, not paths.
fn is_word(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A helper that writes down what it is asked, in a directory of its own.
    fn helpers(json: &str, name: &str, script: &str) -> (CredentialHelpers, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(format!("docker-credential-{name}"));
        let log = directory.path().join("log");
        let script = format!(
            "#!/bin/sh\nread -r server\necho \"$1 $server\" >> {}\n{script}\n",
            log.display()
        );
        // By another process: a file that this one has written may still be open for writing in a child of another test.
        let made = Command::new("sh")
            .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                child.stdin.take().unwrap().write_all(script.as_bytes())?;
                child.wait()
            });
        assert!(made.unwrap().success());
        let mode = fs_err::metadata(&program).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111);
        let mut helpers = CredentialHelpers::parse(json.as_bytes()).unwrap();
        let mut path = directory.path().as_os_str().to_owned();
        path.push(":/usr/bin:/bin");
        helpers.path = Some(path);
        (helpers, directory)
    }

    fn of(helpers: &CredentialHelpers, repository: &str) -> Option<Credentials> {
        helpers.credentials(&repository.parse().unwrap())
    }

    #[test]
    fn helpers_are_asked_once_by_the_names_they_know() {
        let answer = r#"echo '{"ServerURL":"x","Username":"u","Secret":"p"}'"#;
        let (helpers, directory) = helpers(r#"{"credsStore":"test"}"#, "test", answer);
        for repository in ["alpine", "acme/app", "quay.io/a/b", "quay.io/c", "h:5000/a"] {
            let found = of(&helpers, repository);
            assert_eq!(found, Some(Credentials::basic("u", "p")), "{repository}");
        }
        let log = fs_err::read_to_string(directory.path().join("log")).unwrap();
        assert_eq!(
            log,
            "get https://index.docker.io/v1/\nget quay.io\nget h:5000\n"
        );
    }

    #[test]
    fn single_registries_have_helpers_of_their_own() {
        let json = r#"{"credHelpers":{"quay.io":"test"}}"#;
        let answer = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        let (helpers, _directory) = helpers(json, "test", answer);
        let token = Some(Credentials::Identity("t".into()));
        assert_eq!(of(&helpers, "quay.io/a"), token);
        assert_eq!(of(&helpers, "ghcr.io/a"), None);
    }

    #[test]
    fn helpers_that_fail_leave_us_anonymous() {
        for script in [
            "echo 'credentials not found in native keychain'; exit 1",
            "exit 3",
            "echo nonsense",
            "echo '{\"Username\":1}'",
        ] {
            let (helpers, _directory) = helpers(r#"{"credsStore":"test"}"#, "test", script);
            assert_eq!(of(&helpers, "quay.io/a"), None, "{script}");
        }
        let absent = CredentialHelpers::parse(br#"{"credsStore":"not-installed-here"}"#).unwrap();
        assert_eq!(of(&absent, "quay.io/a"), None);
    }

    #[test]
    fn helpers_are_words() {
        for name in ["../x", "a/b", "a b", "$(x)"] {
            let json = format!(r#"{{"credHelpers":{{"h":"{name}"}}}}"#);
            let error = CredentialHelpers::parse(json.as_bytes()).unwrap_err();
            assert!(matches!(error, KeychainError::Helper(_)), "{name}");
        }
        assert!(CredentialHelpers::parse(b"{}").unwrap().is_empty());
        assert!(CredentialHelpers::parse(b"nonsense").is_err());
    }
}
