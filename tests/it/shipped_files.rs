//! Configurations that people copy from here are accepted as they stand.

use crate::support::bridge::{command, finish};
use crate::support::process::Scratch;

/// What stands between a line that is `open` and the next that is `close`, less the indentation of
/// its first line.
fn block<'t>(text: &'t str, open: &str, close: impl Fn(&str) -> bool) -> Vec<&'t str> {
    let mut lines = text.lines().skip_while(|line| *line != open).skip(1).peekable();
    let first = lines.peek().unwrap_or_else(|| panic!("there is no line {open:?}"));
    let indent = first.len() - first.trim_start().len();
    lines.take_while(|line| !close(line)).map(|line| line.get(indent..).unwrap_or("")).collect()
}

async fn assert_accepted(configuration: &[&str], folder_in_it: &str) {
    let folder = Scratch::new("shipped");
    folder.write("mqtt.password", "secret");
    folder
        .write("database.url", "postgres://bridge:secret@db.example/centiloc?sslmode=verify-full");
    let here = format!("{}/", folder.path().display());
    let file = folder.write("config.toml", configuration.join("\n").replace(folder_in_it, &here));
    let output = finish(command(["config".as_ref(), "-c".as_ref(), file.as_os_str()])).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{configuration:#?} is refused: {said}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("db.example"), "not what was meant: {shown}");
    assert!(!shown.contains("secret"), "a secret is shown: {shown}");
}

#[tokio::test]
async fn configuration_in_the_readme_is_accepted() {
    let readme = include_str!("../../README.md");
    let open = "# /etc/centiloc-bridge/config.toml";
    assert_accepted(&block(readme, open, |line| line == "```"), "/etc/centiloc-bridge/").await;
}

#[tokio::test]
async fn configuration_in_the_kubernetes_manifest_is_accepted() {
    let manifest = include_str!("../../deploy/kubernetes/centiloc-bridge.yaml");
    assert_accepted(&block(manifest, "  config.toml: |", |line| line == "---"), "/secrets/").await;
}

/// `STATE_DIRECTORY` turns the spool on, so that an outage of the database is no possible loss.
#[test]
fn shipped_services_have_a_durable_state_directory() {
    let unit = include_str!("../../deploy/systemd/centiloc-bridge.service");
    assert!(unit.lines().any(|line| line == "StateDirectory=centiloc-bridge"));
    let image = include_str!("../../deploy/container/Containerfile");
    assert!(image.lines().any(|line| line == "ENV STATE_DIRECTORY=/var/lib/centiloc-bridge"));
    let compose = include_str!("../../deploy/container/compose.yaml");
    assert!(compose.contains("- spool:/var/lib/centiloc-bridge\n"));
    let manifest = include_str!("../../deploy/kubernetes/centiloc-bridge.yaml");
    assert!(manifest.contains("mountPath: /var/lib/centiloc-bridge\n"));
    assert!(manifest.contains("kind: PersistentVolumeClaim\n"));
}
