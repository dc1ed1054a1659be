//! Finds the running service that a configuration describes, for `status`. A mistake in the file must
//! not hide a service that was started before the mistake was made.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use secrecy::SecretString;

use super::error::{ConfigError, ConfigProblem};
use super::layers::ConfigLayer;
use super::reader::SettingReader;
use super::{DEFAULT_FILE, environment, file, read_text, sections, unreadable, values};

/// The address and the names of a service, as far as the configuration gives them.
#[derive(Debug)]
pub struct RunningService {
    /// `admin.listen`, or `None` where it is turned off.
    pub listen: Option<SocketAddr>,
    /// The token of `admin.token_file`, if it could be read.
    pub token: Option<SecretString>,
    /// `tenant`, if it could be read.
    pub tenant: Option<String>,
    /// `mqtt.client_id`, if it could be read with certainty.
    pub client_id: Option<String>,
    /// Problems of the configuration that were ignored.
    pub problems: Option<ConfigError>,
}

/// Reads the few keys needed from `file`, or [`DEFAULT_FILE`], and the environment. Fails where a named
/// file does not exist, and where `admin.listen` itself is invalid.
pub fn find_service(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<RunningService, ConfigError> {
    let named = file.is_some();
    let file = file.unwrap_or(Path::new(DEFAULT_FILE));
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let env: Vec<_> = env.into_iter().collect();
    let mut problems = Vec::new();
    let mut certain = true;
    let layer = match read_text(&path) {
        Ok(text) => file::parse(&path, &text, &mut problems).unwrap_or_else(|| {
            certain = false;
            file::recover(&path, &text)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound && !named => ConfigLayer::default(),
        Err(error) => {
            problems.push(unreadable(&path, &error));
            if error.kind() == ErrorKind::NotFound {
                return Err(ConfigError { file: path, problems });
            }
            certain = false;
            ConfigLayer::default()
        }
    };
    let variables = environment::layer(&env, &mut problems, &mut Vec::new());
    read(&path, [ConfigLayer::defaults(), layer, variables], &env, (problems, certain))
}

/// Reads the keys of the layers. A file that is not `certain` may contain more than was read of it.
fn read(
    path: &Path,
    layers: [ConfigLayer; 3],
    env: &[(String, String)],
    (problems, certain): (Vec<ConfigProblem>, bool),
) -> Result<RunningService, ConfigError> {
    let merged = ConfigLayer::merged(layers);
    let mut reader = SettingReader::new(merged, path.to_owned(), env, problems);
    let listen = sections::read_admin_listen(&mut reader);
    let token = sections::read_admin_token(&mut reader).flatten();
    // Without a tenant the service may still be found, so that its absence is not a problem here.
    let given = reader.given("tenant").is_some();
    let tenant = if given { reader.read("tenant", values::topic_part) } else { None };
    let sure = certain || reader.given("mqtt.client_id").is_some();
    let client_id =
        if sure { sections::read_client_id(&mut reader, tenant.as_deref()) } else { None };
    let problems = ConfigError { file: path.to_owned(), problems: reader.problems };
    let Some(listen) = listen else { return Err(problems) };
    let problems = (!problems.problems.is_empty()).then_some(problems);
    Ok(RunningService { listen, token, tenant, client_id, problems })
}
