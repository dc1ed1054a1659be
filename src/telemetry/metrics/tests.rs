//! Tests of the names and values in a scrape.

use super::*;
use crate::stream::gap::GapCause;
use crate::telemetry::NewestGap;

/// Returns the value of the sample that begins with `name`.
fn sample(text: &str, name: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

#[test]
fn gap_before_the_first_scrape_still_rises() {
    const GAPS: &str = "centiloc_bridge_gaps_total{cause=\"session_lost\"}";
    let metrics = Metrics::new();
    metrics.gaps.count(GapCause::SessionLost);
    assert_eq!(metrics.gaps.total(), 1);
    assert_eq!(sample(&metrics.encode_text(), GAPS), Some(0.0));
    assert_eq!(sample(&metrics.encode_text(), GAPS), Some(1.0));
    metrics.gaps.count(GapCause::SessionLost);
    assert_eq!(sample(&metrics.encode_text(), GAPS), Some(2.0));
    assert_eq!(metrics.gaps.total(), 2);
}

#[test]
fn unknown_values_are_absent() {
    let metrics = Metrics::new();
    let text = metrics.encode_text();
    for name in [
        "session_present",
        "certificate_expiry_seconds",
        "spool_events",
        "spool_bytes",
        "spool_max_bytes",
        "spool_oldest_seconds",
        "last_event_timestamp_seconds",
        "last_commit_timestamp_seconds",
        "newest_gap_age_seconds",
        "stays_lag_seconds",
        "boards_silent",
    ] {
        assert!(!text.contains(&format!("centiloc_bridge_{name}")), "{name}: {text}");
    }
    metrics.spool_bytes.set(17);
    metrics.gaps.set_newest(Some(NewestGap::Ongoing));
    let text = metrics.encode_text();
    assert!(text.contains("\ncentiloc_bridge_spool_bytes 17\n"), "{text}");
    assert_eq!(sample(&text, "centiloc_bridge_newest_gap_age_seconds "), Some(0.0));
}

#[test]
fn process_reports_its_resources() {
    let text = Metrics::new().encode_text();
    for name in [
        "process_cpu_seconds_total ",
        "process_open_fds ",
        "process_max_fds ",
        "process_resident_memory_bytes ",
        "process_virtual_memory_bytes ",
        "process_start_time_seconds ",
    ] {
        assert!(sample(&text, name).is_some_and(|value| value >= 0.0), "{name}: {text}");
    }
    assert!(sample(&text, "process_resident_memory_bytes ") > Some(100_000.0));
}
