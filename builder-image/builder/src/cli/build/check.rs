//! `coopery build --check`: everything that is doubtful about a Dockerfile, without building it. Configurations of base
//! images are asked for, their layers are not.

use std::fmt::Write as _;
use std::sync::Arc;

use dockerfile::Diagnostic;
use serde_json::{Value, json};

use super::{BuildArgs, Prepared};
use crate::base::Bases;
use crate::build::parse;
use crate::cache::Cache;
use crate::cli::output;
use crate::epoch;
use crate::error::{Error, SourceFile};
use crate::graph;
use crate::layer::Owners;
use crate::lint::{Findings, findings, findings_of_text};
use crate::progress::Progress;
use crate::resolve::{Images, resolve};
use crate::runtime::run_async;

/// What to do instead of building.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Nothing else: build.
    Build,
    /// Check, and tell people or, with `json`, programs.
    Check { json: bool },
}

impl std::str::FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (method, format) = text.split_once(',').unwrap_or((text, ""));
        let json = match format {
            "" | "format=plain" | "format=text" => false,
            "format=json" => true,
            other => return Err(format!("`{other}` is not known: expected format=json")),
        };
        match method {
            "build" => Ok(Self::Build),
            "check" | "lint" => Ok(Self::Check { json }),
            other => Err(format!(
                "`{other}` is not known: expected build, check or check,format=json"
            )),
        }
    }
}

/// The flags that say so.
#[derive(clap::Args)]
pub(super) struct CallArgs {
    /// Check the Dockerfile and build nothing; exit code 1 if something was found
    #[arg(long)]
    check: bool,
    /// What to do: build, check, or check,format=json
    #[arg(long, value_name = "METHOD")]
    call: Option<Call>,
}

impl CallArgs {
    pub(super) fn call(&self) -> Call {
        match self.call {
            Some(call) => call,
            None if self.check => Call::Check { json: false },
            None => Call::Build,
        }
    }
}

/// What came of a check.
struct Checked {
    warnings: Vec<Diagnostic>,
    /// What prevents a build.
    error: Option<Error>,
}

pub(super) fn run(args: &BuildArgs, prepared: Prepared, json: bool) -> Result<(), Error> {
    let file = prepared.file.clone();
    let checked = run_async(async |_| check(args, prepared).await)?;
    if json {
        output::line(&format!("{:#}", to_json(&file, &checked)))?;
    } else {
        output::line(&to_text(&file, &checked.warnings))?;
    }
    match (checked.error, checked.warnings.len()) {
        (Some(error), _) => Err(error),
        (None, 0) => Ok(()),
        (None, 1) => Err(Error::Request("the check found 1 warning".into())),
        (None, count) => Err(Error::Request(format!("the check found {count} warnings"))),
    }
}

async fn check(args: &BuildArgs, prepared: Prepared) -> Result<Checked, Error> {
    let file = &prepared.file;
    let (dockerfile, parsed) = match parse(file) {
        Ok(parsed) => parsed,
        Err(error) => {
            return Ok(Checked {
                warnings: Vec::new(),
                error: Some(error),
            });
        }
    };
    let text_only = findings_of_text(file, &prepared.options, &dockerfile, parsed.clone())?;
    let of_graph = async {
        let options = epoch::unresolved(&dockerfile, &prepared.options);
        let options = &options.map_err(|error| Error::graph(error, file))?;
        let cache =
            Cache::open(&prepared.root).map_err(Error::io("opening the engine's directory"))?;
        let contexts = prepared.contexts.clone();
        let bases = Bases::new(args.network.client()?, cache, Owners::Recorded, contexts);
        let progress = Progress::stderr(args.style()?);
        let images = Images {
            bases: &bases,
            progress: &progress,
            file,
        };
        let found = resolve(&images, &dockerfile, options, graph::plan_all, &|_| Ok(())).await?;
        let planned = graph::plan_all(&found.dockerfile, options);
        let plan = planned.map_err(|error| Error::graph(error, file))?;
        let configs: Vec<_> = found.bases.iter().map(|base| base.config.clone()).collect();
        let graph = graph::build(&plan, &configs).map_err(|error| Error::graph(error, file))?;
        findings(
            file,
            options,
            &dockerfile,
            parsed,
            &graph,
            &prepared.context,
        )
    };
    Ok(match of_graph.await {
        Ok(Findings { warnings, .. }) => Checked {
            warnings,
            error: None,
        },
        Err(error) => Checked {
            warnings: text_only.warnings,
            error: Some(error),
        },
    })
}

/// `StageNameCasing`, and where the documentation has it.
fn title(warning: &Diagnostic) -> String {
    match dockerfile::Rule::named(warning.id) {
        Some(rule) => format!("{rule} - {}", rule.anchor()),
        None => warning.id.to_owned(),
    }
}

fn to_text(file: &Arc<SourceFile>, warnings: &[Diagnostic]) -> String {
    let mut text = match warnings.len() {
        0 => return "Check complete, no warnings found.".into(),
        1 => "Check complete, 1 warning has been found!".to_owned(),
        count => format!("Check complete, {count} warnings have been found!"),
    };
    for warning in warnings {
        let drawn = warning.render(&file.name, &file.text, false);
        // The first line repeats the rule and the message in another form.
        let place = drawn.split_once('\n').map_or("", |(_, place)| place);
        // Writing to a string never fails.
        let _ = write!(
            text,
            "\n\nWARNING: {}\n{}\n{place}",
            title(warning),
            warning.message
        );
    }
    text
}

fn to_json(file: &Arc<SourceFile>, checked: &Checked) -> Value {
    let entry = |warning: &Diagnostic| {
        let line = warning.line(&file.text);
        let rule = dockerfile::Rule::named(warning.id);
        json!({
            "ruleName": warning.id,
            "description": rule.map(|rule| rule.about().description).unwrap_or_default(),
            "url": rule.map(dockerfile::Rule::anchor).unwrap_or_default(),
            "detail": warning.message,
            "location": {
                "sourceIndex": 0,
                "ranges": [{"start": {"line": line, "character": 0}, "end": {"line": line, "character": 0}}],
            },
        })
    };
    let mut value = json!({
        "warnings": checked.warnings.iter().map(entry).collect::<Vec<_>>(),
        "sources": [{"filename": file.name, "language": "Dockerfile", "data": base64(&file.text)}],
    });
    if let Some(error) = &checked.error {
        value["error"] = json!({"message": error.to_string()});
    }
    value
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
