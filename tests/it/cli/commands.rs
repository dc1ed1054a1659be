//! The commands around the service, and exit codes.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::bridge::{Bridge, command, finish};
use crate::support::config::Config;
use crate::support::mosquitto::PASSWORD;
use crate::support::postgres;
use crate::support::rig::Rig;
use crate::support::wait::SOON;

/// Exit codes of the contract.
const USAGE: i32 = 64;
const CONFIG: i32 = 78;

/// Runs a command with `-c FILE` at its end.
async fn with_config(config: &Config, args: &[&str]) -> Output {
    let file = config.write();
    let mut command = command(args);
    command.arg("-c").arg(file);
    finish(command).await
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn wrong_arguments_exit_64_with_usage() {
    for args in [&["run", "--no-such-flag"][..], &["no-such-command"], &[]] {
        let output = finish(command(args)).await;
        assert_eq!(output.status.code(), Some(USAGE), "{args:?}: {output:?}");
        assert!(stderr(&output).contains("Usage"), "{args:?}: {}", stderr(&output));
    }
    for args in [["--help"], ["--version"]] {
        let output = finish(command(args)).await;
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stdout(&output).contains("centiloc-bridge"), "{args:?}");
    }
}

#[tokio::test]
async fn refused_configuration_exits_78_naming_every_problem() {
    let rig = Rig::new().await;
    let config = rig
        .config()
        .set("mqtt.client_id", "other-bridge")
        .set("mqtt.keep_alife", "60s")
        .set("batch.max_events", "many");
    for args in [&["run"][..], &["migrate"], &["config"]] {
        let output = with_config(&config, args).await;
        assert_eq!(output.status.code(), Some(CONFIG), "{args:?}: {output:?}");
        let said = stderr(&output);
        for part in ["mqtt.client_id", "mqtt.keep_alife", "mqtt.keep_alive", "batch.max_events"] {
            assert!(said.contains(part), "{args:?} does not name {part}: {said}");
        }
        assert!(!said.contains(PASSWORD), "{said}");
    }
    let output = finish(command(["run", "-c", "/nonexistent/config.toml"])).await;
    assert_eq!(output.status.code(), Some(CONFIG));
    assert!(stderr(&output).contains("/nonexistent/config.toml"), "{}", stderr(&output));
}

#[tokio::test]
async fn unsuitable_proto_file_exits_78() {
    let rig = Rig::new().await;
    let config = rig.config().set("mqtt.boards", "protobuf");
    let items_only = config.file(
        "items.proto",
        "syntax = \"proto3\";\nimport \"google/protobuf/timestamp.proto\";\n\
         message Item { google.protobuf.Timestamp momentum = 4; string uid = 9; }\n",
    );
    let config = config.set("decode.proto_file", items_only.to_str().unwrap());
    let output = with_config(&config, &["run"]).await;
    assert_eq!(output.status.code(), Some(CONFIG), "{output:?}");
    for part in ["items.proto", "no board message", "mqtt.boards"] {
        assert!(stderr(&output).contains(part), "{part} is not in: {}", stderr(&output));
    }
}

#[tokio::test]
async fn newer_schema_exits_78_before_receiving() {
    let rig = Rig::new().await;
    let config = rig.config();
    let output = with_config(&config, &["migrate"]).await;
    assert!(output.status.success(), "{output:?}");
    rig.database
        .execute(
            "insert into centiloc._sqlx_migrations \
                    (version, description, success, checksum, execution_time) \
             values (9999, 'of tomorrow', true, '\\x00', 0)",
        )
        .await;
    let mut bridge = Bridge::start(&config);
    assert_eq!(bridge.exit_code(SOON).await, CONFIG);
    assert!(bridge.log().find(&["ERROR", "9999"]).is_some(), "{}", bridge.log().tail());
    assert_eq!(rig.tap.pubacks(), 0);
    for args in [&["migrate"][..], &["migrate", "--status"]] {
        let output = with_config(&config, args).await;
        assert_eq!(output.status.code(), Some(CONFIG), "{args:?}: {output:?}");
        assert!(stderr(&output).contains("newer"), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn migrate_applies_pending_migrations_once() {
    let rig = Rig::new().await;
    let config = rig.config().set("database.migrate", false);
    let pending = with_config(&config, &["migrate", "--status"]).await;
    assert!(pending.status.success(), "{pending:?}");
    let steps = stdout(&pending).lines().filter(|line| line.contains("pending")).count();
    assert!(steps >= 4, "{}", stdout(&pending));
    assert_eq!(
        rig.database.count("centiloc._sqlx_migrations").await,
        -1,
        "looking changes nothing"
    );
    let applied = with_config(&config, &["migrate"]).await;
    assert!(applied.status.success(), "{applied:?}");
    let status = with_config(&config, &["migrate", "--status"]).await;
    assert!(!stdout(&status).contains("pending"), "{}", stdout(&status));
    let again = with_config(&config, &["migrate"]).await;
    assert!(again.status.success(), "{again:?}");
    let rows = rig.database.count("centiloc._sqlx_migrations").await;
    assert_eq!(rows, i64::try_from(steps).unwrap());
    let mut bridge = Bridge::ready(&config).await;
    assert_eq!(bridge.terminate().await, 0);
}

#[tokio::test]
async fn unprivileged_run_waits_for_schema() {
    let rig = Rig::new().await;
    let config = rig.config().set("database.migrate", false);
    let mut bridge = Bridge::start(&config);
    bridge.until_logged(&["ERROR", "centiloc-bridge migrate"]).await;
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(body.contains("centiloc-bridge migrate"), "{body}");
    bridge.assert_running();
}

#[tokio::test]
async fn config_shows_origins_and_no_secret() {
    let rig = Rig::new().await;
    let config = rig.config().without("mqtt.password");
    let password_file = config.file("password", format!("{PASSWORD}\n"));
    let config = config.set("mqtt.password_file", password_file.to_str().unwrap());
    let file = config.write();
    let mut show = command(["config".as_ref(), "-c".as_ref(), file.as_os_str()]);
    show.env("CENTILOC_BRIDGE__BATCH__MAX_EVENTS", "123");
    let output = finish(show).await;
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output) + &stderr(&output);
    let percent = "p%40ss%2Fword%3A%201";
    for secret in [PASSWORD, postgres::PASSWORD, percent, "p@ss", "p%40ss", "tr1cky"] {
        assert!(!text.contains(secret), "{secret:?} is shown in\n{text}");
    }
    let line = |key: &str| {
        let found = text.lines().find(|line| line.trim_start().starts_with(key));
        found.unwrap_or_else(|| panic!("no {key} in\n{text}")).to_owned()
    };
    assert!(line("max_events").contains("123"), "{}", line("max_events"));
    assert!(line("max_events").contains("CENTILOC_BRIDGE__BATCH__MAX_EVENTS"));
    assert!(line("keep_alive").contains("default"), "{}", line("keep_alive"));
    assert!(line("username").contains("config.toml"), "{}", line("username"));
    // The redacted URL still shows the location of the database.
    assert!(line("url ").contains(rig.database.name()), "{}", line("url "));
}

#[tokio::test]
async fn config_and_migrate_write_json() {
    let rig = Rig::new().await;
    let config = rig.config();
    let document = |output: &Output| -> Value {
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let shown = document(&with_config(&config, &["config", "--json"]).await);
    let value = |key: &str| {
        let settings = shown["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap().clone()
    };
    assert_eq!(value("batch.max_events")["value"], 1000);
    assert_eq!(value("database.migrate")["value"], true);
    assert_eq!(value("mqtt.keep_alive")["origin"], "default");
    assert_eq!(value("mqtt.password")["value"], "***");
    assert!(value("tenant")["origin"].as_str().unwrap().starts_with("config.toml:"), "{shown}");
    assert!(!shown.to_string().contains(postgres::PASSWORD), "{shown}");
    let status = ["migrate", "--status", "--json"];
    let pending = document(&with_config(&config, &status).await);
    let steps = pending["migrations"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["applied_at"].is_null()), "{pending}");
    let applied = document(&with_config(&config, &["migrate", "--json"]).await);
    assert_eq!(applied["applied"].as_array().unwrap().len(), steps.len(), "{applied}");
    let after = document(&with_config(&config, &status).await);
    let steps = after["migrations"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["applied_at"].is_string()), "{after}");
    let again = document(&with_config(&config, &["migrate", "--json"]).await);
    assert_eq!(again["applied"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn decode_shows_samples_and_explains_garbage() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    for (file, sample) in expected.as_object().unwrap() {
        let topic = sample["topic"].as_str().unwrap();
        for args in [&["decode", "--topic", topic][..], &["decode"]] {
            let mut decode = command(args);
            decode.arg(folder.join(file));
            let output = finish(decode).await;
            if args.len() == 1 && output.status.code() == Some(64) {
                // It could be either kind of event, and the command does not guess.
                assert!(stderr(&output).contains("--topic"), "{file}: {output:?}");
                assert!(output.stdout.is_empty(), "{file}: {output:?}");
                continue;
            }
            assert!(output.status.success(), "{file}: {output:?}");
            let row: Value = serde_json::from_slice(&output.stdout).unwrap();
            let columns = sample["columns"].as_object().unwrap();
            let table = format!("{}_event", columns["kind"].as_str().unwrap());
            assert_eq!(row["table"], table, "{file} {args:?}");
            let same = ["board_sn", "uid", "status", "x_mm", "nb_hits", "item_labels", "extra"];
            for name in same.iter().filter(|name| columns.contains_key(**name)) {
                assert_eq!(row[*name], columns[*name], "{file}: {name}");
            }
        }
    }
    let mut garbage = command(["decode", "--topic", "centiloc/acme/json/item/v1/update"]);
    garbage.arg(folder.join("item-0.pb"));
    let output = finish(garbage).await;
    assert_eq!(output.status.code(), Some(1));
    let named = ["malformed", "the payload is protobuf", "centiloc/acme is the topic for it"];
    assert!(named.iter().all(|n| stderr(&output).contains(n)), "{}", stderr(&output));
    let output = finish(command(["decode", "--topic", "centiloc/acme", "-"])).await;
    assert_eq!(output.status.code(), Some(1), "an empty payload: {output:?}");
}
