//! Reads merged values one by one: adds key and origin to invalid values, collects problems instead of
//! stopping at the first, and notes what is shown of each setting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::EffectiveSetting;
use super::database_url::{DatabaseUrl, SslMode};
use super::error::{ConfigProblem, InvalidValue, ValueOrigin, quoted};
use super::keys::{self, ConfigKey, DefaultValue, KEYS};
use super::layers::{MergedLayers, RawValue};
use super::urls::REDACTED;
use super::values::{self, ParseResult};

/// Under systemd, the folder `LoadCredential=` puts secrets in; may begin a path.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Under systemd, the folder that `StateDirectory=` makes; the container image sets it too.
pub(super) const STATE: &str = "STATE_DIRECTORY";

/// Variables of libpq that would decide how to connect.
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

/// Reads settings. A method that gives `None` has noted a problem.
pub(super) struct SettingReader {
    merged: MergedLayers,
    /// The configuration file, present or not; relative paths start from its folder.
    file: PathBuf,
    credentials: Option<PathBuf>,
    state: Option<PathBuf>,
    /// The variables of libpq that are set.
    libpq: Vec<String>,
    /// What is shown instead of the text as given.
    shown: BTreeMap<&'static str, (String, Option<ValueOrigin>)>,
    pub problems: Vec<ConfigProblem>,
    pub warnings: Vec<String>,
}

impl SettingReader {
    /// Reads `merged`, which came from `file` and `environment` with these `problems`.
    pub fn new(
        merged: MergedLayers,
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

    /// Warns of variables of libpq, which are ignored, and refuses those that the library in use
    /// would follow all the same.
    pub fn libpq_variables(&mut self, url: &DatabaseUrl) {
        let followed = |name: &str| match name {
            "PGOPTIONS" => true,
            "PGSSLCERT" | "PGSSLKEY" => url.tls.client.is_none() && url.tls.mode > SslMode::Allow,
            "PGUSER" => url.user.is_none(),
            _ => false,
        };
        let (followed, ignored): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.libpq).into_iter().partition(|name| followed(name));
        if !ignored.is_empty() {
            self.warnings.push(format!(
                "the environment has {}, ignored: database.url alone says how to connect",
                ignored.join(", ")
            ));
        }
        self.problems.extend(followed.into_iter().map(|subject| ConfigProblem {
            subject,
            origin: None,
            found: "a variable of PostgreSQL's tools".to_owned(),
            expected: "database.url alone to say how to connect".to_owned(),
            hint: "unset it for this service, and write what it says into database.url".to_owned(),
        }));
    }

    /// Returns the folder for state that the service manager made, if there is one.
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state.clone()
    }

    /// Returns true if no layer gives this key, not even an empty text.
    pub fn is_default(&self, name: &str) -> bool {
        self.merged.get(name).is_none_or(|given| given.origin == ValueOrigin::default())
    }

    /// What is given for a key that is not empty.
    pub fn given(&self, name: &str) -> Option<RawValue> {
        self.merged.get(name).filter(|given| !given.text.is_empty())
    }

    /// Reads a setting that must have a value.
    pub fn read<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> ParseResult<T>,
    ) -> Option<T> {
        let Some(given) = self.merged.get(name) else {
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

    /// Reads a setting that an empty text turns off: `Some(None)`.
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

    /// Notes that a required key is given nowhere, or is empty; not if it is known to be given, but
    /// could not be taken from its layer.
    pub fn missing(&mut self, name: &'static str) {
        if self.problems.iter().any(|problem| problem.subject == name) {
            return;
        }
        let example = keys::find(name).map(ConfigKey::default_literal).unwrap_or_default();
        let origin = self.merged.get(name).map(|given| given.origin);
        self.problems.push(ConfigProblem {
            subject: name.to_owned(),
            origin: origin.filter(|origin| *origin != ValueOrigin::default()),
            found: "nothing".to_owned(),
            expected: format!("a value such as {example}"),
            hint: format!("set it in {}, or as {}", self.file.display(), keys::env_name(name)),
        });
    }

    /// Notes that the given value is invalid.
    pub fn refuse(&mut self, name: &'static str, given: &RawValue, invalid: InvalidValue) {
        let secret = keys::find(name).is_none_or(|key| key.kind.is_secret());
        let found = match (secret, given.text.is_empty()) {
            (_, true) => "an empty text".to_owned(),
            (true, false) => "something else (not shown, it may be secret)".to_owned(),
            (false, false) => quoted(&given.text),
        };
        self.problem(name, &given.origin, found, invalid);
    }

    /// Notes a problem with these words.
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

    /// Says what the setting comes to, where that is not the text as given.
    pub fn show(&mut self, name: &'static str, text: impl Into<String>) {
        self.shown.insert(name, (text.into(), None));
    }

    /// The same, for a value that came by way of another key.
    pub fn show_from(&mut self, name: &'static str, text: impl Into<String>, origin: ValueOrigin) {
        self.shown.insert(name, (text.into(), Some(origin)));
    }

    /// Every setting, in the order of the table. A secret is shown only as [`Self::show`] said.
    pub fn settings(&self) -> Vec<EffectiveSetting> {
        KEYS.iter().map(|key| self.setting(key)).collect()
    }

    fn setting(&self, key: &ConfigKey) -> EffectiveSetting {
        let given = self.merged.get(key.name);
        let (given, at) = given.map(|given| (given.text, given.origin)).unwrap_or_default();
        let (text, origin) = match self.shown.get(key.name) {
            Some((text, origin)) => (text.clone(), origin.clone().unwrap_or(at)),
            None if key.kind.is_secret() && !given.is_empty() => (REDACTED.to_owned(), at),
            None => (given, at),
        };
        EffectiveSetting { key: key.name, shown: key.kind.literal(&text), origin }
    }
}
