//! `make bench`: the engine side by side with `BuildKit` and buildah on the same Dockerfiles, base and registry, and mirrors
//! side by side with crane, regsync and skopeo, interleaved, on this machine. It prints medians and ratios and writes them into `docs/benchmarks.md`. It judges nothing: a timed run
//! is no test.
#![expect(clippy::print_stdout, reason = "the output is the product")]

mod builder;
mod disk;
mod machine;
mod mirror;
mod plain;
mod registry_log;
mod report;
mod workload;

use anyhow::Context as _;
use clap::Parser;

use crate::builder::{Bench, Builder};
use crate::report::Row;
use crate::workload::{Case, Workload};

/// Compare the engine with its peers
#[derive(Parser)]
struct Arguments {
    /// Runs of each case; the medians are reported
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The workload to run, or `mirror` for all of mirrors; all of them where absent
    #[arg(long)]
    workload: Option<String>,
    /// The size of the large layer in MiB
    #[arg(long, default_value_t = 1024)]
    layer: u64,
    /// How far away registries are, in milliseconds, for mirrors
    #[arg(long, value_delimiter = ',', default_value = "0,20,100")]
    latency: Vec<u64>,
}

impl Arguments {
    /// The workloads of mirrors that are wanted.
    fn mirrors(&self) -> Vec<mirror::Work> {
        let all = mirror::Work::ALL.into_iter();
        match self.workload.as_deref() {
            None | Some("mirror") => all.collect(),
            Some(name) => all.filter(|work| work.name() == name).collect(),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "run as root: the builders run processes in containers"
    );
    let chosen: Vec<Workload> = Workload::ALL
        .into_iter()
        .filter(|workload| {
            arguments
                .workload
                .as_ref()
                .is_none_or(|name| name == workload.name())
        })
        .collect();
    let mirrors = arguments.mirrors();
    anyhow::ensure!(
        !chosen.is_empty() || !mirrors.is_empty(),
        "there is no such workload; there are: {} {} mirror",
        Workload::ALL.map(Workload::name).join(" "),
        mirror::Work::ALL.map(mirror::Work::name).join(" ")
    );
    let mut rows = Vec::new();
    for &workload in &chosen {
        println!("{}: {}", workload.name(), workload.about());
        rows.extend(run(workload, &arguments)?);
    }
    // A part does not replace the whole.
    let is_usual = arguments.layer == 1024;
    if !chosen.is_empty() {
        let table = report::table(&rows, arguments.runs);
        println!("{table}");
        if arguments.workload.is_none() && is_usual {
            report::write("builds", &table)?;
        }
    }
    if !mirrors.is_empty() {
        let is_whole = mirrors.len() == mirror::Work::ALL.len();
        let plan = mirror::Plan {
            works: mirrors,
            latencies: arguments.latency,
            runs: arguments.runs,
            layer: usize::try_from(arguments.layer)?,
        };
        let rows = tokio::runtime::Runtime::new()?.block_on(mirror::run(&plan))?;
        let table = mirror::table(&rows, &plan);
        println!("{table}");
        if is_whole && is_usual {
            report::write("mirrors", &table)?;
        }
    }
    Ok(())
}

/// All runs of one workload, in a world of its own that is gone afterwards.
fn run(workload: Workload, arguments: &Arguments) -> anyhow::Result<Vec<Row>> {
    let mut bench = Bench::start(workload, arguments.layer)?;
    let mut rows: Vec<Row> = Vec::new();
    for &case in workload.cases() {
        rows.extend(
            bench
                .builders(case)
                .map(|builder| Row::new(workload, case, builder)),
        );
    }
    for run in 0..workload.runs(arguments.runs) {
        for &case in workload.cases() {
            if case == Case::OneFile {
                workload.change(&bench.context(), run)?;
            }
            // Who goes first changes, so that nobody always finds the page cache warm.
            let mut order: Vec<Builder> = bench.builders(case).collect();
            let first = run % order.len();
            order.rotate_left(first);
            for builder in order {
                bench.prepare(builder, case)?;
                let outcome = bench
                    .build(builder, case, run)
                    .with_context(|| format!("{} by {}", workload.name(), builder.name()))?;
                println!(
                    "run {run}: {:<24} {:<12} {}",
                    case.name(),
                    builder.name(),
                    outcome.measured
                );
                let row = rows
                    .iter_mut()
                    .find(|row| (row.case, row.builder) == (case, builder));
                row.context("every case has a row")?.runs.push(outcome);
            }
        }
    }
    if let Some(commands) = workload.own_commands() {
        let own = bench.plain(&commands)?;
        println!(
            "the same commands in a plain chroot: {:.2} s",
            own.as_secs_f64()
        );
        for row in rows.iter_mut().filter(|row| row.case == Case::Cold) {
            row.own = Some(own);
        }
    }
    Ok(rows)
}
