//! Loading and explaining the configuration.
//!
//! Defaults < `config.toml` < environment. Each value is parsed once into a type that cannot hold an
//! invalid one. All problems are reported at once, so that one edit fixes them all, and no message
//! ever contains a secret. One table, [`keys::KEYS`], defines every key.

mod database_url;
mod environment;
mod error;
mod file;
mod key;
pub mod keys;
mod layers;
pub mod model;
mod reader;
mod running_service;
mod secret;
mod sections;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod urls;
mod values;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use database_url::{
    DatabaseEndpoint, DatabaseHost, DatabaseTls, DatabaseUrl, RootCertificates, SslMode,
};
pub use environment::process_environment;
pub use error::{ConfigError, ConfigProblem, InvalidValue, ValueOrigin};
pub use model::*;
pub use running_service::{RunningService, find_service};
pub use secret::{SecretFileError, read_secret};

use layers::ConfigLayer;
use reader::SettingReader;

/// The file read without `-c`. It may be absent where the environment sets the required keys.
pub const DEFAULT_FILE: &str = "/etc/centiloc-bridge/config.toml";

/// A valid configuration with the origin of its values.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The parsed configuration, as the service uses it.
    pub config: Config,
    /// The value in effect of every key, in the order of [`keys::KEYS`].
    pub settings: Vec<EffectiveSetting>,
    /// Settings that are valid but doubtful, one sentence each, for `check` and the start of `run`.
    pub warnings: Vec<String>,
    /// The file that was read, or `None` where the default file is absent.
    pub file: Option<PathBuf>,
}

/// The value in effect of one key, and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// Full dotted name, such as `mqtt.tls.ca_file`.
    pub key: &'static str,
    /// The value in TOML, with secrets redacted.
    pub shown: String,
    /// The layer that gave the value.
    pub origin: ValueOrigin,
}

/// Loads the configuration from `file`, or [`DEFAULT_FILE`] if it exists, and the environment.
pub fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<LoadedConfig, ConfigError> {
    let must_exist = file.is_some();
    load_from(file.unwrap_or(Path::new(DEFAULT_FILE)), must_exist, env)
}

fn load_from(
    file: &Path,
    must_exist: bool,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<LoadedConfig, ConfigError> {
    // Relative paths start from the folder of the file, even if the process changes its own.
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let env: Vec<_> = env.into_iter().collect();
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let file_layer = read_file(&path, must_exist, &mut problems);
    let env_layer = environment::layer(&env, &mut problems, &mut warnings);
    // The keys of an unreadable file are unknown: reporting them as missing would be noise.
    let Ok(file_layer) = file_layer else { return Err(ConfigError { file: path, problems }) };
    let present = file_layer.is_some().then(|| path.clone());
    let layers = [ConfigLayer::defaults(), file_layer.unwrap_or_default(), env_layer];
    let merged = ConfigLayer::merged(layers);
    let mut reader = SettingReader::new(merged, path.clone(), &env, problems);
    let config = sections::build(&mut reader);
    warnings.append(&mut reader.warnings);
    match config {
        Some(config) if reader.problems.is_empty() => {
            Ok(LoadedConfig { config, settings: reader.settings(), warnings, file: present })
        }
        _ if present.is_none() => Err(absent(path, reader.problems, &env)),
        _ => Err(ConfigError { file: path, problems: reader.problems }),
    }
}

/// The file could not be turned into a layer. The list of problems holds the reason.
struct UnusableFile;

fn read_file(
    path: &Path,
    must_exist: bool,
    problems: &mut Vec<ConfigProblem>,
) -> Result<Option<ConfigLayer>, UnusableFile> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(error) => {
            problems.push(unreadable(path, &error));
            return Err(UnusableFile);
        }
    };
    file::parse(path, &text, problems).map(Some).ok_or(UnusableFile)
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let bytes = crate::files::read(path, u64::MAX)?;
    let invalid = |error| std::io::Error::new(ErrorKind::InvalidData, error);
    let bytes = crate::encoding::to_utf8(&bytes).map_err(|error| invalid(error.to_string()))?;
    let text = std::str::from_utf8(&bytes);
    text.map(str::to_owned).map_err(|error| invalid(error.to_string()))
}

/// Reports the absent default file first, because most keys are missing for that reason. Without
/// any key in the environment all of them are, so that the file is the only problem.
fn absent(
    path: PathBuf,
    mut problems: Vec<ConfigProblem>,
    env: &[(String, String)],
) -> ConfigError {
    let problem = ConfigProblem {
        subject: path.display().to_string(),
        origin: None,
        found: "no such file".to_owned(),
        expected: "a configuration file here, or after -c".to_owned(),
        hint: "create it from config.example.toml, or name another with -c FILE".to_owned(),
    };
    if !environment::gives_any(env) {
        problems.clear();
    }
    problems.insert(0, problem);
    ConfigError { file: path, problems }
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigProblem {
    let hint = match error.kind() {
        ErrorKind::NotFound => "correct the path after -c, or create it from config.example.toml",
        ErrorKind::InvalidData => "save it as UTF-8",
        ErrorKind::TimedOut => "check that the file system that holds it is mounted and answers",
        _ => "make it readable by the user this runs as",
    };
    ConfigProblem {
        subject: path.display().to_string(),
        origin: None,
        found: error.to_string(),
        expected: "a readable configuration file".to_owned(),
        hint: hint.to_owned(),
    }
}
