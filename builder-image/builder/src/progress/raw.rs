//! Progress as BuildKit streams it to its clients (`--progress rawjson`): objects with `vertexes` and `logs`, one a line.
//! Pure; the time comes in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Event, Vertex};

/// What happened to a step, at `now`.
pub(super) fn status(vertex: &Vertex, event: Event<'_>, now: Timestamp) -> Value {
    let digest = oci::Digest::of(format!("{} {}", vertex.number, vertex.name).as_bytes());
    let elapsed = jiff::SignedDuration::try_from(vertex.started.elapsed()).unwrap_or_default();
    let started = now.checked_sub(elapsed).unwrap_or(now).to_string();
    let mut shown = json!({"digest": digest, "name": vertex.name, "started": started});
    match event {
        Event::Started => {}
        Event::Missed(text) | Event::Output(text) => {
            let data = STANDARD.encode(format!("{text}\n"));
            let log =
                json!({"vertex": digest, "stream": 1, "data": data, "timestamp": now.to_string()});
            return json!({"logs": [log]});
        }
        Event::Done => shown["completed"] = json!(now.to_string()),
        Event::Cached => {
            shown["completed"] = json!(now.to_string());
            shown["cached"] = json!(true);
        }
        Event::Failed(message) => {
            shown["completed"] = json!(now.to_string());
            shown["error"] = json!(message);
        }
    }
    json!({"vertexes": [shown]})
}
