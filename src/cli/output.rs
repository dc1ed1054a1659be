//! Output functions that several commands share.

use anyhow::Context as _;
use serde::Serialize;

/// Formats a value as one JSON document that ends with a line feed.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value).context("could not write JSON")? + "\n")
}

/// Escapes control characters, so that text from outside cannot control the terminal.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escape).collect()
}
