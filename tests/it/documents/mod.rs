//! The fenced blocks of the documents work as printed. Each is run by a test here, or marked with
//! the reason why it is not.
//!
//! A block is marked on the line before it, with `<!-- test: NAME -->` or `<!-- not run: REASON
//! -->`. A test runs every block that is marked with its name. Blocks of `text` are output and need
//! no mark.

mod alerts;
mod fresh_machine;
mod guarantees;
mod layout;
mod runbook;
mod schema;
mod shipped_files;

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use self::shipped_files::assert_accepted;
use crate::support::bridge::{command, finish};
use crate::support::config::database_only;
use crate::support::postgres::Postgres;
use crate::support::process::ScratchFolder;
use crate::support::store::{StoreFixture, malformed};

/// Names of the tests that run blocks.
const TESTS: [&str; 7] =
    ["commands", "compose", "configurations", "database", "fresh_machine", "layout", "request"];

/// Shortest accepted reason, characters.
const SHORTEST_REASON: usize = 10;

/// A fenced block of a document.
#[derive(Debug, Clone)]
struct FencedBlock {
    /// Document and line.
    place: String,
    language: String,
    text: String,
    /// The comment on the line before.
    marker: Option<String>,
}

impl FencedBlock {
    /// Returns the name of the test that runs it.
    fn test(&self) -> Option<&str> {
        self.marker.as_deref()?.strip_prefix("test: ")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns README and all files of docs/, sorted by name.
fn documents() -> Vec<(String, String)> {
    let pages = std::fs::read_dir(root().join("docs")).unwrap();
    let mut names: Vec<String> = pages
        .map(|page| format!("docs/{}", page.unwrap().file_name().to_str().unwrap()))
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md"))
        .collect();
    names.push("README.md".to_owned());
    names.sort();
    let text = |name: &String| std::fs::read_to_string(root().join(name)).unwrap();
    names.into_iter().map(|name| (name.clone(), text(&name))).collect()
}

fn blocks_in(name: &str, document: &str) -> Vec<FencedBlock> {
    let (mut blocks, mut open, mut before) = (Vec::new(), None::<FencedBlock>, "");
    for (line, text) in document.lines().enumerate() {
        match (&mut open, text.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(text);
                block.text.push('\n');
            }
            (None, Some(language)) => {
                let marker = before.strip_prefix("<!-- ").and_then(|m| m.strip_suffix(" -->"));
                open = Some(FencedBlock {
                    place: format!("{name}:{}", line + 1),
                    language: language.to_owned(),
                    text: String::new(),
                    marker: marker.map(str::to_owned),
                });
            }
            (None, None) => {}
        }
        before = text;
    }
    assert!(open.is_none(), "{name}: a block is not closed");
    blocks
}

fn blocks() -> Vec<FencedBlock> {
    documents().iter().flat_map(|(name, text)| blocks_in(name, text)).collect()
}

/// Returns the blocks that a test runs. There is at least one.
fn blocks_of(test: &str) -> Vec<FencedBlock> {
    let blocks: Vec<_> = blocks().into_iter().filter(|block| block.test() == Some(test)).collect();
    assert!(!blocks.is_empty(), "no block is marked with {test}");
    blocks
}

/// Writes a program that a block calls, as a shell script.
fn stub(folder: &ScratchFolder, name: &str, script: &str) {
    let path = folder.write(name, script);
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Runs a script in a folder, with this program and a `sudo` without password in its PATH.
async fn run_in(folder: &ScratchFolder, script: &str) -> Output {
    let programs = ScratchFolder::new("programs");
    symlink(env!("CARGO_BIN_EXE_centiloc-bridge"), programs.join("centiloc-bridge")).unwrap();
    // Only root may change the owner of a file.
    let sudo = "#!/bin/sh\nif [ \"$1\" = chown ] && [ \"$(id -u)\" != 0 ]; then exit 0; fi\n\
                exec \"$@\"\n";
    stub(&programs, "sudo", sudo);
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(folder.path()).env("PATH", path);
    finish(command).await
}

fn assert_succeeded(output: &Output, what: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed ({}):\n{text}", output.status);
    text.into_owned()
}

#[test]
fn every_block_runs_or_names_its_reason() {
    let mut run = BTreeSet::new();
    for block in blocks() {
        let FencedBlock { place, marker, .. } = &block;
        if block.language == "text" {
            assert!(marker.is_none(), "{place} is output, and yet marked {marker:?}");
            continue;
        }
        let marker = marker.as_deref().unwrap_or_else(|| panic!("{place} is not marked"));
        if let Some(reason) = marker.strip_prefix("not run: ") {
            assert!(reason.len() >= SHORTEST_REASON, "{place} gives no reason: {reason:?}");
        } else {
            let test = block.test().unwrap_or_else(|| panic!("{place} is marked {marker:?}"));
            assert!(TESTS.contains(&test), "{place} names {test}, which is no test");
            run.insert(test.to_owned());
        }
    }
    assert_eq!(run, BTreeSet::from(TESTS.map(str::to_owned)), "a test has no block");
}

#[tokio::test]
async fn documented_configurations_are_accepted() {
    let (whole, parts): (Vec<_>, Vec<_>) = blocks_of("configurations")
        .into_iter()
        .partition(|block| block.text.contains("\ntenant = "));
    let [whole] = &whole[..] else { panic!("not one complete configuration: {whole:?}") };
    assert_accepted(&whole.text, "/etc/centiloc-bridge/").await;
    for part in parts {
        assert_eq!(part.language, "toml", "{}", part.place);
        assert_accepted(&format!("{}{}", whole.text, part.text), "/etc/centiloc-bridge/").await;
    }
}

#[tokio::test]
async fn documented_certificate_requests_are_made() {
    let folder = ScratchFolder::new("documents");
    let blocks = blocks_of("request");
    for block in &blocks {
        let here = folder.path().to_str().unwrap();
        let script = block.text.replace("/etc/centiloc-bridge", here);
        assert_succeeded(&run_in(&folder, &script).await, &block.place);
    }
    assert!(folder.join("private-key.pem").exists());
    assert!(folder.join("certificate-request.csr").exists());
}

#[tokio::test]
async fn documented_sql_grants_suffice() {
    let postgres = Postgres::own().await;
    // The documents create it themselves.
    postgres.execute("drop role bridge").await;
    let psql = |role: &str, database: &str, sql: &str, place: &str| {
        postgres.psql(role, database, sql).unwrap_or_else(|e| panic!("{place} failed: {e}"))
    };
    let (queries, setup): (Vec<_>, Vec<_>) = blocks_of("database")
        .into_iter()
        .partition(|block| !block.place.starts_with("docs/database.md"));
    let [database, dashboards] = &setup[..] else { panic!("not two blocks: {setup:?}") };
    psql("postgres", "postgres", &database.text, &database.place);
    migrate(postgres.port()).await;
    psql("postgres", "centiloc", &dashboards.text, &dashboards.place);
    for block in queries {
        psql("grafana", "centiloc", &for_psql(&block.text), &block.place);
    }
    let gap = "insert into centiloc.gap (client_id, started_at, cause, detail) \
               values ('x', now(), 'absence', 'x')";
    for sql in [gap, "set default_transaction_read_only = off", "drop table centiloc.gap"] {
        let sql = format!("set default_transaction_read_only = off;\n{sql}");
        let outcome = postgres.psql("grafana", "centiloc", &sql);
        assert_eq!(outcome.is_err(), !sql.ends_with("= off"), "{sql}: {outcome:?}");
    }
}

/// Replaces Grafana's macros in a query.
fn for_psql(sql: &str) -> String {
    let mut text =
        sql.replace("$__timeFrom()", "'2026-01-01'").replace("$__timeTo()", "'2027-01-01'");
    while let Some((before, rest)) = text.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').unwrap();
        text = format!("{before}{column} > '2026-01-01'{after}");
    }
    assert!(!text.contains("$__"), "{text}");
    text
}

/// Migrates the schema with the documented role and password.
async fn migrate(port: u16) {
    let folder = database_only(&format!("postgres://bridge:PASSWORD@127.0.0.1:{port}/centiloc"));
    let file = folder.join("config.toml");
    let output = finish(command(["migrate".as_ref(), "-c".as_ref(), file.as_os_str()])).await;
    assert_succeeded(&output, "migrate");
}

#[tokio::test]
async fn documented_commands_on_the_database_work() {
    let fixture = StoreFixture::new().await;
    fixture.commit(&[malformed(b"one")]).await;
    fixture
        .db
        .execute(
            "insert into centiloc.gap (client_id, started_at, cause, detail)
             values ('T-bridge', now(), 'absence', 'away')",
        )
        .await;
    let config = database_only(&fixture.db.socket_url());
    let folder = ScratchFolder::new("documents");
    // In the documents the configuration is at the default path.
    let file = config.join("config.toml");
    let here =
        format!("centiloc-bridge() {{ command centiloc-bridge \"$@\" -c {}; }}\n", file.display());
    for block in blocks_of("commands") {
        let output = run_in(&folder, &(here.clone() + &block.text)).await;
        assert_succeeded(&output, &block.place);
    }
    let exported = std::fs::read_to_string(folder.join("dead-letters.jsonl")).unwrap();
    assert_eq!(exported.lines().count(), 0, "it is of 2025");
    assert_eq!(fixture.db.count("centiloc.data_gap where note like 'compared%'").await, 1);
}

#[tokio::test]
async fn documented_compose_folder_holds_every_secret() {
    let folder = ScratchFolder::new("documents");
    let place = folder.join("deploy/container");
    std::fs::create_dir_all(&place).unwrap();
    for name in ["compose.yaml", "config.toml"] {
        std::fs::copy(root().join("deploy/container").join(name), place.join(name)).unwrap();
    }
    // The answer of the support team comes between the blocks.
    let answer = "echo certificate >secrets/tls-cert.pem\necho PASSWORD >secrets/mqtt.password\n";
    let script: Vec<_> = blocks_of("compose").into_iter().map(|block| block.text).collect();
    let output = run_in(&folder, &script.join(answer)).await;
    assert_succeeded(&output, "docs/containers.md");
    let compose = std::fs::read_to_string(place.join("compose.yaml")).unwrap();
    let files = compose.lines().filter_map(|line| line.strip_prefix("    file: ./"));
    for file in files {
        assert!(place.join(file).exists(), "{file} is not there");
    }
    let open = std::fs::metadata(place.join("secrets")).unwrap().permissions().mode() & 0o077;
    assert_eq!(open, 0, "the secrets are open to others on this machine");
    let text = std::fs::read_to_string(place.join("config.toml")).unwrap();
    let here = format!("{}/", place.join("secrets").display());
    let file = folder.write("config.toml", text.replace("/run/secrets/", &here));
    let output = finish(command(["config".as_ref(), "-c".as_ref(), file.as_os_str()])).await;
    assert!(assert_succeeded(&output, "config").contains("@postgres/centiloc"));
}
