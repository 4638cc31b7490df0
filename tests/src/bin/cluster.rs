//! Starts, uses and stops embedded clusters from a shell. What it does is in `tests::cluster`.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use tests::cluster::{Cluster, Error, ImageArchive, Options};

/// Run an embedded Kubernetes cluster
#[derive(Parser)]
#[command(name = "cluster", about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Name of the cluster
    #[arg(long, global = true, default_value = "main", env = "COOPERY_CLUSTER")]
    name: String,
    /// Directory for the clusters' state instead of $COOPERY_CACHE/clusters
    #[arg(long, global = true)]
    base_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Start it, wait until it is ready, and leave it running
    Up,
    /// Stop it and remove everything but its logs
    Down,
    /// Print the path of the administrator's kubeconfig
    Kubeconfig,
    /// Print the directory of its logs
    Logs,
    /// Give the node the images of archives
    Import {
        /// Archives as of `docker save`, or OCI layouts as tar
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Give the node an image that holds this machine's static busybox
    Busybox {
        /// Name of the image, as `example.com/busybox:1`
        reference: String,
    },
    /// Let the node pull from a host by plain HTTP
    Trust {
        /// Host and port, as `main.images.svc:5000`
        host: String,
    },
    /// Run kubectl as the administrator
    #[command(trailing_var_arg = true, disable_help_flag = true)]
    Kubectl {
        /// Arguments of kubectl
        #[arg(allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run Helm as the administrator
    #[command(trailing_var_arg = true, disable_help_flag = true)]
    Helm {
        /// Arguments of Helm
        #[arg(allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run a command on the node, in its namespaces
    #[command(trailing_var_arg = true)]
    Exec {
        /// Program and arguments
        #[arg(required = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut options = Options::new(arguments.name).detached();
    options.base = arguments.base_dir;
    let mut out = std::io::stdout();
    match arguments.command {
        Command::Up => up(options).await?,
        Command::Down => match Cluster::attach(&options) {
            Ok(cluster) => cluster.stop().await?,
            Err(error @ Error::DoesNotRun { .. }) => writeln!(std::io::stderr(), "{error}")?,
            Err(error) => return Err(error.into()),
        },
        Command::Kubeconfig => {
            writeln!(out, "{}", Cluster::attach(&options)?.kubeconfig().display())?;
        }
        Command::Logs => writeln!(out, "{}", Cluster::attach(&options)?.logs_dir().display())?,
        Command::Import { archives } => {
            let cluster = Cluster::attach(&options)?;
            for archive in archives {
                cluster.import_image(&archive).await?;
            }
        }
        Command::Busybox { reference } => {
            Cluster::attach(&options)?
                .load(ImageArchive::busybox(reference).await?)
                .await?;
        }
        Command::Trust { host } => Cluster::attach(&options)?.trust_plain_http(&host)?,
        Command::Kubectl { words } => {
            replace_by(Cluster::attach(&options)?.command("kubectl", &strs(&words)))?;
        }
        Command::Helm { words } => {
            replace_by(Cluster::attach(&options)?.command("helm", &strs(&words)))?;
        }
        Command::Exec { words } => {
            replace_by(Cluster::attach(&options)?.node_command(&words[0], &strs(&words[1..])))?;
        }
    }
    Ok(())
}

/// Starts a cluster. When interrupted, the start is dropped, which removes what was begun.
async fn up(options: Options) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let log = options.name.clone();
    let cluster = tokio::select! {
        started = Cluster::start(options.clone()) => started?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; nothing is left of cluster {}", options.name),
        _ = terminated.recv() => anyhow::bail!("interrupted; nothing is left of cluster {}", options.name),
    };
    let mut errors = std::io::stderr();
    writeln!(
        errors,
        "cluster {log} is ready after {:.1} s at {}",
        begin.elapsed().as_secs_f64(),
        cluster.address()
    )?;
    writeln!(errors, "logs: {}", cluster.logs_dir().display())?;
    writeln!(std::io::stdout(), "{}", cluster.kubeconfig().display())?;
    Ok(())
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Becomes the command, with our standard input.
fn replace_by(mut command: std::process::Command) -> anyhow::Result<()> {
    let error = command.stdin(std::process::Stdio::inherit()).exec();
    anyhow::bail!("{}: {error}", command.get_program().to_string_lossy())
}
