//! The status document arranged for display: sections and rows in a fixed order. It is built from
//! JSON, so that the status of a newer or older service can be shown too. Unknown keys are shown
//! last.

use std::time::Duration;

use serde_json::{Map, Value};

/// Sections in their order: key in the document, title, keys in their order.
const LAYOUT: [(&str, &str, &[&str]); 8] = [
    (
        "",
        "Service",
        &["version", "tenant", "client_id", "instance", "started_at", "uptime_seconds", "live"],
    ),
    (
        "session",
        "Broker",
        &["phase", "problem", "since", "session_present", "filters", "last_message_at"],
    ),
    (
        "database",
        "Database",
        &[
            "up",
            "problem",
            "down_since",
            "last_commit_at",
            "last_event_at",
            "clock_skew_seconds",
            "retention_overdue_seconds",
        ],
    ),
    ("spool", "Spool", &["events", "bytes", "oldest_at", "problem"]),
    ("certificate", "Client certificate", &["not_after"]),
    ("credentials", "Credentials", &["problem", "refused", "renewal", "renewed_at"]),
    ("configuration", "Configuration", &["problem", "needs_restart", "reloaded_at"]),
    (
        "figures",
        "Since the start",
        &[
            "received",
            "items_committed",
            "boards_committed",
            "duplicates",
            "dead_letters",
            "acks",
            "unacked",
            "oldest_unacked_seconds",
            "gaps",
            "default_partition_rows",
        ],
    ),
];

/// A table with a title.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewSection {
    /// Heading of the table.
    pub title: String,
    /// Label and value of each row.
    pub rows: Vec<(String, String)>,
}

/// A status document, ready to be displayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusView {
    /// True if the service reports that it is ready.
    pub ready: bool,
    /// Part and problem of each reason for not being ready.
    pub problems: Vec<(String, String)>,
    /// All other keys of the document.
    pub sections: Vec<ViewSection>,
}

impl StatusView {
    /// Arranges a status document.
    pub fn new(status: &Value) -> Self {
        let empty = Map::new();
        let status = status.as_object().unwrap_or(&empty);
        let known = LAYOUT.iter().filter_map(|(key, title, order)| {
            let object = if key.is_empty() { Some(top_level(status)) } else { part(status, key) };
            Some(section(title, &object?, order))
        });
        let is_unknown =
            |key: &str| LAYOUT.iter().all(|(k, ..)| *k != key) && !APART.contains(&key);
        let unknown = status.iter().filter(|(key, _)| is_unknown(key));
        let unknown =
            unknown.filter_map(|(key, value)| Some(section(&label(key), value.as_object()?, &[])));
        Self {
            ready: status.get("ready") == Some(&Value::Bool(true)),
            problems: problems(status),
            sections: known.chain(unknown).filter(|section| !section.rows.is_empty()).collect(),
        }
    }
}

fn part(status: &Map<String, Value>, key: &str) -> Option<Map<String, Value>> {
    status.get(key)?.as_object().cloned()
}

/// Keys that are displayed apart.
const APART: [&str; 4] = ["ready", "not_ready", "summary", "tiles"];

/// Returns the entries outside the sections, except for those that are displayed apart.
fn top_level(status: &Map<String, Value>) -> Map<String, Value> {
    status
        .iter()
        .filter(|(key, value)| !value.is_object() && !APART.contains(&key.as_str()))
        // A part that is off (`"spool": null`) has no row.
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn problems(status: &Map<String, Value>) -> Vec<(String, String)> {
    let list = status.get("not_ready").and_then(Value::as_array);
    let text = |value: &Value, key| value.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    list.into_iter().flatten().map(|o| (text(o, "part"), text(o, "problem"))).collect()
}

fn section(title: &str, object: &Map<String, Value>, order: &[&str]) -> ViewSection {
    let known = order.iter().filter_map(|key| object.get_key_value(*key));
    let unknown = object.iter().filter(|(key, _)| !order.contains(&key.as_str()));
    let rows = known.chain(unknown).filter_map(|(key, value)| {
        let shown = shown(key, value);
        // `"problem": null` means that there is none.
        (key != "problem" || !value.is_null()).then(|| (label(key), shown))
    });
    ViewSection { title: title.to_owned(), rows: rows.collect() }
}

fn label(key: &str) -> String {
    let words = key.strip_suffix("_seconds").unwrap_or(key).replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn shown(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "none yet".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if key.ends_with("_seconds") => {
            number.as_f64().map_or_else(|| number.to_string(), seconds)
        }
        Value::Number(number) if key == "bytes" => number
            .as_u64()
            .map_or_else(|| number.to_string(), |bytes| bytesize::ByteSize(bytes).to_string()),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) => {
            list.iter().map(|value| shown("", value)).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Formats a duration in whole seconds, or in milliseconds below one second.
fn seconds(value: f64) -> String {
    let Ok(duration) = Duration::try_from_secs_f64(value.abs()) else { return value.to_string() };
    let rounded = if duration.as_secs() >= 1 {
        Duration::from_secs(duration.as_secs())
    } else {
        Duration::from_millis(u64::from(duration.subsec_millis()))
    };
    let sign = if value < 0.0 && !rounded.is_zero() { "-" } else { "" };
    format!("{sign}{}", humantime::format_duration(rounded))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_keys_come_after_known_ones() {
        let view = StatusView::new(&json!({
            "ready": true, "not_ready": [], "version": "1", "spool": null, "novel": {"a_b": 1},
            "database": {"zeal": 2, "last_commit_at": null, "up": true, "problem": null},
        }));
        assert!(view.ready && view.problems.is_empty());
        let titles: Vec<_> = view.sections.iter().map(|s| s.title.as_str()).collect();
        assert_eq!(titles, ["Service", "Database", "Novel"]);
        let rows: Vec<_> =
            view.sections[1].rows.iter().map(|(l, v)| (l.as_str(), v.as_str())).collect();
        assert_eq!(rows, [("Up", "yes"), ("Last commit at", "none yet"), ("Zeal", "2")]);
        assert_eq!(view.sections[2].rows, [("A b".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(shown("uptime_seconds", &json!(93_784)), "1day 2h 3m 4s");
        assert_eq!(shown("oldest_unacked_seconds", &json!(0.25)), "250ms");
        assert_eq!(shown("clock_skew_seconds", &json!(-1.9)), "-1s");
        assert_eq!(shown("bytes", &json!(2048)), "2.0 KiB");
        assert_eq!(shown("filters", &json!(["a", "b"])), "a, b");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-z_]{0,12}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_can_be_shown(document in any_json()) {
            let view = StatusView::new(&document);
            prop_assert!(view.sections.iter().all(|section| !section.rows.is_empty()));
        }
    }
}
