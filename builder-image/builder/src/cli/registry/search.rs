//! `coopery search`: repositories of a registry, by its search or by its catalog.

use std::str::FromStr;

use clap::Args;
use distribution::SearchResult;
use oci::RegistryHost;
use serde::Serialize;

use super::until_stopped;
use crate::cli::human;
use crate::cli::image::print;
use crate::cli::network::NetworkArgs;
use crate::cli::template::Format;
use crate::error::Error;

const COLUMNS: &str =
    "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}\t{{.IsAutomated}}";
const HEADERS: [(&str, &str); 5] = [
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];
/// How much of a description is shown.
const MOST: usize = 45;
/// The most repositories that are looked through.
const MAX_CATALOG: usize = 100_000;

#[derive(Args, Debug)]
pub(in crate::cli) struct SearchArgs {
    /// What to look for; HOST/TERM looks in that registry, else Docker Hub is asked
    term: String,
    /// Only repositories that match: is-official=BOOL, is-automated=BOOL, stars=NUMBER
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// Show them by a Go template: table, json, `table TEMPLATE` or a template
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Show at most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=100))]
    limit: u16,
    /// Show descriptions in full
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

/// One `--filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Official(bool),
    Automated(bool),
    Stars(u64),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or("bad format of filter (expected name=value)")?;
        let wrong = || format!("invalid filter '{key}={value}'");
        let truth = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong()),
        };
        match key {
            "is-official" => truth().map(Self::Official),
            "is-automated" => truth().map(Self::Automated),
            "stars" => value.parse().map(Self::Stars).map_err(|_| wrong()),
            _ => Err(format!(
                "invalid filter '{key}': known are is-official, is-automated and stars"
            )),
        }
    }
}

impl Filter {
    fn passes(self, found: &SearchResult) -> bool {
        match self {
            Self::Official(wanted) => found.is_official == wanted,
            Self::Automated(wanted) => found.is_automated == wanted,
            Self::Stars(least) => found.star_count >= least,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    description: String,
    is_automated: &'static str,
    is_official: &'static str,
    name: String,
    star_count: String,
}

/// Which registry is asked, and for what.
fn place(term: &str) -> Result<(RegistryHost, &str), Error> {
    let wrong = |error| Error::Request(format!("{error}"));
    Ok(match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
            (host.parse().map_err(wrong)?, rest)
        }
        _ => ("docker.io".parse().map_err(wrong)?, term),
    })
}

impl SearchArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let (host, term) = place(&self.term)?;
        let client = self.network.client()?;
        let failed = || Error::export(format!("searching {host}"));
        let limit = usize::from(self.limit);
        let found = until_stopped(async || {
            // Filters are applied here, so more is asked for where there are some.
            let asked = if self.filter.is_empty() { limit } else { 100 };
            if let Some(found) = client.search(&host, term, asked).await.map_err(failed())? {
                return Ok(found);
            }
            let all = client.catalog(&host, MAX_CATALOG).await.map_err(failed())?;
            let matching = all.into_iter().filter(|name| name.contains(term));
            Ok(matching
                .map(|name| SearchResult {
                    name,
                    ..SearchResult::default()
                })
                .collect())
        })?;
        let rows: Vec<_> = found
            .into_iter()
            .filter(|found| self.filter.iter().all(|filter| filter.passes(found)))
            .take(limit)
            .map(|found| self.row(&host, found))
            .collect();
        let format = Format::new(self.format.as_deref(), COLUMNS);
        print(&format.render(&HEADERS, &rows, 0)?)
    }

    fn row(&self, host: &RegistryHost, found: SearchResult) -> Row {
        let mark = |is: bool| if is { "[OK]" } else { "" };
        let description = found.description.replace(['\n', '\r', '\t'], " ");
        Row {
            // A name that can be pulled as it stands.
            name: if host.is_docker_hub() {
                found.name
            } else {
                format!("{host}/{}", found.name)
            },
            description: if self.no_trunc {
                description
            } else {
                human::clipped(&description, MOST)
            },
            star_count: found.star_count.to_string(),
            is_official: mark(found.is_official),
            is_automated: mark(found.is_automated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_says_where_to_look() {
        for (term, host, rest) in [
            ("nginx", "docker.io", "nginx"),
            ("acme/app", "docker.io", "acme/app"),
            (
                "localhost:5000/myrepo/kong",
                "localhost:5000",
                "myrepo/kong",
            ),
            ("quay.io/nginx", "quay.io", "nginx"),
            ("localhost/", "localhost", ""),
        ] {
            let (found, term) = place(term).unwrap();
            assert_eq!((found.as_str(), term), (host, rest));
        }
    }

    #[test]
    fn filters_are_read() {
        for (text, expected) in [
            ("is-official=true", Ok(Filter::Official(true))),
            ("is-automated=0", Ok(Filter::Automated(false))),
            ("stars=3", Ok(Filter::Stars(3))),
            ("stars=many", Err("invalid filter 'stars=many'")),
            ("color=red", Err("known are is-official")),
            ("stars", Err("expected name=value")),
        ] {
            match (text.parse::<Filter>(), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }
}
