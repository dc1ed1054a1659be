//! No command, no log line at any level, no page and no process list shows a secret.

use std::process::Output;

use crate::support::bridge::{Bridge, command, finish};
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, PASSWORD, TENANT, USERNAME};
use crate::support::postgres::{self, Postgres};
use crate::support::publisher::TestPublisher;
use crate::support::wait::{SOON, until_eq};

/// Texts that must appear nowhere.
struct SecretTexts(Vec<String>);

impl SecretTexts {
    fn new(broker: &Mosquitto, database: &Database) -> Self {
        let url = url::Url::parse(&database.url()).unwrap();
        let key = broker.client().key_sec1.lines().chain(broker.client().key_pkcs8.lines());
        let mut all = vec![
            PASSWORD.to_owned(),
            format!("{PASSWORD:?}").trim_matches('"').to_owned(),
            postgres::PASSWORD.to_owned(),
            url.password().unwrap().to_owned(),
            "mistyped-secret".to_owned(),
        ];
        // The last line of a key may be short enough to occur by chance.
        all.extend(key.filter(|line| line.len() > 40).map(str::to_owned));
        Self(all)
    }

    fn assert_absent(&self, place: &str, text: &str) {
        for secret in &self.0 {
            assert!(!text.contains(secret), "{place} shows {secret:?}:\n{text}");
        }
    }
}

fn shown(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[tokio::test]
async fn commands_and_logs_show_no_secret() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let secrets = SecretTexts::new(&broker, &database);
    let config = Config::new(&broker, &database).set("log.level", "trace");
    let mut bridge = Bridge::ready(&config).await;
    let platform = TestPublisher::connect(&broker).await;
    platform.publish_json(&ItemEvent::series(TENANT, 20)).await;
    platform.publish(&format!("centiloc/{TENANT}"), "neither").await;
    until_eq("the rows", SOON, 20, || database.count("centiloc.item_event")).await;

    let file = config.folder().join("config.toml");
    let file = file.to_str().unwrap();
    let pid = bridge.pid().to_string();
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    secrets.assert_absent("the process list", &String::from_utf8_lossy(&cmdline));
    for path in ["/", "/readyz", "/livez", "/metrics", "/api/status"] {
        let (_, text) = bridge.get(path).await.unwrap();
        assert!(!text.is_empty());
        secrets.assert_absent(path, &text);
    }
    let payload = config.file("payload", "neither");
    let payload = payload.to_str().unwrap();
    let renewal = config.folder().join("renewal");
    let key = config.folder().join("client.key");
    let commands: Vec<Vec<&str>> = vec![
        vec!["config", "-c", file],
        vec!["check", "-c", file],
        vec!["check", "--json", "-c", file],
        vec!["check", "--offline", "-c", file],
        vec!["status", "-c", file],
        vec!["status", "--json", "-c", file],
        vec!["migrate", "--status", "-c", file],
        vec!["dead-letters", "list", "-c", file],
        vec!["decode", "-c", file, payload],
        vec![
            "csr",
            "--key",
            key.to_str().unwrap(),
            "--tenant",
            TENANT,
            "--organization",
            "Test",
            "--email",
            "a@example.com",
            "--out",
            renewal.to_str().unwrap(),
        ],
    ];
    for args in commands {
        let output = finish(command(&args)).await;
        let text = shown(&output);
        assert!(!text.is_empty(), "{args:?} prints nothing");
        secrets.assert_absent(&args.join(" "), &text);
    }

    // A reload with a password that the broker refuses, then one that is itself refused.
    let config = config.set("mqtt.password", "mistyped-secret");
    config.write();
    bridge.signal("HUP");
    bridge.until_logged(&["the broker refused the renewed credentials"]).await;
    let config = config.set("database.url", "postgres://u:mistyped-secret@:bad:port/x");
    config.write();
    bridge.signal("HUP");
    bridge.until_logged(&["the new configuration is refused", "database.url"]).await;
    let output = finish(command(["config", "-c", file])).await;
    assert_eq!(output.status.code(), Some(78));
    secrets.assert_absent("a refused configuration", &shown(&output));

    assert_eq!(bridge.terminate().await, 0);
    let log = bridge.log().lines();
    assert!(log.iter().any(|line| line.contains("TRACE")), "this was to be a run at trace");
    for line in &log {
        secrets.assert_absent("the log", line);
    }
}

#[tokio::test]
async fn connection_errors_show_no_secret() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let secrets = SecretTexts::new(&broker, &database);
    let url = database
        .url()
        .replace(url::Url::parse(&database.url()).unwrap().password().unwrap(), "mistyped-secret");
    let config = || Config::new(&broker, &database).set("log.level", "trace");
    for (config, parts) in [
        (
            config().set("mqtt.password", "mistyped-secret"),
            &["broker connection failed", "not_authorized"][..],
        ),
        (config().set("database.url", url), &["28P01"]),
    ] {
        let mut bridge = Bridge::start(&config);
        bridge.until_logged(parts).await;
        assert!(bridge.log().find(&[USERNAME]).is_none(), "nor the user name");
        let (_, page) = bridge.get("/").await.unwrap();
        secrets.assert_absent("the page", &page);
        assert_eq!(bridge.terminate().await, 0);
        for line in &bridge.log().lines() {
            secrets.assert_absent("the log", line);
        }
    }
}
