//! Output that several commands share.

use anyhow::Context as _;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Writes a value as one JSON document that ends with a line feed.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value).context("could not write JSON")? + "\n")
}

/// Writes a time as RFC 3339; `None` is null in JSON.
pub(super) fn time(at: Option<OffsetDateTime>) -> anyhow::Result<Option<String>> {
    Ok(at.map(|at| at.format(&Rfc3339)).transpose()?)
}

/// Escapes control characters: text from outside must not command the terminal.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escape).collect()
}
