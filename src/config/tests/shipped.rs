//! The shipped example, the documentation and the `config` command follow the table of keys.

use super::*;

const EXAMPLE: &str = include_str!("../../../config.example.toml");
const DOCUMENTATION: &str = include_str!("../../../docs/configuration.md");

/// Lists the lines of the example that set a key, commented or not: dotted name, value, comment above.
fn example_entries() -> Vec<(String, String, String)> {
    let (mut section, mut comment, mut entries) = (String::new(), Vec::new(), Vec::new());
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some(words) = line.strip_prefix("# ") {
            comment.push(words);
            continue;
        } else if let Some((name, value)) = line.trim_start_matches('#').split_once(" = ") {
            entries.push((format!("{section}{name}"), value.to_owned(), comment.join(" ")));
        }
        comment.clear();
    }
    entries
}

#[test]
fn example_shows_every_key_with_its_default() {
    let entries = example_entries();
    let expected: Vec<_> = KEYS
        .iter()
        .map(|key| (key.name.to_owned(), key.default_literal(), key.doc.to_string()))
        .collect();
    for (seen, wanted) in entries.iter().zip(&expected) {
        assert_eq!(seen, wanted);
    }
    assert_eq!(entries.len(), expected.len());
}

/// Loads the example with the one file it needs.
fn load_example(text: &str, url: &str) -> Result<LoadedConfig, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("database.url"), url).unwrap();
    load_in(folder.path(), text, &[])
}

#[test]
fn example_loads_and_changes_no_default() {
    let loaded = load_example(EXAMPLE, "postgres:///centiloc?host=/run/postgresql").unwrap();
    let plain = load_text(MINIMAL, &[]).unwrap();
    for (ours, theirs) in loaded.settings.iter().zip(&plain.settings) {
        // The folders differ, and with them the paths.
        if !theirs.key.ends_with("_file") {
            assert_eq!(ours.shown, theirs.shown, "{}", ours.key);
        }
        let required = matches!(
            keys::find(ours.key).map(|k| k.default),
            Some(DefaultValue::Required(_) | DefaultValue::RequiredUnlessFile(_))
        );
        assert_eq!(ours.origin.as_str() == "default", !required, "{}", ours.key);
    }
}

#[test]
fn the_example_loads_with_everything_uncommented() {
    let text: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with("url = ") => format!("# {rest}\n"),
            Some(rest) if !rest.starts_with(' ') && rest.contains(" = ") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let loaded = load_example(&text, "postgres:///centiloc").unwrap();
    assert!(loaded.settings.iter().all(|s| s.origin.as_str().starts_with("config.toml:")
        || ["mqtt.password", "mqtt.password_file", "database.url"].contains(&s.key)));
}

/// Returns the row of a key in the table of `docs/configuration.md`.
fn documented(key: &ConfigKey) -> String {
    let default = match key.default {
        DefaultValue::Required(example) if key.name == "database.url_file" => {
            format!("required unless `database.url` is set, such as `{example}`")
        }
        DefaultValue::Required(example) => format!("required, such as `{example}`"),
        DefaultValue::RequiredUnlessFile(example) => {
            format!("required unless `{}_file` is set, such as `{example}`", key.name)
        }
        DefaultValue::Off => "not set".to_owned(),
        DefaultValue::Derived(text) if text.contains(' ') => text.to_owned(),
        DefaultValue::Derived(text) | DefaultValue::Value(text) => format!("`{text}`"),
    };
    // Markdown parses a bare <word> as HTML and drops it.
    format!("| `{}` | {default} | {} |", key.name, key.doc.replace('<', "&lt;"))
}

#[test]
fn the_documentation_has_a_row_for_every_key() {
    let rows: Vec<_> = DOCUMENTATION.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<_> = KEYS.iter().map(documented).collect();
    assert_eq!(rows.join("\n"), expected.join("\n"), "replace the rows by the right-hand side");
}

#[test]
fn printed_configuration_loads_to_the_same() {
    let env = [("CENTILOC_BRIDGE__MQTT__USERNAME", "a \"quoted\" \\ name")];
    let loaded = load_text(MINIMAL, &env).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    crate::cli::config::show(&loaded, &mut out, &mut err).unwrap();
    let (out, err) = (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
    assert!(out.contains("\nkeep_alive      = \"60s\""), "{out}");
    assert!(out.contains("# CENTILOC_BRIDGE__MQTT__USERNAME\n"), "{out}");
    assert_eq!(err.lines().count(), loaded.warnings.len());
    let again = load_text(&out, &[]).unwrap();
    for (ours, theirs) in again.settings.iter().zip(&loaded.settings) {
        assert_eq!(ours.shown, theirs.shown, "{}", ours.key);
    }
}
