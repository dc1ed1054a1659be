//! `centiloc-bridge config`: the effective configuration and where each value came from.

use std::io::{self, Write};

use crate::config::{Loaded, Setting, keys};

/// Values wider than this push their own comment out, not everybody's.
const MAX_VALUE_WIDTH: usize = 44;

/// Writes the settings to `out` as TOML, section by section, each with its origin as a comment, and
/// the warnings to `err`. Secrets are left out already.
pub fn show(loaded: &Loaded, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
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

fn write_section(settings: &[Setting], out: &mut impl Write) -> io::Result<()> {
    writeln!(out)?;
    if let Some((section, _)) =
        settings.first().map(split).filter(|(section, _)| !section.is_empty())
    {
        writeln!(out, "[{section}]")?;
    }
    let width = |of: fn(&Setting) -> usize| settings.iter().map(of).max().unwrap_or_default();
    let name_width = width(|setting| split(setting).1.len());
    let value_width = width(|setting| setting.shown.chars().count()).min(MAX_VALUE_WIDTH);
    for setting in settings {
        let Setting { shown, origin, .. } = setting;
        let name = split(setting).1;
        writeln!(out, "{name:<name_width$} = {shown:<value_width$}  # {origin}")?;
    }
    Ok(())
}

/// Section and name inside it.
fn split(setting: &Setting) -> (&'static str, &'static str) {
    keys::find(setting.key).map_or(("", setting.key), |key| (key.section(), key.leaf()))
}
