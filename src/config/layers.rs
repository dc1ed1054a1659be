//! Defaults < file < environment. Each layer is a source of the `config` crate, which merges them;
//! every value keeps where it came from. Values stay text until they are read: guessing types would
//! turn a user name "0012" into 12.

use std::collections::BTreeMap;
use std::fmt;

use config::{Map, Source, Value, ValueKind};

use super::error::{ConfigProblem, ValueOrigin};
use super::keys::{ConfigKey, DefaultValue, KEYS};

/// A secret and the file form of it are one setting: in whichever layer one of them is given, the
/// other no longer counts.
pub(super) const PAIRS: [(&str, &str); 2] =
    [("mqtt.password", "mqtt.password_file"), ("database.url", "database.url_file")];

/// A value as written, and where.
#[derive(Clone)]
pub(super) struct RawValue {
    /// May be a secret.
    pub text: String,
    pub origin: ValueOrigin,
}

/// What one layer gives: values of known keys only, with the right TOML type.
#[derive(Default, Clone)]
pub(super) struct ConfigLayer {
    values: BTreeMap<&'static str, RawValue>,
    /// The other halves of pairs given here: they hide what lower layers say.
    hidden: Vec<&'static str>,
}

/// Names only: the values may be secret.
impl fmt::Debug for ConfigLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl ConfigLayer {
    /// What holds when nothing is given.
    pub fn defaults() -> Self {
        let text = |key: &ConfigKey| match key.default {
            DefaultValue::Required(_) | DefaultValue::RequiredUnlessFile(_) => None,
            DefaultValue::Off | DefaultValue::Derived(_) => Some(String::new()),
            DefaultValue::Value(text) => Some(text.to_owned()),
        };
        let given = |key: &ConfigKey| {
            text(key).map(|text| RawValue { text, origin: ValueOrigin::default() })
        };
        let values = KEYS.iter().filter_map(|key| Some((key.name, given(key)?))).collect();
        Self { values, hidden: Vec::new() }
    }

    /// Adds a value; gives back the one that was there.
    pub fn insert(&mut self, key: &'static ConfigKey, given: RawValue) -> Option<RawValue> {
        self.values.insert(key.name, given)
    }

    /// Makes each pair one setting; both halves in one layer is a problem. An empty text is not
    /// given, except that it hides what a lower layer says.
    pub fn join_pairs(&mut self, problems: &mut Vec<ConfigProblem>) {
        for (inline, file) in PAIRS {
            let given = |name| self.values.get(name).filter(|given| !given.text.is_empty());
            match (given(inline), given(file)) {
                (Some(first), Some(second)) => problems.push(both(inline, first, file, second)),
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

fn both(inline: &str, first: &RawValue, file: &str, second: &RawValue) -> ConfigProblem {
    ConfigProblem {
        subject: inline.to_owned(),
        origin: Some(first.origin.clone()),
        found: format!("{file} as well ({})", second.origin),
        expected: "one of the two".to_owned(),
        hint: format!("keep {file} and delete {inline}, or the other way round"),
    }
}

impl Source for ConfigLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let value = |given: &RawValue| {
            Value::new(Some(&given.origin.as_str().to_owned()), given.text.as_str())
        };
        let values = self.values.iter().map(|(name, given)| ((*name).to_owned(), value(given)));
        let hidden = self.hidden.iter().map(|name| ((*name).to_owned(), ValueKind::Nil.into()));
        Ok(values.chain(hidden).collect())
    }
}

/// The layers, merged.
pub(super) struct MergedLayers(Value);

impl MergedLayers {
    /// Later layers win.
    pub fn new(layers: impl IntoIterator<Item = ConfigLayer>) -> Result<Self, config::ConfigError> {
        let mut builder = config::Config::builder();
        for layer in layers {
            builder = builder.add_source(layer);
        }
        Ok(Self(builder.build()?.cache))
    }

    /// What the highest layer that gives this key says; `None` where none does.
    pub fn get(&self, name: &str) -> Option<RawValue> {
        let value = name.split('.').try_fold(&self.0, |value, part| match &value.kind {
            ValueKind::Table(table) => table.get(part),
            _ => None,
        })?;
        let ValueKind::String(text) = &value.kind else { return None };
        let origin = value.origin().map_or_else(ValueOrigin::default, ValueOrigin::named);
        Some(RawValue { text: text.clone(), origin })
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

    fn merged(file: &[(&str, &str)], env: &[(&str, &str)]) -> MergedLayers {
        MergedLayers::new([ConfigLayer::defaults(), layer("file", file).0, layer("env", env).0])
            .unwrap()
    }

    #[test]
    fn the_highest_layer_wins_and_says_where_it_stands() {
        let merged = merged(
            &[("mqtt.host", "a"), ("mqtt.tls.server_name", "b")],
            &[("mqtt.host", "c"), ("mqtt.username", "0012")],
        );
        let seen = |name| merged.get(name).map(|given| (given.text, given.origin.to_string()));
        let of = |text: &str, origin: &str| Some((text.to_owned(), origin.to_owned()));
        assert_eq!(seen("mqtt.host"), of("c", "env"));
        assert_eq!(seen("mqtt.tls.server_name"), of("b", "file"));
        assert_eq!(seen("mqtt.port"), of("8883", "default"));
        assert_eq!(seen("mqtt.username"), of("0012", "env"));
        assert_eq!(seen("tenant"), None);
    }

    #[test]
    fn either_half_of_a_pair_in_a_higher_layer_hides_the_other_below() {
        for (below, above) in PAIRS.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
            let merged = merged(&[(below, "low")], &[(above, "high")]);
            assert_eq!(merged.get(above).unwrap().text, "high");
            assert!(merged.get(below).is_none());
        }
    }

    #[test]
    fn an_empty_half_in_a_higher_layer_turns_the_pair_off() {
        let merged = merged(&[("mqtt.password", "low")], &[("mqtt.password_file", "")]);
        assert!(merged.get("mqtt.password").is_none());
        assert_eq!(merged.get("mqtt.password_file").unwrap().text, "");
    }

    #[test]
    fn both_halves_in_one_layer_are_refused_without_showing_the_secret() {
        let given = [("mqtt.password", "hunter2"), ("mqtt.password_file", "/run/p")];
        let (layer, problems) = layer("file", &given);
        assert_eq!(problems.len(), 1);
        assert!(!problems[0].to_string().contains("hunter2"), "{}", problems[0]);
        assert!(!format!("{layer:?}").contains("hunter2"));
    }

    #[test]
    fn an_empty_half_beside_a_given_one_is_no_conflict() {
        let (layer, problems) = layer("env", &[("mqtt.password", ""), ("mqtt.password_file", "p")]);
        assert!(problems.is_empty());
        let merged = MergedLayers::new([layer]).unwrap();
        assert_eq!(merged.get("mqtt.password_file").unwrap().text, "p");
        assert!(merged.get("mqtt.password").is_none());
    }
}
