use proptest::prelude::*;
use time::macros::datetime;

use super::*;
use crate::store::overview::{DeadLetterLine, GapLine};
use crate::telemetry::health::{CertificateHealth, SessionPhase, SpoolHealth, TaskDown};

const NOW: OffsetDateTime = datetime!(2026-11-27 12:00 UTC);

fn healthy() -> HealthSnapshot {
    let mut parts = HealthSnapshot::default();
    parts.session.phase = SessionPhase::Subscribed;
    parts.database.up = true;
    parts
}

/// Summarises a healthy service after a change.
fn after(change: impl FnOnce(&mut HealthSnapshot)) -> Summary {
    let mut parts = healthy();
    change(&mut parts);
    summary(&parts, &StatusCounters::default(), None)
}

fn summary(
    parts: &HealthSnapshot,
    figures: &StatusCounters,
    overview: Option<&Overview>,
) -> Summary {
    Summary::new(&Situation {
        parts,
        figures,
        stuck: &[],
        unaccounted: 0,
        stays_lag_seconds: None,
        spool_max_bytes: None,
        overview,
        uptime_seconds: 3_600.0,
        now: NOW,
    })
}

#[test]
fn healthy_service_is_well() {
    let summary = after(|_| {});
    assert_eq!(summary.verdict, Verdict::Well);
    assert_eq!(summary.sentence, "Well: events are stored as they arrive.");
    assert_eq!(summary.findings, []);
}

#[test]
fn outage_is_urgent_once_it_lasts() {
    let down = |minutes: i64, needs_action: bool| {
        after(|parts| {
            parts.database.up = false;
            parts.database.down_since = Some(NOW - time::Duration::minutes(minutes));
            parts.database.needs_action = needs_action;
            parts.database.problem = Some("connection refused; see that PostgreSQL runs".into());
        })
    };
    assert_eq!(down(1, false).verdict, Verdict::Degraded);
    assert_eq!(down(6, false).verdict, Verdict::NeedsYou);
    let summary = down(1, true);
    assert_eq!(summary.sentence, "Needs you: events cannot be stored in PostgreSQL.");
    assert_eq!(summary.findings[0].cause, "connection refused");
    assert_eq!(summary.findings[0].remedy, "see that PostgreSQL runs");
}

#[test]
fn certificate_names_days_of_now_alone() {
    let summary = after(|parts| {
        let not_after = NOW + time::Duration::days(45);
        parts.certificate = Some(CertificateHealth { not_after });
        parts.credentials.renewal = Some("it expires in 60 days; run csr".into());
    });
    let finding = &summary.findings[0];
    assert_eq!(finding.problem, "the client certificate expires in 45 days");
    assert_eq!(finding.remedy, "run csr");
}

#[test]
fn most_urgent_finding_makes_the_sentence() {
    let summary = after(|parts| {
        parts.configuration.needs_restart = vec!["mqtt.host".into()];
        parts.session.phase = SessionPhase::Connecting;
        parts.session.needs_action = true;
        parts.session.problem = Some("refused".into());
    });
    let expected = "Needs you: not connected to the broker, and 1 other problem.";
    assert_eq!(summary.sentence, expected);
    assert_eq!(summary.findings[1].part, "configuration");
}

#[test]
fn rows_of_the_database_become_findings() {
    let gap = GapLine {
        id: 7,
        started_at: NOW - time::Duration::hours(2),
        ended_at: None,
        cause: "session_lost".into(),
        detail: String::new(),
        acknowledged: false,
    };
    let letter = |minutes| DeadLetterLine {
        id: 9,
        last_seen_at: NOW - time::Duration::minutes(minutes),
        topic: "a/b".into(),
        reason: "malformed".into(),
        seen: 1,
    };
    let mut overview = Overview { gaps: vec![gap], open_gaps: 1, ..Overview::default() };
    overview.dead_letters = vec![letter(200)];
    let assess =
        |overview: &Overview| summary(&healthy(), &StatusCounters::default(), Some(overview));
    let found = assess(&overview);
    assert_eq!(found.sentence, "Degraded: one gap is not acknowledged.");
    assert!(found.findings[0].remedy.contains("gaps acknowledge 7"));
    assert_eq!(found.findings[0].cause, "session lost, 2 h ago");
    overview.dead_letters.insert(0, letter(5));
    assert_eq!(assess(&overview).findings[1].cause, "malformed on a/b");
}

/// Returns any state of the service.
fn any_parts() -> impl Strategy<Value = HealthSnapshot> {
    let phase = prop_oneof![
        Just(SessionPhase::Starting),
        Just(SessionPhase::Standby),
        Just(SessionPhase::Connecting),
        Just(SessionPhase::Subscribed),
        Just(SessionPhase::Stopping),
    ];
    let text = || prop::option::of(prop_oneof![Just(String::new()), ".{0,20}", "[a-z]+; [a-z]*"]);
    let seconds = || prop_oneof![any::<f64>(), -1e6..1e6];
    (
        (phase, text(), any::<bool>(), -1_000i64..1_000_000),
        (any::<bool>(), text(), seconds(), seconds()),
        (prop::option::of(text()), prop::option::of(-100i64..100), text(), text(), text()),
    )
        .prop_map(|(session, database, (spool, days, problem, refused, renewal))| {
            let mut parts = HealthSnapshot::default();
            let since = NOW - time::Duration::seconds(session.3);
            parts.session.phase = session.0;
            parts.session.problem = session.1;
            parts.session.needs_action = session.2;
            parts.session.since = Some(since);
            parts.database.up = database.0;
            parts.database.down_since = (!database.0).then_some(since);
            parts.database.problem = database.1;
            parts.database.clock_skew_seconds = Some(database.2);
            parts.database.retention_overdue_seconds = database.3;
            parts.spool = spool.map(|problem| SpoolHealth { problem, ..SpoolHealth::default() });
            let not_after = days.map(|days| NOW + time::Duration::days(days));
            parts.certificate = not_after.map(|not_after| CertificateHealth { not_after });
            parts.configuration.problem.clone_from(&problem);
            parts.credentials.problem = problem;
            parts.credentials.refused = refused;
            parts.credentials.renewal = renewal;
            if session.2 {
                parts.tasks_down = vec![TaskDown { task: "lock", problem: String::new() }];
            }
            parts
        })
}

proptest! {
    #[test]
    fn every_problem_has_cause_and_remedy(
        parts in any_parts(),
        unaccounted in -2i64..3,
        lag in prop::option::of(any::<f64>()),
        waited in any::<f64>(),
    ) {
        let figures = StatusCounters { oldest_unacked_seconds: waited, ..StatusCounters::default() };
        let situation = Situation {
            parts: &parts,
            figures: &figures,
            stuck: &[StuckTask { task: "decode", overdue_seconds: 3.0 }][..usize::from(unaccounted == 2)],
            unaccounted,
            stays_lag_seconds: lag,
            spool_max_bytes: None,
            overview: None,
            uptime_seconds: 1.0,
            now: NOW,
        };
        let summary = Summary::new(&situation);
        for finding in &summary.findings {
            for text in [&finding.problem, &finding.effect, &finding.cause, &finding.remedy] {
                prop_assert!(!text.trim().is_empty(), "{finding:?}");
            }
            prop_assert!(finding.verdict > Verdict::Well);
        }
        prop_assert!(summary.findings.is_sorted_by_key(|f| std::cmp::Reverse(f.verdict)));
        let is_impaired = parts.session.phase != SessionPhase::Subscribed || !parts.database.up;
        prop_assert!(!is_impaired || summary.verdict > Verdict::Well);
        let tiles = super::super::tiles::tiles(&situation, &summary);
        prop_assert!(tiles.iter().all(|tile| !tile.value.is_empty() && !tile.word.is_empty()));
    }
}
