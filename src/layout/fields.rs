//! The keys of one mapping of a file: each is taken by name, and the others are kept.

use serde_json::{Map, Value};

use super::yaml::{YamlEntry, YamlNode, YamlValue, number};
use super::{FileLine, FileRemark};

/// Largest length, offset or angle: ten kilometres.
const MAX_NUMBER: f64 = 1e7;

/// Longest serial number, reference, name or label, bytes. Indexes take no longer ones.
const MAX_NAME: usize = 500;

/// Keys of all mappings, to suggest for a misspelt one.
const KEYS: [&str; 17] = [
    "boards",
    "dimensions_mm",
    "floor",
    "furniture",
    "furniture_sn",
    "labels",
    "led_strips",
    "locations",
    "name",
    "offsets_mm",
    "origin_coord",
    "reference",
    "rot_angles",
    "shelves",
    "sn",
    "weight",
    "z_rot_angle",
];

/// Similarity from which on a key is suggested, of at most 1.
const SUGGESTED: f64 = 0.7;

/// Returns a question for the known key that is most similar to an unknown one.
fn suggestion(unknown: &str) -> Option<String> {
    let similarity = |known| strsim::normalized_damerau_levenshtein(unknown, known);
    let nearest = KEYS.into_iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    let is_near = similarity(nearest) >= SUGGESTED && nearest != unknown;
    is_near.then(|| format!("did you mean {nearest}?"))
}

fn with_suggestion(text: &str, unknown: &str) -> String {
    match suggestion(unknown) {
        Some(suggestion) => format!("{text}; {suggestion}"),
        None => text.to_owned(),
    }
}

/// Remarks about one file.
#[derive(Debug)]
pub(super) struct FileRemarks<'a> {
    pub file: &'a str,
    pub problems: Vec<FileRemark>,
    pub notices: Vec<FileRemark>,
}

impl FileRemarks<'_> {
    pub fn remark(&self, line: usize, key: &str, text: impl Into<String>) -> FileRemark {
        let place = FileLine { file: self.file.to_owned(), line };
        FileRemark { place, key: key.to_owned(), text: text.into() }
    }

    pub fn problem(&mut self, line: usize, key: &str, text: impl Into<String>) {
        let problem = self.remark(line, key, text);
        self.problems.push(problem);
    }
}

/// The keys of a mapping that are not taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    path: String,
    pub line: usize,
    entries: Vec<YamlEntry>,
    kept: Map<String, Value>,
}

impl Fields {
    /// Returns the keys of a mapping, or reports that it is none.
    pub fn of(node: YamlNode, path: &str, remarks: &mut FileRemarks<'_>) -> Option<Self> {
        let YamlNode { line, value } = node;
        if let YamlValue::Mapping(entries) = value {
            return Some(Self { path: path.to_owned(), line, entries, kept: Map::new() });
        }
        let found = found(&YamlNode { line, value });
        remarks.problem(line, path, format!("expected keys and values, found {found}"));
        None
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Lists the keys, with a suggestion for the first one that is misspelt.
    pub fn listed(&self) -> String {
        let keys: Vec<&str> = self.entries.iter().map(|entry| entry.key.as_str()).collect();
        let list = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
        match keys.into_iter().find_map(suggestion) {
            Some(suggestion) => format!("{list} ({suggestion})"),
            None => list,
        }
    }

    /// Returns the path to a key of this mapping.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Takes a key and its value. A null counts as absent.
    pub fn take(&mut self, key: &str) -> Option<YamlEntry> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(index)).filter(|entry| !entry.node.is_null())
    }

    /// Takes a key that has two names.
    pub fn take_either(
        &mut self,
        names: [&str; 2],
        remarks: &mut FileRemarks<'_>,
    ) -> Option<YamlEntry> {
        let [first, second] = names.map(|name| self.take(name));
        if let (Some(_), Some(second)) = (&first, &second) {
            let text = format!("{} is given too: keep one", names[0]);
            remarks.problem(second.line, &self.path(names[1]), text);
        }
        first.or(second)
    }

    /// Takes the name of a thing, which must be present.
    pub fn name(&mut self, key: &str, remarks: &mut FileRemarks<'_>) -> Option<String> {
        if self.entries.iter().any(|entry| entry.key == key && !entry.node.is_null()) {
            return self.text(key, remarks);
        }
        let path = self.path(key);
        remarks.problem(self.line, &path, "expected a text, found nothing");
        self.take(key);
        None
    }

    /// Takes a text that may be absent. Numbers and booleans are taken as they are written.
    pub fn text(&mut self, key: &str, remarks: &mut FileRemarks<'_>) -> Option<String> {
        let entry = self.take(key)?;
        text_of(&entry.node, &self.path(key), remarks)
    }

    /// Takes a list of texts.
    pub fn texts(&mut self, key: &str, remarks: &mut FileRemarks<'_>) -> Option<Vec<String>> {
        let path = self.path(key);
        let items = list_of(self.take(key)?.node, &path, remarks);
        let texts = items.iter().enumerate();
        let texts: Vec<String> =
            texts.filter_map(|(n, node)| text_of(node, &format!("{path}[{n}]"), remarks)).collect();
        (!texts.is_empty()).then_some(texts)
    }

    /// Takes a finite number.
    pub fn number(&mut self, key: &str, remarks: &mut FileRemarks<'_>) -> Option<f64> {
        let entry = self.take(key)?;
        number_of(&entry.node, &self.path(key), remarks)
    }

    /// Takes a whole number.
    pub fn integer(&mut self, key: &str, remarks: &mut FileRemarks<'_>) -> Option<i32> {
        let entry = self.take(key)?;
        let path = self.path(key);
        let number = number_of(&entry.node, &path, remarks)?;
        if number.fract() != 0.0 {
            let text = format!("expected a whole number, found {number}");
            remarks.problem(entry.node.line, &path, text);
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is whole, and at most MAX_NUMBER")]
        let integer = number as i32;
        Some(integer)
    }

    /// Takes a list of mappings, with the path to each.
    pub fn mappings(&mut self, key: &str, remarks: &mut FileRemarks<'_>) -> Vec<Self> {
        let Some(entry) = self.take(key) else { return Vec::new() };
        let path = self.path(key);
        let items = list_of(entry.node, &path, remarks).into_iter().enumerate();
        items.filter_map(|(n, node)| Self::of(node, &format!("{path}[{n}]"), remarks)).collect()
    }

    /// Takes coordinates: a list, or a mapping with these names or with `x`, `y` and `z`. `columns` are
    /// needed at least. More of them are kept in `extra`.
    pub fn vector<const N: usize>(
        &mut self,
        entry: Option<YamlEntry>,
        names: [&str; 3],
        remarks: &mut FileRemarks<'_>,
    ) -> [Option<f64>; N] {
        let Some(YamlEntry { key, line, node }) = entry else { return [None; N] };
        let path = self.path(&key);
        let numbers = match &node.value {
            YamlValue::List(items) if (2..=3).contains(&items.len()) => {
                let items = items.iter().enumerate();
                items.map(|(n, node)| number_of(node, &format!("{path}[{n}]"), remarks)).collect()
            }
            YamlValue::Mapping(entries) if !entries.is_empty() => {
                coordinates(entries, &path, names, remarks)
            }
            _ => {
                let [x, y, z] = names;
                let text =
                    format!("expected [{x}, {y}] or [{x}, {y}, {z}], found {}", found(&node));
                remarks.problem(line, &path, text);
                return [None; N];
            }
        };
        if numbers.iter().skip(N).any(Option::is_some) {
            self.keep(key, line, &node, remarks);
        }
        std::array::from_fn(|n| numbers.get(n).copied().flatten())
    }

    /// Takes sizes, which are not negative.
    pub fn size<const N: usize>(&mut self, remarks: &mut FileRemarks<'_>) -> [Option<f64>; N] {
        let entry = self.take("dimensions_mm");
        let line = entry.as_ref().map_or(self.line, |entry| entry.line);
        let size = self.vector(entry, ["width", "depth", "height"], remarks);
        if size.iter().flatten().any(|size| *size < 0.0) {
            let path = self.path("dimensions_mm");
            remarks.problem(line, &path, "expected sizes of 0 or more, found a negative one");
        }
        size
    }

    fn keep(&mut self, key: String, line: usize, node: &YamlNode, remarks: &mut FileRemarks<'_>) {
        let notice =
            remarks.remark(line, &self.path(&key), with_suggestion("kept in column extra", &key));
        remarks.notices.push(notice);
        self.kept.insert(key, node.to_json());
    }

    /// Returns everything that was not taken. Each is reported.
    pub fn rest(mut self, remarks: &mut FileRemarks<'_>) -> Option<Map<String, Value>> {
        for YamlEntry { key, line, node } in std::mem::take(&mut self.entries) {
            self.keep(key, line, &node, remarks);
        }
        (!self.kept.is_empty()).then_some(self.kept)
    }

    /// Reports everything that was not taken, where no row could keep it.
    pub fn ignore_rest(self, remarks: &mut FileRemarks<'_>) {
        for entry in &self.entries {
            let text = with_suggestion("ignored", &entry.key);
            let notice = remarks.remark(entry.line, &self.path(&entry.key), text);
            remarks.notices.push(notice);
        }
    }
}

fn coordinates(
    entries: &[YamlEntry],
    path: &str,
    names: [&str; 3],
    remarks: &mut FileRemarks<'_>,
) -> Vec<Option<f64>> {
    let mut numbers = vec![None; 3];
    for YamlEntry { key, line, node } in entries {
        let path = format!("{path}.{key}");
        let place = [names, ["x", "y", "z"]]
            .iter()
            .find_map(|names| names.iter().position(|name| name == key));
        match place {
            None => {
                let text = format!("expected one of {}, x, y, z", names.join(", "));
                remarks.problem(*line, &path, text);
            }
            Some(place) if numbers[place].is_some() => {
                remarks.problem(*line, &path, "this coordinate is given twice: keep one");
            }
            Some(place) => numbers[place] = number_of(node, &path, remarks),
        }
    }
    numbers
}

/// Returns the items of a list, or reports that it is none.
pub(super) fn list_of(node: YamlNode, path: &str, remarks: &mut FileRemarks<'_>) -> Vec<YamlNode> {
    if let YamlValue::List(items) = node.value {
        return items;
    }
    remarks.problem(node.line, path, format!("expected a list, found {}", found(&node)));
    Vec::new()
}

fn text_of(node: &YamlNode, path: &str, remarks: &mut FileRemarks<'_>) -> Option<String> {
    let expected = match &node.value {
        YamlValue::Scalar { text, .. } if !text.is_empty() => {
            if text.len() > MAX_NAME {
                format!("expected at most {MAX_NAME} bytes, found {}", text.len())
            } else if text.chars().any(char::is_control) {
                format!("expected printable text, found {text:?}")
            } else if text.trim() != text {
                format!("expected text without blanks at its ends, found {text:?}")
            } else {
                return Some(text.clone());
            }
        }
        _ => format!("expected a text, found {}", found(node)),
    };
    remarks.problem(node.line, path, expected);
    None
}

fn number_of(node: &YamlNode, path: &str, remarks: &mut FileRemarks<'_>) -> Option<f64> {
    let text = match &node.value {
        YamlValue::Scalar { text, is_plain } => match number(text) {
            // Adding zero turns -0 into 0.
            Some(number) if *is_plain && number.abs() <= MAX_NUMBER => return Some(number + 0.0),
            Some(_) if *is_plain => {
                format!("expected a number from -{MAX_NUMBER} to {MAX_NUMBER}, found {text}")
            }
            Some(_) => format!("expected a number, found the text {text:?}: remove the quotes"),
            None => format!("expected a number, found {}", found(node)),
        },
        _ => format!("expected a number, found {}", found(node)),
    };
    remarks.problem(node.line, path, text);
    None
}

/// Describes a value for an error.
pub(super) fn found(node: &YamlNode) -> String {
    const SHOWN: usize = 60;
    match &node.value {
        _ if node.is_null() => "nothing".to_owned(),
        YamlValue::Scalar { text, .. } => match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{:?}…", &text[..end]),
            None => format!("{text:?}"),
        },
        YamlValue::List(items) => format!("a list of {}", items.len()),
        YamlValue::Mapping(_) => "keys and values".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    #[test]
    fn misspelt_keys_get_a_suggestion() {
        for (yaml, listed) in [
            ("sn: S1\nbords: []\n", "sn, bords (did you mean boards?)"),
            ("shelfs: []\n", "shelfs (did you mean shelves?)"),
            ("room: 1\n", "room"),
            ("{}\n", "nothing"),
        ] {
            let node = parse(yaml).0.remove(0);
            let mut remarks = FileRemarks { file: "f", problems: vec![], notices: vec![] };
            let fields = Fields::of(node, "", &mut remarks).unwrap();
            assert_eq!(fields.listed(), listed);
        }
    }
}
