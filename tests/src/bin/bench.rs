//! `make bench`: the engine side by side with `BuildKit` on the same Dockerfile, base and registry, interleaved, on this machine.
//! It prints medians and ratios and writes them into `docs/benchmarks.md`. It judges nothing: a timed run is no test.
#![expect(clippy::print_stdout, reason = "the output is the product")]

use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use tests::cluster::Options;
use tests::stage::{release_binary, repository};

/// Compare the engine with its peers
#[derive(Parser)]
struct Arguments {
    /// Runs of each case; the medians are reported
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Write the table into docs/benchmarks.md
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    write: bool,
}

/// What changes between two builds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Cold,
    Unchanged,
    OneFile,
}

impl Case {
    const ALL: [Self; 3] = [Self::Cold, Self::Unchanged, Self::OneFile];

    const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold, pushed",
            Self::Unchanged => "nothing changed",
            Self::OneFile => "one source file changed",
        }
    }
}

/// A process that ends with this value.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that both builders use.
struct Bench {
    programs: PathBuf,
    directory: tempfile::TempDir,
    registry: String,
    _registry: Daemon,
    buildkit: Option<Daemon>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "run as root: both builders run processes in containers"
    );
    let mut bench = Bench::start()?;
    bench.push_base()?;
    let mut times: Vec<(Case, [Vec<Duration>; 2])> = Case::ALL
        .map(|case| (case, [Vec::new(), Vec::new()]))
        .into();
    for run in 0..arguments.runs {
        for (case, columns) in &mut times {
            bench.prepare(*case, run)?;
            // Who goes first alternates, so that neither always finds the page cache warm.
            for who in if run % 2 == 0 { [0, 1] } else { [1, 0] } {
                let time = if who == 0 {
                    bench.coopery(run)?
                } else {
                    bench.buildkit(run)?
                };
                println!(
                    "run {run}: {:<24} {:<8} {:6.2} s",
                    case.name(),
                    ["coopery", "buildkit"][who],
                    time.as_secs_f64()
                );
                columns[who].push(time);
            }
        }
    }
    let table = table(&times, arguments.runs);
    println!("{table}");
    if arguments.write {
        write(&table)?;
    }
    Ok(())
}

impl Bench {
    fn start() -> anyhow::Result<Self> {
        let programs = Options::new("bench").cache.join("bin");
        let directory = tempfile::tempdir_in("/var/tmp")?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let registry = format!("127.0.0.1:{port}");
        let config = directory.path().join("registry.yml");
        fs_err::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: {registry}, secret: bench}}\n",
                directory.path().join("registry").display()
            ),
        )?;
        let log = fs_err::File::create(directory.path().join("registry.log"))?.into_file();
        let child = Command::new(programs.join("registry"))
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let bench = Self {
            programs,
            directory,
            registry,
            _registry: Daemon(child),
            buildkit: None,
        };
        await_true("the registry", || {
            std::net::TcpStream::connect(&*bench.registry).is_ok()
        })?;
        copy_tree(
            &repository().join("tests/benches/dockerfile"),
            &bench.context(),
        )?;
        Ok(bench)
    }

    fn context(&self) -> PathBuf {
        self.directory.path().join("context")
    }

    fn base(&self) -> String {
        format!("{}/base/debian-gcc:bookworm", self.registry)
    }

    /// A Debian root with a C compiler, as the demo makes it, in the registry.
    fn push_base(&self) -> anyhow::Result<()> {
        let context = Options::new("bench").cache.join("base/debian-gcc-context");
        if !context.join("root.tar").exists() {
            println!("making a Debian root with debootstrap (once)");
            let root = self.directory.path().join("root");
            run(Command::new("debootstrap")
                .args([
                    "--variant=minbase",
                    "--include=gcc,libc6-dev,make",
                    "bookworm",
                ])
                .arg(&root))?;
            fs_err::create_dir_all(&context)?;
            fs_err::write(
                context.join("Dockerfile"),
                "FROM scratch\nADD root.tar /\nCMD [\"bash\"]\n",
            )?;
            let archive = context.join("root.tar.new");
            run(Command::new("tar")
                .args(["--one-file-system", "--numeric-owner", "-C"])
                .arg(&root)
                .arg("-cf")
                .arg(&archive)
                .arg("."))?;
            fs_err::rename(archive, context.join("root.tar"))?;
        }
        let root = self.directory.path().join("base-engine");
        run(Command::new(release_binary("coopery")?)
            .args(["build", "--push", "-t", &self.base(), "--root"])
            .arg(root)
            .arg(context))?;
        Ok(())
    }

    /// Makes the world as `case` wants it.
    fn prepare(&mut self, case: Case, run: usize) -> anyhow::Result<()> {
        match case {
            Case::Cold => {
                remove(&self.coopery_root())?;
                self.buildkit = None;
                remove(&self.directory.path().join("buildkit"))?;
                self.start_buildkit()?;
            }
            Case::Unchanged => {}
            Case::OneFile => {
                let text = format!("int answer(void) {{\n    return {};\n}}\n", 1000 + run);
                fs_err::write(self.context().join("src/answer.c"), text)?;
            }
        }
        Ok(())
    }

    fn coopery_root(&self) -> PathBuf {
        self.directory.path().join("coopery")
    }

    fn start_buildkit(&mut self) -> anyhow::Result<()> {
        let root = self.directory.path().join("buildkit");
        fs_err::create_dir_all(&root)?;
        let config = root.join("buildkitd.toml");
        fs_err::write(
            &config,
            format!(
                "root = \"{root}/root\"\n[grpc]\n  address = [\"{socket}\"]\n[worker.oci]\n  enabled = true\n  binary = \"{runc}\"\n  \
                 networkMode = \"host\"\n[worker.containerd]\n  enabled = false\n[registry.\"{registry}\"]\n  http = true\n",
                root = root.display(),
                socket = self.socket(),
                runc = self.programs.join("runc").display(),
                registry = self.registry,
            ),
        )?;
        let log = fs_err::File::create(self.directory.path().join("buildkitd.log"))?.into_file();
        let child = Command::new(self.programs.join("buildkitd"))
            .arg("--config")
            .arg(config)
            .env(
                "PATH",
                format!("{}:{}", self.programs.display(), std::env::var("PATH")?),
            )
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        self.buildkit = Some(Daemon(child));
        await_true("buildkitd", || {
            self.buildctl()
                .args(["debug", "workers"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        })
    }

    fn socket(&self) -> String {
        format!(
            "unix://{}",
            self.directory.path().join("buildkit/socket").display()
        )
    }

    fn buildctl(&self) -> Command {
        let mut command = Command::new(self.programs.join("buildctl"));
        command.args(["--addr", &self.socket()]);
        command
    }

    /// One build by our engine, a fresh process with the root of the earlier ones; how long it took.
    fn coopery(&self, run_number: usize) -> anyhow::Result<Duration> {
        let target = format!("{}/coopery/app{run_number}:1", self.registry);
        let mut command = Command::new(release_binary("coopery")?);
        command.args([
            "build",
            "--push",
            "-t",
            &target,
            "--build-arg",
            &format!("BASE={}", self.base()),
            "--root",
        ]);
        command.arg(self.coopery_root()).arg(self.context());
        timed(&mut command)
    }

    /// One build by the running buildkitd; how long it took.
    fn buildkit(&self, run_number: usize) -> anyhow::Result<Duration> {
        let context = self.context().display().to_string();
        let mut command = self.buildctl();
        command.args([
            "build",
            "--progress",
            "plain",
            "--frontend",
            "dockerfile.v0",
        ]);
        command.args([
            "--local",
            &format!("context={context}"),
            "--local",
            &format!("dockerfile={context}"),
        ]);
        command.args(["--opt", &format!("build-arg:BASE={}", self.base())]);
        command.args([
            "--output",
            &format!(
                "type=image,name={}/buildkit/app{run_number}:1,push=true",
                self.registry
            ),
        ]);
        timed(&mut command)
    }
}

fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    run(command)?;
    Ok(begin.elapsed())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn await_true(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !condition() {
        anyhow::ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "waited 20 s for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        fs_err::remove_dir_all(directory)?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to))
}

fn median(times: &[Duration]) -> f64 {
    let mut sorted: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn table(times: &[(Case, [Vec<Duration>; 2])], runs: usize) -> String {
    let mut text = String::new();
    let mut line =
        |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").expect("a String takes all");
    line(format_args!(
        "Medians of {runs} interleaved runs; {}.",
        machine()
    ));
    line(format_args!(""));
    line(format_args!(
        "| Build of `tests/benches/dockerfile` | coopery | BuildKit 0.25.2 | ratio |"
    ));
    line(format_args!("|---|---|---|---|"));
    for (case, [ours, theirs]) in times {
        let (ours, theirs) = (median(ours), median(theirs));
        line(format_args!(
            "| {} | {ours:.2} s | {theirs:.2} s | {:.2} |",
            case.name(),
            ours / theirs
        ));
    }
    text
}

/// Commit and machine, as far as they can be told.
fn machine() -> String {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(repository())
            .output()
            .ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = output("uname", &["-r"]).unwrap_or_default();
    let cpu = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("", |l| l.trim_start_matches([' ', '\t', ':']));
    format!("commit {commit}, {cores} cores of {cpu}, Linux {kernel}")
}

/// Replaces what stands between the markers of `docs/benchmarks.md`.
fn write(table: &str) -> anyhow::Result<()> {
    let path = repository().join("docs/benchmarks.md");
    let (begin, end) = ("<!-- builds: begin -->", "<!-- builds: end -->");
    let text = fs_err::read_to_string(&path)?;
    let (head, rest) = text
        .split_once(begin)
        .context("docs/benchmarks.md has no begin marker")?;
    let (_, tail) = rest
        .split_once(end)
        .context("docs/benchmarks.md has no end marker")?;
    fs_err::write(path, format!("{head}{begin}\n{table}{end}{tail}"))?;
    Ok(())
}
