//! No output contains a secret, whatever mistake was made with it.

use proptest::prelude::*;

use super::*;

/// Collects all output of a result: messages, `Debug`, settings, warnings.
fn all_output(result: &Result<LoadedConfig, ConfigError>) -> String {
    match result {
        Err(problems) => format!("{problems} {problems:?}"),
        Ok(loaded) => {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            crate::cli::config::show(loaded, &mut out, &mut err).unwrap();
            let shown = String::from_utf8_lossy(&out).into_owned() + &String::from_utf8_lossy(&err);
            format!("{loaded:?} {:?} {:?} {shown}", loaded.settings, loaded.warnings)
        }
    }
}

/// Lists files and environments with a secret in every place, right or wrong.
fn places(secret: &str) -> Vec<(String, Vec<(String, String)>)> {
    let in_file = |text: String| (text, Vec::new());
    let at = |line: String| {
        in_file(MINIMAL.replace("[mqtt.tls]", &format!("[mqtt]\n{line}\n[mqtt.tls]")))
    };
    let url =
        |url: String| in_file(MINIMAL.replace("postgres:///centiloc?host=/run/postgresql", &url));
    let var = |name: &str, value: String| (MINIMAL.to_owned(), vec![(name.to_owned(), value)]);
    vec![
        at(format!("username = \"u\"\npassword = '{secret}'")),
        at(format!("password = '{secret}'")),
        at(format!("password = {secret}")),
        at(format!("password = \"{secret}")),
        at(format!("passwrod = '{secret}'")),
        at(format!("password = ['{secret}']")),
        at(format!("password = '{secret}'\npassword_file = 'p'")),
        at(format!("password = '{secret}'\npassword = '{secret}'")),
        at(format!("proxy = 'http://u:{secret}@p:1'")),
        at(format!("proxy = 'http://{secret}@p'")),
        at(format!("proxy = '{secret}'")),
        url(format!("postgres://u:{secret}@db/x")),
        url(format!("postgres://db/x?password={secret}")),
        url(format!("postgres://db/x?pasword={secret}")),
        url(format!("{secret}://db/x")),
        url(format!("mysql://u:{secret}@db/x")),
        var("CENTILOC_BRIDGE__MQTT__PASSWORD", secret.to_owned()),
        var("CENTILOC_BRIDGE__MQTT__PASWORD", secret.to_owned()),
        var("CENTILOC_BRIDGE__DATABASE__URL", format!("postgres://u:{secret}@db/x")),
        var("CENTILOC_BRIDGE__DATABASE__URL", secret.to_owned()),
        var("CENTILOC_BRIDGE__MQTT__PROXY", format!("http://u:{secret}@p:1")),
        var("CENTILOC_BRIDGE_MQTT_PASSWORD", secret.to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn secrets_never_appear_in_output(
        before in "[a-zA-Z0-9 /?#@:%&=+é\"\\\\]{0,8}",
        core in "Zq7[a-zA-Z0-9]{3,8}",
        after in "[ /?#@:%&=+]{0,3}",
    ) {
        let secret = format!("{before}{core}{after}");
        for (text, env) in places(&secret) {
            let folder = tempfile::Builder::new().prefix("conf").tempdir().unwrap();
            let file = folder.path().join("config.toml");
            std::fs::write(&file, &text).unwrap();
            let result = load(Some(&file), env.clone());
            let output = all_output(&result);
            // URLs convert host names to lower case.
            let leaks = output.to_lowercase().contains(&core.to_lowercase());
            prop_assert!(!leaks, "{}\n{:?}\ngives\n{}", text, env, output);
        }
    }

    #[test]
    fn no_text_of_a_file_makes_loading_panic(text in "(?s).{0,200}|[a-z.=\\[\\]\"' \n0-9]{0,100}") {
        let result = load_text(&text, &[]);
        prop_assert!(result.is_err(), "this cannot hold all that is required: {}", text);
    }
}
