//! The table of mirrors.

use std::fmt::Write as _;
use std::process::Command;

use super::tool::Tool;
use super::{Case, Plan, Row, Work};
use crate::machine::machine;

impl Row {
    fn wall(&self) -> f64 {
        let mut sorted: Vec<f64> = self.runs.iter().map(|run| run.wall.as_secs_f64()).collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.len() % 2, sorted.get(middle)) {
            (_, None) => f64::NAN,
            (0, Some(upper)) => f64::midpoint(sorted[middle - 1], *upper),
            (_, Some(median)) => *median,
        }
    }

    fn what(&self) -> &'static str {
        match (self.work, self.case) {
            (Work::Images, Case::Cold) => "100 images, cold",
            (Work::Images, Case::Unchanged) => "100 images, unchanged",
            (_, Case::NewTag) => "100 images, one new tag",
            (Work::Tags, _) => "1,000 tags, unchanged",
            (Work::Large, _) => "one large layer",
        }
    }

    fn who(&self) -> &'static str {
        match (self.tool, self.case) {
            (Some(tool), _) => tool.name(),
            (None, Case::Cold) => "bare uploads",
            (None, _) => "bare HEADs",
        }
    }
}

/// The first line that a program says of its version.
fn version(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let word = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    word.unwrap_or("?").to_owned()
}

/// All rows as Markdown, with what they were taken on.
pub(crate) fn table(rows: &[Row], plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text += &words;
        text.push('\n');
    };
    line(format!(
        "Medians of {} interleaved runs; the large layer has {} MiB; crane 0.22.1, regsync 0.11.7, skopeo {}, distribution 3.1.2 on both sides; {}.\n",
        plan.runs,
        plan.layer,
        version("skopeo", &["--version"]),
        machine()
    ));
    line("| Work | Distance | Tool | Wall | coopery ÷ it | Processors | Peak memory |".into());
    line("|---|---|---|---|---|---|---|".into());
    for row in rows {
        let ours = rows.iter().find(|other| {
            (other.work, other.case, other.latency, other.tool)
                == (row.work, row.case, row.latency, Some(Tool::Coopery))
        });
        let ratio = ours.map_or(f64::NAN, |ours| ours.wall() / row.wall());
        let mut cells = format!(
            "| {} | {} ms | {} | {:.2} s | {ratio:.2} |",
            row.what(),
            row.latency,
            row.who(),
            row.wall()
        );
        match row.runs.last().filter(|_| row.tool.is_some()) {
            Some(last) => write!(
                cells,
                " {:.2} s | {} MiB |",
                last.cpu.as_secs_f64(),
                last.memory >> 20
            ),
            None => write!(cells, " – | – |"),
        }
        .expect("a String takes all");
        line(cells);
    }
    text
}
