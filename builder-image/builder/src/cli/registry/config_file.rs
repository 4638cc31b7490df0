//! Docker's `config.json`: writing and removing the credentials of registries, in the file itself or by a credential
//! helper that it names. Other members stay. Reading them is the business of `distribution`.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::{Engine, prelude::BASE64_STANDARD};
use oci::RegistryHost;
use serde_json::{Map, Value, json};

use crate::error::Error;

/// What Docker Hub is called in the file.
const HUB: &str = "https://index.docker.io/v1/";

/// The key of a registry.
pub(super) fn key(host: &RegistryHost) -> String {
    if host.is_docker_hub() {
        HUB.to_owned()
    } else {
        host.to_string()
    }
}

/// Where credentials were put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// In the file, readable for whoever may read it.
    File,
    /// By a helper.
    Helper,
}

/// A configuration file, which need not exist.
pub(super) struct ConfigFile {
    path: PathBuf,
    content: Map<String, Value>,
}

impl ConfigFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or is not an object of JSON.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        // A link stays one: what it leads to is replaced.
        let path = fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let wrong =
            |why: &dyn std::fmt::Display| Error::Request(format!("{}: {why}", path.display()));
        let content = match fs_err::read(&path) {
            Ok(text) if text.iter().all(u8::is_ascii_whitespace) => Map::new(),
            // The reader's message may quote a secret.
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                wrong(&format!("not an object of JSON (line {})", error.line()))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(wrong(&error)),
        };
        Ok(Self { path, content })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file, or a helper, has credentials for a registry.
    pub(super) fn has(&self, key: &str) -> bool {
        let auths = self.content.get("auths").and_then(Value::as_object);
        auths.is_some_and(|auths| auths.contains_key(key))
    }

    /// Stores credentials.
    pub(super) fn store(
        &mut self,
        key: &str,
        username: &str,
        password: &str,
    ) -> Result<Stored, Error> {
        let helper = self.helper(key)?;
        let entry = match &helper {
            Some(helper) => {
                let secret = json!({"ServerURL": key, "Username": username, "Secret": password});
                run(helper, "store", &secret.to_string())?;
                json!({})
            }
            None => json!({"auth": BASE64_STANDARD.encode(format!("{username}:{password}"))}),
        };
        self.auths()?.insert(key.to_owned(), entry);
        self.write()?;
        Ok(helper.map_or(Stored::File, |_| Stored::Helper))
    }

    /// Removes credentials.
    pub(super) fn erase(&mut self, key: &str) -> Result<(), Error> {
        if let Some(helper) = self.helper(key)? {
            run(&helper, "erase", key)?;
        }
        self.auths()?.remove(key);
        self.write()
    }

    fn auths(&mut self) -> Result<&mut Map<String, Value>, Error> {
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        let path = self.path.display().to_string();
        auths
            .as_object_mut()
            .ok_or_else(|| Error::Request(format!("{path}: `auths` is not an object")))
    }

    /// The program that keeps the credentials of a registry: `credHelpers` for it, else `credsStore` for all.
    fn helper(&self, key: &str) -> Result<Option<String>, Error> {
        let of_registry = self
            .content
            .get("credHelpers")
            .and_then(|helpers| helpers.get(key));
        let of_all = self.content.get("credsStore");
        let name = of_registry.or(of_all).and_then(Value::as_str);
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let is_name = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if is_name {
            Ok(Some(format!("docker-credential-{name}")))
        } else {
            Err(Error::Request(format!(
                "{}: `{name}` is not the name of a credential helper",
                self.path.display()
            )))
        }
    }

    /// Writes the file, for its owner alone.
    fn write(&self) -> Result<(), Error> {
        let writing = || Error::io("writing docker's config.json");
        let directory = self.path.parent().unwrap_or(Path::new("."));
        if !directory.is_dir() {
            let mut builder = std::fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(directory);
            made.map_err(writing())?;
        }
        let mut file =
            tempfile::NamedTempFile::with_prefix_in(".config-", directory).map_err(writing())?;
        let mode = std::fs::Permissions::from_mode(0o600);
        file.as_file().set_permissions(mode).map_err(writing())?;
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(&self.content, &mut serializer)
            .map_err(|error| writing()(error.into()))?;
        file.write_all(&text).map_err(writing())?;
        store::publish(file, &self.path).map_err(writing())
    }
}

/// Runs a helper, which reads what it needs from its standard input.
fn run(helper: &str, verb: &str, input: &str) -> Result<(), Error> {
    let failed = |why: &dyn std::fmt::Display| {
        Error::Refused(format!(
            "error storing credentials - err: {helper} {verb}: {why}"
        ))
    };
    let child = Command::new(helper)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read says why by its exit code.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(failed(&String::from_utf8_lossy(&said).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_and_go_and_the_rest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker/config.json");
        let read = || fs_err::read_to_string(&path).unwrap();
        let mut file = ConfigFile::read(&path).unwrap();
        assert!(!file.has("h:5000"));
        assert_eq!(file.store("h:5000", "u", "p:w").unwrap(), Stored::File);
        let mode = fs_err::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let written: Value = serde_json::from_str(&read()).unwrap();
        assert_eq!(
            written["auths"]["h:5000"]["auth"],
            BASE64_STANDARD.encode("u:p:w")
        );

        fs_err::write(
            &path,
            r#"{"auths":{"a":{"auth":"eA=="}},"detachKeys":"ctrl-e"}"#,
        )
        .unwrap();
        let mut file = ConfigFile::read(&path).unwrap();
        file.store(&key(&"docker.io".parse().unwrap()), "u", "p")
            .unwrap();
        let mut file = ConfigFile::read(&path).unwrap();
        assert!(file.has("a") && file.has(HUB));
        file.erase("a").unwrap();
        let written: Value = serde_json::from_str(&read()).unwrap();
        assert_eq!(written["detachKeys"], "ctrl-e");
        assert!(written["auths"].get("a").is_none());
        let left = fs_err::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1);
    }

    #[test]
    fn mistakes_are_told_without_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs_err::write(&path, r#"{"auths": "s3cret"}"#).unwrap();
        let error = ConfigFile::read(&path)
            .unwrap()
            .store("h", "u", "p")
            .unwrap_err();
        assert!(error.to_string().contains("`auths` is not an object"));
        fs_err::write(&path, r#"{"auths": s3cret}"#).unwrap();
        let error = ConfigFile::read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains("line 1") && !error.contains("s3cret"),
            "{error}"
        );
        fs_err::write(&path, r#"{"credsStore": "../evil"}"#).unwrap();
        let error = ConfigFile::read(&path)
            .unwrap()
            .store("h", "u", "p")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is not the name of a credential helper")
        );
        fs_err::write(&path, r#"{"credHelpers": {"h": "no-such-helper"}}"#).unwrap();
        let error = ConfigFile::read(&path)
            .unwrap()
            .store("h", "u", "p")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("docker-credential-no-such-helper store")
        );
    }
}
