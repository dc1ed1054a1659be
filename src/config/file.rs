//! The file as a layer. The TOML is traversed with spans, so that every value and every problem names
//! its line. No message quotes the file, because any line of it may contain a secret.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigProblem, InvalidValue, ValueOrigin};
use super::keys::{self, ValueForm};
use super::layers::{ConfigLayer, RawValue};
use super::values;

/// Parses the text of the file at `path`. Returns `None` where it is not TOML.
pub(super) fn parse(
    path: &Path,
    text: &str,
    problems: &mut Vec<ConfigProblem>,
) -> Option<ConfigLayer> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        problems.extend(errors.iter().map(|error| syntax(path, text, error)));
        return None;
    }
    Some(layer(path, text, table.get_ref(), problems))
}

/// Returns the values that the parser recovers from a file with broken syntax.
pub(super) fn recover(path: &Path, text: &str) -> ConfigLayer {
    let (table, _) = DeTable::parse_recoverable(text);
    layer(path, text, table.get_ref(), &mut Vec::new())
}

fn layer(
    path: &Path,
    text: &str,
    table: &DeTable<'_>,
    problems: &mut Vec<ConfigProblem>,
) -> ConfigLayer {
    let mut walk = FileWalk { path, text, layer: ConfigLayer::default(), problems: Vec::new() };
    walk.table("", table);
    // Tables are sorted by name, but problems are reported in the order of the lines.
    walk.problems.sort_by_key(|(line, _)| *line);
    problems.extend(walk.problems.into_iter().map(|(_, problem)| problem));
    walk.layer.join_pairs(problems);
    walk.layer
}

/// Describes a syntax error by the parser's message alone: its `Display` quotes the line.
fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigProblem {
    let at = error.span().map(|span| ValueOrigin::line(path, line_of(text, span.start)));
    ConfigProblem {
        subject: path.display().to_string(),
        origin: at,
        found: format!("broken TOML ({})", error.message().replace('\n', ", ")),
        expected: "TOML".to_owned(),
        hint: "correct the syntax; quote texts, and double the backslashes in them".to_owned(),
    }
}

/// Returns the line, from 1, of a byte offset.
fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().fold(0, |lines, byte| lines + usize::from(*byte == b'\n'))
}

struct FileWalk<'a> {
    path: &'a Path,
    text: &'a str,
    layer: ConfigLayer,
    /// Each problem with its line, from 1.
    problems: Vec<(usize, ConfigProblem)>,
}

impl FileWalk<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            // TOML allows an empty name, which messages write as two quotes.
            let leaf = if name.get_ref().is_empty() { "\"\"" } else { name.get_ref().as_ref() };
            let full = if prefix.is_empty() { leaf.to_owned() } else { format!("{prefix}.{leaf}") };
            let line = line_of(self.text, name.span().start);
            self.entry(prefix, leaf, &full, line, value);
        }
    }

    fn entry(
        &mut self,
        prefix: &str,
        leaf: &str,
        full: &str,
        line: usize,
        value: &Spanned<DeValue<'_>>,
    ) {
        // A quoted name that contains a dot is not a path.
        let is_path = !leaf.contains('.');
        let known = if is_path { keys::find(full) } else { None };
        let is_section = is_path && keys::is_section(full);
        match (known, value.get_ref()) {
            (Some(key), value) => match to_text(key.kind, value) {
                Ok(text) => {
                    let origin = ValueOrigin::line(self.path, line);
                    self.layer.insert(key, RawValue { text, origin });
                }
                Err(invalid) => self.refuse(full, line, found(value), invalid),
            },
            (None, DeValue::Table(table)) if is_section => self.table(full, table),
            (None, value) if is_section => {
                let hint = format!("write [{full}] on a line of its own and its keys below it");
                self.refuse(full, line, found(value), InvalidValue::new("a section", hint));
            }
            (None, value) => {
                self.refuse_unknown(prefix, full, line, matches!(value, DeValue::Table(_)));
            }
        }
    }

    fn refuse_unknown(&mut self, prefix: &str, full: &str, line: usize, table: bool) {
        let found = if table { "an unknown section" } else { "an unknown key" };
        let invalid = InvalidValue::new("a known one", suggestion(prefix, full, table));
        self.refuse(full, line, found.to_owned(), invalid);
    }

    fn refuse(&mut self, subject: &str, line: usize, found: String, invalid: InvalidValue) {
        let problem = ConfigProblem {
            subject: subject.escape_debug().to_string(),
            origin: Some(ValueOrigin::line(self.path, line)),
            found,
            expected: invalid.expected,
            hint: invalid.hint,
        };
        self.problems.push((line, problem));
    }
}

fn suggestion(prefix: &str, unknown: &str, table: bool) -> String {
    if let Some(known) = keys::nearest(unknown, table) {
        return if table {
            format!("did you mean [{known}]?")
        } else {
            format!("did you mean {known}?")
        };
    }
    let siblings: Vec<_> = keys::KEYS.iter().filter(|key| key.section() == prefix).collect();
    match siblings.as_slice() {
        [] => "delete it, or see config.example.toml for every key".to_owned(),
        some => {
            let names: Vec<_> = some.iter().map(|key| key.name).collect();
            format!("delete it; known here: {}", names.join(", "))
        }
    }
}

/// Returns the value as text, if it has the TOML type of its kind.
fn to_text(kind: ValueForm, value: &DeValue<'_>) -> Result<String, InvalidValue> {
    match (kind, value) {
        (ValueForm::Integer, DeValue::Integer(number)) => {
            i64::from_str_radix(number.as_str(), number.radix())
                .map(|number| number.to_string())
                .map_err(|_| InvalidValue::new("a whole number", "write a smaller number"))
        }
        (ValueForm::Flag, DeValue::Boolean(flag)) => Ok(flag.to_string()),
        (ValueForm::Integer | ValueForm::Flag, _) => Err(mistyped(kind)),
        (_, DeValue::String(text)) => Ok(text.to_string()),
        (ValueForm::Duration, DeValue::Integer(number)) => {
            let hint = values::unit_missing(number.as_str());
            Err(InvalidValue::new("a duration with a unit, in quotes", hint))
        }
        (ValueForm::Size, DeValue::Integer(number)) => {
            let hint = format!("add a unit, as in \"{}B\" or \"16MiB\"", number.as_str());
            Err(InvalidValue::new("a size with a unit, in quotes", hint))
        }
        _ => Err(mistyped(kind)),
    }
}

fn mistyped(kind: ValueForm) -> InvalidValue {
    match kind {
        ValueForm::Integer => {
            InvalidValue::new("a whole number", "write the number without quotes")
        }
        ValueForm::Flag => InvalidValue::new("true or false", "write true or false without quotes"),
        _ => InvalidValue::new("a text", "put the value in quotes"),
    }
}

/// Describes a value by its type alone, because even a number may be a password.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "a text in quotes",
        DeValue::Integer(_) => "a bare number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
    .to_owned()
}
