//! Checks of the configuration: its problems and warnings, and the modes of files with secrets.

use std::path::PathBuf;

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::config::{Config, ConfigError, EffectiveSetting, KeepPayload, LoadedConfig};
use crate::credentials::files::exposure_of;

/// The expected values of warnings, by words that identify the warning.
const EXPECTED: [(&str, &str); 6] = [
    ("white space", "a secret without white space at either end"),
    ("sslmode", "sslmode=verify-full, which proves which server answers"),
    ("admin.listen", "a loopback address"),
    ("travel readable", "TLS"),
    ("requires a user name", "both, as Centiloc provides them"),
    ("environment variable", "two underscores between the parts of a name"),
];

/// Keys of secrets, each with the key that names a file for it.
const SECRETS: [(&str, &str); 2] =
    [("mqtt.password", "mqtt.password_file"), ("database.url", "database.url_file")];

/// Text shown in place of a secret.
const REDACTED: &str = "***";

/// Returns a line for every problem of a refused configuration.
pub fn refused(error: &ConfigError) -> Vec<CheckLine> {
    let line = |problem: &crate::config::ConfigProblem| {
        let place = problem.origin.as_ref().map(|at| format!(" ({at})")).unwrap_or_default();
        let found = format!("{}{place}: found {}", problem.subject, problem.found);
        CheckLine::problem(
            names::CONFIGURATION,
            CheckStatus::Failed,
            found,
            &problem.expected,
            &problem.hint,
        )
    };
    error.problems.iter().map(line).collect()
}

/// Returns the lines of a valid configuration.
pub(super) fn accepted(loaded: &LoadedConfig) -> Vec<CheckLine> {
    // The check of the protobuf schema reports this in more detail.
    let warnings = loaded.warnings.iter().filter(|text| !text.contains("decode.proto_file"));
    let mut checks: Vec<CheckLine> = warnings.map(|warning| warning_line(warning)).collect();
    if checks.is_empty() {
        checks.push(CheckLine::ok(names::CONFIGURATION, source(loaded)));
    }
    let (client_id, tenant) = (&loaded.config.mqtt.client_id, &loaded.config.tenant);
    let found = format!("{client_id:?} begins with the tenant {tenant:?}");
    checks.push(CheckLine::ok(names::CLIENT_ID, found));
    checks.push(CheckLine::ok(names::PAYLOADS, payloads(&loaded.config)));
    checks.extend(secret_files(loaded).into_iter().map(|(what, path)| mode(what, &path)));
    checks
}

/// Describes the messages that are kept with their rows, and the space they need.
fn payloads(config: &Config) -> String {
    let kept = config.retention.payloads.map_or_else(
        || "as long as the row (retention.payloads)".to_owned(),
        |kept| format!("for {} (retention.payloads)", humantime::format_duration(kept)),
    );
    match config.decode.keep_payload {
        KeepPayload::Never => "no message is kept with its row".to_owned(),
        KeepPayload::Unknown => {
            format!("messages with unknown fields are kept with their rows {kept}")
        }
        KeepPayload::Auto | KeepPayload::Always => format!(
            "every message is kept with its row {kept}: about 0.14 GB per million events in \
             protobuf, 0.45 GB in JSON, where the row itself takes 0.3 GB"
        ),
    }
}

fn source(loaded: &LoadedConfig) -> String {
    match &loaded.file {
        Some(file) => file.display().to_string(),
        None => "no file, only defaults and the environment".to_owned(),
    }
}

fn warning_line(warning: &str) -> CheckLine {
    let expected = EXPECTED.iter().find(|(words, _)| warning.contains(words));
    let expected = expected.map_or("no warnings", |(_, expected)| expected);
    let remedy = "see docs/configuration.md";
    CheckLine::from_sentence_or(
        names::CONFIGURATION,
        CheckStatus::Warning,
        warning,
        expected,
        remedy,
    )
}

/// Lists the files that secrets were read from, each once.
fn secret_files(loaded: &LoadedConfig) -> Vec<(&'static str, PathBuf)> {
    let setting = |key| loaded.settings.iter().find(|setting| setting.key == key);
    let mut files = Vec::new();
    for (inline, named) in SECRETS {
        let (Some(inline), Some(named)) = (setting(inline), setting(named)) else { continue };
        // A secret from a file has the origin of the key that names the file.
        match path_of(named).filter(|_| inline.origin == named.origin) {
            Some(path) => files.push(("secret file", path)),
            None => files.extend(in_place(loaded, inline)),
        }
    }
    files.extend(setting("mqtt.proxy").and_then(|proxy| in_place(loaded, proxy)));
    files.dedup();
    files
}

/// Returns the configuration file, if it holds the secret itself.
fn in_place(loaded: &LoadedConfig, setting: &EffectiveSetting) -> Option<(&'static str, PathBuf)> {
    let file = loaded.file.clone()?;
    let name = file.file_name()?.to_string_lossy().into_owned();
    let there = setting.origin.as_str().starts_with(&format!("{name}:"));
    (there && setting.shown.contains(REDACTED))
        .then_some(("configuration file, which holds a secret,", file))
}

/// Returns the path in the TOML of a value.
fn path_of(setting: &EffectiveSetting) -> Option<PathBuf> {
    let table: toml::Table = format!("path = {}", setting.shown).parse().ok()?;
    table["path"].as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn mode(what: &str, path: &std::path::Path) -> CheckLine {
    let name = names::SECRET_FILE_MODE;
    match exposure_of(what, path) {
        None => CheckLine::ok(name, format!("no other user can read {}", path.display())),
        Some(note) => {
            CheckLine::from_sentence(name, CheckStatus::Warning, &note, "mode 0600 or 0400")
        }
    }
}
