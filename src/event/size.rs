//! Estimates of the memory that events hold, for bounds on how many of them are held at once.

use std::mem::size_of;

use serde_json::{Map, Value};

/// Most bytes that an allocator adds to a small allocation: glibc's least chunk is 32 bytes.
const ALLOCATION: usize = 32;

/// Least number of entries in a node of a `BTreeMap`, its root apart.
const LEAST_ENTRIES: usize = 5;

/// Entries that a node of a `BTreeMap` has room for. More take further nodes.
const NODE_ENTRIES: usize = 11;

/// Bytes of a node of [`Map`] with its bookkeeping.
const NODE: usize = NODE_ENTRIES * (size_of::<String>() + size_of::<Value>()) + 16 + ALLOCATION;

/// Bytes of the pointers in a node that is not a leaf.
const CHILDREN: usize = (NODE_ENTRIES + 1) * size_of::<usize>();

/// Returns the bytes of a text.
pub(super) fn text(text: &String) -> usize {
    match text.capacity() {
        0 => 0,
        bytes => bytes + ALLOCATION,
    }
}

/// Returns the bytes of a list of texts.
pub(super) fn list(labels: &Vec<String>) -> usize {
    let elements = labels.capacity() * size_of::<String>() + ALLOCATION;
    elements + labels.iter().map(text).sum::<usize>()
}

/// Returns the bytes of a JSON object.
pub(super) fn map(map: &Map<String, Value>) -> usize {
    let nodes = match map.len() {
        0 => return 0,
        1..=NODE_ENTRIES => NODE,
        entries => (entries / LEAST_ENTRIES + 1) * (NODE + CHILDREN),
    };
    nodes + map.iter().map(|(key, entry)| text(key) + value(entry)).sum::<usize>()
}

/// Returns the bytes in addition to the value's own. Values that were read are at most 128 deep, the limit of the parser.
fn value(json: &Value) -> usize {
    match json {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(string) => text(string),
        Value::Array(values) if values.capacity() == 0 => 0,
        Value::Array(values) => {
            let elements = values.capacity() * size_of::<Value>() + ALLOCATION;
            elements + values.iter().map(value).sum::<usize>()
        }
        Value::Object(entries) => map(entries),
    }
}
