//! `coopery inspect`, `image inspect`: all that is known of images, with docker's members.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use images::{Catalog, Image, Sizes};
use oci::{ContainerConfig, DiffId, Digest, Healthcheck, Reference};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{StoreArgs, all_of, find, print};
use crate::cli::template;
use crate::error::Error;

/// What can be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Images
    Image,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct InspectArgs {
    /// Images: names, ids, or beginnings of ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Show them by a Go template, for instance '{{json .RootFS.Layers}}'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Accepted: sizes of images are always shown
    #[arg(short, long)]
    size: bool,
    /// Inspect only this kind
    #[arg(long, value_enum)]
    r#type: Option<Kind>,
    #[command(flatten)]
    store: StoreArgs,
}

/// An image as docker describes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: Digest,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: String,
    comment: String,
    created: String,
    docker_version: String,
    author: String,
    config: Config,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
    size: u64,
    virtual_size: u64,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    descriptor: Descriptor,
}

/// How a container is run: members that are empty are there, too, so that templates find them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(clippy::struct_excessive_bools, reason = "the members are docker's")]
struct Config {
    hostname: String,
    domainname: String,
    user: String,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<String, Map<String, Value>>>,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args_escaped: Option<bool>,
    image: String,
    volumes: Option<BTreeMap<String, Map<String, Value>>>,
    working_dir: String,
    entrypoint: Option<Vec<String>>,
    on_build: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    stop_signal: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shell: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    r#type: String,
    layers: Vec<DiffId>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

impl InspectArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let images = self.store.open()?;
        let catalog = images.catalog()?;
        let sizes = images.sizes();
        let mut failures = Vec::new();
        let mut inspected = Vec::new();
        for text in &self.images {
            match find(&catalog, text) {
                Ok(image) => inspected.push(describe(image, &catalog, &sizes)?),
                Err(Error::Refused(_)) => {
                    failures.push(Error::Refused(format!("Error: No such image: {text}")));
                }
                Err(error) => failures.push(error),
            }
        }
        match self.format.as_deref() {
            None | Some("json") => print(&format!("{}\n", pretty(&inspected)?))?,
            Some(format) => {
                for image in &inspected {
                    print(&format!("{}\n", template::render(format, image)?))?;
                }
            }
        }
        all_of(failures)
    }
}

/// JSON indented by four, as docker does.
fn pretty(value: &impl Serialize) -> Result<String, Error> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    let written = value.serialize(&mut serializer);
    written.map_err(|error| Error::io("writing the result")(error.into()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn describe(image: &Image, catalog: &Catalog, sizes: &Sizes<'_>) -> Result<Inspected, Error> {
    let names = |names: &[Reference]| names.iter().map(Reference::familiar).collect();
    let config = &image.config;
    let size = sizes.image(image)?;
    let last = config.history.last();
    // Docker of old wrote it besides the history.
    let comment = config.other.get("comment").and_then(|text| text.as_str());
    let comment = comment
        .map(ToOwned::to_owned)
        .or_else(|| last?.comment.clone());
    let version = config
        .other
        .get("docker_version")
        .and_then(|text| text.as_str());
    let parent = catalog.parent(image).filter(|parent| parent.id != image.id);
    Ok(Inspected {
        id: image.id.clone(),
        repo_tags: names(&image.tags),
        repo_digests: names(&image.digests),
        parent: parent
            .map(|parent| parent.id.to_string())
            .unwrap_or_default(),
        comment: comment.unwrap_or_default(),
        created: config.created.clone().unwrap_or_default(),
        docker_version: version.unwrap_or_default().to_owned(),
        author: config.author.clone().unwrap_or_default(),
        config: container(&config.config),
        architecture: config.platform.architecture.clone(),
        variant: config.platform.variant.clone(),
        os: config.platform.os.clone(),
        os_version: config.platform.os_version.clone(),
        size,
        virtual_size: size,
        root_fs: RootFs {
            r#type: config.rootfs.kind.clone(),
            layers: config.rootfs.diff_ids.clone(),
        },
        descriptor: Descriptor {
            media_type: image.root.media_type.to_string(),
            digest: image.root.digest.clone(),
            size: image.root.size,
        },
    })
}

fn container(config: &ContainerConfig) -> Config {
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let set = |set: &std::collections::BTreeSet<String>| {
        let members = set.iter().map(|member| (member.clone(), Map::new()));
        (!set.is_empty()).then(|| members.collect())
    };
    let text = |key: &str| {
        let value = config.other.get(key).and_then(|value| value.as_str());
        value.unwrap_or_default().to_owned()
    };
    let flag = |key: &str| config.other.get(key).and_then(Value::as_bool) == Some(true);
    Config {
        hostname: text("Hostname"),
        domainname: text("Domainname"),
        user: config.user.clone(),
        attach_stdin: flag("AttachStdin"),
        attach_stdout: flag("AttachStdout"),
        attach_stderr: flag("AttachStderr"),
        exposed_ports: set(&config.exposed_ports),
        tty: flag("Tty"),
        open_stdin: flag("OpenStdin"),
        stdin_once: flag("StdinOnce"),
        env: list(&config.env),
        cmd: config.cmd.clone(),
        healthcheck: config.healthcheck.clone(),
        args_escaped: config.args_escaped,
        image: text("Image"),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone(),
        on_build: list(&config.on_build),
        labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
        stop_signal: config.stop_signal.clone(),
        shell: config.shell.clone(),
    }
}
