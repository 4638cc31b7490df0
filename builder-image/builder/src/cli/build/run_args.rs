//! The flags of `coopery build` that RUN steps feel: secrets, agents, network, hosts and limits, written as for
//! `docker buildx build`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::error::Error;
use crate::exec::ResourceLimit;
use crate::graph::Surroundings;
use crate::secret::{Secret, Secrets};

#[derive(Args)]
pub(super) struct RunArgs {
    /// Offer a secret to RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=VARIABLE; the id alone means the variable or
    /// file of that name
    #[arg(long, value_name = "id=ID[,src=FILE|,env=NAME]")]
    secret: Vec<SecretArg>,
    /// Offer an SSH agent to RUN --mount=type=ssh: default (that of SSH_AUTH_SOCK) or ID=SOCKET
    #[arg(long, value_name = "default|ID[=SOCKET]")]
    ssh: Vec<AgentArg>,
    /// Network of RUN steps that ask for none themselves
    #[arg(long = "network", value_enum, value_name = "MODE", default_value_t)]
    mode: NetworkMode,
    /// Add a line to /etc/hosts of RUN
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<HostArg>,
    /// Size of /dev/shm in RUN, as in 128m (default: 64m)
    #[arg(long, value_name = "BYTES", value_parser = size)]
    shm_size: Option<u64>,
    /// Resource limit of RUN, as in nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = limit)]
    ulimit: Vec<ResourceLimit>,
}

/// Which network RUN has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum NetworkMode {
    /// That of the build
    #[default]
    Default,
    /// Nothing but loopback
    None,
    /// Refused: a step never gets more than the build has
    Host,
}

impl RunArgs {
    /// What steps have around them.
    pub(super) fn surroundings(&self) -> Result<Surroundings, Error> {
        if self.mode == NetworkMode::Host {
            return Err(Error::Request(
                "--network host: leave it out, RUN has the network of the build already, and never one with more rights"
                    .into(),
            ));
        }
        Ok(Surroundings {
            network: self.mode == NetworkMode::Default,
            hosts: self
                .add_host
                .iter()
                .map(|host| (host.name.clone(), host.address))
                .collect(),
            shm_size: self.shm_size,
            limits: self.ulimit.clone(),
            ..Surroundings::default()
        })
    }

    /// Whether everything that is offered is there, before any work is done.
    pub(super) fn check(&self) -> Result<(), Error> {
        for secret in &self.secret {
            if let Origin::File(path) = secret.origin(&environment)
                && !path.exists()
            {
                return Err(Error::Request(format!(
                    "--secret id={}: there is no file {}{}",
                    secret.id,
                    path.display(),
                    if secret.source.is_some() {
                        ""
                    } else {
                        " and no variable of that name"
                    }
                )));
            }
        }
        self.agents().map(drop)
    }

    /// Reads what is offered.
    pub(super) fn secrets(&self) -> Result<Secrets, Error> {
        let mut values = BTreeMap::new();
        for secret in &self.secret {
            let value = match secret.origin(&environment) {
                Origin::Variable(name) => match std::env::var_os(&name) {
                    Some(value) => Ok(Secret::new(std::os::unix::ffi::OsStringExt::into_vec(
                        value,
                    ))),
                    None => Err(format!("the variable {name} is not set")),
                },
                Origin::File(path) => Secret::read(&path).map_err(|error| error.to_string()),
            };
            let value = value.map_err(|problem| {
                Error::Request(format!("--secret id={}: {problem}", secret.id))
            })?;
            values.insert(secret.id.clone(), value);
        }
        Ok(Secrets {
            values,
            agents: self.agents()?,
        })
    }

    fn agents(&self) -> Result<BTreeMap<String, PathBuf>, Error> {
        let refuse =
            |id: &str, problem: String| Err(Error::Request(format!("--ssh {id}: {problem}")));
        let mut agents = BTreeMap::new();
        for agent in &self.ssh {
            let id = &agent.id;
            let socket = match (&agent.socket, environment("SSH_AUTH_SOCK")) {
                (Some(socket), _) => socket.clone(),
                (None, Some(socket)) => socket.into(),
                (None, None) => {
                    return refuse(
                        id,
                        "SSH_AUTH_SOCK is not set: start an agent with `eval $(ssh-agent)`".into(),
                    );
                }
            };
            match fs_err::metadata(&socket) {
                Ok(found) if found.file_type().is_socket() => {}
                Ok(_) => {
                    return refuse(
                        id,
                        format!(
                            "{} is no socket of an agent: for a key, start an agent and add the key with ssh-add",
                            socket.display()
                        ),
                    );
                }
                Err(error) => return refuse(id, error.to_string()),
            }
            let absolute = std::path::absolute(&socket).unwrap_or(socket);
            agents.insert(id.clone(), absolute);
        }
        Ok(agents)
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `--secret`
#[derive(Clone, Debug, PartialEq, Eq)]
struct SecretArg {
    id: String,
    source: Option<Origin>,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    File(PathBuf),
    Variable(String),
}

impl SecretArg {
    /// Where the secret is; with its id alone, the variable of that name before the file.
    fn origin(&self, environment: &dyn Fn(&str) -> Option<String>) -> Origin {
        match &self.source {
            Some(source) => source.clone(),
            None if environment(&self.id).is_some() => Origin::Variable(self.id.clone()),
            None => Origin::File(Path::new(&self.id).to_owned()),
        }
    }
}

impl FromStr for SecretArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
        for field in text.split(',') {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| format!("`{field}` is not KEY=VALUE: write id=ID,src=FILE"))?;
            match key.to_lowercase().as_str() {
                "id" => id = Some(value.to_owned()),
                "type" if matches!(value, "file" | "env") => kind = Some(value),
                "type" => return Err(format!("type `{value}` is neither file nor env")),
                "src" | "source" => file = Some(value.to_owned()),
                "env" => variable = Some(value.to_owned()),
                other => {
                    return Err(format!(
                        "`{other}` is not known: known are id, src, env and type"
                    ));
                }
            }
        }
        let id = id
            .filter(|id| !id.is_empty())
            .ok_or("the id is missing: write id=ID,src=FILE")?;
        let source = match (kind, file, variable) {
            (_, Some(_), Some(_)) => return Err("it has src and env: leave one of them out".into()),
            (Some("env"), Some(name), None) | (_, None, Some(name)) => Some(Origin::Variable(name)),
            (_, Some(file), None) => Some(Origin::File(file.into())),
            (_, None, None) => None,
        };
        Ok(Self { id, source })
    }
}

/// `--ssh`
#[derive(Clone, Debug, PartialEq, Eq)]
struct AgentArg {
    id: String,
    socket: Option<PathBuf>,
}

impl FromStr for AgentArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, socket) = match text.split_once('=') {
            Some((id, socket)) => (id, Some(socket)),
            None => (text, None),
        };
        if id.is_empty() {
            return Err("the id is missing: write default, or ID=SOCKET".into());
        }
        if socket.is_some_and(|socket| socket.contains(',')) {
            return Err("one socket of an agent, not several keys: add them with ssh-add".into());
        }
        Ok(Self {
            id: id.to_owned(),
            socket: socket
                .filter(|socket| !socket.is_empty())
                .map(PathBuf::from),
        })
    }
}

/// `--add-host`
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostArg {
    name: String,
    address: IpAddr,
}

impl FromStr for HostArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
            .ok_or("expected NAME:ADDRESS")?;
        let bare = address
            .strip_prefix('[')
            .and_then(|address| address.strip_suffix(']'))
            .unwrap_or(address);
        let address = bare
            .parse()
            .map_err(|_| format!("`{address}` is no IP address"))?;
        Ok(Self {
            name: name.to_owned(),
            address,
        })
    }
}

fn size(text: &str) -> Result<u64, String> {
    dockerfile::parse_size(text)
        .filter(|size| *size > 0)
        .ok_or_else(|| format!("`{text}` is no size: write bytes, or a number with a unit as 64m"))
}

/// The limits that docker knows.
const LIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn limit(text: &str) -> Result<ResourceLimit, String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=SOFT[:HARD]")?;
    if !LIMITS.contains(&name) {
        return Err(format!(
            "there is no limit `{name}`: known are {}",
            LIMITS.join(", ")
        ));
    }
    let number = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        text => text
            .parse()
            .map_err(|_| format!("`{text}` is no number; -1 means no limit")),
    };
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(format!(
            "the soft limit {soft} is above the hard limit {hard}"
        ));
    }
    Ok(ResourceLimit {
        name: format!("RLIMIT_{}", name.to_uppercase()),
        soft,
        hard,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_files_or_variables() {
        let file = |path: &str| Some(Origin::File(path.into()));
        let variable = |name: &str| Some(Origin::Variable(name.into()));
        for (text, id, source) in [
            ("id=a,src=/b", "a", file("/b")),
            ("type=file,id=a,source=b", "a", file("b")),
            ("id=a,env=B", "a", variable("B")),
            ("type=env,id=a,env=B", "a", variable("B")),
            ("type=env,id=a,src=B", "a", variable("B")),
            ("ID=a", "a", None),
        ] {
            let found: SecretArg = text.parse().unwrap();
            assert_eq!((found.id.as_str(), found.source), (id, source), "{text}");
        }
        for text in [
            "a",
            "src=/b",
            "id=",
            "id=a,type=x",
            "id=a,x=y",
            "id=a,src=b,env=c",
        ] {
            assert!(text.parse::<SecretArg>().is_err(), "{text}");
        }
        let alone: SecretArg = "id=HOME".parse().unwrap();
        assert_eq!(Some(alone.origin(&|_| Some("/".into()))), variable("HOME"));
        assert_eq!(Some(alone.origin(&|_| None)), file("HOME"));
    }

    #[test]
    fn agents_hosts_and_limits() {
        let agent = |text: &str| text.parse::<AgentArg>().map(|a| (a.id, a.socket));
        assert_eq!(agent("default"), Ok(("default".into(), None)));
        assert_eq!(agent("a=/s"), Ok(("a".into(), Some("/s".into()))));
        assert!(agent("=x").is_err() && agent("a=k1,k2").is_err());
        for (text, expected) in [
            ("db:10.0.0.1", Some(("db", "10.0.0.1"))),
            ("db=10.0.0.1", Some(("db", "10.0.0.1"))),
            ("db:::1", Some(("db", "::1"))),
            ("db:[fd00::1]", Some(("db", "fd00::1"))),
            ("db", None),
            (":1.2.3.4", None),
            ("a b:1.2.3.4", None),
            ("db:host-gateway", None),
        ] {
            let found = text.parse::<HostArg>().ok();
            let found = found.map(|host| (host.name, host.address.to_string()));
            let expected = expected.map(|(n, a)| (n.to_owned(), a.to_owned()));
            assert_eq!(found, expected, "{text}");
        }
        for (text, expected) in [
            ("nofile=1024:2048", Some(("RLIMIT_NOFILE", 1024, 2048))),
            ("core=0", Some(("RLIMIT_CORE", 0, 0))),
            ("nproc=5:-1", Some(("RLIMIT_NPROC", 5, u64::MAX))),
            ("nofile", None),
            ("nofile=2:1", None),
            ("files=1", None),
            ("nofile=x", None),
        ] {
            let found = limit(text).ok();
            let found = found.as_ref().map(|l| (l.name.as_str(), l.soft, l.hard));
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(size("128m"), Ok(128 << 20));
        assert!(size("0").is_err() && size("x").is_err());
    }
}
