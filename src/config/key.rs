//! One key: its name, default, kind of value and meaning.

use std::borrow::Cow;

/// Prefix, in any case, of the environment variables that set keys. It has one underscore more than
/// the variables that Kubernetes injects for a Service of this name (`CENTILOC_BRIDGE_PORT`, ...),
/// which are therefore ignored.
pub const ENV_PREFIX: &str = "CENTILOC_BRIDGE__";

/// Separator of the parts of a key in the name of an environment variable.
pub const ENV_SEPARATOR: &str = "__";

/// One key of the configuration.
#[derive(Debug, Clone)]
pub struct ConfigKey {
    /// Full dotted name, such as `mqtt.tls.ca_file`.
    pub name: &'static str,
    /// The value where no layer gives one.
    pub default: DefaultValue,
    /// The form of its value.
    pub kind: ValueForm,
    /// Its meaning in whole sentences, for the example file and the documentation.
    pub doc: Cow<'static, str>,
}

/// The value of a key that no layer gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// None: the key is required. The text is an example.
    Required(&'static str),
    /// None: the key, or the key of the same name with the suffix `_file`, is required. The example
    /// file sets the latter. The text is an example.
    RequiredUnlessFile(&'static str),
    /// The feature is off, written `""`.
    Off,
    /// A value derived from other keys as the text describes, written `""`.
    Derived(&'static str),
    /// The value with this text.
    Value(&'static str),
}

/// The form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueForm {
    /// A text of any form.
    Text,
    /// A text that is never shown.
    Secret,
    /// A URL whose password is never shown.
    SecretUrl,
    /// A path. A relative one starts from the folder of the configuration file.
    Path,
    /// A whole number without a unit.
    Integer,
    /// The word `true` or `false`.
    Flag,
    /// A number with a unit of time.
    Duration,
    /// A number with a unit of size.
    Size,
    /// One word of a list.
    Choice(&'static [&'static str]),
}

impl ValueForm {
    /// Returns true if the value as written may contain a secret.
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
    /// Returns the section, `""` at the top: `mqtt.tls` for `mqtt.tls.ca_file`.
    pub fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Returns the name inside its section.
    pub fn leaf(&self) -> &'static str {
        leaf(self.name)
    }

    /// Returns the name of the environment variable that sets it.
    pub fn env_name(&self) -> String {
        env_name(self.name)
    }

    /// Returns the default in TOML, or an example where there is no default.
    pub fn default_literal(&self) -> String {
        match self.default {
            DefaultValue::Required(text)
            | DefaultValue::RequiredUnlessFile(text)
            | DefaultValue::Value(text) => self.kind.literal(text),
            DefaultValue::Off | DefaultValue::Derived(_) => self.kind.literal(""),
        }
    }
}

pub(super) fn leaf(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, leaf)| leaf)
}

/// Returns the name of the environment variable for a dotted name.
pub fn env_name(name: &str) -> String {
    format!("{ENV_PREFIX}{}", name.replace('.', ENV_SEPARATOR).to_uppercase())
}
