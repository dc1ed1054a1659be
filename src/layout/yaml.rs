//! YAML as a tree with line numbers, of bounded depth and size.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Number, Value};

/// Deepest nesting. A layout has five levels, and what a customer adds to it a few more.
const MAX_DEPTH: usize = 32;

/// Most values of a file, with aliases counted each time: 20,000 boards and locations.
const MAX_VALUES: usize = 500_000;

/// Most bytes of the texts of a file, with aliases counted each time.
const MAX_TEXT: usize = 16 * 1024 * 1024;

/// A value and the line where it begins, counted from one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct YamlNode {
    pub line: usize,
    pub value: YamlValue,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum YamlValue {
    Scalar {
        text: String,
        /// True without quotes: it may be a number, a boolean or null.
        is_plain: bool,
    },
    List(Vec<YamlNode>),
    Mapping(Vec<YamlEntry>),
}

/// A key of a mapping and its value. Keys are distinct.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct YamlEntry {
    pub key: String,
    pub line: usize,
    pub node: YamlNode,
}

/// A text that is not YAML, or not YAML that this program reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct YamlError {
    pub line: usize,
    pub text: String,
}

impl YamlNode {
    /// Returns true for an absent value: `null`, `~` or nothing.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, YamlValue::Scalar { text, is_plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Returns the value as JSON. A number that JSON cannot hold becomes text.
    pub fn to_json(&self) -> Value {
        match &self.value {
            YamlValue::List(items) => items.iter().map(Self::to_json).collect(),
            YamlValue::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect()
            }
            YamlValue::Scalar { .. } if self.is_null() => Value::Null,
            YamlValue::Scalar { text, is_plain } => plain_json(text)
                .filter(|_| *is_plain)
                .unwrap_or_else(|| Value::String(text.clone())),
        }
    }
}

/// Reads a plain scalar that is not text, by the core schema of YAML 1.2.
fn plain_json(text: &str) -> Option<Value> {
    match text {
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        _ => {}
    }
    // Digits after a leading zero are an identifier rather than a number.
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.starts_with('0') && digits.len() > 1 && !digits.starts_with("0.") {
        return None;
    }
    if let Ok(number) = text.parse::<i64>() {
        return Some(number.into());
    }
    // A longer integer would lose digits.
    let number = number(text).filter(|_| text.contains(['.', 'e', 'E']))?;
    Number::from_f64(number).map(Value::Number)
}

/// Reads a finite decimal number.
pub(super) fn number(text: &str) -> Option<f64> {
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    text.parse().ok().filter(|number: &f64| is_decimal && number.is_finite())
}

/// Reads all documents of a text, up to the first error of syntax.
pub(super) fn parse(text: &str) -> (Vec<YamlNode>, Vec<YamlError>) {
    let mut tree = TreeBuilder::default();
    for event in Parser::new_from_str(text) {
        let added = match event {
            Ok((event, span)) => {
                let line = span.start.line();
                tree.add(event, line).map_err(|text| YamlError { line, text })
            }
            Err(error) => {
                let line = error.marker().line();
                Err(YamlError { line, text: format!("{}{}", error.info(), hint(text, line)) })
            }
        };
        if let Err(error) = added {
            tree.errors.push(error);
            break;
        }
    }
    (tree.documents, tree.errors)
}

/// Returns the likely cause of a syntax error in this line.
fn hint(text: &str, line: usize) -> &'static str {
    let before = text.lines().take(line).skip(line.saturating_sub(2));
    let is_tab = |line: &str| line.trim_start_matches([' ', '-']).starts_with('\t');
    if before.into_iter().any(is_tab) { "; indent with spaces, not with tabs" } else { "" }
}

/// A list or mapping that is not complete.
#[derive(Debug)]
struct OpenNode {
    line: usize,
    anchor: usize,
    value: YamlValue,
    /// The key whose value comes next.
    key: Option<(String, usize)>,
}

#[derive(Debug, Default)]
struct TreeBuilder {
    documents: Vec<YamlNode>,
    errors: Vec<YamlError>,
    open: Vec<OpenNode>,
    anchors: BTreeMap<usize, YamlNode>,
    values: usize,
    text: usize,
}

impl TreeBuilder {
    fn add(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = is_text(tag.as_deref())?;
                if text.contains('\0') {
                    return Err("expected text without NUL characters".to_owned());
                }
                let is_plain = style == ScalarStyle::Plain && !is_text;
                let value = YamlValue::Scalar { text: text.into_owned(), is_plain };
                self.complete(YamlNode { line, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(line, anchor, tag.as_deref(), YamlValue::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(line, anchor, tag.as_deref(), YamlValue::Mapping(Vec::new()))
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(OpenNode { line, anchor, mut value, .. }) => {
                    self.remove_repeated_keys(&mut value);
                    self.complete(YamlNode { line, value }, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or("an alias refers to a value that contains it")?;
                self.count_all(&node)?;
                self.complete(node, 0)
            }
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => Ok(()),
        }
    }

    fn begin(
        &mut self,
        line: usize,
        anchor: usize,
        tag: Option<&Tag>,
        value: YamlValue,
    ) -> Result<(), String> {
        is_text(tag)?;
        if self.open.len() == MAX_DEPTH {
            return Err(format!("expected at most {MAX_DEPTH} levels of nesting"));
        }
        self.open.push(OpenNode { line, anchor, value, key: None });
        Ok(())
    }

    /// Adds a complete value to the list, mapping or document that it belongs to.
    fn complete(&mut self, node: YamlNode, anchor: usize) -> Result<(), String> {
        self.count(&node)?;
        if anchor > 0 {
            self.count_all(&node)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        match &mut parent.value {
            YamlValue::List(items) => items.push(node),
            YamlValue::Mapping(entries) => match parent.key.take() {
                Some((key, line)) => entries.push(YamlEntry { key, line, node }),
                None => parent.key = Some((key(node.value)?, node.line)),
            },
            // Only lists and mappings are opened.
            YamlValue::Scalar { .. } => {}
        }
        Ok(())
    }

    /// Removes entries whose key occurs earlier in the mapping, and reports them.
    fn remove_repeated_keys(&mut self, value: &mut YamlValue) {
        let YamlValue::Mapping(entries) = value else { return };
        let mut lines = HashMap::new();
        entries.retain(|YamlEntry { key, line, .. }| match lines.entry(key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(*line);
                true
            }
            Entry::Occupied(first) => {
                let text = format!("the key {key:?} is also in line {}: keep one", first.get());
                self.errors.push(YamlError { line: *line, text });
                false
            }
        });
    }

    /// Counts a copy of a value, so that aliases of aliases cannot fill the memory.
    fn count_all(&mut self, node: &YamlNode) -> Result<(), String> {
        self.count(node)?;
        match &node.value {
            YamlValue::Scalar { .. } => Ok(()),
            YamlValue::List(items) => items.iter().try_for_each(|item| self.count_all(item)),
            YamlValue::Mapping(entries) => {
                entries.iter().try_for_each(|entry| self.count_all(&entry.node))
            }
        }
    }

    fn count(&mut self, node: &YamlNode) -> Result<(), String> {
        self.values += 1;
        if let YamlValue::Scalar { text, .. } = &node.value {
            self.text += text.len();
        }
        if self.values > MAX_VALUES || self.text > MAX_TEXT {
            return Err(format!(
                "expected at most {MAX_VALUES} values and {MAX_TEXT} bytes of text, aliases \
                 included; import several files"
            ));
        }
        Ok(())
    }
}

fn key(value: YamlValue) -> Result<String, String> {
    match value {
        YamlValue::Scalar { text, is_plain } if !(is_plain && text == "<<") => Ok(text),
        YamlValue::Scalar { .. } => Err("merge keys are not supported: repeat the keys".to_owned()),
        YamlValue::List(_) | YamlValue::Mapping(_) => {
            Err("expected a text as key, found a list or mapping".to_owned())
        }
    }
}

/// Returns true for a value that is tagged as text.
fn is_text(tag: Option<&Tag>) -> Result<bool, String> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => {
            Err(format!("the tag {tag} is unknown: remove it"))
        }
        Some(tag) => Ok(tag.suffix == "str"),
        None => Ok(false),
    }
}
