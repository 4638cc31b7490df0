//! Mirrors side by side: the same content, from the same registry to a fresh one for each tool and run, at several distances.

mod content;
mod table;
mod tool;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tests::cluster::Options;
use tests::delay_proxy::DelayProxy;
use tests::measure::{Measured, measured};
use tests::plain_registry::PlainRegistry;

use self::content::Content;
pub(crate) use self::table::table;
use self::tool::Tool;

/// What is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// 100 images that share layers: cold, then unchanged, then with one new tag.
    Images,
    /// 1,000 tags, unchanged.
    Tags,
    /// One image of one large layer.
    Large,
}

/// What happened before a mirror runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Cold,
    Unchanged,
    NewTag,
}

/// Who took how long; no tool for the bare requests.
pub(crate) struct Row {
    pub(crate) work: Work,
    pub(crate) case: Case,
    pub(crate) latency: u64,
    pub(crate) tool: Option<Tool>,
    pub(crate) runs: Vec<Measured>,
}

/// What is measured.
pub(crate) struct Plan {
    pub(crate) works: Vec<Work>,
    /// Milliseconds that the registries are away.
    pub(crate) latencies: Vec<u64>,
    pub(crate) runs: usize,
    /// The size of the large layer in MiB.
    pub(crate) layer: usize,
}

impl Work {
    pub(crate) const ALL: [Self; 3] = [Self::Images, Self::Tags, Self::Large];

    /// What `make bench WORKLOAD=` says.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Images => "mirror-images",
            Self::Tags => "mirror-tags",
            Self::Large => "mirror-large",
        }
    }

    fn content(self, layer: usize) -> anyhow::Result<Vec<Content>> {
        match self {
            Self::Images => Content::images(),
            Self::Tags => Content::tags(),
            Self::Large => Content::large(layer),
        }
    }

    /// The cases, in order: each builds on what the one before left. Those of the many tags begin unchanged.
    const fn cases(self) -> &'static [Case] {
        match self {
            Self::Images => &[Case::Cold, Case::Unchanged, Case::NewTag],
            Self::Tags => &[Case::Unchanged],
            Self::Large => &[Case::Cold],
        }
    }
}

/// All of `plan`, in the order of the table.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &work in &plan.works {
        for &latency in &plan.latencies {
            rows.extend(measure(work, latency, plan).await?);
        }
    }
    Ok(rows)
}

/// One work at one distance by everybody, interleaved.
async fn measure(work: Work, latency: u64, plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for &case in work.cases() {
        let bare = (latency == 0 && case != Case::NewTag).then_some(None);
        for tool in Tool::ALL.into_iter().map(Some).chain(bare) {
            rows.push(Row {
                work,
                case,
                latency,
                tool,
                runs: Vec::new(),
            });
        }
    }
    for number in 0..plan.runs {
        let mut order: Vec<_> = Tool::ALL.into_iter().map(Some).collect();
        // Who goes first changes, so that nobody always finds the page cache warm.
        let first = number % order.len();
        order.rotate_left(first);
        order.extend((latency == 0).then_some(None));
        for tool in order {
            let name = tool.map_or("bare requests", Tool::name);
            let outcomes = one(work, latency, tool, plan.layer);
            let outcomes = outcomes
                .await
                .with_context(|| format!("{} by {name}", work.name()))?;
            for (case, outcome) in outcomes {
                println!(
                    "run {number}: {:<14} {latency:>3} ms {case:?}: {name:<16} {outcome}",
                    work.name()
                );
                let row = rows
                    .iter_mut()
                    .find(|row| (row.case, row.tool) == (case, tool));
                row.context("every case has a row")?.runs.push(outcome);
            }
        }
    }
    Ok(rows)
}

/// A registry, and the way to it.
struct Far {
    registry: PlainRegistry,
    proxy: Option<DelayProxy>,
}

impl Far {
    async fn start(programs: &Path, within: &Path, latency: u64) -> anyhow::Result<Self> {
        let registry = PlainRegistry::start_in(programs, within)?;
        let trip = Duration::from_millis(latency);
        let proxy = match latency {
            0 => None,
            _ => Some(DelayProxy::start(registry.host().to_owned(), trip).await?),
        };
        Ok(Self { registry, proxy })
    }

    /// Its host, as somebody far away names it.
    fn host(&self) -> String {
        let proxy = self.proxy.as_ref().map(DelayProxy::host);
        proxy.unwrap_or_else(|| self.registry.host().to_owned())
    }
}

/// All cases of one run by one tool, in a world of its own.
async fn one(
    work: Work,
    latency: u64,
    tool: Option<Tool>,
    layer: usize,
) -> anyhow::Result<Vec<(Case, Measured)>> {
    let programs = Options::new("bench").cache.join("bin");
    let directory = tempfile::tempdir_in("/var/tmp")?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let source = Far::start(&programs, directory.path(), latency).await?;
    let target = Far::start(&programs, directory.path(), latency).await?;
    let content = work.content(layer)?;
    let mut tags: Vec<_> = content.iter().map(Content::names).collect();
    for part in &content {
        part.put(&client, source.registry.host(), "").await?;
        if work == Work::Tags {
            part.put(&client, target.registry.host(), "mirror/").await?;
        }
    }
    let mut outcomes = Vec::new();
    for &case in work.cases() {
        if case == Case::NewTag {
            let more = Content::one_more()?;
            more.put(&client, source.registry.host(), "").await?;
            tags[0].1.extend(more.names().1);
        }
        let outcome = match tool {
            Some(tool) => {
                let hosts = (source.host(), target.host());
                by(
                    tool,
                    programs.clone(),
                    directory.path().to_owned(),
                    hosts,
                    tags.clone(),
                )
                .await?
            }
            None if case == Case::NewTag => continue,
            None => {
                let begin = Instant::now();
                for part in &content {
                    if case == Case::Cold {
                        part.put(&client, target.registry.host(), "mirror/").await?;
                    } else {
                        part.head(&client, source.registry.host(), "").await?;
                        part.head(&client, target.registry.host(), "mirror/")
                            .await?;
                    }
                }
                Measured {
                    wall: begin.elapsed(),
                    ..Measured::default()
                }
            }
        };
        outcomes.push((case, outcome));
    }
    // Nobody is faster because of what did not arrive.
    for part in &content {
        part.head(&client, target.registry.host(), "mirror/")
            .await?;
    }
    Ok(outcomes)
}

/// One command of `tool`. On a thread of its own: the proxies need this one.
async fn by(
    tool: Tool,
    programs: PathBuf,
    directory: PathBuf,
    (from, to): (String, String),
    tags: Vec<(String, Vec<String>)>,
) -> anyhow::Result<Measured> {
    let work = move || {
        let mut command = tool.command(&programs, &directory, (&from, &to), &tags)?;
        measured(&mut command, None, tool.processes())
    };
    tokio::task::spawn_blocking(work).await?
}
