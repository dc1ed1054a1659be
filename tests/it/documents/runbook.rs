//! `docs/runbook.md` has an entry for each alert, each cause of a gap and each line of the log at
//! level error or warn, and no others.

use std::collections::BTreeSet;
use std::path::Path;

use centiloc_bridge::stream::gap::GapCause;

use super::{alerts, root};

const RUNBOOK: &str = include_str!("../../../docs/runbook.md");

/// Returns the part of the runbook below a heading of the second level.
fn part(title: &str) -> &'static str {
    let (_, text) = RUNBOOK.split_once(&format!("\n## {title}\n")).unwrap();
    text.split("\n## ").next().unwrap()
}

/// Returns the entries of a part: title and text.
fn entries(part: &str) -> Vec<(&str, &str)> {
    part.split("\n### ").skip(1).filter_map(|entry| entry.split_once('\n')).collect()
}

/// Asserts that a part has exactly these entries, and each of them meaning, loss and action.
fn assert_entries(title: &str, expected: &[&str]) {
    let entries = entries(part(title));
    let names: Vec<_> = entries.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected, "entries of \"{title}\" in docs/runbook.md");
    for (name, text) in entries {
        for label in ["**Meaning:**", "**Loss:**", "**Action:**"] {
            assert!(text.contains(label), "{name} has no {label}");
        }
    }
}

/// Returns the code of a file without its tests, or an empty text for a file of tests.
fn production_code(path: &Path) -> String {
    let is_test = path.components().any(|part| {
        ["tests", "tests.rs", "testing.rs"].iter().any(|name| part.as_os_str() == *name)
    });
    if is_test {
        return String::new();
    }
    let text = std::fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
}

/// Adds the messages of all lines at level error or warn below a folder, as `level: message`.
fn collect_lines(folder: &Path, lines: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_lines(&path, lines);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let code = production_code(&path);
            for level in ["warn", "error"] {
                for call in code.split(&format!("{level}!(")).skip(1) {
                    let message = last_literal(call);
                    let place = path.display();
                    let message = message.unwrap_or_else(|| panic!("{place}: no literal: {call}"));
                    lines.insert(format!("{level}: {message}"));
                }
            }
        }
    }
}

/// Returns the last string literal of the arguments at the beginning of a text.
fn last_literal(arguments: &str) -> Option<String> {
    let (mut depth, mut last, mut rest) = (1_usize, None, arguments);
    while depth > 0 {
        let at = rest.find(['(', ')', '"'])?;
        let (found, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = after;
        match found {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {
                let end = after.find('"')?;
                rest = &after[end + 1..];
                let mut pieces = after[..end].split("\\\n");
                let first = pieces.next().unwrap_or_default().to_owned();
                last = Some(pieces.fold(first, |text, piece| text + piece.trim_start()));
            }
        }
    }
    last
}

/// Returns the lines that the tables list, as `level: message`, one for each level.
fn listed_lines() -> BTreeSet<String> {
    let rows = part("Lines of the log").lines().filter(|line| line.starts_with("| `"));
    let mut lines = BTreeSet::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [message, levels, rest @ ..] = &cells[..] else { panic!("{row}") };
        assert!(rest.len() == 3 && rest.iter().all(|cell| !cell.is_empty()), "{row}");
        for level in levels.split(", ") {
            let line = format!("{}: {}", level.trim_matches('`'), message.trim_matches('`'));
            assert!(lines.insert(line), "listed twice: {row}");
        }
    }
    lines
}

#[test]
fn runbook_has_an_entry_for_each_alert() {
    assert_entries("Alerts", &alerts::alerts());
}

#[test]
fn runbook_has_an_entry_for_each_gap_cause() {
    assert_entries("Causes of gaps", &GapCause::ALL.map(GapCause::as_str));
}

#[test]
fn runbook_lists_each_warning_and_error() {
    let mut logged = BTreeSet::new();
    collect_lines(&root().join("src"), &mut logged);
    let listed = listed_lines();
    assert!(logged.len() > 40, "{logged:?}");
    let absent: Vec<_> = logged.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&logged).collect();
    assert!(
        absent.is_empty() && stale.is_empty(),
        "docs/runbook.md: missing {absent:#?}, not logged any more {stale:#?}"
    );
}

#[test]
fn links_of_runbook_lead_to_headings() {
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let targets = RUNBOOK.split("](").skip(1).filter_map(|link| link.split(')').next());
    for target in targets {
        let (page, wanted) = target.split_once('#').unwrap_or((target, ""));
        let page = if page.is_empty() { "runbook.md" } else { page };
        let path = root().join("docs").join(page);
        assert!(path.exists(), "{target} leads to no file");
        if !wanted.is_empty() {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut headings = text.lines().filter(|line| line.starts_with('#'));
            let found = headings.any(|line| anchor(line.trim_start_matches(['#', ' '])) == wanted);
            assert!(found, "{target} leads to no heading");
        }
    }
}
