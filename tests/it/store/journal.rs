//! Connections and gaps: the knowledge of a restarted process about the one before.

use centiloc_bridge::store::journal::JournalOutcome;
use centiloc_bridge::stream::connection_event::ConnectionEvent;
use centiloc_bridge::stream::gap::{Gap, GapCause};
use time::OffsetDateTime;

use crate::support::store::{EXPIRY, Process, StoreFixture, at};

fn opened(
    process: &Process,
    id: u64,
    seconds: i64,
    session_present: bool,
    filters: &[&str],
) -> ConnectionEvent {
    ConnectionEvent::Opened {
        connection: process.connection(id),
        at: at(seconds),
        session_present,
        filters: filters.iter().map(|f| (*f).to_owned()).collect(),
        spool_dir: None,
    }
}

fn closed(process: &Process, id: u64, seconds: i64) -> ConnectionEvent {
    let connection = process.connection(id);
    ConnectionEvent::Closed { connection, at: at(seconds), reason: "keepalive".into() }
}

async fn note(fixture: &StoreFixture, news: ConnectionEvent) -> JournalOutcome {
    fixture.store.note(EXPIRY, None, &news).await.unwrap()
}

#[tokio::test]
async fn first_start_makes_no_gap() {
    let fixture = StoreFixture::new().await;
    let noted = note(&fixture, opened(&Process::new(), 1, 0, false, &["a"])).await;
    assert_eq!(noted, JournalOutcome::default());
    assert_eq!(fixture.db.count("centiloc.connection where disconnected_at is null").await, 1);
    assert_eq!(fixture.db.count("centiloc.gap").await, 0);
}

#[tokio::test]
async fn session_lost_gap_starts_at_last_seen() {
    let fixture = StoreFixture::new().await;
    let me = Process::new();
    note(&fixture, opened(&me, 1, 0, false, &["a"])).await;
    note(&fixture, closed(&me, 1, 100)).await;
    let noted = note(&fixture, opened(&me, 2, 130, false, &["a"])).await;
    assert_eq!(noted.gap, Some(GapCause::SessionLost));
    let whole = "select cause = 'session_lost' and client_id = 'T-bridge'
                    and started_at = '2025-03-10 00:01:40+00' and ended_at = '2025-03-10 00:02:10+00'
                   from centiloc.gap";
    assert!(fixture.db.value::<bool>(whole).await);
}

#[tokio::test]
async fn absence_is_gap_only_past_expiry() {
    let fixture = StoreFixture::new().await;
    let me = Process::new();
    note(&fixture, opened(&me, 1, 0, false, &["a"])).await;
    note(&fixture, closed(&me, 1, 0)).await;
    assert_eq!(note(&fixture, opened(&me, 2, 7200, true, &["a"])).await.gap, None);
    note(&fixture, closed(&me, 2, 7200)).await;
    let noted = note(&fixture, opened(&me, 3, 14_401, true, &["a"])).await;
    assert_eq!(noted.gap, Some(GapCause::Absence));
}

#[tokio::test]
async fn dead_process_is_closed_at_last_heartbeat() {
    let fixture = StoreFixture::new().await;
    let dead = Process::new();
    note(&fixture, opened(&dead, 1, 0, false, &["a"])).await;
    let standing = dead.connection(1);
    fixture.store.beat(Some(&standing), at(50)).await.unwrap();
    // The last sign of the connection counts, not that of the process.
    fixture.store.beat(None, at(60)).await.unwrap();
    fixture.store.beat(Some(&dead.connection(2)), at(60)).await.unwrap();
    let next = fixture.another_store(centiloc_bridge::config::PartitionSpan::Month);
    let noted =
        next.note(EXPIRY, None, &opened(&Process::new(), 1, 7251, true, &["a"])).await.unwrap();
    assert_eq!(noted.gap, Some(GapCause::Absence));
    let started: OffsetDateTime = fixture.db.value("select started_at from centiloc.gap").await;
    assert_eq!(started, at(50));
    let ended: Vec<Option<String>> =
        fixture.db.column("select reason from centiloc.connection order by id").await;
    assert_eq!(ended, [Some("ended without notice".into()), None]);
    // A heartbeat of the dead process, if it lived after all, changes nothing any more.
    fixture.store.beat(Some(&standing), at(9000)).await.unwrap();
    let seen: OffsetDateTime =
        fixture.db.value("select last_seen_at from centiloc.connection order by id limit 1").await;
    assert_eq!(seen, at(50));
}

#[tokio::test]
async fn filters_are_remembered_until_unsubscribed() {
    let fixture = StoreFixture::new().await;
    let filters = "select filters from centiloc.connection order by id desc limit 1";
    note(&fixture, opened(&Process::new(), 1, 0, false, &["a", "old"])).await;
    // Another configuration, another process.
    let me = Process::new();
    let noted = note(&fixture, opened(&me, 2, 10, true, &["a", "new"])).await;
    assert_eq!(noted.stale_filters, ["old"]);
    assert_eq!(fixture.db.value::<Vec<String>>(filters).await, ["a", "new", "old"]);
    // It ends before the broker confirmed, so the next has to ask again.
    let noted = note(&fixture, opened(&me, 3, 20, true, &["a", "new"])).await;
    assert_eq!(noted.stale_filters, ["old"]);
    let (connection, filters_done) = (me.connection(3), vec!["old".into()]);
    note(&fixture, ConnectionEvent::Unsubscribed { connection, filters: filters_done }).await;
    assert_eq!(fixture.db.value::<Vec<String>>(filters).await, ["a", "new"]);
    assert!(note(&fixture, opened(&me, 4, 30, true, &["a", "new"])).await.stale_filters.is_empty());
}

#[tokio::test]
async fn lost_session_holds_no_filters() {
    let fixture = StoreFixture::new().await;
    note(&fixture, opened(&Process::new(), 1, 0, false, &["old"])).await;
    let noted = note(&fixture, opened(&Process::new(), 2, 10, false, &["a"])).await;
    assert!(noted.stale_filters.is_empty());
}

#[tokio::test]
async fn repeated_connection_event_is_recorded_once() {
    let fixture = StoreFixture::new().await;
    note(&fixture, opened(&Process::new(), 1, 0, false, &["old"])).await;
    let me = Process::new();
    let news = opened(&me, 7, 9000, true, &["a"]);
    let first = note(&fixture, news.clone()).await;
    assert_eq!((first.gap, first.stale_filters.len()), (Some(GapCause::Absence), 1));
    let again = note(&fixture, news).await;
    assert_eq!((again.gap, again.stale_filters.len()), (None, 1));
    assert_eq!(fixture.db.count("centiloc.connection").await, 2);
    assert_eq!(fixture.db.count("centiloc.gap").await, 1);
}

#[tokio::test]
async fn later_process_reads_how_connection_ended() {
    let fixture = StoreFixture::new().await;
    let dead = Process::new();
    note(&fixture, opened(&dead, 1, 0, false, &["a"])).await;
    let next = fixture.another_store(centiloc_bridge::config::PartitionSpan::Month);
    next.note(EXPIRY, None, &closed(&dead, 1, 100)).await.unwrap();
    // Nothing is known of a connection that was never recorded.
    next.note(EXPIRY, None, &closed(&Process::new(), 1, 9000)).await.unwrap();
    let ended: Vec<String> = fixture.db.column("select reason from centiloc.connection").await;
    assert_eq!(ended, ["keepalive"]);
    let news = opened(&Process::new(), 1, 7300, true, &["a"]);
    assert_eq!(
        next.note(EXPIRY, None, &news).await.unwrap().gap,
        None,
        "away since 100, not since 0"
    );
}

#[tokio::test]
async fn only_gaps_of_dead_processes_are_closed() {
    let fixture = StoreFixture::new().await;
    let me = Process::new();
    note(&fixture, opened(&me, 1, 0, false, &["a"])).await;
    let gap = Gap {
        client_id: "T-bridge".into(),
        started_at: at(5),
        ended_at: None,
        cause: GapCause::Backpressure,
        detail: "held".into(),
    };
    assert_eq!(note(&fixture, ConnectionEvent::Gap(gap)).await.gap, Some(GapCause::Backpressure));
    let lasting = "centiloc.gap where ended_at is null";
    note(&fixture, opened(&me, 2, 10, true, &["a"])).await;
    assert_eq!(fixture.db.count(lasting).await, 1);
    note(&fixture, opened(&Process::new(), 1, 20, true, &["a"])).await;
    assert_eq!(fixture.db.count(lasting).await, 0);
    let ended: OffsetDateTime = fixture.db.value("select ended_at from centiloc.gap").await;
    assert_eq!(ended, at(20));
}

/// Returns the same event from a process with a spool.
fn spooled(mut news: ConnectionEvent) -> ConnectionEvent {
    if let ConnectionEvent::Opened { spool_dir, .. } = &mut news {
        *spool_dir = Some("/var/lib/x".to_owned());
    }
    news
}

#[tokio::test]
async fn spooled_events_leave_newer_machines_connection_alone() {
    let fixture = StoreFixture::new().await;
    let (first, second) = (Process::new(), Process::new());
    note(&fixture, spooled(opened(&first, 1, 0, false, &["a"]))).await;
    fixture.store.beat(Some(&first.connection(1)), at(40)).await.unwrap();
    let other = fixture.another_store(centiloc_bridge::config::PartitionSpan::Month);
    other.note(EXPIRY, None, &opened(&second, 1, 1000, true, &["a"])).await.unwrap();
    // In between, the first had lost the session and could record that only in its spool.
    let noted = note(&fixture, spooled(opened(&first, 2, 100, false, &["a", "old"]))).await;
    assert_eq!(
        noted,
        JournalOutcome { gap: Some(GapCause::SessionLost), ..JournalOutcome::default() }
    );
    note(&fixture, closed(&first, 2, 200)).await;
    let gap: Vec<OffsetDateTime> =
        fixture.db.column("select unnest(array[started_at, ended_at]) from centiloc.gap").await;
    assert_eq!(gap, [at(40), at(100)]);
    let standing = "centiloc.connection where disconnected_at is null";
    assert_eq!(fixture.db.count(standing).await, 1);
    other.beat(Some(&second.connection(1)), at(9000)).await.unwrap();
    let again = other.note(EXPIRY, None, &opened(&second, 2, 9100, true, &["a"])).await.unwrap();
    assert_eq!(again.gap, None);
}

#[tokio::test]
async fn repeated_spool_events_end_no_later_connection() {
    let fixture = StoreFixture::new().await;
    let me = Process::new();
    note(&fixture, opened(&Process::new(), 1, -100, true, &["a"])).await;
    let told = [
        spooled(opened(&me, 1, 0, false, &["a"])),
        closed(&me, 1, 10),
        spooled(opened(&me, 2, 9000, true, &["a"])),
    ];
    for news in told.clone() {
        note(&fixture, news).await;
    }
    let rows = "select to_jsonb(c)::text from centiloc.connection c order by id";
    let before = (fixture.db.column::<String>(rows).await, fixture.db.count("centiloc.gap").await);
    // A process that was killed before it could delete them sends all of them again, or the last
    // ones.
    for from in 0..told.len() {
        let next = fixture.another_store(centiloc_bridge::config::PartitionSpan::Month);
        for news in &told[from..] {
            assert_eq!(next.note(EXPIRY, None, news).await.unwrap(), JournalOutcome::default());
        }
        let after =
            (fixture.db.column::<String>(rows).await, fixture.db.count("centiloc.gap").await);
        assert_eq!(after, before);
    }
}

#[tokio::test]
async fn earlier_loss_keeps_its_time_after_takeover() {
    let fixture = StoreFixture::new().await;
    let (first, dead, second) = (Process::new(), Process::new(), Process::new());
    note(&fixture, opened(&first, 1, 0, false, &["a"])).await;
    note(&fixture, closed(&first, 1, 10)).await;
    // Another machine takes over while the loss is in the state file of the dead process alone.
    note(&fixture, opened(&second, 1, 1000, true, &["a"])).await;
    let connections = "select to_jsonb(c)::text from centiloc.connection c order by id";
    let before = fixture.db.column::<String>(connections).await;
    for gap in [Some(GapCause::SessionLost), None] {
        assert_eq!(note(&fixture, opened(&dead, 1, 50, false, &["a"])).await.gap, gap);
    }
    assert_eq!(fixture.db.column::<String>(connections).await, before);
    let times = "select array[started_at, ended_at] from centiloc.gap";
    assert_eq!(fixture.db.column::<Vec<OffsetDateTime>>(times).await, [[at(10), at(50)]]);
}

#[tokio::test]
async fn one_connack_reports_one_lost_session() {
    let fixture = StoreFixture::new().await;
    let me = Process::new();
    note(&fixture, opened(&me, 1, 0, false, &["a"])).await;
    note(&fixture, closed(&me, 1, 10)).await;
    note(&fixture, opened(&me, 2, 50, false, &["a"])).await;
    let lost = |started, ended| {
        ConnectionEvent::Gap(Gap {
            client_id: "T-bridge".into(),
            started_at: at(started),
            ended_at: Some(at(ended)),
            cause: GapCause::SessionLost,
            detail: "lost".into(),
        })
    };
    assert_eq!(note(&fixture, lost(5, 50)).await.gap, None);
    assert_eq!(note(&fixture, lost(5, 60)).await.gap, Some(GapCause::SessionLost));
    let started = "select started_at from centiloc.gap order by ended_at";
    assert_eq!(fixture.db.column::<OffsetDateTime>(started).await, [at(10), at(5)]);
}

#[tokio::test]
async fn last_spool_folder_is_remembered() {
    let fixture = StoreFixture::new().await;
    fixture.store.prepare_schema(true).await.unwrap();
    assert_eq!(fixture.store.find_spool("T-bridge").await, None);
    note(&fixture, spooled(opened(&Process::new(), 1, 0, false, &["a"]))).await;
    note(&fixture, opened(&Process::new(), 1, 10, true, &["a"])).await;
    let dir = fixture.store.find_spool("T-bridge").await;
    assert_eq!(dir.as_deref(), Some(std::path::Path::new("/var/lib/x")));
    assert_eq!(fixture.store.find_spool("another").await, None);
}

#[tokio::test]
async fn old_connections_expire_except_the_newest() {
    let fixture = StoreFixture::new().await;
    let me = Process::new();
    for id in 1..=3 {
        note(&fixture, opened(&me, id, i64::try_from(id).unwrap(), true, &["a"])).await;
        note(&fixture, closed(&me, id, i64::try_from(id).unwrap())).await;
    }
    let later = at(0) + time::Duration::days(91);
    assert_eq!(fixture.store.delete_expired(None, later).await.unwrap().connections, 2);
    let left: Vec<OffsetDateTime> =
        fixture.db.column("select connected_at from centiloc.connection").await;
    assert_eq!(left, [at(3)]);
}

#[tokio::test]
async fn clock_skew_compares_both_clocks() {
    let fixture = StoreFixture::new().await;
    let skew = fixture.store.beat(None, OffsetDateTime::now_utc()).await.unwrap();
    assert!(skew.abs() < 5.0, "{skew} s on one host");
}
