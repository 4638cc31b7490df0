//! The main job with a fault at each of the operator's writes: the same end, and one pod for each build and mirror.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt};
use tests::fault_proxy::{Fault, Point};
use tests::stage::Stage;

use super::choice::Dice;
use super::end_state::EndState;
use super::on_stage;
use super::run::{Operator, apply, forget, job, job_is_current};
use super::soak;

/// Runs at the same time.
const PARALLEL: usize = 3;
/// Runs without a fault, by which the writes are enumerated.
const FAULT_FREE: usize = 3;
/// Runs of one case until its write comes.
const ATTEMPTS: usize = 3;
/// The writes that are also refused and left without an answer.
const REFUSED: [&str; 5] = [
    "PATCH secrets main-credentials",
    "PATCH deployments main",
    "POST pods bases-*",
    "POST pods app-*",
    "PATCH imagebuilds/status app",
];
const KINDS: [&str; 3] = ["Registry", "ImageMirror", "ImageBuild"];

/// A run that came to its end.
struct Done {
    state: EndState,
    /// How many writes of each name came.
    writes: BTreeMap<String, usize>,
    /// Whether the fault was met.
    hit: bool,
}

/// Runs the main job once, with a fault or without.
async fn run(stage: &Stage, target: Option<(Point, Fault)>) -> anyhow::Result<Done> {
    let namespace = stage.namespace("crash", "baseline").await?;
    let no_lease = ["--leader-election=false"];
    let operator = Operator::new(stage, &namespace.name, "operator", target, &no_lease).await?;
    let body = async {
        operator.process.start().await?;
        apply(&namespace, &job(stage)).await?;
        operator
            .settle(&KINDS, || job_is_current(&namespace))
            .await?;
        EndState::of(stage, &namespace).await
    };
    let state = body.await.map_err(|error| operator.explain(&error))?;
    operator.process.crash().await?;
    forget(stage, &namespace).await?;
    let mut writes = BTreeMap::new();
    for written in operator.proxy.writes() {
        let count = writes.entry(written.point.write).or_insert(0);
        *count = written.point.occurrence.max(*count);
    }
    Ok(Done {
        state,
        writes,
        hit: operator.proxy.hit(),
    })
}

/// The writes of the main job, by runs without a fault.
struct Enumerated {
    state: EndState,
    /// Whether the bytes of the build are the same each time.
    same_bytes: bool,
    /// How many writes of each name always came, and came at most.
    writes: BTreeMap<String, (usize, usize)>,
}

impl Enumerated {
    fn of(runs: Vec<Done>) -> anyhow::Result<Self> {
        let mut runs = runs.into_iter();
        let first = runs.next().context("there is a run")?;
        let mut enumerated = Self {
            state: first.state,
            same_bytes: true,
            writes: first
                .writes
                .into_iter()
                .map(|(name, n)| (name, (n, n)))
                .collect(),
        };
        for run in runs {
            if enumerated.state != run.state {
                eprintln!("runs differ:\n{}", enumerated.state.difference(&run.state));
                enumerated.same_bytes = false;
            }
            let names: BTreeSet<String> = enumerated
                .writes
                .keys()
                .chain(run.writes.keys())
                .cloned()
                .collect();
            for name in names {
                let count = run.writes.get(&name).copied().unwrap_or(0);
                let (least, most) = enumerated.writes.get(&name).copied().unwrap_or((0, count));
                enumerated
                    .writes
                    .insert(name, (least.min(count), most.max(count)));
            }
            let difference = enumerated.difference(&run.state);
            anyhow::ensure!(
                difference.is_empty(),
                "two runs without a fault end differently:\n{difference}"
            );
        }
        for resource in ["app", "bases"] {
            let created = enumerated.state.created().get(resource).copied();
            anyhow::ensure!(created == Some(1), "pods of {resource}: {created:?}");
        }
        Ok(enumerated)
    }

    fn difference(&self, state: &EndState) -> String {
        if self.same_bytes {
            self.state.difference(state)
        } else {
            let (ours, theirs) = (self.state.clone(), state.clone());
            ours.without_digests().difference(&theirs.without_digests())
        }
    }

    /// Every write that came.
    fn points(&self) -> Vec<Point> {
        let mut points = Vec::new();
        for (write, (_, most)) in &self.writes {
            for occurrence in 1..=*most {
                let write = write.clone();
                points.push(Point { write, occurrence });
            }
        }
        points
    }

    fn print(&self) {
        eprintln!(
            "the main job has {} writes of {} names; the bytes of a build are {}:",
            self.points().len(),
            self.writes.len(),
            if self.same_bytes {
                "the same each time"
            } else {
                "not compared"
            },
        );
        for (name, (least, most)) in &self.writes {
            let times = if least == most {
                most.to_string()
            } else {
                format!("{least} to {most}")
            };
            eprintln!("  {name}: {times}");
        }
    }

    /// What is to be tried.
    fn cases(&self) -> Vec<(Point, Fault)> {
        let mut cases = Vec::new();
        for point in self.points() {
            for fault in Fault::AT_EVERY_WRITE {
                cases.push((point.clone(), fault));
            }
        }
        for write in REFUSED {
            for fault in Fault::REFUSALS {
                let write = write.to_owned();
                cases.push((
                    Point {
                        write,
                        occurrence: 1,
                    },
                    fault,
                ));
            }
        }
        cases
    }
}

/// One case, some runs if need be; the failure as a text. Fails when the first write of a name does not come.
async fn case(stage: &Stage, all: &Enumerated, point: &Point, fault: Fault) -> Result<(), String> {
    let what = format!("{fault:?} at {} #{}", point.write, point.occurrence);
    for _ in 0..ATTEMPTS {
        let done = run(stage, Some((point.clone(), fault)))
            .await
            .map_err(|error| format!("{what}: {error:#}"))?;
        let difference = all.difference(&done.state);
        if !difference.is_empty() {
            return Err(format!("{what}: another end:\n{difference}"));
        }
        let strange: Vec<&String> = done
            .writes
            .keys()
            .filter(|name| !all.writes.contains_key(*name))
            .collect();
        if !strange.is_empty() {
            return Err(format!(
                "{what}: writes that no run without a fault has: {strange:?}"
            ));
        }
        if done.hit {
            eprintln!("  {what}: held");
            return Ok(());
        }
    }
    // How many states of a pod are seen, and so how many times a status is written, differs between runs.
    if point.occurrence == 1 {
        return Err(format!("{what}: it did not come"));
    }
    eprintln!("  {what}: so many did not come in {ATTEMPTS} runs");
    Ok(())
}

#[test]
fn a_fault_at_any_write_changes_nothing_in_the_end() {
    on_stage("faults at every write", |stage| async move {
        let runs = futures::stream::iter(0..FAULT_FREE).map(|_| run(stage, None));
        let all = Enumerated::of(runs.buffer_unordered(PARALLEL).try_collect().await?)?;
        all.print();
        for write in REFUSED {
            anyhow::ensure!(all.writes.contains_key(write), "{write} did not come");
        }
        let mut cases = all.cases();
        let count = cases.len();
        if !soak() {
            cases = Dice::new("faults at writes").tenth(cases, 7, |(_, fault)| *fault);
        }
        eprintln!("{} of {count} faults:", cases.len());
        let results: Vec<Result<(), String>> = futures::stream::iter(&cases)
            .map(|(point, fault)| case(stage, &all, point, *fault))
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        anyhow::ensure!(
            failures.is_empty(),
            "{} of {} faults were not survived:\n{}",
            failures.len(),
            cases.len(),
            failures.join("\n\n")
        );
        Ok(())
    });
}
