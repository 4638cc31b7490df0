//! The command line `coopery`. Results go to standard output, everything else to standard error; the exit code is 0, 1 for
//! a mistake of the user and 2 for ours or the world's.

mod build;
mod cache;
mod certificates;
mod copy;
mod digest;
mod human;
mod image;
mod mirror;
mod network;
mod output;
#[cfg(test)]
mod reference;
mod registry;
mod root;
mod size;
mod template;
mod trust;
mod usage;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::Error;
use crate::pod;
use crate::progress::Style;

/// Builds, mirrors and keeps container images
#[derive(Parser)]
#[command(name = "coopery", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Show and remove what builds keep for later ones
    Cache(cache::CacheArgs),
    /// Copy an image between registries, directories and archives, bytes unchanged
    Copy(copy::CopyArgs),
    /// Print the digest that a tag stands for
    Digest(digest::DigestArgs),
    /// Make a key that signs images, and the key that verifies them
    GenerateKeyPair(trust::GenerateArgs),
    /// Show the history of an image
    History(image::HistoryArgs),
    /// Manage images
    Image {
        #[command(subcommand)]
        command: Option<ImageCommand>,
    },
    /// List images
    Images(Box<registry::RemoteListArgs>),
    /// Import the contents from a tarball to create a filesystem image
    Import(Box<image::ImportArgs>),
    /// Display detailed information on one or more images
    Inspect(image::InspectArgs),
    /// Load an image from a tar archive or STDIN
    Load(image::LoadArgs),
    /// Authenticate to a registry
    Login(registry::LoginArgs),
    /// Log out from a registry
    Logout(registry::LogoutArgs),
    /// Manage image manifests and manifest lists
    Manifest {
        #[command(subcommand)]
        command: Option<registry::ManifestCommand>,
    },
    /// Mirror images as ImageMirror manifests say, without a cluster
    Mirror(mirror::MirrorArgs),
    /// Remove unused images
    Prune(image::PruneArgs),
    /// Download an image from a registry
    Pull(registry::PullArgs),
    /// Upload an image to a registry
    Push(registry::PushArgs),
    /// Remove one or more images, here or in a registry
    Rm(Box<registry::RemoteRemoveArgs>),
    /// Remove one or more images
    Rmi(image::RemoveArgs),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(image::SaveArgs),
    /// Search Docker Hub, or another registry, for images
    Search(registry::SearchArgs),
    /// Sign images in a registry, as cosign does with a key
    Sign(trust::SignArgs),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(image::TagArgs),
    /// Verify that images in a registry are signed, as cosign does with a key
    Verify(trust::VerifyArgs),
    /// Carry out the request of a builder pod
    Pod(PodArgs),
    /// Print whether RUN can be isolated here, as JSON
    ExecProbe {
        /// Directory that layers would be kept in
        #[arg(long, default_value = protocol::paths::WORKSPACE)]
        root: std::path::PathBuf,
    },
    /// Print the version
    Version,
}

/// The verbs of `docker image`.
#[derive(Subcommand)]
enum ImageCommand {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Show the history of an image
    History(image::HistoryArgs),
    /// Import the contents from a tarball to create a filesystem image
    Import(Box<image::ImportArgs>),
    /// Display detailed information on one or more images
    Inspect(image::InspectArgs),
    /// Load an image from a tar archive or STDIN
    Load(image::LoadArgs),
    /// List images
    #[command(alias = "list")]
    Ls(Box<registry::RemoteListArgs>),
    /// Remove unused images
    Prune(image::PruneArgs),
    /// Download an image from a registry
    Pull(registry::PullArgs),
    /// Upload an image to a registry
    Push(registry::PushArgs),
    /// Remove one or more images
    #[command(alias = "remove")]
    Rm(image::RemoveArgs),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(image::SaveArgs),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(image::TagArgs),
}

impl ImageCommand {
    /// The verb without its group.
    fn alone(self) -> Command {
        match self {
            Self::Build(args) => Command::Build(args),
            Self::History(args) => Command::History(args),
            Self::Import(args) => Command::Import(args),
            Self::Inspect(args) => Command::Inspect(args),
            Self::Load(args) => Command::Load(args),
            Self::Ls(args) => Command::Images(args),
            Self::Prune(args) => Command::Prune(args),
            Self::Pull(args) => Command::Pull(args),
            Self::Push(args) => Command::Push(args),
            Self::Rm(args) => Command::Rmi(args),
            Self::Save(args) => Command::Save(args),
            Self::Tag(args) => Command::Tag(args),
        }
    }
}

#[derive(clap::Args)]
struct PodArgs {
    /// How to show progress
    #[arg(long, value_enum, default_value_t = Style::Plain)]
    progress: Style,
    /// File with the request
    #[arg(long, value_name = "FILE", default_value = protocol::paths::REQUEST)]
    request: String,
    /// File to write the outcome to
    #[arg(long, value_name = "FILE", default_value = protocol::paths::OUTCOME)]
    outcome: String,
    /// Directory of the ConfigMap that is the source
    #[arg(long, value_name = "DIR", default_value = protocol::paths::SOURCE)]
    source: String,
    /// Directory of the Secret of the source
    #[arg(long, value_name = "DIR", default_value = protocol::paths::SOURCE_CREDENTIALS)]
    source_credentials: String,
    /// Directory of the claim that keeps the cache
    #[arg(long, value_name = "DIR", default_value = protocol::paths::CACHE)]
    cache: String,
    /// Directory to work in
    #[arg(long, value_name = "DIR", default_value = protocol::paths::WORKSPACE)]
    root: String,
}

impl PodArgs {
    fn paths(&self) -> pod::Paths {
        pod::Paths {
            request: self.request.clone(),
            source_credentials: self.source_credentials.clone(),
            source: self.source.clone(),
            workspace: self.root.clone(),
            cache: self.cache.clone(),
            outcome: self.outcome.clone(),
        }
    }
}

/// Runs the command that the arguments of the process name. Must be called before any thread exists.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = usage::explain(error);
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    start_logging();
    let command = match cli.command {
        Command::Image {
            command: Some(command),
        } => command.alone(),
        command => command,
    };
    let result = match command {
        Command::Pod(args) => return pod::run(&args.paths(), args.progress),
        Command::Build(args) => match build::build_fetched(&args) {
            Ok(Some(code)) => return ExitCode::from(code),
            Ok(None) => build::run(&args),
            Err(error) => Err(error),
        },
        Command::Cache(args) => cache::run(&args),
        Command::Copy(args) => copy::run(&args),
        Command::Digest(args) => digest::run(&args),
        Command::GenerateKeyPair(args) => args.run(),
        Command::History(args) => args.run(),
        Command::Image { .. } => image::print(&image::group_usage(&Cli::command(), "image")),
        Command::Images(args) => args.run(),
        Command::Import(args) => args.run(),
        Command::Inspect(args) => args.run(),
        Command::Load(args) => args.run(),
        Command::Login(args) => args.run(),
        Command::Logout(args) => args.run(),
        Command::Manifest {
            command: Some(command),
        } => command.run(),
        Command::Manifest { .. } => image::print(&image::group_usage(&Cli::command(), "manifest")),
        Command::Mirror(args) => args.run(),
        Command::Prune(args) => args.run(),
        Command::Pull(args) => args.run(),
        Command::Push(args) => args.run(),
        Command::Rm(args) => args.run(),
        Command::Rmi(args) => args.run(),
        Command::Save(args) => args.run(),
        Command::Search(args) => args.run(),
        Command::Sign(args) => args.run(),
        Command::Tag(args) => args.run(),
        Command::Verify(args) => args.run(),
        Command::ExecProbe { root } => probe(&root),
        Command::Version => output::line(&format!("coopery {}", env!("CARGO_PKG_VERSION"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::from(if error.is_users() { 1 } else { 2 })
        }
    }
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("COOPERY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call, as in tests, is no matter.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(output::is_colored())
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .try_init();
}

fn probe(root: &std::path::Path) -> Result<(), Error> {
    use crate::exec::{ProbeReport, enter_user_namespace};
    let report = match enter_user_namespace(root) {
        Ok(_) => ProbeReport::available(),
        Err(error) => ProbeReport::missing(&error),
    };
    output::line(&serde_json::json!(report).to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_flag_of_build_is_in_its_documentation() {
        let documentation = include_str!("../../../../docs/build.md");
        let mut command = Cli::command();
        let build = command.find_subcommand_mut("build").expect("it is there");
        let missing: Vec<_> = build
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .filter(|flag| !documentation.contains(&format!("`--{flag}")))
            .collect();
        assert_eq!(missing, [""; 0], "docs/build.md does not name them");
    }
}
