//! Secrets given in place or in a file.

use secrecy::ExposeSecret;

use super::*;

#[test]
fn a_password_without_a_user_name_is_refused() {
    let text = problem(with("mqtt.password", "hunter2"));
    assert!(text.contains("mqtt.username") && !text.contains("hunter2"), "{text}");
}

#[test]
fn secrets_come_from_files_relative_to_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "hunter2\r\n").unwrap();
    std::fs::write(folder.path().join("url"), "postgres://u:s3cret@localhost/x\n").unwrap();
    let text = MINIMAL
        .replace("url = \"postgres:///centiloc?host=/run/postgresql\"", "url_file = \"url\"")
        .replace(
            "[mqtt.tls]",
            "[mqtt]\nusername = \"u\"\npassword_file = \"password\"\n[mqtt.tls]",
        );
    let loaded = load_in(folder.path(), &text, &[]).unwrap();
    let mqtt = &loaded.config.mqtt;
    assert_eq!(mqtt.password.as_ref().unwrap().expose_secret(), "hunter2");
    let url = loaded.config.database.url.expose_secret();
    assert_eq!(url, "postgres://u:s3cret@localhost/x");
    assert_eq!(setting(&loaded, "mqtt.password"), ("\"***\"", "config.toml:4"));
    let shown = setting(&loaded, "database.url");
    assert_eq!(shown, ("\"postgres://u:***@localhost/x\"", "config.toml:9"));
    assert_eq!(mqtt.tls.as_ref().unwrap().key_file, folder.path().join("client.key"));
    // The environment's form of the secret wins over the file's other form.
    let env = [("CENTILOC_BRIDGE__MQTT__PASSWORD", "other ")];
    let loaded = load_in(folder.path(), &text, &env).unwrap();
    assert_eq!(loaded.config.mqtt.password.unwrap().expose_secret(), "other ");
    let edge = |warning: &String| warning.contains("white space") && !warning.contains("other");
    assert!(loaded.warnings.iter().any(edge), "{:?}", loaded.warnings);
}

#[test]
fn unusable_secret_files_are_named() {
    let text = problem(with("database.url_file", "nowhere"));
    assert!(text.contains("/nowhere cannot be read"), "{text}");
}

#[test]
fn systemd_credentials_are_found_by_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("db"), "postgres:///x").unwrap();
    for written in ["$CREDENTIALS_DIRECTORY/db", "${CREDENTIALS_DIRECTORY}/db"] {
        let key = "CENTILOC_BRIDGE__DATABASE__URL_FILE";
        let credentials = folder.path().to_str().unwrap();
        let env = [(key, written), ("CREDENTIALS_DIRECTORY", credentials)];
        let url = load_text(MINIMAL, &env).unwrap().config.database.url;
        assert_eq!(url.expose_secret(), "postgres:///x");
        let text = problem(load_text(MINIMAL, &[(key, written)]));
        assert!(text.contains("LoadCredential="), "{text}");
    }
}

#[test]
fn both_forms_of_a_secret_are_refused() {
    let text = MINIMAL.replace("url = ", "url_file = \"x\"\nurl = ");
    let text = problem(load_text(&text, &[]));
    assert!(text.contains("config.toml:7") && text.contains("config.toml:6"), "{text}");
}
