//! The shipped configurations are accepted unchanged.

use crate::support::bridge::{command, finish};
use crate::support::process::ScratchFolder;

const MANIFEST: &str = include_str!("../../../deploy/kubernetes/centiloc-bridge.yaml");
const COMPOSE: &str = include_str!("../../../deploy/container/compose.yaml");
const COMPOSE_CONFIG: &str = include_str!("../../../deploy/container/config.toml");
const CONTAINERS: &str = include_str!("../../../docs/containers.md");

/// Returns the text between a line that is `open` and the next that is `close`, without the
/// indentation of its first line.
fn block<'t>(text: &'t str, open: &str, close: impl Fn(&str) -> bool) -> Vec<&'t str> {
    let mut lines = text.lines().skip_while(|line| *line != open).skip(1).peekable();
    let first = lines.peek().unwrap_or_else(|| panic!("there is no line {open:?}"));
    let indent = first.len() - first.trim_start().len();
    lines.take_while(|line| !close(line)).map(|line| line.get(indent..).unwrap_or("")).collect()
}

/// Asserts that `config` accepts this text once `folder_in_it` exists with the two secrets in it.
pub async fn assert_accepted(configuration: &str, folder_in_it: &str) {
    let folder = ScratchFolder::new("shipped");
    folder.write("mqtt.password", "secret");
    folder
        .write("database.url", "postgres://bridge:secret@db.example/centiloc?sslmode=verify-full");
    let here = format!("{}/", folder.path().display());
    let file = folder.write("config.toml", configuration.replace(folder_in_it, &here));
    let output = finish(command(["config".as_ref(), "-c".as_ref(), file.as_os_str()])).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{configuration} is refused: {errors}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("db.example"), "other values than configured: {shown}");
    assert!(!shown.contains("secret"), "a secret is shown: {shown}");
}

/// Returns the file names after `prefix`, sorted.
fn names_behind(text: &str, prefix: &str) -> Vec<String> {
    let end = |c: char| c.is_whitespace() || c == '"';
    let names = text.split(prefix).skip(1).filter_map(|rest| rest.split(end).next());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

#[tokio::test]
async fn configuration_in_the_kubernetes_manifest_is_accepted() {
    let configuration = block(MANIFEST, "  config.toml: |", |line| line == "---").join("\n");
    assert_accepted(&configuration, "/secrets/").await;
    assert_eq!(
        names_behind(CONTAINERS, "--from-file="),
        names_behind(&configuration, "/secrets/"),
        "docs/containers.md puts other files into the Secret"
    );
}

#[tokio::test]
async fn configuration_for_compose_is_accepted() {
    assert_accepted(COMPOSE_CONFIG, "/run/secrets/").await;
    let mounted = COMPOSE.lines().find_map(|line| line.strip_prefix("    secrets: ["));
    let mut mounted: Vec<_> = mounted.unwrap().trim_end_matches(']').split(", ").collect();
    mounted.sort_unstable();
    assert_eq!(names_behind(COMPOSE_CONFIG, "/run/secrets/"), mounted);
}

/// `STATE_DIRECTORY` turns the spool on, so that an outage of the database is no possible loss.
#[test]
fn shipped_services_have_a_durable_state_directory() {
    let unit = include_str!("../../../deploy/systemd/centiloc-bridge.service");
    assert!(unit.lines().any(|line| line == "StateDirectory=centiloc-bridge"));
    let image = include_str!("../../../deploy/container/Containerfile");
    assert!(image.lines().any(|line| line == "ENV STATE_DIRECTORY=/var/lib/centiloc-bridge"));
    let compose = include_str!("../../../deploy/container/compose.yaml");
    assert!(compose.contains("- spool:/var/lib/centiloc-bridge\n"));
    let manifest = include_str!("../../../deploy/kubernetes/centiloc-bridge.yaml");
    assert!(manifest.contains("mountPath: /var/lib/centiloc-bridge\n"));
    assert!(manifest.contains("kind: PersistentVolumeClaim\n"));
}
