//! `coopery images`, `coopery image ls`: which images are here.

use clap::Args;
use images::{Catalog, Filter, Image, Sizes};
use jiff::Timestamp;
use oci::Reference;
use serde::Serialize;

use super::{StoreArgs, print};
use crate::cli::human;
use crate::cli::template::Format;
use crate::error::Error;

const NONE: &str = "<none>";
const COLUMNS: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const COLUMNS_WITH_DIGEST: &str =
    "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const HEADERS: [(&str, &str); 12] = [
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
    ("Platform", "PLATFORM"),
];

#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(in crate::cli) struct ListArgs {
    /// Only the images of this repository, with a tag only that one
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
    /// Show images without a name that others were made from, too
    #[arg(short, long)]
    all: bool,
    /// Show digests of where images were pulled from or pushed to
    #[arg(long)]
    pub(in crate::cli) digests: bool,
    /// Only images that match: dangling=BOOL, label=KEY[=VALUE], before=IMAGE, since=IMAGE, reference=PATTERN, until=TIME
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show them by a Go template: table, json, `table TEMPLATE` or a template
    #[arg(long, value_name = "TEMPLATE")]
    pub(in crate::cli) format: Option<String>,
    /// Show ids and times in full
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// A line of the list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    containers: &'static str,
    created_at: String,
    created_since: String,
    digest: String,
    #[serde(rename = "ID")]
    id: String,
    platform: String,
    repository: String,
    shared_size: &'static str,
    size: String,
    tag: String,
    unique_size: &'static str,
    virtual_size: String,
}

impl ListArgs {
    /// What is asked for.
    pub(in crate::cli) fn name(&self) -> Option<&str> {
        self.repository.as_deref()
    }

    /// Whether an image here is called so.
    pub(in crate::cli) fn has_any(&self, name: &Reference) -> Result<bool, Error> {
        let catalog = self.store.open()?.catalog()?;
        let wanted = Filter::Reference(name.to_string());
        Ok(catalog
            .images()
            .iter()
            .any(|image| wanted.passes(&catalog, image)))
    }

    pub(in crate::cli) fn run(&self) -> Result<(), Error> {
        let images = self.store.open()?;
        let catalog = images.catalog()?;
        let now = Timestamp::now();
        let by_name = self.repository.clone().map(Filter::Reference);
        let mut filters: Vec<_> = by_name.into_iter().collect();
        for text in &self.filter {
            let filter = Filter::parse(text, now).map_err(Error::refused)?;
            filter.check(&catalog).map_err(Error::refused)?;
            filters.push(filter);
        }
        let shown: Vec<_> = self.shown(&catalog, &filters);
        if self.quiet {
            let mut seen = Vec::new();
            for (image, _) in &shown {
                if !seen.contains(&&image.id) {
                    seen.push(&image.id);
                }
            }
            let ids = seen.into_iter().map(|id| format!("{}\n", self.id(id)));
            return print(&ids.collect::<String>());
        }
        let sizes = images.sizes();
        let rows: Vec<_> = shown
            .into_iter()
            .map(|(image, name)| self.row(image, &name, &sizes, now))
            .collect::<Result<_, Error>>()?;
        let columns = if self.digests {
            COLUMNS_WITH_DIGEST
        } else {
            COLUMNS
        };
        let format = Format::new(self.format.as_deref(), columns);
        print(&format.render(&HEADERS, &rows, 10)?)
    }

    /// The lines: an image has one for each name, and one where it has none.
    fn shown<'a>(&self, catalog: &'a Catalog, filters: &[Filter]) -> Vec<(&'a Image, Name)> {
        let by_name = filters.iter().any(|f| matches!(f, Filter::Reference(_)));
        let nameless = self.all || filters.iter().any(|f| matches!(f, Filter::Dangling(true)));
        let mut shown = Vec::new();
        for image in catalog.images() {
            let has_name = !image.tags.is_empty() || !image.digests.is_empty();
            let is_middle = || !has_name && catalog.children(image).next().is_some();
            let passes = filters.iter().all(|filter| filter.passes(catalog, image));
            if !passes || !nameless && is_middle() {
                continue;
            }
            for name in Name::all(image, self.digests) {
                let is_shown = match name.full() {
                    Some(full) => filters.iter().all(|filter| filter.shows(&full)),
                    None => !by_name,
                };
                if is_shown {
                    shown.push((image, name));
                }
            }
        }
        shown
    }

    fn id(&self, id: &oci::Digest) -> String {
        if self.no_trunc {
            id.to_string()
        } else {
            id.short().to_owned()
        }
    }

    fn row(
        &self,
        image: &Image,
        name: &Name,
        sizes: &Sizes<'_>,
        now: Timestamp,
    ) -> Result<Row, Error> {
        let size = human::size(sizes.image(image)?);
        let created = image.created();
        let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
        let reference = name.reference.as_ref();
        let repository =
            reference.map(|name| Reference::from(name.repository().clone()).familiar());
        Ok(Row {
            containers: "N/A",
            created_at: created.map_or_else(|| "N/A".into(), human::moment),
            created_since: created.map_or_else(|| "N/A".into(), |then| human::ago(then, now)),
            digest: or_none(name.digest.as_ref().map(ToString::to_string)),
            id: self.id(&image.id),
            platform: image.config.platform.to_string(),
            repository: or_none(repository),
            shared_size: "N/A",
            virtual_size: size.clone(),
            size,
            tag: or_none(reference.and_then(Reference::tag).map(ToString::to_string)),
            unique_size: "N/A",
        })
    }
}

/// What a line calls an image.
struct Name {
    reference: Option<Reference>,
    digest: Option<oci::Digest>,
}

impl Name {
    /// The name in full: with a tag, or with the digest.
    fn full(&self) -> Option<Reference> {
        let name = self.reference.as_ref()?;
        Some(match (&self.digest, name.tag()) {
            (Some(digest), None) => name.repository().at(digest.clone()),
            _ => name.clone(),
        })
    }

    /// All names of an image. With digests, each tag has a line for each digest of its repository.
    fn all(image: &Image, with_digests: bool) -> Vec<Self> {
        let digests_of = |name: &Reference| {
            let same = image.digests.iter();
            let same = same.filter(|other| other.repository() == name.repository());
            same.filter_map(|other| other.digest().cloned())
                .collect::<Vec<_>>()
        };
        let mut names = Vec::new();
        for tag in &image.tags {
            let digests = if with_digests {
                digests_of(tag)
            } else {
                Vec::new()
            };
            let reference = Some(tag.clone());
            if digests.is_empty() {
                names.push(Self {
                    reference: reference.clone(),
                    digest: None,
                });
            }
            for digest in digests {
                names.push(Self {
                    reference: reference.clone(),
                    digest: Some(digest),
                });
            }
        }
        for digest in &image.digests {
            if image
                .tags
                .iter()
                .all(|tag| tag.repository() != digest.repository())
            {
                names.push(Self {
                    reference: Some(digest.repository().clone().into()),
                    digest: digest.digest().cloned(),
                });
            }
        }
        if names.is_empty() {
            names.push(Self {
                reference: None,
                digest: None,
            });
        }
        names
    }
}
