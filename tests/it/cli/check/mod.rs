//! `check`, as built, against a real Mosquitto and a real PostgreSQL, with one fault at a time.

mod broker;
mod connection;
mod database;
mod files;
mod live;

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::support::bridge::{command, finish};
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::mosquitto::{Mosquitto, PASSWORD};
use crate::support::postgres::{self, Postgres};

const OK: &str = "ok";
const WARNING: &str = "warning";
const FAILED: &str = "failed";

/// Longer than anything on loopback takes, even on a busy machine.
const CONNECT_TIMEOUT: &str = "10s";

/// A broker and a database that pass every check.
struct CheckFixture {
    broker: Mosquitto,
    database: Database,
}

impl CheckFixture {
    async fn new() -> Self {
        let database = Postgres::shared().await.database();
        let (broker, database) = tokio::join!(Mosquitto::start(), database);
        Self { broker, database }
    }

    /// Returns a configuration that passes every check.
    fn config(&self) -> Config {
        good(&self.broker, &self.database)
    }
}

fn good(broker: &Mosquitto, database: &Database) -> Config {
    let config = Config::new(broker, database);
    let spool = config.folder().join("spool");
    config
        .set("spool.dir", spool.to_str().unwrap())
        .set("decode.proto_file", shipped_proto().to_str().unwrap())
        .set("mqtt.connect_timeout", CONNECT_TIMEOUT)
}

fn shipped_proto() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto/transtream.proto")
}

/// The output of `check --json`.
#[derive(Debug)]
struct CheckOutput {
    exit: i32,
    document: Value,
}

impl CheckOutput {
    fn checks(&self) -> &[Value] {
        self.document["checks"].as_array().unwrap()
    }

    /// Returns the lines of a name: status and detail.
    fn lines(&self, name: &str) -> Vec<(&str, &str)> {
        let lines = self.checks().iter().filter(|check| check["name"] == name);
        lines.map(|c| (c["status"].as_str().unwrap(), c["found"].as_str().unwrap())).collect()
    }

    /// Returns the detail of the only line of a name, which must be ok.
    fn ok(&self, name: &str) -> &str {
        match self.lines(name).as_slice() {
            [(OK, found)] => found,
            other => panic!("{name} is {other:?}: {self:#?}"),
        }
    }

    /// Returns name and status of each line that is not ok.
    fn troubles(&self) -> Vec<(&str, &str)> {
        let all = self.checks().iter();
        let all = all.map(|c| (c["name"].as_str().unwrap(), c["status"].as_str().unwrap()));
        all.filter(|(_, status)| *status != OK).collect()
    }

    /// Returns the names of the skipped lines.
    fn not_checked(&self) -> Vec<&str> {
        let lines = self.document["not_checked"].as_array().unwrap();
        lines.iter().map(|line| line["name"].as_str().unwrap()).collect()
    }
}

async fn run(config: &Config, args: &[&str]) -> Output {
    let file = config.write();
    let mut command = command(["check".as_ref(), "-c".as_ref(), file.as_os_str()]);
    command.args(args);
    let output = finish(command).await;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    for secret in [PASSWORD, postgres::PASSWORD] {
        assert!(!said.contains(secret), "a secret is shown: {said}");
    }
    output
}

async fn check_with(config: &Config, args: &[&str]) -> CheckOutput {
    let output = run(config, &[args, &["--json"]].concat()).await;
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let outcome = CheckOutput { exit: output.status.code().unwrap(), document };
    for check in outcome.checks() {
        let told = check["what_to_do"] != "" && check["expected"] != "";
        assert_eq!(told, check["status"] != OK, "each problem has a hint: {check:#}");
    }
    let failed = outcome.troubles().iter().any(|(_, status)| *status == FAILED);
    assert_eq!(outcome.exit, i32::from(failed), "{outcome:#?}");
    outcome
}

async fn check(config: &Config) -> CheckOutput {
    check_with(config, &[]).await
}

/// One row of a table of faults.
struct FaultCase {
    /// Description of the fault.
    what: &'static str,
    config: Config,
    /// Every line that is not ok, with words of its detail.
    lines: &'static [(&'static str, &'static str, &'static str)],
}

/// Checks each row, and that no other line reports a problem. Prints the table.
async fn assert_table(rows: Vec<FaultCase>) {
    for FaultCase { what, config, lines } in rows {
        let outcome = check(&config).await;
        let expected: Vec<_> = lines.iter().map(|(name, status, _)| (*name, *status)).collect();
        assert_eq!(outcome.troubles(), expected, "{what}: {outcome:#?}");
        let bad = outcome.checks().iter().filter(|check| check["status"] != OK);
        for (check, (_, _, words)) in bad.zip(lines) {
            let (found, cure) = (&check["found"], &check["what_to_do"]);
            let found = found.as_str().unwrap();
            assert!(found.contains(words), "{what}: {words:?} is not in {found:?}");
            println!(
                "| {what} | {} | {} | {found} | {} | {} |",
                check["name"].as_str().unwrap(),
                check["status"].as_str().unwrap(),
                cure.as_str().unwrap(),
                outcome.exit
            );
        }
    }
}

#[tokio::test]
async fn correct_setup_passes_every_check() {
    let fixture = CheckFixture::new().await;
    let outcome = check(&fixture.config()).await;
    assert_eq!((outcome.exit, outcome.troubles(), outcome.not_checked()), (0, vec![], vec![]));
    assert!(outcome.ok("broker_tls").starts_with("TLS 1.3, certificate CN = broker for localhost"));
    assert!(outcome.ok("broker_tls").contains("issued by CN = Test Root CA"));
    assert!(outcome.ok("broker_login").contains("\"acme-check-"));
    assert_eq!(outcome.lines("subscription").len(), 4);
    assert!(outcome.ok("database_connection").contains("as role \"bridge\""));
    assert!(outcome.ok("database_schema").contains("will be applied by run"));
    assert_eq!(fixture.database.count("pg_namespace where nspname = 'centiloc'").await, 0);
    assert_eq!(outcome.document["passed"], true);
}

#[tokio::test]
async fn text_output_is_aligned_and_uncoloured_in_pipe() {
    let fixture = CheckFixture::new().await;
    let config = fixture.config().without("decode");
    let output = run(&config, &[]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let warned =
        text.lines().position(|line| line.starts_with("warning  protobuf_schema ")).unwrap();
    let below: Vec<_> = text.lines().skip(warned + 1).take(2).map(str::trim_start).collect();
    assert!(below[0].starts_with("expected: the .proto"), "{text}");
    assert!(below[1].starts_with("to do: set decode.proto_file"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    let column = text.lines().next().unwrap().find(config.folder().path().to_str().unwrap());
    let found = text.lines().find_map(|line| line.find("TLS 1.3"));
    assert_eq!(column, found, "the details are in one column: {text}");
    assert!(text.ends_with(" ok, 1 warnings, 0 failed\n"), "{text}");
}

#[tokio::test]
async fn offline_needs_neither_broker_nor_database() {
    let mut fixture = CheckFixture::new().await;
    fixture.broker.kill();
    let config = fixture.config().set("database.url", "postgres://nobody@127.0.0.1:1/nothing");
    let outcome = check_with(&config, &["--offline"]).await;
    assert_eq!((outcome.exit, outcome.troubles()), (0, vec![]));
    assert_eq!(outcome.ok("certificate_tenant"), "the certificate is the tenant \"acme\"'s");
    assert!(outcome.lines("broker_tcp").is_empty());
    assert!(outcome.not_checked().contains(&"broker_login"));
    assert!(outcome.not_checked().contains(&"database_rights"));
    // Without --offline both are reported as absent, concurrently.
    let missed = [("broker_tcp", FAILED), ("database_connection", FAILED)];
    assert_eq!(check(&config).await.troubles(), missed);
}
