//! The layers of the configuration: defaults < file < environment.
//!
//! Each layer is a source of the `config` crate, which merges them. Every value carries its origin,
//! and stays text until it is parsed, because guessing a type would turn a user name "0012" into 12.

use std::collections::BTreeMap;
use std::fmt;

use config::builder::DefaultState;
use config::{Config, ConfigBuilder, Map, Source, Value, ValueKind};

use super::error::{ConfigProblem, ValueOrigin};
use super::keys::{ConfigKey, DefaultValue, KEYS};

/// Pairs of a secret and the key that names a file for it. A pair is one setting: a layer that gives
/// one half hides the other half of the layers below.
pub(super) const PAIRS: [(&str, &str); 2] =
    [("mqtt.password", "mqtt.password_file"), ("database.url", "database.url_file")];

/// A value as written, which may be a secret, and its origin.
#[derive(Clone)]
pub(super) struct RawValue {
    pub text: String,
    pub origin: ValueOrigin,
}

impl RawValue {
    /// Returns the merged value of a dotted name, or `None` where no layer gives it or a higher layer
    /// hides it.
    fn at(root: &Value, name: &str) -> Option<Self> {
        let value = name.split('.').try_fold(root, |value, part| match &value.kind {
            ValueKind::Table(table) => table.get(part),
            _ => None,
        })?;
        let ValueKind::String(text) = &value.kind else { return None };
        let origin = value.origin().map_or_else(ValueOrigin::default, ValueOrigin::named);
        Some(Self { text: text.clone(), origin })
    }
}

impl From<&RawValue> for Value {
    fn from(value: &RawValue) -> Self {
        Self::new(Some(&value.origin.to_string()), value.text.as_str())
    }
}

/// The values of known keys, from one layer or from several merged ones.
#[derive(Default, Clone)]
pub(super) struct ConfigLayer {
    values: BTreeMap<&'static str, RawValue>,
    /// Halves of pairs that this layer hides in the layers below.
    hidden: Vec<&'static str>,
}

/// Shows the keys alone: the values may be secret.
impl fmt::Debug for ConfigLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl ConfigLayer {
    /// Returns the lowest layer: the defaults of all keys that have one.
    pub fn defaults() -> Self {
        let text = |key: &ConfigKey| match key.default {
            DefaultValue::Required(_) | DefaultValue::RequiredUnlessFile(_) => None,
            DefaultValue::Off | DefaultValue::Derived(_) => Some(String::new()),
            DefaultValue::Value(text) => Some(text.to_owned()),
        };
        let origin = ValueOrigin::default;
        let value =
            |key: &ConfigKey| Some((key.name, RawValue { text: text(key)?, origin: origin() }));
        Self { values: KEYS.iter().filter_map(value).collect(), hidden: Vec::new() }
    }

    /// Merges layers, lowest first: a higher layer replaces or hides the values below it.
    pub fn merged(layers: impl IntoIterator<Item = Self>) -> Self {
        let builder =
            layers.into_iter().fold(Config::builder(), ConfigBuilder::<DefaultState>::add_source);
        // Unwrap safety: sources that hold known keys and texts always merge.
        let merged = builder.build().expect("known keys merge");
        let value = |key: &ConfigKey| Some((key.name, RawValue::at(&merged.cache, key.name)?));
        Self { values: KEYS.iter().filter_map(value).collect(), hidden: Vec::new() }
    }

    /// Adds a value and returns the one it replaces.
    pub fn insert(&mut self, key: &'static ConfigKey, value: RawValue) -> Option<RawValue> {
        self.values.insert(key.name, value)
    }

    /// Returns the value of a key, or `None` where no layer gives it.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.values.get(name)
    }

    /// Makes each pair one setting, and reports a layer that gives both halves. An empty text does
    /// not count as given, but still hides the values of lower layers.
    pub fn join_pairs(&mut self, problems: &mut Vec<ConfigProblem>) {
        for (inline, file) in PAIRS {
            let given = |name| self.values.get(name).filter(|given| !given.text.is_empty());
            match (given(inline), given(file)) {
                (Some(first), Some(second)) => problems.push(conflict(inline, first, file, second)),
                (Some(_), None) => self.hide(file),
                (None, Some(_)) => self.hide(inline),
                (None, None) if self.values.contains_key(inline) => self.hide(file),
                (None, None) if self.values.contains_key(file) => self.hide(inline),
                (None, None) => {}
            }
        }
    }

    fn hide(&mut self, name: &'static str) {
        self.values.remove(name);
        self.hidden.push(name);
    }
}

impl Source for ConfigLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    /// Returns the values of this layer, and nil for the keys it hides in the layers below.
    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let values = self.values.iter().map(|(name, value)| ((*name).to_owned(), value.into()));
        let hidden = self.hidden.iter().map(|name| ((*name).to_owned(), ValueKind::Nil.into()));
        Ok(values.chain(hidden).collect())
    }
}

fn conflict(inline: &str, first: &RawValue, file: &str, second: &RawValue) -> ConfigProblem {
    ConfigProblem {
        subject: inline.to_owned(),
        origin: Some(first.origin.clone()),
        found: format!("{file} as well ({})", second.origin),
        expected: "one of the two".to_owned(),
        hint: format!("keep {file} and delete {inline}, or the other way round"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    fn layer(origin: &str, values: &[(&str, &str)]) -> (ConfigLayer, Vec<ConfigProblem>) {
        let mut layer = ConfigLayer::default();
        for (name, text) in values {
            let given = RawValue { text: (*text).to_owned(), origin: ValueOrigin::named(origin) };
            layer.insert(keys::find(name).unwrap(), given);
        }
        let mut problems = Vec::new();
        layer.join_pairs(&mut problems);
        (layer, problems)
    }

    fn merged(file: &[(&str, &str)], env: &[(&str, &str)]) -> ConfigLayer {
        ConfigLayer::merged([ConfigLayer::defaults(), layer("file", file).0, layer("env", env).0])
    }

    #[test]
    fn highest_layer_wins_with_its_origin() {
        let merged = merged(
            &[("mqtt.host", "a"), ("mqtt.tls.server_name", "b")],
            &[("mqtt.host", "c"), ("mqtt.username", "0012")],
        );
        let seen =
            |name| merged.get(name).map(|given| (given.text.clone(), given.origin.to_string()));
        let of = |text: &str, origin: &str| Some((text.to_owned(), origin.to_owned()));
        assert_eq!(seen("mqtt.host"), of("c", "env"));
        assert_eq!(seen("mqtt.tls.server_name"), of("b", "file"));
        assert_eq!(seen("mqtt.port"), of("8883", "default"));
        assert_eq!(seen("mqtt.username"), of("0012", "env"));
        assert_eq!(seen("tenant"), None);
    }

    #[test]
    fn a_half_hides_the_lower_other_half() {
        for (below, above) in PAIRS.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
            let merged = merged(&[(below, "low")], &[(above, "high")]);
            assert_eq!(merged.get(above).unwrap().text, "high");
            assert!(merged.get(below).is_none());
        }
    }

    #[test]
    fn an_empty_half_turns_the_pair_off() {
        let merged = merged(&[("mqtt.password", "low")], &[("mqtt.password_file", "")]);
        assert!(merged.get("mqtt.password").is_none());
        assert_eq!(merged.get("mqtt.password_file").unwrap().text, "");
    }

    #[test]
    fn both_halves_in_a_layer_are_refused() {
        let given = [("mqtt.password", "hunter2"), ("mqtt.password_file", "/run/p")];
        let (layer, problems) = layer("file", &given);
        assert_eq!(problems.len(), 1);
        assert!(!problems[0].to_string().contains("hunter2"), "{}", problems[0]);
        assert!(!format!("{layer:?}").contains("hunter2"));
    }

    #[test]
    fn an_empty_half_is_no_conflict() {
        let (layer, problems) = layer("env", &[("mqtt.password", ""), ("mqtt.password_file", "p")]);
        assert!(problems.is_empty());
        let merged = ConfigLayer::merged([layer]);
        assert_eq!(merged.get("mqtt.password_file").unwrap().text, "p");
        assert!(merged.get("mqtt.password").is_none());
    }
}
