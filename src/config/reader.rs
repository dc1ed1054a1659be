//! Reads the merged values one by one. The reader adds key and origin to errors, collects all problems
//! instead of stopping at the first, and keeps the text shown for each key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::EffectiveSetting;
use super::database_url::{DatabaseUrl, SslMode};
use super::error::{ConfigProblem, InvalidValue, ValueOrigin, quoted};
use super::keys::{self, ConfigKey, DefaultValue, KEYS};
use super::layers::{ConfigLayer, RawValue};
use super::urls::REDACTED;
use super::values::{self, ParseResult};

/// Variable of the folder that holds the secrets of systemd's `LoadCredential=`. A path may begin
/// with it.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Variable of the folder that systemd's `StateDirectory=` creates. The container image sets it too.
pub(super) const STATE: &str = "STATE_DIRECTORY";

/// Variables of libpq that affect how it connects.
const LIBPQ: [&str; 17] = [
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGOPTIONS",
    "PGAPPNAME",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGCONNECT_TIMEOUT",
    "PGTARGETSESSIONATTRS",
];

/// Reads the values of keys. A method that returns `None` has noted a problem.
pub(super) struct SettingReader {
    merged: ConfigLayer,
    /// The configuration file, present or not. Relative paths start from its folder.
    file: PathBuf,
    credentials: Option<PathBuf>,
    state: Option<PathBuf>,
    /// The variables of libpq that are set.
    libpq: Vec<String>,
    /// Texts shown in place of the values as given, with an origin where it differs.
    shown: BTreeMap<&'static str, (String, Option<ValueOrigin>)>,
    pub problems: Vec<ConfigProblem>,
    pub warnings: Vec<String>,
}

impl SettingReader {
    /// Creates a reader of `merged`, which comes from `file` and `environment` with these `problems`.
    pub fn new(
        merged: ConfigLayer,
        file: PathBuf,
        environment: &[(String, String)],
        problems: Vec<ConfigProblem>,
    ) -> Self {
        let variable = |wanted: &str| {
            let found = environment.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
        };
        let credentials = variable(CREDENTIALS).map(PathBuf::from);
        // systemd separates several folders with colons.
        let state = variable(STATE).and_then(|value| value.split(':').next()).map(PathBuf::from);
        let libpq = environment.iter().map(|(name, _)| name.as_str());
        let libpq = libpq.filter(|name| LIBPQ.contains(name)).map(str::to_owned).collect();
        let (shown, warnings) = (BTreeMap::new(), Vec::new());
        Self { merged, file, credentials, state, libpq, shown, problems, warnings }
    }

    /// Warns of variables of libpq, which have no effect, and refuses those that sqlx would apply
    /// nevertheless.
    pub fn libpq_variables(&mut self, url: &DatabaseUrl) {
        let applied = |name: &str| match name {
            "PGOPTIONS" => true,
            "PGSSLCERT" | "PGSSLKEY" => url.tls.client.is_none() && url.tls.mode > SslMode::Allow,
            "PGUSER" => url.user.is_none(),
            _ => false,
        };
        let (applied, ignored): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.libpq).into_iter().partition(|name| applied(name));
        if !ignored.is_empty() {
            self.warnings.push(format!(
                "the environment sets {}, which is ignored: database.url alone decides how to connect",
                ignored.join(", ")
            ));
        }
        self.problems.extend(applied.into_iter().map(|subject| ConfigProblem {
            subject,
            origin: None,
            found: "a variable of PostgreSQL's tools".to_owned(),
            expected: "database.url alone to decide how to connect".to_owned(),
            hint: "unset it for this service, and write its value into database.url".to_owned(),
        }));
    }

    /// Returns the folder for state that the service manager created, if it did.
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state.clone()
    }

    /// Returns true if no layer gives this key, not even an empty text.
    pub fn is_default(&self, name: &str) -> bool {
        self.merged.get(name).is_none_or(|given| given.origin == ValueOrigin::default())
    }

    /// Returns the value given for a key, unless it is empty.
    pub fn given(&self, name: &str) -> Option<RawValue> {
        self.merged.get(name).filter(|given| !given.text.is_empty()).cloned()
    }

    /// Reads a key that must have a value.
    pub fn read<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> ParseResult<T>,
    ) -> Option<T> {
        let Some(given) = self.merged.get(name).cloned() else {
            self.missing(name);
            return None;
        };
        match parse(&given.text) {
            Ok(value) => Some(value),
            Err(invalid) => {
                self.refuse(name, &given, invalid);
                None
            }
        }
    }

    /// Reads a duration that a timer waits for.
    pub fn wait(&mut self, name: &'static str) -> Option<Duration> {
        self.read(name, |text| values::duration(text, &values::WAITS))
    }

    /// Reads a key that an empty text turns off. `Some(None)` means off.
    #[allow(clippy::option_option, reason = "outside: a problem was noted; inside: turned off")]
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> ParseResult<T>,
    ) -> Option<Option<T>> {
        if self.given(name).is_none() { Some(None) } else { self.read(name, parse).map(Some) }
    }

    /// Reads a path, which an empty text turns off.
    #[allow(clippy::option_option, reason = "as above")]
    pub fn path(&mut self, name: &'static str) -> Option<Option<PathBuf>> {
        let resolve = self.resolver();
        let path = self.optional(name, |text| resolve(text))?;
        if let Some(path) = &path {
            self.show(name, path.to_string_lossy());
        }
        Some(path)
    }

    /// Reads a path that must be given.
    pub fn required_path(&mut self, name: &'static str) -> Option<PathBuf> {
        if self.given(name).is_none() {
            self.missing(name);
            return None;
        }
        self.path(name)?
    }

    fn resolver(&self) -> impl Fn(&str) -> ParseResult<PathBuf> + use<> {
        let folder = self.file.parent().map(Path::to_owned).unwrap_or_default();
        let credentials = self.credentials.clone();
        move |text| {
            let below = ["$CREDENTIALS_DIRECTORY/", "${CREDENTIALS_DIRECTORY}/"]
                .into_iter()
                .find_map(|prefix| text.strip_prefix(prefix));
            let Some(below) = below else { return Ok(folder.join(text)) };
            credentials.as_ref().map(|folder| folder.join(below)).ok_or_else(|| {
                let hint =
                    "add LoadCredential= to the unit; outside of it, set CREDENTIALS_DIRECTORY";
                InvalidValue::new("a path that exists (CREDENTIALS_DIRECTORY is not set)", hint)
            })
        }
    }

    /// Notes that a required key is missing or empty, unless a problem of its value is noted already.
    pub fn missing(&mut self, name: &'static str) {
        if self.problems.iter().any(|problem| problem.subject == name) {
            return;
        }
        let example = keys::find(name).map(ConfigKey::default_literal).unwrap_or_default();
        let origin = self.merged.get(name).map(|given| given.origin.clone());
        self.problems.push(ConfigProblem {
            subject: name.to_owned(),
            origin: origin.filter(|origin| *origin != ValueOrigin::default()),
            found: "nothing".to_owned(),
            expected: format!("a value such as {example}"),
            hint: format!("set it in {}, or as {}", self.file.display(), keys::env_name(name)),
        });
    }

    /// Notes that the given value is invalid, quoting it if it is not secret.
    pub fn refuse(&mut self, name: &'static str, given: &RawValue, invalid: InvalidValue) {
        let secret = keys::find(name).is_none_or(|key| key.kind.is_secret());
        let found = match (secret, given.text.is_empty()) {
            (_, true) => "an empty text".to_owned(),
            (true, false) => "something else (not shown, it may be secret)".to_owned(),
            (false, false) => quoted(&given.text),
        };
        self.problem(name, &given.origin, found, invalid);
    }

    /// Notes a problem with this description of the value found.
    pub fn problem(&mut self, name: &str, at: &ValueOrigin, found: String, invalid: InvalidValue) {
        let default = keys::find(name).map(|key| key.default);
        let origin = if *at == ValueOrigin::default() { None } else { Some(at.clone()) };
        let mut hint = invalid.hint;
        if let (Some(DefaultValue::Value(text)), Some(_)) = (default, &origin) {
            hint = format!("{hint} (the default is {text})");
        }
        self.problems.push(ConfigProblem {
            subject: name.to_owned(),
            origin,
            found,
            expected: invalid.expected,
            hint,
        });
    }

    /// Sets the text shown for a key, where it differs from the text given.
    pub fn show(&mut self, name: &'static str, text: impl Into<String>) {
        self.shown.insert(name, (text.into(), None));
    }

    /// Sets the text shown for a key and its origin, where another key gave the value.
    pub fn show_from(&mut self, name: &'static str, text: impl Into<String>, origin: ValueOrigin) {
        self.shown.insert(name, (text.into(), Some(origin)));
    }

    /// Returns the values in effect in the order of the table. A secret is redacted unless
    /// [`Self::show`] set a text for it.
    pub fn settings(&self) -> Vec<EffectiveSetting> {
        KEYS.iter().map(|key| self.setting(key)).collect()
    }

    fn setting(&self, key: &ConfigKey) -> EffectiveSetting {
        let given = self.merged.get(key.name).cloned();
        let (given, at) = given.map(|given| (given.text, given.origin)).unwrap_or_default();
        let (text, origin) = match self.shown.get(key.name) {
            Some((text, origin)) => (text.clone(), origin.clone().unwrap_or(at)),
            None if key.kind.is_secret() && !given.is_empty() => (REDACTED.to_owned(), at),
            None => (given, at),
        };
        EffectiveSetting { key: key.name, shown: key.kind.literal(&text), origin }
    }
}
