//! `--format`: Go templates over what a command shows, as tables, JSON or lines. The language is the crate `gotmpl`'s; the
//! functions that docker adds to it are here. Pure.

use gotmpl::{Template, TemplateError, Value};
use serde::Serialize;

use super::human;
use crate::error::Error;

/// How results are shown.
#[derive(Debug)]
pub(super) struct Format {
    is_table: bool,
    text: String,
}

impl Format {
    /// What `--format` says; without it, or with `table` alone, a table of `columns` (`{{.ID}}\t{{.Size}}`).
    pub(super) fn new(given: Option<&str>, columns: &str) -> Self {
        let given = given.unwrap_or_default().trim();
        let (is_table, text) = match given.strip_prefix("table") {
            _ if given.is_empty() => (true, columns),
            Some("") => (true, columns),
            Some(text) if text.starts_with([' ', '\\', '\t']) => {
                (true, text.trim_start_matches(' '))
            }
            _ if given == "json" => (false, "{{json .}}"),
            _ => (false, given),
        };
        Self {
            is_table,
            text: text.replace("\\t", "\t").replace("\\n", "\n"),
        }
    }

    /// All rows, each in a line of its own. A table begins with the row of `headers`: what stands above each field.
    ///
    /// # Errors
    /// When the template is none, or cannot be applied.
    pub(super) fn render<T: Serialize>(
        &self,
        headers: &[(&str, &str)],
        rows: &[T],
        least: usize,
    ) -> Result<String, Error> {
        let template = parse(&self.text)?;
        let mut lines = Vec::new();
        if self.is_table {
            let headers: serde_json::Map<_, _> = headers
                .iter()
                .map(|(field, header)| ((*field).to_owned(), (*header).into()))
                .collect();
            lines.push(execute(&template, &headers)?);
        }
        for row in rows {
            lines.push(execute(&template, row)?);
        }
        if self.is_table {
            return Ok(human::columns(&lines, least));
        }
        lines.push(String::new());
        Ok(lines.join("\n"))
    }
}

/// What a template makes of one value.
///
/// # Errors
/// When it is no template, or cannot be applied.
pub(super) fn render<T: Serialize>(text: &str, value: &T) -> Result<String, Error> {
    execute(
        &parse(&text.replace("\\t", "\t").replace("\\n", "\n"))?,
        value,
    )
}

fn parse(text: &str) -> Result<Template, Error> {
    let join = |args: &[Value]| match args {
        [Value::List(items), Value::String(between)] => {
            let items: Vec<_> = items.iter().map(ToString::to_string).collect();
            Ok(Value::String(items.join(between).into()))
        }
        _ => Err(misused("join: expected a list and what stands between")),
    };
    let split = |args: &[Value]| match args {
        [Value::String(text), Value::String(at)] => {
            let parts = text.split(&**at).map(|part| Value::String(part.into()));
            Ok(Value::List(parts.collect()))
        }
        _ => Err(misused("split: expected a text and where to split it")),
    };
    let json = |args: &[Value]| match args {
        [value] => Ok(Value::String(to_json(value).to_string().into())),
        _ => Err(misused("json: expected one value")),
    };
    let pad = |args: &[Value]| match args {
        [Value::String(text), Value::Int(before), Value::Int(after)] => {
            let spaces = |count: i64| " ".repeat(usize::try_from(count).unwrap_or(0));
            let is_empty = text.is_empty();
            let padded = format!("{}{text}{}", spaces(*before), spaces(*after));
            Ok(Value::String(if is_empty {
                "".into()
            } else {
                padded.into()
            }))
        }
        _ => Err(misused("pad: expected a text and two numbers")),
    };
    let truncate = |args: &[Value]| match args {
        [Value::String(text), Value::Int(most)] => {
            let most = usize::try_from(*most).unwrap_or(0);
            let clipped: String = text.chars().take(most).collect();
            Ok(Value::String(clipped.into()))
        }
        _ => Err(misused("truncate: expected a text and a number")),
    };
    let title = |text: &str| {
        let mut chars = text.chars();
        let first = chars.next().map(|c| c.to_uppercase().to_string());
        first.unwrap_or_default() + chars.as_str()
    };
    Template::new("format")
        .func("json", json)
        .func("join", join)
        .func("split", split)
        .func("pad", pad)
        .func("truncate", truncate)
        .func("upper", of_text(str::to_uppercase))
        .func("lower", of_text(str::to_lowercase))
        .func("title", of_text(title))
        .parse(text)
        .map_err(|error| mistake(&error))
}

fn of_text(
    change: impl Fn(&str) -> String + Send + Sync + 'static,
) -> impl Fn(&[Value]) -> gotmpl::Result<Value> + Send + Sync + 'static {
    move |args| match args {
        [Value::String(text)] => Ok(Value::String(change(text).into())),
        _ => Err(misused("expected one text")),
    }
}

fn misused(message: &str) -> TemplateError {
    TemplateError::Exec(message.to_owned())
}

fn execute<T: Serialize>(template: &Template, value: &T) -> Result<String, Error> {
    let value = gotmpl::to_value(value).map_err(|error| mistake(&error))?;
    template
        .execute_to_string(&value)
        .map_err(|error| mistake(&error))
}

fn mistake(error: &TemplateError) -> Error {
    Error::Request(format!("--format: template parsing error: {error}"))
}

/// A value as JSON, the members of objects in the order of their names.
fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(b) => (*b).into(),
        Value::Int(number) => (*number).into(),
        Value::Uint(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => (&**text).into(),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(members) => {
            let members = members
                .iter()
                .map(|(key, value)| (key.to_string(), to_json(value)));
            serde_json::Value::Object(members.collect())
        }
        _ => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_have_dockers_functions() {
        let value = json!({
            "Id": "sha256:1234567890abcdef", "Size": 42, "Empty": [], "Absent": null, "Ok": true,
            "RootFS": {"Type": "layers", "Layers": ["sha256:a", "sha256:b"]},
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"b": "2", "a": "1 <&>"}},
            "RepoTags": ["app:1", "app:2"],
        });
        for (template, expected) in [
            ("{{json .RootFS.Layers}}", r#"["sha256:a","sha256:b"]"#),
            ("{{json .Config.Labels}}", r#"{"a":"1 <&>","b":"2"}"#),
            ("{{.Size}} {{.Ok}}", "42 true"),
            ("{{.RepoTags}}", "[app:1 app:2]"),
            ("{{.Config.Labels}}", "map[a:1 <&> b:2]"),
            ("{{index .RepoTags 1}}", "app:2"),
            ("{{index .Config.Labels \"b\"}}", "2"),
            ("{{range .Config.Env}}{{.}};{{end}}", "A=1;B=2;"),
            (
                "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}",
                "a=1 <&> b=2 ",
            ),
            ("{{if .Empty}}yes{{else}}no{{end}}", "no"),
            ("{{if eq .Size 42}}same{{end}}", "same"),
            ("{{if and .Ok (gt .Size 41)}}both{{end}}", "both"),
            ("{{len .RootFS.Layers}}", "2"),
            ("{{join .RepoTags \", \"}}", "app:1, app:2"),
            (
                "{{upper .RootFS.Type}} {{lower \"ABC\"}} {{title \"abc\"}}",
                "LAYERS abc Abc",
            ),
            ("{{index (split .Id \":\") 0}}", "sha256"),
            (
                "{{truncate .Id 9}}|{{pad .RootFS.Type 1 2}}|",
                "sha256:12| layers  |",
            ),
            (
                "{{println .Size}}{{printf \"%s-%d\" .RootFS.Type .Size}}",
                "42\nlayers-42",
            ),
            ("{{with .Config}}{{index .Env 0}}{{end}}", "A=1"),
            ("{{.Id | json}}", "\"sha256:1234567890abcdef\""),
            ("{{.Size}}\\t{{.Size}}", "42\t42"),
            ("{{json .Absent}}", "null"),
        ] {
            let made =
                render(template, &value).unwrap_or_else(|error| panic!("{template}: {error}"));
            assert_eq!(made, expected, "{template}");
        }
        for template in [
            "{{.Id",
            "{{nosuch .Id}}",
            "{{index .RepoTags 9}}",
            "{{upper .Size}}",
        ] {
            let error = render(template, &value).map_err(|error| error.to_string());
            assert!(
                error.clone().is_err_and(|text| text.contains("--format: ")),
                "{template}: {error:?}"
            );
        }
    }

    #[test]
    fn rows_become_tables_json_and_lines() {
        let rows = [
            json!({"ID": "a", "Size": "1kB"}),
            json!({"ID": "bb", "Size": "20kB"}),
        ];
        let headers = [("ID", "IMAGE ID"), ("Size", "SIZE")];
        let columns = "{{.ID}}\t{{.Size}}";
        for (given, expected) in [
            (None, "IMAGE ID   SIZE\na          1kB\nbb         20kB\n"),
            (
                Some("table"),
                "IMAGE ID   SIZE\na          1kB\nbb         20kB\n",
            ),
            (
                Some("table {{.Size}}\\t{{.ID}}"),
                "SIZE      IMAGE ID\n1kB       a\n20kB      bb\n",
            ),
            (
                Some("json"),
                "{\"ID\":\"a\",\"Size\":\"1kB\"}\n{\"ID\":\"bb\",\"Size\":\"20kB\"}\n",
            ),
            (Some("{{.ID}}={{.Size}}"), "a=1kB\nbb=20kB\n"),
        ] {
            let format = Format::new(given, columns);
            assert_eq!(
                format.render(&headers, &rows, 10).unwrap_or_default(),
                expected,
                "{given:?}"
            );
        }
    }
}
