//! The table of results, and its place in `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use tests::stage::repository;

use crate::builder::{Builder, Outcome};
use crate::machine::{buildah, machine};
use crate::workload::{Case, Workload};
use tests::measure::Measured;

/// The runs of one case by one builder.
pub(crate) struct Row {
    pub(crate) workload: Workload,
    pub(crate) case: Case,
    pub(crate) builder: Builder,
    pub(crate) runs: Vec<Outcome>,
    /// What the commands take by themselves.
    pub(crate) own: Option<Duration>,
}

impl Row {
    pub(crate) const fn new(workload: Workload, case: Case, builder: Builder) -> Self {
        Self {
            workload,
            case,
            builder,
            runs: Vec::new(),
            own: None,
        }
    }

    fn median(&self, of: impl Fn(&Measured) -> f64) -> f64 {
        self.median_of(|run| of(&run.measured))
    }

    fn median_of(&self, of: impl Fn(&Outcome) -> f64) -> f64 {
        let mut sorted: Vec<f64> = self.runs.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.len() % 2, sorted.get(middle)) {
            (_, None) => f64::NAN,
            (0, Some(upper)) => f64::midpoint(sorted[middle - 1], *upper),
            (_, Some(median)) => *median,
        }
    }

    fn cpu(&self) -> f64 {
        self.median(|run| run.cpu.as_secs_f64())
    }

    /// The size of the packed layer, in MiB.
    fn packed(&self) -> Option<f64> {
        self.runs.first()?.packed?;
        Some(self.median_of(|run| mebibytes(run.packed.unwrap_or_default())))
    }

    fn wall(&self) -> f64 {
        self.median(|run| run.wall.as_secs_f64())
    }

    /// The wall time less the commands' own.
    fn overhead(&self) -> f64 {
        self.wall() - self.own.unwrap_or_default().as_secs_f64()
    }
}

fn mebibytes(bytes: u64) -> f64 {
    let kibibytes = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    f64::from(kibibytes) / 1024.0
}

/// All rows as Markdown, with what they were taken on.
pub(crate) fn table(rows: &[Row], runs: usize) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text += &words;
        text.push('\n');
    };
    let buildah = buildah().map_or("no buildah".into(), |version| format!("buildah {version}"));
    line(format!(
        "Medians of {runs} interleaved runs, but where the list below says otherwise; BuildKit 0.25.2, {buildah}; {}.\n",
        machine()
    ));
    line("| Workload | Case | Builder | Wall | less commands | coopery ÷ it | Processors | Peak memory | Read | Written | Pulled |".into());
    line("|---|---|---|---|---|---|---|---|---|---|---|".into());
    for row in rows {
        let ours = rows.iter().find(|other| {
            (other.workload, other.case, other.builder)
                == (row.workload, row.case, Builder::Coopery)
        });
        let ratio = ours.map_or(f64::NAN, |ours| ours.overhead() / row.overhead());
        let less = row
            .own
            .map_or("–".into(), |_| format!("{:.2} s", row.overhead()));
        let median =
            |of: fn(&Outcome) -> u64| format!("{:.0} MiB", row.median_of(|run| mebibytes(of(run))));
        line(format!(
            "| {} | {} | {} | {:.2} s | {less} | {ratio:.2} | {:.2} s | {} | {} | {} | {} |",
            row.workload.name(),
            row.case.name(),
            row.builder.name(),
            row.wall(),
            row.cpu(),
            median(|run| run.measured.memory),
            median(|run| run.measured.read),
            median(|run| run.measured.written),
            median(|run| run.pulled),
        ));
    }
    let mut about = "\n".to_owned();
    let mut named: Vec<Workload> = rows.iter().map(|row| row.workload).collect();
    named.dedup();
    for workload in named {
        let (name, runs) = (workload.name(), workload.runs(runs));

        let without = workload.without_buildah();
        let without = without.map_or(String::new(), |why| format!("; {why}"));
        writeln!(
            about,
            "- `{name}` ({runs} runs): {}{without}.",
            workload.about()
        )
        .expect("a String takes all");
    }
    text + &about + &packing(rows)
}

/// What there is to say of the large layer: its size by each builder, and how much of the time goes to the compressor.
fn packing(rows: &[Row]) -> String {
    let mut text = String::new();
    let of = |case, builder| {
        let mut rows = rows.iter();
        rows.find(|row| {
            (row.workload, row.case, row.builder) == (Workload::LargeLayer, case, builder)
        })
    };
    let Some(ours) = of(Case::Cold, Builder::Coopery) else {
        return text;
    };
    let sizes: Vec<String> = [Builder::Coopery, Builder::Buildkit, Builder::Buildah]
        .into_iter()
        .filter_map(|builder| {
            let packed = of(Case::Cold, builder)?.packed()?;
            let ratio = packed / ours.packed()?;
            Some(format!("{} {packed:.1} MiB ({ratio:.3})", builder.name()))
        })
        .collect();
    writeln!(text, "- Its size, packed: {}.", sizes.join(", ")).expect("a String takes all");
    if let Some(plain) = of(Case::Uncompressed, Builder::Coopery) {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cores = f64::from(u32::try_from(cores).unwrap_or(1));
        let compressor = ours.cpu() - plain.cpu();
        writeln!(
            text,
            "- The compressor alone takes {compressor:.2} s of processors (by the difference to the build without it), {:.2} s on \
             all {cores} cores: {:.2} of the wall time.",
            compressor / cores,
            compressor / cores / ours.wall(),
        )
        .expect("a String takes all");
    }
    text
}

/// Replaces what stands between the markers of `name` in `docs/benchmarks.md`.
pub(crate) fn write(name: &str, table: &str) -> anyhow::Result<()> {
    let path = repository().join("docs/benchmarks.md");
    let (begin, end) = (
        &*format!("<!-- {name}: begin -->"),
        &*format!("<!-- {name}: end -->"),
    );
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
