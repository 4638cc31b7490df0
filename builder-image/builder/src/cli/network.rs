//! How a command reaches registries: the flags that all of them share.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use distribution::{Client, CredentialHelpers, DockerConfig, Guard, Keychain, Proxies};

use super::certificates;
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
        let client = self.client_without_credentials()?;
        Ok(client.with_keychain(self.credentials()?))
    }

    /// The same, anonymous.
    pub(super) fn client_without_credentials(&self) -> Result<Client, Error> {
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
        let roots = [
            docker_directory().map(|directory| directory.join("certs.d")),
            Some(PathBuf::from("/etc/docker/certs.d")),
        ];
        let roots: Vec<_> = roots.into_iter().flatten().collect();
        for (host, tls) in certificates::read(&roots)? {
            builder = builder.host_tls(&host, tls);
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

    /// Where credentials are kept.
    pub(super) fn config_path(&self) -> Result<PathBuf, Error> {
        let path = self.authfile.clone().or_else(default_config);
        path.ok_or_else(|| Error::Request("name a file with --authfile: HOME is not set".into()))
    }

    /// The helpers that the configuration names, then what it holds itself.
    fn credentials(&self) -> Result<Vec<Arc<dyn Keychain>>, Error> {
        let text = match &self.authfile {
            Some(path) => fs_err::read(path).map_err(refused("--authfile"))?,
            None => match default_config().map(fs_err::read) {
                Some(Ok(text)) => text,
                // Who never logged in is anonymous.
                _ => return Ok(Vec::new()),
            },
        };
        let path = self.authfile.clone().or_else(default_config);
        let origin = path.unwrap_or_default().display().to_string();
        let helpers = CredentialHelpers::parse(&text).map_err(refused(&origin))?;
        let config = DockerConfig::parse(&text).map_err(refused(&origin))?;
        let mut keychain: Vec<Arc<dyn Keychain>> = Vec::new();
        if !helpers.is_empty() {
            keychain.push(Arc::new(helpers));
        }
        keychain.push(Arc::new(config));
        Ok(keychain)
    }
}

/// A mistake in what `origin` stands for.
fn refused<E: std::fmt::Display>(origin: &str) -> impl FnOnce(E) -> Error {
    move |error| Error::Request(format!("{origin}: {error}"))
}

fn default_config() -> Option<PathBuf> {
    Some(docker_directory()?.join("config.json"))
}

fn docker_directory() -> Option<PathBuf> {
    match std::env::var_os("DOCKER_CONFIG") {
        Some(directory) => Some(PathBuf::from(directory)),
        None => Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")),
    }
}
