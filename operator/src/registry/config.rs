//! The configuration of CNCF distribution and the credentials of its one user. Pure: the same user, password
//! and Registry give the same bytes, so that nothing is written and no pod restarted without need.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcrypt::Version;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Where the configuration is mounted.
pub const CONFIG_DIRECTORY: &str = "/etc/distribution";
/// Where the images are mounted.
pub const DATA_DIRECTORY: &str = "/var/lib/registry";
/// Port of health and metrics, for the kubelet and Prometheus.
pub const DEBUG_PORT: i32 = 5001;

/// Name of the generated user.
const USER: &str = "coopery";
/// Cost of the hash: the password is random and long, and distribution hashes it at every request.
const BCRYPT_COST: u32 = 5;
/// What bcrypt takes of a password.
const MAX_PASSWORD_BYTES: usize = 72;
/// A shorter password is taken for a mistake.
const MIN_PASSWORD_BYTES: usize = 8;

/// The one user of a registry.
#[derive(Clone, Eq, PartialEq)]
pub struct Credentials {
    /// Name.
    pub username: String,
    /// Password, in the clear.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &"***")
            .finish()
    }
}

impl Credentials {
    /// The credentials of `secret`, or new ones with `fresh_password` where it is absent or of no use.
    pub fn of(secret: Option<&Secret>, fresh_password: &str) -> Self {
        let text = |key: &str| -> Option<String> {
            let bytes = secret?.data.as_ref()?.get(key)?;
            String::from_utf8(bytes.0.clone()).ok()
        };
        match (text("username"), text("password")) {
            (Some(username), Some(password))
                if is_username(&username) && is_password(&password) =>
            {
                Self { username, password }
            }
            _ => Self {
                username: USER.to_owned(),
                password: fresh_password.to_owned(),
            },
        }
    }

    /// The keys of the Secret with these credentials for the registry at `host`.
    pub fn data(&self, host: &str) -> BTreeMap<String, ByteString> {
        let auth = STANDARD.encode(format!("{}:{}", self.username, self.password));
        let docker = json!({"auths": {host: {
            "username": self.username,
            "password": self.password,
            "auth": auth,
        }}});
        bytes([
            (".dockerconfigjson", docker.to_string()),
            ("password", self.password.clone()),
            ("username", self.username.clone()),
        ])
    }

    /// The line of `htpasswd`. The salt is made from the Registry's unique id: equal inputs give an equal line.
    ///
    /// # Panics
    /// Never: passwords are bounded when they are read.
    pub fn htpasswd(&self, uid: &str) -> String {
        let digest = Sha256::digest(format!("htpasswd salt\0{uid}"));
        let mut salt = [0; 16];
        salt.copy_from_slice(&digest[..16]);
        let hash = bcrypt::hash_with_salt(&self.password, BCRYPT_COST, salt)
            .expect("the cost is in range and the password within bcrypt's length");
        format!(
            "{}:{}\n",
            self.username,
            hash.format_for_version(Version::TwoY)
        )
    }

    /// The secret with which distribution signs the state of uploads: stable over restarts, unknown to others.
    fn http_secret(&self, uid: &str) -> String {
        hex::encode(Sha256::digest(format!(
            "http secret\0{uid}\0{}",
            self.password
        )))
    }
}

/// The keys of the Secret with the configuration.
pub fn data(credentials: &Credentials, uid: &str) -> BTreeMap<String, ByteString> {
    bytes([
        ("config.yml", config(&credentials.http_secret(uid))),
        ("htpasswd", credentials.htpasswd(uid)),
    ])
}

/// A hash of `data`: the pod's annotation with it makes a change of configuration restart the pod.
pub fn hash(data: &BTreeMap<String, ByteString>) -> String {
    let mut digest = Sha256::new();
    for (key, value) in data {
        digest.update(key);
        digest.update([0]);
        digest.update(&value.0);
        digest.update([0]);
    }
    hex::encode(&digest.finalize()[..16])
}

/// The file `config.yml`. There is no blob cache: after a garbage collection it would hold what is gone.
fn config(http_secret: &str) -> String {
    let config = json!({
        "version": "0.1",
        "log": {
            "level": "info",
            "formatter": "json",
            "fields": {"service": "registry"},
            "accesslog": {"disabled": true},
        },
        "storage": {
            "filesystem": {"rootdirectory": DATA_DIRECTORY, "maxthreads": 100},
            "delete": {"enabled": true},
            "tag": {"concurrencylimit": 8},
            "redirect": {"disable": true},
            "maintenance": {
                "uploadpurging": {"enabled": true, "age": "168h", "interval": "24h", "dryrun": false},
                "readonly": {"enabled": false},
            },
        },
        "http": {
            "addr": format!(":{}", super::PORT),
            "secret": http_secret,
            "relativeurls": true,
            "draintimeout": "15s",
            "headers": {"X-Content-Type-Options": ["nosniff"]},
            "debug": {
                "addr": format!(":{DEBUG_PORT}"),
                "prometheus": {"enabled": true, "path": "/metrics"},
            },
        },
        "auth": {"htpasswd": {"realm": "coopery", "path": format!("{CONFIG_DIRECTORY}/htpasswd")}},
        "health": {"storagedriver": {"enabled": true, "interval": "10s", "threshold": 3}},
        "catalog": {"maxentries": 1000},
        "validation": {"manifests": {"indexes": {"platforms": "none"}}},
    });
    serde_saphyr::to_string(&config)
        .expect("the configuration has only string keys, which YAML can write")
}

fn bytes<const N: usize>(entries: [(&str, String); N]) -> BTreeMap<String, ByteString> {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())))
        .collect()
}

/// A name that htpasswd and basic authentication can hold.
fn is_username(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A password that bcrypt and basic authentication can hold.
fn is_password(text: &str) -> bool {
    (MIN_PASSWORD_BYTES..=MAX_PASSWORD_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(username: &str, password: &str) -> Secret {
        Secret {
            data: Some(bytes([
                ("username", username.to_owned()),
                ("password", password.to_owned()),
            ])),
            ..Secret::default()
        }
    }

    #[test]
    fn credentials_are_kept_while_they_are_of_use() {
        let long = "x".repeat(73);
        for (username, password, kept) in [
            ("coopery", "0123456789abcdef", true),
            ("bob", "a-password-of-hers", true),
            ("coopery", "short", false),
            ("coopery", long.as_str(), false),
            ("coopery", "with a space", false),
            ("co:lon", "0123456789abcdef", false),
            ("", "0123456789abcdef", false),
        ] {
            let found = Credentials::of(Some(&secret(username, password)), "fresh-fresh-fresh");
            let expected = if kept {
                (username, password)
            } else {
                ("coopery", "fresh-fresh-fresh")
            };
            assert_eq!(
                (found.username.as_str(), found.password.as_str()),
                expected,
                "{username} {password}"
            );
        }
        assert_eq!(
            Credentials::of(None, "fresh-fresh-fresh").username,
            "coopery"
        );
    }

    #[test]
    fn debug_shows_no_password() {
        let text = format!("{:?}", Credentials::of(None, "fresh-fresh-fresh"));
        assert!(!text.contains("fresh-fresh"), "{text}");
    }

    #[test]
    fn equal_inputs_give_equal_configuration() {
        let credentials = Credentials::of(None, "0123456789abcdef");
        let one = data(&credentials, "uid-1");
        assert_eq!(one, data(&credentials, "uid-1"));
        assert_eq!(hash(&one), hash(&data(&credentials, "uid-1")));
        assert_ne!(hash(&one), hash(&data(&credentials, "uid-2")));
        let other = Credentials::of(None, "another-password");
        assert_ne!(hash(&one), hash(&data(&other, "uid-1")));
    }

    #[test]
    fn htpasswd_matches_the_password() {
        let credentials = Credentials::of(None, "0123456789abcdef");
        let line = credentials.htpasswd("uid-1");
        let (user, hash) = line.trim_end().split_once(':').unwrap();
        assert_eq!(user, "coopery");
        assert!(hash.starts_with("$2y$05$"), "{hash}");
        assert!(bcrypt::verify("0123456789abcdef", hash).unwrap());
        assert!(!bcrypt::verify("0123456789abcdeg", hash).unwrap());
    }

    #[test]
    fn docker_configuration_names_the_host() {
        let data = Credentials::of(None, "0123456789abcdef").data("main.images.svc:5000");
        let docker = String::from_utf8(data[".dockerconfigjson"].0.clone()).unwrap();
        insta::assert_snapshot!(docker, @r#"{"auths":{"main.images.svc:5000":{"auth":"Y29vcGVyeTowMTIzNDU2Nzg5YWJjZGVm","password":"0123456789abcdef","username":"coopery"}}}"#);
    }

    #[test]
    fn configuration_of_distribution() {
        insta::assert_snapshot!(config("0000"), @r#"
        auth:
          htpasswd:
            path: /etc/distribution/htpasswd
            realm: coopery
        catalog:
          maxentries: 1000
        health:
          storagedriver:
            enabled: true
            interval: 10s
            threshold: 3
        http:
          addr: ":5000"
          debug:
            addr: ":5001"
            prometheus:
              enabled: true
              path: /metrics
          draintimeout: 15s
          headers:
            X-Content-Type-Options:
            - nosniff
          relativeurls: true
          secret: "0000"
        log:
          accesslog:
            disabled: true
          fields:
            service: registry
          formatter: json
          level: info
        storage:
          delete:
            enabled: true
          filesystem:
            maxthreads: 100
            rootdirectory: /var/lib/registry
          maintenance:
            readonly:
              enabled: false
            uploadpurging:
              age: 168h
              dryrun: false
              enabled: true
              interval: 24h
          redirect:
            disable: true
          tag:
            concurrencylimit: 8
        validation:
          manifests:
            indexes:
              platforms: none
        version: "0.1"
        "#);
    }
}
