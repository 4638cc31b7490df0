//! `coopery history`: how an image was made.

use clap::{ArgAction, Args};
use images::{Sizes, Step, history};
use jiff::Timestamp;
use serde::Serialize;

use super::{StoreArgs, find, print};
use crate::cli::human;
use crate::cli::template::Format;
use crate::error::Error;

const COLUMNS: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const COLUMNS_IN_FULL: &str = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const HEADERS: [(&str, &str); 6] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
/// How much of an instruction is shown.
const MOST: usize = 45;

#[derive(Args, Debug)]
pub(in crate::cli) struct HistoryArgs {
    /// The image: a name, an id, or the beginning of one
    image: String,
    /// Show it by a Go template: table, json, `table TEMPLATE` or a template
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Show sizes and times for people (default: true)
    #[arg(short = 'H', long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set, hide_default_value = true)]
    human: bool,
    /// Show instructions and ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    comment: String,
    created_at: String,
    created_by: String,
    created_since: String,
    #[serde(rename = "ID")]
    id: String,
    size: String,
}

impl HistoryArgs {
    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let images = self.store.open()?;
        let catalog = images.catalog()?;
        let image = find(&catalog, &self.image)?;
        let (sizes, now) = (images.sizes(), Timestamp::now());
        let rows: Vec<_> = history(&catalog, image)
            .iter()
            .map(|step| self.row(step, &sizes, now))
            .collect::<Result<_, Error>>()?;
        if self.quiet {
            let ids = rows.iter().map(|row| format!("{}\n", row.id));
            return print(&ids.collect::<String>());
        }
        let columns = if self.human { COLUMNS } else { COLUMNS_IN_FULL };
        let format = Format::new(self.format.as_deref(), columns);
        print(&format.render(&HEADERS, &rows, 10)?)
    }

    fn row(&self, step: &Step<'_>, sizes: &Sizes<'_>, now: Timestamp) -> Result<Row, Error> {
        let entry = &step.entry;
        let created = entry.created.as_ref().and_then(|text| text.parse().ok());
        let bytes = match step.layer {
            Some((_, layer)) => sizes.layer(layer)?,
            None => 0,
        };
        // A table has one line for each step.
        let created_by = entry
            .created_by
            .clone()
            .unwrap_or_default()
            .replace(['\t', '\n'], " ");
        Ok(Row {
            comment: entry.comment.clone().unwrap_or_default(),
            created_at: created.map_or_else(|| "N/A".into(), |then: Timestamp| then.to_string()),
            created_by: if self.no_trunc {
                created_by
            } else {
                human::clipped(&created_by, MOST)
            },
            created_since: created.map_or_else(|| "N/A".into(), |then| human::ago(then, now)),
            id: match step.image {
                None => "<missing>".into(),
                Some(id) if self.no_trunc => id.to_string(),
                Some(id) => id.short().to_owned(),
            },
            size: if self.human {
                human::size(bytes)
            } else {
                bytes.to_string()
            },
        })
    }
}
