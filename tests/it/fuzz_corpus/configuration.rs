//! Fuzzes the configuration: the text of a file and, after a NUL, an environment as the kernel
//! shows one (`NAME=value`, each ended by a NUL).

use std::path::Path;

use centiloc_bridge::config::keys::{self, ConfigKey, ENV_PREFIX, ENV_SEPARATOR, KEYS, ValueForm};
use centiloc_bridge::config::{ConfigError, LoadedConfig, load};

use super::in_file;

/// The secret in the seeds. If it occurs only where secrets belong, no output may contain it.
const SECRET: &str = "Zq7canary";

type ProcessEnvironment = Vec<(String, String)>;

/// Loads the configuration and returns true if it was accepted.
pub fn configuration(bytes: &[u8]) -> bool {
    let (file, rest) = match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    let environment = environment(rest);
    in_file("config.toml", file, |path| {
        let result = load(Some(path), environment.clone());
        let text = String::from_utf8_lossy(file);
        if must_stay_secret(&text, &environment, &result) {
            let said = all_that_is_said(&result);
            let leaks = said.to_lowercase().contains(&SECRET.to_lowercase());
            assert!(!leaks, "{text}\n{environment:?}\nshows\n{said}");
        }
        match result {
            Ok(loaded) => {
                assert_consistent(&loaded);
                assert_written(&loaded, &text);
                assert_shown_as_it_loads(&loaded);
                true
            }
            Err(problems) => {
                assert_named(&problems, path);
                false
            }
        }
    })
}

fn environment(bytes: &[u8]) -> ProcessEnvironment {
    let variables = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    variables
        .filter_map(|variable| {
            variable.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Asserts that each problem names its subject, on one line, and gives a hint.
fn assert_named(problems: &ConfigError, path: &Path) {
    assert!(!problems.problems.is_empty());
    for problem in &problems.problems {
        let said = problem.to_string();
        for part in [&problem.subject, &problem.found, &problem.expected, &problem.hint] {
            assert!(!part.is_empty(), "{said}");
        }
        assert!(!said.contains(char::is_control), "{said:?}");
        let file = path.display().to_string();
        let known = keys::find(&problem.subject).is_some() || problem.subject == file;
        assert!(known || problem.origin.is_some() || is_variable(&problem.subject), "{said}");
    }
}

fn is_variable(subject: &str) -> bool {
    subject.to_uppercase().starts_with(ENV_PREFIX)
}

/// Asserts the invariants that the types do not express.
fn assert_consistent(loaded: &LoadedConfig) {
    let (config, mqtt) = (&loaded.config, &loaded.config.mqtt);
    assert_eq!(loaded.settings.len(), KEYS.len());
    assert!(!config.tenant.is_empty() && mqtt.client_id.starts_with(&config.tenant));
    assert!(mqtt.share_group.as_ref().is_none_or(|group| group.starts_with(&config.tenant)));
    assert!(mqtt.reconnect.min <= mqtt.reconnect.max && !mqtt.reconnect.min.is_zero());
    assert!(mqtt.formats.values().any(|formats| formats.protobuf() || formats.json()));
    assert!(mqtt.password.is_none() || mqtt.username.is_some(), "MQTT 3.1.1 forbids it");
    assert!(mqtt.keep_alive.as_secs() >= 1 && mqtt.keep_alive.subsec_nanos() == 0);
    assert!(config.batch.max_events >= 1 && config.database.max_connections >= 1);
    for warning in &loaded.warnings {
        assert!(!warning.is_empty() && !warning.contains(char::is_control), "{warning:?}");
    }
}

/// Asserts that a value attributed to the file is in the file, at its place.
fn assert_written(loaded: &LoadedConfig, text: &str) {
    let Ok(table) = text.parse::<toml::Table>() else { return };
    let of_file = |origin: &str| origin.starts_with("config.toml:");
    for setting in loaded.settings.iter().filter(|setting| of_file(setting.origin.as_str())) {
        let (section, leaf) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        let mut parts = section.split('.').filter(|part| !part.is_empty());
        let section = parts.try_fold(&table, |table, part| table.get(part)?.as_table());
        // The value of a secret is shown next to the key of its file.
        let pair = [leaf, &format!("{leaf}_file")];
        let written =
            section.is_some_and(|table| pair.iter().any(|name| table.contains_key(*name)));
        assert!(written, "{} is not in\n{text}", setting.key);
    }
}

/// Asserts that the output of the command `config` is a configuration with the same values.
fn assert_shown_as_it_loads(loaded: &LoadedConfig) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    centiloc_bridge::cli::config::show(loaded, &mut out, &mut err).expect("memory takes it");
    let out = String::from_utf8(out).expect("it is text");
    // Secrets are redacted, but their origin is shown. Neither can be read back.
    let is_secret = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        ["password", "password_file", "proxy", "url", "url_file"].contains(&name)
    };
    let lines: Vec<_> = out.lines().filter(|line| !is_secret(line)).collect();
    let environment = [(keys::env_name("database.url"), "postgres:///centiloc".to_owned())];
    let again = in_file("shown.toml", lines.join("\n").as_bytes(), |path| {
        load(Some(path), environment).unwrap_or_else(|problems| panic!("{problems}\n{out}"))
    });
    for (ours, theirs) in again.settings.iter().zip(&loaded.settings) {
        if !is_secret(&keys::find(ours.key).map_or("", ConfigKey::leaf)) {
            assert_eq!(ours.shown, theirs.shown, "{}", ours.key);
        }
    }
}

/// Returns every text that an operator or a log could see.
fn all_that_is_said(result: &Result<LoadedConfig, ConfigError>) -> String {
    match result {
        Err(problems) => format!("{problems} {problems:?}"),
        Ok(loaded) => {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            centiloc_bridge::cli::config::show(loaded, &mut out, &mut err)
                .expect("memory takes it");
            out.append(&mut err);
            format!("{loaded:?} {}", String::from_utf8_lossy(&out))
        }
    }
}

/// True if [`SECRET`] occurs, and only in places that are never shown.
fn must_stay_secret(
    text: &str,
    environment: &[(String, String)],
    result: &Result<LoadedConfig, ConfigError>,
) -> bool {
    let mut places = Vec::new();
    match text.parse::<toml::Table>() {
        Ok(table) => {
            for (name, value) in &table {
                places_in("", name, value, &mut places);
            }
        }
        // A file that is no TOML is never quoted, whatever it was meant to be.
        Err(_) if text.contains(SECRET) && is_refused_whole(result) => places.push(true),
        Err(_) if text.contains(SECRET) => places.push(false),
        Err(_) => {}
    }
    for (name, value) in environment {
        if name.contains(SECRET) {
            places.push(false);
        }
        if value.contains(SECRET) {
            places.push(never_shown(variable(name), value));
        }
    }
    places.contains(&true) && !places.contains(&false)
}

fn is_refused_whole(result: &Result<LoadedConfig, ConfigError>) -> bool {
    let broken = |problems: &ConfigError| {
        problems.problems.iter().any(|problem| problem.found.starts_with("broken TOML"))
    };
    result.as_ref().is_err_and(broken)
}

/// Returns for each place of [`SECRET`] below a key if its text is never shown.
fn places_in(section: &str, leaf: &str, value: &toml::Value, places: &mut Vec<bool>) {
    let full = if section.is_empty() { leaf.to_owned() } else { format!("{section}.{leaf}") };
    if leaf.contains(SECRET) {
        places.push(false);
    }
    match value {
        toml::Value::String(text) if text.contains(SECRET) => {
            let key = if leaf.contains('.') { None } else { keys::find(&full) };
            places.push(never_shown(key, text));
        }
        toml::Value::Table(table) => {
            for (name, value) in table {
                places_in(&full, name, value, places);
            }
        }
        toml::Value::Array(list) => {
            for value in list {
                places_in(&full, "[]", value, places);
            }
        }
        _ => {}
    }
}

fn variable(name: &str) -> Option<&'static ConfigKey> {
    let prefix = name.get(..ENV_PREFIX.len())?;
    let rest = name[ENV_PREFIX.len()..].to_lowercase().replace(ENV_SEPARATOR, ".");
    prefix.eq_ignore_ascii_case(ENV_PREFIX).then(|| keys::find(&rest))?
}

/// The value of an unknown key is not shown, because it may be a misspelt password.
fn never_shown(key: Option<&ConfigKey>, value: &str) -> bool {
    match key.map(|key| key.kind) {
        None | Some(ValueForm::Secret) => true,
        Some(ValueForm::SecretUrl) => is_password_in_url(value),
        Some(_) => false,
    }
}

fn is_password_in_url(value: &str) -> bool {
    let password = || {
        let (_, rest) = value.split_once("://")?;
        let (user, rest) = rest.split_once(':')?;
        let rest = rest.strip_prefix(SECRET)?;
        let plain = user.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Some(plain && rest.starts_with('@') && !rest.contains(SECRET))
    };
    password().unwrap_or(false)
}
