//! `coopery login` and `logout`: credentials for a registry, tried at once and kept where docker keeps them.

use std::io::{IsTerminal, Read, Write};

use clap::Args;
use distribution::{Credentials, DockerConfig};
use oci::RegistryHost;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::config_file::{ConfigFile, Stored, key};
use super::until_stopped;
use crate::cli::image::print;
use crate::cli::network::NetworkArgs;
use crate::error::Error;

#[derive(Args, Debug)]
pub(in crate::cli) struct LoginArgs {
    /// The registry, with or without http:// or https:// and a path (default: Docker Hub)
    #[arg(value_name = "SERVER")]
    server: Option<String>,
    /// User
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// Password; others on this machine may see it: use --password-stdin
    #[arg(short, long, value_name = "PASSWORD")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct LogoutArgs {
    /// The registry (default: Docker Hub)
    #[arg(value_name = "SERVER")]
    server: Option<String>,
    #[command(flatten)]
    network: NetworkArgs,
}

/// A registry as people write it: its host, and whether it is asked for by plain HTTP.
fn server(text: Option<&str>) -> Result<(RegistryHost, bool), Error> {
    let text = text.unwrap_or("docker.io");
    let (rest, plain) = match text.strip_prefix("http://") {
        Some(rest) => (rest, true),
        None => (text.strip_prefix("https://").unwrap_or(text), false),
    };
    let host = rest.split('/').next().unwrap_or_default();
    let host = host
        .parse()
        .map_err(|error| Error::Request(format!("{error}")))?;
    Ok((host, plain))
}

impl LoginArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let (host, plain) = server(self.server.as_deref())?;
        let (username, password) = self.credentials()?;
        let keychain = DockerConfig::default()
            .with(&key(&host), Credentials::basic(&username, &password))
            .map_err(|error| Error::Request(error.to_string()))?;
        let mut client = self.network.client_without_credentials()?;
        if plain {
            client = client.with_plain_http([host.as_str()]);
        }
        let client = client.with_keychain(keychain);
        until_stopped(async || {
            client.check_access(&host).await.map_err(|error| match error {
                distribution::Error::Unauthorized { .. } => Error::refused(format!(
                    "login attempt to {host} failed: unauthorized: incorrect username or password"
                )),
                error => Error::export(format!("logging in to {host}"))(error),
            })
        })?;
        let mut file = ConfigFile::read(&self.network.config_path()?)?;
        if file.store(&key(&host), &username, &password)? == Stored::File {
            warn(&format!(
                "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning.\n",
                file.path().display()
            ));
        }
        print("Login Succeeded\n")
    }

    fn credentials(&self) -> Result<(String, String), Error> {
        let refuse = |text: &str| Err(Error::Refused(text.into()));
        if let Some(password) = &self.password {
            if self.password_stdin {
                return refuse("--password and --password-stdin are mutually exclusive");
            }
            warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n");
            let username = match &self.username {
                Some(username) => username.clone(),
                None => ask_username()?,
            };
            return Ok((username, password.clone()));
        }
        if self.password_stdin {
            let Some(username) = self.username.clone() else {
                return refuse("Must provide --username with --password-stdin");
            };
            let mut password = String::new();
            let mut input = std::io::stdin().lock().take(64 * 1024);
            input
                .read_to_string(&mut password)
                .map_err(Error::io("reading the password"))?;
            let password = password.trim_end_matches(['\r', '\n']);
            if password.is_empty() {
                return refuse("the password on standard input is empty");
            }
            return Ok((username, password.to_owned()));
        }
        let username = match &self.username {
            Some(username) => username.clone(),
            None => ask_username()?,
        };
        let password = ask_hidden("Password: ")?;
        if username.is_empty() || password.is_empty() {
            return refuse("Error: username and password are required");
        }
        Ok((username, password))
    }
}

impl LogoutArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let (host, _) = server(self.server.as_deref())?;
        let key = key(&host);
        let mut file = ConfigFile::read(&self.network.config_path()?)?;
        if !file.has(&key) {
            return print(&format!("Not logged in to {key}\n"));
        }
        print(&format!("Removing login credentials for {key}\n"))?;
        file.erase(&key)
    }
}

fn warn(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Refuses to ask where nobody can answer.
fn check_terminal() -> Result<(), Error> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Error::Refused(
        "Error: Cannot perform an interactive login from a non TTY device".into(),
    ))
}

fn ask_username() -> Result<String, Error> {
    check_terminal()?;
    print("Username: ")?;
    read_line()
}

/// Reads a line that the terminal does not show.
pub(in crate::cli) fn ask_hidden(question: &str) -> Result<String, Error> {
    check_terminal()?;
    let stdin = std::io::stdin();
    let terminal = |error: rustix::io::Errno| Error::io("asking for the password")(error.into());
    let shown = tcgetattr(&stdin).map_err(terminal)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    print(question)?;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(terminal)?;
    let line = read_line();
    tcsetattr(&stdin, OptionalActions::Flush, &shown).map_err(terminal)?;
    line
}

fn read_line() -> Result<String, Error> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(Error::io("reading the answer"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_however_they_are_written() {
        for (text, host, plain) in [
            (None, "docker.io", false),
            (Some("index.docker.io"), "docker.io", false),
            (Some("https://index.docker.io/v1/"), "docker.io", false),
            (Some("http://localhost:5000/myrepo"), "localhost:5000", true),
            (
                Some("registry.example.com:443/team/"),
                "registry.example.com:443",
                false,
            ),
        ] {
            let found = server(text).map(|(host, plain)| (host.to_string(), plain));
            assert_eq!(found.unwrap(), (host.to_owned(), plain), "{text:?}");
        }
        assert!(server(Some("not a host")).is_err());
    }
}
