//! `coopery import`: an image of one layer from the archive of a root filesystem.

use std::io::{IsTerminal, Read, Seek};
use std::sync::Arc;

use clap::Args;
use images::Images;
use oci::{ContainerConfig, DiffId, History, ImageConfig, MediaType, Platform, Reference, RootFs};
use url::Url;

use super::{StoreArgs, print};
use crate::build;
use crate::cli::network::NetworkArgs;
use crate::error::{Error, SourceFile};
use crate::graph::{self, Options, Surroundings};
use crate::runtime::{go_on, run_async};

/// What `--change` may say.
const CHANGES: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

#[derive(Args, Debug)]
pub(in crate::cli) struct ImportArgs {
    /// The archive, compressed or not: a file, an http or https URL, or - for standard input
    #[arg(value_name = "FILE|URL|-")]
    source: String,
    /// The name of the image
    #[arg(value_name = "REPOSITORY[:TAG]", value_parser = parse_name)]
    name: Option<Reference>,
    /// Apply an instruction of a Dockerfile, for instance ENV, CMD or EXPOSE
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Comment of the image
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Platform of the image (default: that of this machine)
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

fn parse_name(text: &str) -> Result<Reference, String> {
    let name: Reference = text.parse().map_err(|error| format!("{error}"))?;
    if name.digest().is_some() {
        return Err("refusing to create a tag with a digest reference".into());
    }
    Ok(name.or_latest())
}

impl ImportArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let config = changed(&self.change)?;
        let images = self.store.open()?;
        let is_url = self.source.starts_with("http://") || self.source.starts_with("https://");
        let source: Box<dyn Read> = match self.source.as_str() {
            "-" if std::io::stdin().is_terminal() => {
                return Err(Error::Request(
                    "import - reads standard input: redirect it".into(),
                ));
            }
            "-" => Box::new(std::io::stdin().lock()),
            url if is_url => Box::new(self.download(url)?),
            path => {
                let opened = fs_err::File::open(path);
                Box::new(opened.map_err(|error| Error::Request(error.to_string()))?)
            }
        };
        let id = self.import(&images, config, source)?;
        print(&format!("{id}\n"))
    }

    fn import(
        &self,
        images: &Images,
        config: ContainerConfig,
        source: impl Read,
    ) -> Result<oci::Digest, Error> {
        let reading = Error::io("reading the archive");
        let (_, archive) = store::decompress(source).map_err(reading)?;
        let held = images.hold()?;
        let mut archive = archive;
        let mut first = [0; 512];
        let read = fill(&mut archive, &mut first).map_err(Error::io("reading the archive"))?;
        if !is_tar(&first[..read]) {
            return Err(Error::Request(format!(
                "`{}` is no archive: name a tar file, compressed or not",
                self.source
            )));
        }
        let archive = first[..read].chain(archive);
        let (digest, size) =
            (images.layout().write_blob(archive, None)).map_err(images::ImagesError::from)?;
        let layer = oci::Descriptor::new(MediaType::OciLayer, digest.clone(), size);
        let now = jiff::Timestamp::now().to_string();
        let imported = format!("Imported from {}", self.source);
        let config = ImageConfig {
            created: Some(now.clone()),
            platform: self.platform.clone().unwrap_or_else(Platform::host),
            config,
            rootfs: RootFs {
                diff_ids: vec![DiffId(digest)],
                ..RootFs::default()
            },
            history: vec![History {
                created: Some(now),
                comment: Some(self.message.clone().unwrap_or(imported)),
                ..History::default()
            }],
            ..ImageConfig::default()
        };
        let id = images.add(&config, vec![layer], self.name.as_slice())?;
        drop(held);
        Ok(id)
    }

    /// What is behind a URL, in a file without a name.
    fn download(&self, url: &str) -> Result<fs_err::File, Error> {
        let client = self.network.client()?;
        let parsed =
            Url::parse(url).map_err(|error| Error::Request(format!("`{url}`: {error}")))?;
        let failed = || Error::export(format!("downloading {url}"));
        run_async(async |stop| {
            let work = async {
                let response = client.http().get(&parsed, None).await.map_err(failed())?;
                if !response.status().is_success() {
                    let status = response.status();
                    return Err(Error::refused(format!(
                        "downloading {url}: the server answered {status}"
                    )));
                }
                let mut body = response.into_reader();
                let file =
                    tempfile::tempfile().map_err(Error::io("making a file for the archive"))?;
                let mut to = tokio::fs::File::from_std(file);
                let copied = tokio::io::copy(&mut body, &mut to).await;
                copied.map_err(Error::io("downloading the archive"))?;
                let mut file = fs_err::File::from_parts(to.into_std().await, "the archive");
                file.rewind().map_err(Error::io("reading the archive"))?;
                Ok(file)
            };
            tokio::select! {
                biased;
                () = stop.token.cancelled() => Err(Error::Cancelled),
                file = work => file,
            }
        })
    }
}

/// Reads until `buffer` is full or the end.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        go_on()?;
        match reader.read(&mut buffer[read..])? {
            0 => break,
            count => read += count,
        }
    }
    Ok(read)
}

/// Whether an archive begins like that: with a header whose checksum is right, or with its end.
fn is_tar(first: &[u8]) -> bool {
    if first.len() < 512 {
        return false;
    }
    let header = tar::Header::from_byte_slice(first);
    let sum: u32 = first[..148]
        .iter()
        .chain(&first[156..])
        .map(|b| u32::from(*b))
        .sum();
    let is_end = first.iter().all(|byte| *byte == 0);
    is_end
        || header
            .cksum()
            .is_ok_and(|said| said == sum + 8 * u32::from(b' '))
}

/// What a container of the image runs, by instructions as a Dockerfile has them.
fn changed(changes: &[String]) -> Result<ContainerConfig, Error> {
    for change in changes {
        let verb = change.split_whitespace().next().unwrap_or_default();
        if !CHANGES.contains(&verb.to_ascii_uppercase().as_str()) {
            return Err(Error::Request(format!(
                "--change: `{verb}` is not supported: use one of {}",
                CHANGES.join(", ")
            )));
        }
    }
    let file = Arc::new(SourceFile {
        name: "--change".into(),
        text: format!("FROM scratch\n{}\n", changes.join("\n")),
    });
    let options = Options {
        target: None,
        build_args: std::collections::BTreeMap::new(),
        labels: std::collections::BTreeMap::new(),
        platform: Platform::host(),
        build_platform: Platform::host(),
        contexts: std::collections::BTreeMap::new(),
        surroundings: Surroundings::default(),
    };
    let (dockerfile, _) = build::parse(&file)?;
    let fail = |error| Error::graph(error, &file);
    let plan = graph::plan(&dockerfile, &options).map_err(fail)?;
    Ok(graph::build(&plan, &[]).map_err(fail)?.target.config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_those_of_a_dockerfile() {
        let changes = [
            "CMD [\"/bin/sh\"]",
            "env A=1 B=$A",
            "EXPOSE 80",
            "LABEL a=b",
            "WORKDIR /srv",
        ];
        let config = changed(&changes.map(Into::into)).unwrap();
        assert_eq!(config.cmd.unwrap(), ["/bin/sh"]);
        assert!(config.env.contains(&"A=1".to_owned()));
        assert!(config.exposed_ports.contains("80/tcp"));
        assert_eq!(config.labels["a"], "b");
        assert_eq!(config.working_dir, "/srv");
        for (change, expected) in [
            ("RUN true", "`RUN` is not supported"),
            ("FROM x", "`FROM`"),
            ("ENV", "ENV"),
        ] {
            let error = changed(&[change.into()]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn archives_are_known_by_their_first_header() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        tar.append_data(&mut header, "file", std::io::empty())
            .unwrap();
        let tar = tar.into_inner().unwrap();
        assert!(is_tar(&tar[..512]) && is_tar(&[0; 512]));
        assert!(!is_tar(&[b'x'; 512]) && !is_tar(b"short"));
    }
}
