//! The environment as a layer: `CENTILOC_BRIDGE__MQTT__TLS__CA_FILE` sets `mqtt.tls.ca_file`. Names
//! match in any case, and values are used unchanged, as text.

use super::error::{ConfigProblem, ValueOrigin};
use super::keys::{self, ENV_PREFIX, ENV_SEPARATOR};
use super::layers::{ConfigLayer, RawValue};

/// Returns the environment of this process. Bytes that are not UTF-8 become U+FFFD, which
/// [`super::load`] refuses in the variables it uses. `std::env::vars` would panic.
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .collect()
}

/// Builds the layer of the variables that set a key.
pub(super) fn layer(
    environment: &[(String, String)],
    problems: &mut Vec<ConfigProblem>,
    warnings: &mut Vec<String>,
) -> ConfigLayer {
    let mut layer = ConfigLayer::default();
    for (name, value) in environment {
        match strip_prefix(name) {
            Some(rest) => insert_variable(&mut layer, name, rest, value, problems),
            None => warnings.extend(misspelt_variable(name)),
        }
    }
    layer.join_pairs(problems);
    layer
}

/// Returns true if any variable has the prefix of this program.
pub(super) fn gives_any(env: &[(String, String)]) -> bool {
    env.iter().any(|(name, _)| strip_prefix(name).is_some())
}

fn strip_prefix(name: &str) -> Option<&str> {
    let prefix = name.get(..ENV_PREFIX.len())?;
    prefix.eq_ignore_ascii_case(ENV_PREFIX).then(|| &name[ENV_PREFIX.len()..])
}

fn insert_variable(
    layer: &mut ConfigLayer,
    name: &str,
    rest: &str,
    value: &str,
    problems: &mut Vec<ConfigProblem>,
) {
    let dotted = rest.to_lowercase().replace(ENV_SEPARATOR, ".");
    let mut refuse = |found: &str, expected: &str, hint: String| {
        problems.push(ConfigProblem {
            subject: name.escape_debug().to_string(),
            origin: None,
            found: found.to_owned(),
            expected: expected.to_owned(),
            hint,
        });
    };
    let Some(key) = keys::find(&dotted) else {
        let hint = keys::nearest(&dotted, false).map_or_else(
            || "unset it, or see config.example.toml for every key".to_owned(),
            |known| format!("did you mean {}, which sets {known}?", keys::env_name(known)),
        );
        return refuse("a variable that sets no known key", "a known one", hint);
    };
    if value.contains(char::REPLACEMENT_CHARACTER) {
        return refuse("bytes that are not UTF-8", "text in UTF-8", "set it again".to_owned());
    }
    let given = RawValue { text: value.to_owned(), origin: ValueOrigin::named(name) };
    if let Some(before) = layer.insert(key, given) {
        let found = format!("the same setting in {}", before.origin);
        refuse(&found, "one variable a setting", format!("unset {} or {name}", before.origin));
    }
}

/// Returns a warning for a variable that is ignored because it has one underscore too few.
fn misspelt_variable(name: &str) -> Option<String> {
    let single = |name: &str| name.to_uppercase().replace(ENV_SEPARATOR, "_");
    let wanted = single(name);
    let key = keys::KEYS.iter().find(|key| single(&key.env_name()) == wanted)?;
    Some(format!(
        "environment variable {name} is ignored; to set {}, name it {}",
        key.name,
        key.env_name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> (ConfigLayer, Vec<ConfigProblem>, Vec<String>) {
        let vars: Vec<_> = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let layer = layer(&vars, &mut problems, &mut warnings);
        (layer, problems, warnings)
    }

    #[test]
    fn names_ignore_case_and_values_stay_text() {
        let (merged, problems, _) = read(&[
            ("CENTILOC_BRIDGE__MQTT__TLS__CA_FILE", "/ca.pem"),
            ("centiloc_bridge__mqtt__username", "0012"),
        ]);
        assert!(problems.is_empty());
        assert_eq!(merged.get("mqtt.tls.ca_file").unwrap().text, "/ca.pem");
        assert_eq!(merged.get("mqtt.username").unwrap().text, "0012");
        let origin = &merged.get("mqtt.username").unwrap().origin;
        assert_eq!(origin.to_string(), "centiloc_bridge__mqtt__username");
    }

    #[test]
    fn unknown_variables_are_refused_without_their_value() {
        let (_, problems, _) = read(&[("CENTILOC_BRIDGE__MQTT__PASSWROD", "hunter2")]);
        let text = problems[0].to_string();
        assert!(text.contains("did you mean CENTILOC_BRIDGE__MQTT__PASSWORD,"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_section_alone_is_refused() {
        let (_, problems, _) = read(&[("CENTILOC_BRIDGE__MQTT", "x"), ("CENTILOC_BRIDGE__", "x")]);
        assert_eq!(problems.len(), 2);
    }

    #[test]
    fn one_setting_in_two_spellings_is_refused() {
        let (_, problems, _) =
            read(&[("CENTILOC_BRIDGE__TENANT", "a"), ("centiloc_bridge__tenant", "b")]);
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn kubernetes_service_variables_are_left_alone() {
        let (_, problems, warnings) = read(&[
            ("CENTILOC_BRIDGE_PORT", "tcp://10.0.0.1:9464"),
            ("CENTILOC_BRIDGE_SERVICE_HOST", "10.0.0.1"),
            ("PATH", "/bin"),
            ("é", ""),
        ]);
        assert!(problems.is_empty() && warnings.is_empty(), "{problems:?} {warnings:?}");
    }

    #[test]
    fn one_underscore_too_few_is_warned_about() {
        let (_, problems, warnings) = read(&[("CENTILOC_BRIDGE_MQTT_HOST", "h")]);
        assert!(problems.is_empty());
        assert!(warnings[0].contains("CENTILOC_BRIDGE__MQTT__HOST"), "{warnings:?}");
    }

    #[test]
    fn a_value_that_is_not_utf8_is_refused() {
        let (_, problems, _) = read(&[("CENTILOC_BRIDGE__MQTT__PASSWORD", "a\u{FFFD}b")]);
        assert!(problems[0].to_string().contains("UTF-8"));
    }
}
