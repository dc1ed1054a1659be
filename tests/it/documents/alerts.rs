//! The alert rules are accepted by Prometheus, fire and stay quiet as their cases require, and link
//! to the runbook.

use std::collections::BTreeMap;
use std::process::Command;

use super::root;

const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");
const CASES: &str = include_str!("../../prometheus/alerts.yml");

/// Returns the values of a key of a YAML document, one for each line that has it.
fn values<'a>(document: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    document.lines().filter_map(move |line| {
        let line = line.trim_start().trim_start_matches("- ");
        line.strip_prefix(key)?.strip_prefix(':').map(str::trim)
    })
}

/// Returns the names of all alerts.
pub(super) fn alerts() -> Vec<&'static str> {
    values(ALERTS, "alert").collect()
}

fn promtool(args: &[&str]) {
    let output = Command::new("promtool").args(args).current_dir(root()).output();
    let output = output.expect("promtool: install Debian's package prometheus (`make deps`)");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {args:?}: {}", String::from_utf8_lossy(&text));
}

#[test]
fn prometheus_accepts_shipped_rules() {
    promtool(&[
        "check",
        "rules",
        "--lint-fatal",
        "deploy/prometheus/recording.yml",
        "deploy/prometheus/alerts.yml",
    ]);
}

#[test]
fn alerts_fire_and_stay_quiet() {
    promtool(&["test", "rules", "tests/prometheus/alerts.yml"]);
}

#[test]
fn each_alert_has_both_cases() {
    let mut cases: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (alert, expected) in values(CASES, "alertname").zip(values(CASES, "exp_alerts")) {
        let (fires, quiet) = cases.entry(alert).or_default();
        *if expected == "[]" { quiet } else { fires } += 1;
    }
    let names = alerts();
    assert!(names.len() > 20, "{names:?}");
    for alert in &names {
        let case = cases.get(alert).copied().unwrap_or_default();
        assert!(case.0 > 0 && case.1 > 0, "{alert} (fires, stays quiet): {case:?}");
    }
    assert_eq!(cases.len(), names.len(), "cases of an unknown alert: {cases:?}");
}

#[test]
fn each_alert_links_to_its_entry() {
    let links: Vec<_> = values(ALERTS, "runbook_url").collect();
    let expected: Vec<_> = alerts()
        .iter()
        .map(|alert| format!("docs/runbook.md#{}", alert.to_ascii_lowercase()))
        .collect();
    assert_eq!(links, expected);
    for severity in values(ALERTS, "severity") {
        assert!(["critical", "warning", "info"].contains(&severity), "{severity}");
    }
    for key in ["severity", "summary", "description"] {
        assert_eq!(values(ALERTS, key).count(), links.len(), "{key}");
    }
}
