//! Finds the running service that a configuration describes, for `status`: a mistake in the file
//! must not hide a service that was started before it was made.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use super::layers::{Layer, Merged};
use super::problem::{Problem, Problems};
use super::read::Reader;
use super::{
    DEFAULT_FILE, assemble, assemble_mqtt, environment, file, read_text, unreadable, values,
};

/// Where the service listens and under which names it runs, as far as the configuration says.
#[derive(Debug)]
pub struct Service {
    /// `admin.listen`; `None` where it is turned off.
    pub listen: Option<SocketAddr>,
    /// `tenant`, if it could be read.
    pub tenant: Option<String>,
    /// `mqtt.client_id`, if it could be read with certainty.
    pub client_id: Option<String>,
    /// Mistakes that were passed over.
    pub problems: Option<Problems>,
}

/// Reads the few keys that matter here from `file`, or [`DEFAULT_FILE`], and the environment. Fails
/// where a named file does not exist, and where `admin.listen` itself is wrong.
pub fn find_service(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Service, Problems> {
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
        Err(error) if error.kind() == ErrorKind::NotFound && !named => Layer::default(),
        Err(error) => {
            problems.push(unreadable(&path, &error));
            if error.kind() == ErrorKind::NotFound {
                return Err(Problems { file: path, list: problems });
            }
            certain = false;
            Layer::default()
        }
    };
    let variables = environment::layer(&env, &mut problems, &mut Vec::new());
    read(&path, [Layer::defaults(), layer, variables], &env, (problems, certain))
}

/// A file that is not `certain` may hold more than was read of it.
fn read(
    path: &Path,
    layers: [Layer; 3],
    env: &[(String, String)],
    (problems, certain): (Vec<Problem>, bool),
) -> Result<Service, Problems> {
    let Ok(merged) = Merged::new(layers) else {
        let list = vec![super::unmerged(path)];
        return Err(Problems { file: path.to_owned(), list });
    };
    let mut reader = Reader::new(merged, path.to_owned(), env, problems);
    let listen = assemble::admin(&mut reader);
    // Absent is unknown here, no mistake to report.
    let given = reader.given("tenant").is_some();
    let tenant = if given { reader.read("tenant", values::topic_part) } else { None };
    let sure = certain || reader.given("mqtt.client_id").is_some();
    let client_id =
        if sure { assemble_mqtt::client_id(&mut reader, tenant.as_deref()) } else { None };
    let problems = Problems { file: path.to_owned(), list: reader.problems };
    let Some(listen) = listen else { return Err(problems) };
    let problems = (!problems.list.is_empty()).then_some(problems);
    Ok(Service { listen, tenant, client_id, problems })
}
