//! Connections and gaps: what a restarted process knows about the one before.

use centiloc_bridge::message::{ConnectionId, ConnectionNews, GapCause};
use centiloc_bridge::store::Identity;
use centiloc_bridge::store::journal::Noted;
use time::OffsetDateTime;

use crate::store_kit::{Bench, at, identity};

fn opened(id: u64, seconds: i64, session_present: bool, filters: &[&str]) -> ConnectionNews {
    ConnectionNews::Opened {
        id: ConnectionId(id),
        at: at(seconds),
        session_present,
        filters: filters.iter().map(|f| (*f).to_owned()).collect(),
    }
}

fn closed(id: u64, seconds: i64) -> ConnectionNews {
    ConnectionNews::Closed { id: ConnectionId(id), at: at(seconds), reason: "keepalive".into() }
}

async fn note(bench: &Bench, identity: &Identity, news: ConnectionNews) -> Noted {
    bench.store.note(identity, &news).await.unwrap()
}

#[tokio::test]
async fn a_first_start_leaves_a_connection_and_no_gap() {
    let bench = Bench::new().await;
    let noted = note(&bench, &identity(), opened(1, 0, false, &["a"])).await;
    assert_eq!(noted, Noted::default());
    assert_eq!(bench.db.count("centiloc.connection where disconnected_at is null").await, 1);
    assert_eq!(bench.db.count("centiloc.gap").await, 0);
}

#[tokio::test]
async fn a_lost_session_is_a_gap_from_when_the_connection_was_last_seen() {
    let bench = Bench::new().await;
    let me = identity();
    note(&bench, &me, opened(1, 0, false, &["a"])).await;
    note(&bench, &me, closed(1, 100)).await;
    let noted = note(&bench, &me, opened(2, 130, false, &["a"])).await;
    assert_eq!(noted.gap, Some(GapCause::SessionLost));
    let whole = "select cause = 'session_lost' and client_id = 'T-bridge'
                    and started_at = '2025-03-10 00:01:40+00' and ended_at = '2025-03-10 00:02:10+00'
                   from centiloc.gap";
    assert!(bench.db.value::<bool>(whole).await);
}

#[tokio::test]
async fn an_absence_is_a_gap_only_past_the_session_s_expiry() {
    let bench = Bench::new().await;
    let me = identity();
    note(&bench, &me, opened(1, 0, false, &["a"])).await;
    note(&bench, &me, closed(1, 0)).await;
    assert_eq!(note(&bench, &me, opened(2, 7200, true, &["a"])).await.gap, None);
    note(&bench, &me, closed(2, 7200)).await;
    let noted = note(&bench, &me, opened(3, 14_401, true, &["a"])).await;
    assert_eq!(noted.gap, Some(GapCause::Absence));
}

#[tokio::test]
async fn a_process_that_died_is_closed_by_the_next_and_its_absence_counts_from_its_last_beat() {
    let bench = Bench::new().await;
    note(&bench, &identity(), opened(1, 0, false, &["a"])).await;
    bench.store.beat(at(50)).await.unwrap();
    let next = bench.another_store(centiloc_bridge::config::PartitionSpan::Month);
    let noted = next.note(&identity(), &opened(1, 7251, true, &["a"])).await.unwrap();
    assert_eq!(noted.gap, Some(GapCause::Absence));
    let started: OffsetDateTime = bench.db.value("select started_at from centiloc.gap").await;
    assert_eq!(started, at(50));
    let ended: Vec<Option<String>> =
        bench.db.column("select reason from centiloc.connection order by id").await;
    assert_eq!(ended, [Some("ended without notice".into()), None]);
    // The dead one's beat, were it alive after all, changes nothing any more.
    bench.store.beat(at(9000)).await.unwrap();
    let seen: OffsetDateTime =
        bench.db.value("select last_seen_at from centiloc.connection order by id limit 1").await;
    assert_eq!(seen, at(50));
}

#[tokio::test]
async fn filters_of_earlier_connections_are_remembered_until_unsubscribed() {
    let bench = Bench::new().await;
    let filters = "select filters from centiloc.connection order by id desc limit 1";
    note(&bench, &identity(), opened(1, 0, false, &["a", "old"])).await;
    // Another configuration, another process.
    let me = identity();
    let noted = note(&bench, &me, opened(2, 10, true, &["a", "new"])).await;
    assert_eq!(noted.stale_filters, ["old"]);
    assert_eq!(bench.db.value::<Vec<String>>(filters).await, ["a", "new", "old"]);
    // It ends before the broker confirmed: the next has to ask again.
    let noted = note(&bench, &me, opened(3, 20, true, &["a", "new"])).await;
    assert_eq!(noted.stale_filters, ["old"]);
    let done = ConnectionNews::Unsubscribed { id: ConnectionId(3), filters: vec!["old".into()] };
    note(&bench, &me, done).await;
    assert_eq!(bench.db.value::<Vec<String>>(filters).await, ["a", "new"]);
    assert!(note(&bench, &me, opened(4, 30, true, &["a", "new"])).await.stale_filters.is_empty());
}

#[tokio::test]
async fn a_lost_session_holds_no_filters() {
    let bench = Bench::new().await;
    note(&bench, &identity(), opened(1, 0, false, &["old"])).await;
    let noted = note(&bench, &identity(), opened(2, 10, false, &["a"])).await;
    assert!(noted.stale_filters.is_empty());
}

#[tokio::test]
async fn news_written_twice_because_the_answer_was_lost_are_there_once() {
    let bench = Bench::new().await;
    note(&bench, &identity(), opened(1, 0, false, &["old"])).await;
    let me = identity();
    let news = opened(7, 9000, true, &["a"]);
    let first = note(&bench, &me, news.clone()).await;
    assert_eq!((first.gap, first.stale_filters.len()), (Some(GapCause::Absence), 1));
    let again = note(&bench, &me, news).await;
    assert_eq!((again.gap, again.stale_filters.len()), (None, 1));
    assert_eq!(bench.db.count("centiloc.connection").await, 2);
    assert_eq!(bench.db.count("centiloc.gap").await, 1);
}

#[tokio::test]
async fn connections_are_deleted_after_90_days_but_never_the_newest() {
    let bench = Bench::new().await;
    let me = identity();
    for id in 1..=3 {
        note(&bench, &me, opened(id, i64::try_from(id).unwrap(), true, &["a"])).await;
        note(&bench, &me, closed(id, i64::try_from(id).unwrap())).await;
    }
    let later = at(0) + time::Duration::days(91);
    assert_eq!(bench.store.delete_expired(None, later).await.unwrap().connections, 2);
    let left: Vec<OffsetDateTime> =
        bench.db.column("select connected_at from centiloc.connection").await;
    assert_eq!(left, [at(3)]);
}

#[tokio::test]
async fn the_clock_skew_is_that_of_the_two_clocks() {
    let bench = Bench::new().await;
    let skew = bench.store.beat(OffsetDateTime::now_utc()).await.unwrap();
    assert!(skew.abs() < 5.0, "{skew} s on one host");
}
