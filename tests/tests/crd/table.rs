//! The tables of `crds/testdata`: objects that the API server takes and refuses. Reads files; asks nobody.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tests::stage::repository;

/// One object of a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// Its kind.
    pub(crate) kind: String,
    /// Its name.
    #[serde(default = "name")]
    pub(crate) name: String,
    /// What is merged over the valid spec of the kind; null removes a field.
    #[serde(default = "empty")]
    pub(crate) spec: Value,
    /// What is merged over that afterwards.
    #[serde(default)]
    pub(crate) change: Option<Value>,
    /// What the refusal must say.
    #[serde(default)]
    pub(crate) expect: Option<String>,
}

/// How values of a bounded field are written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BoundRow {
    /// The kind.
    pub(crate) kind: String,
    /// The field: `spec.destinations[0].name`.
    pub(crate) field: String,
    /// What is merged over the valid spec of the kind first.
    #[serde(default = "empty")]
    pub(crate) spec: Value,
    /// A text: `*` stands for as many `fill` as are needed.
    #[serde(default)]
    pub(crate) text: Option<String>,
    /// The character that `*` is made of.
    #[serde(default = "fill")]
    pub(crate) fill: char,
    /// An item of a list: `#` stands for its index.
    #[serde(default)]
    pub(crate) item: Option<Value>,
    /// A value of a map; its keys are `key0`, `key1` and so on.
    #[serde(default)]
    pub(crate) entry: Option<Value>,
    /// The field takes a few fixed words only, none as long as its bound.
    #[serde(default)]
    pub(crate) closed: bool,
}

fn name() -> String {
    "row".to_owned()
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

fn fill() -> char {
    'x'
}

/// The rows of `crds/testdata/<file>`.
pub(crate) fn read<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = repository().join("crds/testdata").join(file);
    let text = fs_err::read_to_string(&path).unwrap();
    let rows: Vec<T> =
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(!rows.is_empty(), "{file}");
    rows
}

/// The valid spec of `kind` with `over` merged over it.
pub(crate) fn spec(kind: &str, over: &Value) -> Value {
    let row = read::<Row>("valid.yaml")
        .into_iter()
        .find(|row| row.kind == kind)
        .unwrap_or_else(|| panic!("valid.yaml has no {kind}"));
    let mut spec = row.spec;
    merge(&mut spec, over);
    spec
}

/// Merges as RFC 7386 says: null removes, lists are replaced.
pub(crate) fn merge(into: &mut Value, over: &Value) {
    let Some(over) = over.as_object() else {
        *into = over.clone();
        return;
    };
    if !into.is_object() {
        *into = empty();
    }
    let fields = into.as_object_mut().unwrap();
    for (name, value) in over {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

impl BoundRow {
    /// A value of length, number or size `n`.
    pub(crate) fn value(&self, n: u64) -> Value {
        let count = usize::try_from(n).unwrap();
        if let Some(text) = &self.text {
            let room = count.checked_sub(text.len() - 1).unwrap_or_else(|| {
                panic!("{}: {text} does not fit into {n} characters", self.field)
            });
            Value::from(text.replacen('*', &self.fill.to_string().repeat(room), 1))
        } else if let Some(item) = &self.item {
            let item = item.to_string();
            let items = (0..count).map(|index| {
                serde_json::from_str::<Value>(&item.replace('#', &index.to_string())).unwrap()
            });
            items.collect()
        } else if let Some(entry) = &self.entry {
            let entries = (0..count).map(|index| (format!("key{index}"), entry.clone()));
            Value::Object(entries.collect())
        } else {
            Value::from(n)
        }
    }
}
