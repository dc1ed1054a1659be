//! `config`: shows the effective configuration and the origin of each value.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::output;
use crate::config::{EffectiveSetting, LoadedConfig, keys};

/// Command-line arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// Print one JSON document, for programs
    #[arg(long)]
    pub json: bool,
}

/// Widest value, in characters, that the comments are aligned to. The comment after a wider value
/// moves to the right alone.
const MAX_VALUE_WIDTH: usize = 44;

/// Writes the settings to `out` as TOML, section by section, each with its origin as a comment, and
/// the warnings to `err`. The settings hold no secrets.
pub fn show<O: Write, E: Write>(loaded: &LoadedConfig, out: &mut O, err: &mut E) -> io::Result<()> {
    match &loaded.file {
        Some(file) => writeln!(out, "# {}", file.display())?,
        None => writeln!(out, "# no file, only defaults and the environment")?,
    }
    let sections = loaded.settings.chunk_by(|a, b| split(a).0 == split(b).0);
    for section in sections {
        write_section(section, out)?;
    }
    out.flush()?;
    loaded.warnings.iter().try_for_each(|warning| writeln!(err, "warning: {warning}"))
}

/// Writes the configuration as one JSON document with `file`, `settings` (each with `key`, `value`
/// and `origin`) and `warnings`.
pub fn show_json<O: Write, E: Write>(
    loaded: &LoadedConfig,
    out: &mut O,
    _: &mut E,
) -> io::Result<()> {
    let setting = |setting: &EffectiveSetting| {
        json!({
            "key": setting.key,
            "value": value(&setting.shown),
            "origin": setting.origin.as_str(),
        })
    };
    let document = json!({
        "file": loaded.file,
        "settings": loaded.settings.iter().map(setting).collect::<Vec<_>>(),
        "warnings": loaded.warnings,
    });
    out.write_all(output::json(&document).map_err(io::Error::other)?.as_bytes())?;
    out.flush()
}

/// Turns a value in TOML into JSON.
fn value(shown: &str) -> Value {
    let table = format!("value = {shown}").parse::<toml::Table>();
    let value = table.ok().and_then(|table| serde_json::to_value(table.get("value")?).ok());
    value.unwrap_or_else(|| shown.into())
}

fn write_section(settings: &[EffectiveSetting], out: &mut impl Write) -> io::Result<()> {
    writeln!(out)?;
    if let Some((section, _)) =
        settings.first().map(split).filter(|(section, _)| !section.is_empty())
    {
        writeln!(out, "[{section}]")?;
    }
    let width =
        |of: fn(&EffectiveSetting) -> usize| settings.iter().map(of).max().unwrap_or_default();
    let name_width = width(|setting| split(setting).1.len());
    let value_width = width(|setting| setting.shown.chars().count()).min(MAX_VALUE_WIDTH);
    for setting in settings {
        let EffectiveSetting { shown, origin, .. } = setting;
        let name = split(setting).1;
        writeln!(out, "{name:<name_width$} = {shown:<value_width$}  # {origin}")?;
    }
    Ok(())
}

/// Returns the section of a key and its name inside the section.
fn split(setting: &EffectiveSetting) -> (&'static str, &'static str) {
    keys::find(setting.key).map_or(("", setting.key), |key| (key.section(), key.leaf()))
}
