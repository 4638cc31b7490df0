//! How a command reaches registries: the flags that all of them share.

use std::path::PathBuf;

use clap::Args;
use distribution::{Client, DockerConfig, Guard, Proxies};

use crate::error::Error;

#[derive(Args, Debug)]
pub(super) struct NetworkArgs {
    /// PEM file of certificate authorities to trust besides those of the system
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Credentials for registries, as docker login writes them (default: ~/.docker/config.json)
    #[arg(
        long,
        value_name = "FILE",
        alias = "registry-config",
        env = "REGISTRY_AUTH_FILE"
    )]
    authfile: Option<PathBuf>,
    /// Registry to reach by plain HTTP; loopback ones are without being named
    #[arg(long, value_name = "HOST")]
    plain_http: Vec<String>,
}

impl NetworkArgs {
    /// A client for a person's own machine: nothing is refused by address.
    pub(super) fn client(&self) -> Result<Client, Error> {
        let mut builder = Client::builder()
            .guard(Guard::Open)
            .proxies(Proxies::from_env())
            .plain_http(self.plain_http.iter().cloned());
        if let Some(path) = &self.ca_file {
            let pem = fs_err::read(path).map_err(refused("--ca-file"))?;
            if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
                return Err(refused("--ca-file")(format!(
                    "`{}` holds no certificate in PEM",
                    path.display()
                )));
            }
            builder = builder.ca_pem(pem);
        }
        if let Some(config) = self.credentials()? {
            builder = builder.keychain(config);
        }
        builder
            .build()
            .map_err(Error::export("making the client of registries"))
    }

    /// The same for git, which speaks for itself.
    pub(super) fn for_git(&self) -> Result<protocol::Network, Error> {
        let ca = self.ca_file.as_ref().map(fs_err::read_to_string);
        let proxies = Proxies::from_env();
        Ok(protocol::Network {
            ca_certificates: ca.transpose().map_err(refused("--ca-file"))?,
            http_proxy: proxies.http,
            https_proxy: proxies.https,
            no_proxy: proxies.no_proxy,
            allow_cidrs: Vec::new(),
        })
    }

    fn credentials(&self) -> Result<Option<DockerConfig>, Error> {
        let text = match &self.authfile {
            Some(path) => fs_err::read(path).map_err(refused("--authfile"))?,
            None => match default_config().map(fs_err::read) {
                Some(Ok(text)) => text,
                // Who never logged in is anonymous.
                _ => return Ok(None),
            },
        };
        let path = self.authfile.clone().or_else(default_config);
        let path = path.unwrap_or_default();
        let config = DockerConfig::parse(&text);
        config
            .map(Some)
            .map_err(refused(&path.display().to_string()))
    }
}

/// A mistake in what `origin` stands for.
fn refused<E: std::fmt::Display>(origin: &str) -> impl FnOnce(E) -> Error {
    move |error| Error::Request(format!("{origin}: {error}"))
}

fn default_config() -> Option<PathBuf> {
    let directory = match std::env::var_os("DOCKER_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(directory.join("config.json"))
}
