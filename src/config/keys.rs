//! What a key is, how keys are found, and which known one an unknown one was meant to be. The keys
//! themselves stand in [`KEYS`].

pub use super::table::{KEYS, VENDOR_HOST};

/// Environment variables that begin with this (in any case) are settings. One underscore more than
/// what Kubernetes injects for a Service of this name (`CENTILOC_BRIDGE_PORT`, ...), which is
/// therefore left alone.
pub const ENV_PREFIX: &str = "CENTILOC_BRIDGE__";

/// Stands between the parts of a key in an environment variable's name.
pub const ENV_SEPARATOR: &str = "__";

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct ConfigKey {
    /// Full dotted name, such as `mqtt.tls.ca_file`.
    pub name: &'static str,
    /// What holds when no layer gives it.
    pub default: DefaultValue,
    /// How it is written.
    pub kind: ValueKind,
    /// What it means: whole sentences, for the example file and the documentation.
    pub doc: &'static str,
}

/// What holds when no layer gives a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// Must be given; the text is an example.
    Required(&'static str),
    /// Must be given, here or by the key of the same name with `_file` behind it, which the example
    /// configuration uses; the text is an example.
    RequiredUnlessFile(&'static str),
    /// Nothing: written `""`.
    Off,
    /// Follows from other settings, as the text says; written `""`.
    Derived(&'static str),
    /// This text.
    Value(&'static str),
}

/// How a setting is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// Text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A URL whose password is never shown.
    SecretUrl,
    /// A path; a relative one starts from the configuration file's folder.
    Path,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Flag,
    /// A number with a unit of time.
    Duration,
    /// A number with a unit of size.
    Size,
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl ValueKind {
    /// Whether the value as written may hold a secret.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::SecretUrl)
    }

    /// Writes a value of this kind in TOML.
    pub fn literal(self, text: &str) -> String {
        match self {
            Self::Integer | Self::Flag if !text.is_empty() => text.to_owned(),
            _ => toml::Value::String(text.to_owned()).to_string(),
        }
    }
}

impl ConfigKey {
    /// The section, `""` at the top: `mqtt.tls` for `mqtt.tls.ca_file`.
    pub fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The name inside its section.
    pub fn leaf(&self) -> &'static str {
        leaf(self.name)
    }

    /// The environment variable that sets it.
    pub fn env_name(&self) -> String {
        env_name(self.name)
    }

    /// The default as written in TOML; an example where there is no default.
    pub fn default_literal(&self) -> String {
        match self.default {
            DefaultValue::Required(text)
            | DefaultValue::RequiredUnlessFile(text)
            | DefaultValue::Value(text) => self.kind.literal(text),
            DefaultValue::Off | DefaultValue::Derived(_) => self.kind.literal(""),
        }
    }
}

fn leaf(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, leaf)| leaf)
}

/// The environment variable for a dotted name.
pub fn env_name(name: &str) -> String {
    format!("{ENV_PREFIX}{}", name.replace('.', ENV_SEPARATOR).to_uppercase())
}

/// The setting of this dotted name.
pub fn find(name: &str) -> Option<&'static ConfigKey> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether this dotted name is a section.
pub fn is_section(name: &str) -> bool {
    sections().any(|section| section == name)
}

/// Every section, parents included, each at least once.
fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter().flat_map(|key| key.name.match_indices('.').map(|(at, _)| &key.name[..at]))
}

/// Names less alike than this are no help as a suggestion.
const LEAST_LIKENESS: f64 = 0.5;
/// A key put into the wrong section still counts, a little less than a misspelt one.
const WRONG_SECTION: f64 = 0.9;

/// The known key (or, for `tables`, section) most like an unknown one.
pub fn nearest(unknown: &str, tables: bool) -> Option<&'static str> {
    let likeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(unknown, known);
        let last = strsim::normalized_damerau_levenshtein(leaf(unknown), leaf(known));
        whole.max(last * WRONG_SECTION)
    };
    let candidates: Vec<&'static str> =
        if tables { sections().collect() } else { KEYS.iter().map(|key| key.name).collect() };
    candidates
        .into_iter()
        .map(|known| (likeness(known), known))
        .filter(|(likeness, _)| *likeness >= LEAST_LIKENESS)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_listed_once_and_under_one_run_of_its_section() {
        let mut seen = Vec::new();
        for key in KEYS {
            assert!(
                KEYS.iter().filter(|other| other.name == key.name).count() == 1,
                "{}",
                key.name
            );
            if seen.last() != Some(&key.section()) {
                assert!(!seen.contains(&key.section()), "section {} is split", key.section());
                seen.push(key.section());
            }
        }
    }

    #[test]
    fn no_section_is_also_a_key() {
        assert!(sections().all(|section| find(section).is_none()));
    }

    #[test]
    fn the_nearest_key_is_found_through_typos_and_wrong_sections() {
        assert_eq!(nearest("mqtt.prot", false), Some("mqtt.port"));
        assert_eq!(nearest("tennant", false), Some("tenant"));
        assert_eq!(nearest("mqtt_host", false), Some("mqtt.host"));
        assert_eq!(nearest("cert_file", false), Some("mqtt.tls.cert_file"));
        assert_eq!(nearest("mqtt.level", false), Some("log.level"));
        assert_eq!(nearest("mqt", true), Some("mqtt"));
        assert_eq!(nearest("tls", true), Some("mqtt.tls"));
        assert_eq!(nearest("zzzzzzzzzzzzzzzz", false), None);
    }
}
