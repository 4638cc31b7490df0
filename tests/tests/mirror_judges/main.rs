//! What a mirror leaves, judged by others: images of every kind are copied between registries of every kind by the engine of
//! mirrors, and crane, regctl and skopeo must find at the target what the source has.
//!
//! Needs the programs of `make judges`, and skopeo; without them the test fails.
#![expect(clippy::print_stdout, reason = "what was judged is the product")]

mod corpus;
mod cosign;
mod judges;
mod registries;

use anyhow::Context as _;
use distribution::copy::{Copier, CopyOptions, Found, Job};
use distribution::{Client, ErrorKind, Guard};
use futures::{StreamExt, TryStreamExt};
use oci::{Reference, Repository};
use tests::cluster::Options;

use crate::corpus::{Sample, corpus};
use crate::judges::Judges;
use crate::registries::Registry;

/// Judges at work at the same time.
const AT_ONCE: usize = 4;

fn client() -> anyhow::Result<Client> {
    Ok(Client::builder().guard(Guard::Open).build()?)
}

/// Mirrors all of `corpus` from one registry to another, twice; the names that are there then.
async fn mirror(
    source: &Registry,
    target: &Registry,
    corpus: &[Sample],
) -> anyhow::Result<Vec<Reference>> {
    let from: Repository = source.repository("samples")?;
    let to = target.repository(&format!("mirror/{}", source.name))?;
    let run = || -> anyhow::Result<Copier> {
        let options = CopyOptions {
            foreign_layers: true,
            ..CopyOptions::default()
        };
        let copier = Copier::new(client()?, client()?, options);
        Ok(copier.with_ledger(target.repository("mirror/coopery-ledger")?))
    };
    let jobs = corpus.iter().map(|sample| {
        let tag: oci::Tag = sample.name.parse()?;
        Ok(Job {
            platforms: sample.platforms.clone(),
            found: Found::Unknown,
            ..Job::new(from.tagged(tag.clone()), &to.tagged(tag))
        })
    });
    let jobs: Vec<_> = jobs.collect::<anyhow::Result<_>>()?;
    for is_again in [false, true] {
        let run = run()?;
        let mut results = run.copy_all(&jobs);
        while let Some((number, result)) = results.next().await {
            let sample = &corpus[number];
            let what = || format!("{} from {} to {}", sample.name, source.name, target.name);
            if sample.name == "sparse" && !target.takes_sparse {
                let error = result.err().with_context(what)?;
                let refused = [ErrorKind::Refused, ErrorKind::NotFound];
                anyhow::ensure!(refused.contains(&error.kind()), "{}: {error}", what());
                continue;
            }
            let report = result.with_context(what)?;
            anyhow::ensure!(report.unchanged == is_again, "{}: {report:?}", what());
        }
        drop(results);
        run.keep_ledger().await;
    }
    let names = corpus.iter().map(|sample| {
        let tag: oci::Tag = sample.name.parse()?;
        Ok(to.tagged(tag))
    });
    names.collect()
}

#[tokio::test]
async fn other_clients_find_at_the_target_what_the_source_has() -> anyhow::Result<()> {
    let programs = Options::new("judges").cache.join("bin");
    let registries = Registry::all(&programs).await?;
    let (corpus, judges) = (corpus()?, Judges::new(&programs)?);
    let client = client()?;
    for registry in &registries {
        let repository = registry.repository("samples")?;
        for sample in &corpus {
            let pushed = sample.push(&client, &repository).await;
            pushed.with_context(|| format!("{} to {}", sample.name, registry.name))?;
        }
    }
    let mut judged = 0;
    for target in &registries {
        for source in &registries {
            let names = mirror(source, target, &corpus).await?;
            let there = corpus.iter().zip(&names);
            let there: Vec<_> = there
                .filter(|(sample, _)| sample.name != "sparse" || target.takes_sparse)
                .collect();
            judged += there.len();
            futures::stream::iter(there)
                .map(|(sample, name)| {
                    let judgement = judges.judge(sample, name);
                    async { anyhow::Ok(judgement.await.context(sample.name)?) }
                })
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await
                .with_context(|| format!("from {} to {}", source.name, target.name))?;
        }
    }
    println!("{judged} mirrored images were judged by crane, regctl and skopeo");
    Ok(())
}
