//! Which sums are computed again after late events, in which order, and before what retention deletes.

use std::time::Duration;

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::store::rollups::DueRollups;
use time::OffsetDateTime;

use super::rebuild::LOCK;
use super::rollups::{by_definition, differences};
use crate::support::database::Database;
use crate::support::store::{StoreFixture, arrives, at, item, leaves};

const DAY: i64 = 86_400;

fn hours_ago(hours: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc().truncate_to_hour() - time::Duration::hours(hours)
}

/// Returns the ages in hours of the marked hours that have ended, the oldest first.
async fn marked_hours(db: &Database) -> Vec<i64> {
    let sql = "select (extract(epoch from date_bin('1 hour', now(), '2000-01-01 00:00+00') - start)
                       / 3600)::bigint
                 from centiloc.rollup_pending
                where width = interval '1 hour' and start + width <= now()
                order by start";
    db.column(sql).await
}

async fn compute_all(fixture: &StoreFixture) {
    fixture.store.compute_all_stays().await.unwrap();
    fixture.store.compute_all_rollups().await.unwrap();
}

#[tokio::test]
async fn late_event_marks_only_changed_hours() {
    let fixture = StoreFixture::new().await;
    let minute = time::Duration::minutes(1);
    fixture
        .items(&[
            item("U", "A", hours_ago(200), true),
            item("U", "A", hours_ago(190), false),
            item("V", "B", hours_ago(100), true),
        ])
        .await;
    compute_all(&fixture).await;
    assert!(marked_hours(&fixture.db).await.is_empty());
    // A visit between two others.
    fixture
        .items(&[
            item("U", "C", hours_ago(150) + minute, true),
            item("U", "C", hours_ago(148) + minute, false),
        ])
        .await;
    fixture.store.compute_all_stays().await.unwrap();
    assert_eq!(marked_hours(&fixture.db).await, [150, 149, 148]);
    compute_all(&fixture).await;
    // The stay on A ends earlier, and the one on B, which lasted until now, in the past.
    fixture.items(&[item("U", "C", hours_ago(192) + minute, true)]).await;
    fixture.items(&[item("V", "B", hours_ago(2) + minute, false)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    // On C until it left: nothing tells of an earlier end.
    let expected: Vec<i64> = (148..=192).rev().chain([2, 1]).collect();
    assert_eq!(marked_hours(&fixture.db).await, expected);
    compute_all(&fixture).await;
    // Another event in a stay changes no stay.
    fixture.items(&[item("V", "B", hours_ago(50) + minute, true)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    assert_eq!(marked_hours(&fixture.db).await, [50]);
}

#[tokio::test]
async fn old_hours_wait_for_further_events() {
    let fixture = StoreFixture::new().await;
    fixture
        .items(&[item("U", "A", hours_ago(60), true), item("U", "A", hours_ago(1), false)])
        .await;
    compute_all(&fixture).await;
    fixture.items(&[item("U", "A", hours_ago(40), true), item("U", "A", hours_ago(1), true)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let aged = "update centiloc.rollup_pending set marked_at = marked_at - interval '20 seconds'";
    fixture.db.execute(aged).await;
    while fixture.store.compute_rollups(DueRollups::Settled).await.unwrap() {}
    assert_eq!(marked_hours(&fixture.db).await, [40]);
    let aged = "update centiloc.rollup_pending set marked_at = marked_at - interval '1 hour'";
    fixture.db.execute(aged).await;
    while fixture.store.compute_rollups(DueRollups::Settled).await.unwrap() {}
    assert!(marked_hours(&fixture.db).await.is_empty());
}

#[tokio::test]
async fn hours_are_computed_in_marked_order() {
    let fixture = StoreFixture::new().await;
    compute_all(&fixture).await;
    let mark = "insert into centiloc.rollup_pending (width, start, marked_at)
                select interval '1 hour',
                       date_bin('1 hour', now(), '2000-01-01 00:00+00') - make_interval(hours => h),
                       now() - make_interval(mins => 60 + m)
                  from (values (720, 1), (480, 3), (240, 2)) as m (h, m)";
    fixture.db.execute(mark).await;
    for left in [vec![720, 240], vec![720], vec![]] {
        assert!(fixture.store.compute_rollups(DueRollups::Settled).await.unwrap());
        assert_eq!(marked_hours(&fixture.db).await, left);
    }
}

#[tokio::test]
async fn retention_waits_for_stays_and_sums() {
    let fixture = StoreFixture::with_span(PartitionSpan::Day).await;
    let events: Vec<_> = (0..9)
        .flat_map(|day| [arrives("U", "A", day * DAY + 60), leaves("U", "A", day * DAY + 90)])
        .collect();
    fixture.items(&events).await;
    let retained = Some(Duration::from_secs(3 * 86_400 - 3_600));
    let delete = || fixture.store.delete_expired(retained, at(8 * DAY));
    // Nothing can be computed meanwhile.
    let mut other = fixture.db.connect().await.unwrap();
    sqlx::raw_sql(LOCK).execute(&mut other).await.unwrap();
    let held = delete().await.unwrap();
    assert_eq!((held.partitions, held.events, held.stays), (0, 0, 0));
    assert!(held.overdue > Some(Duration::ZERO), "{held:?}");
    let [problem] = &held.problems[..] else { panic!("{held:?}") };
    assert!(problem.contains("are kept for now"), "{problem}");
    assert_eq!(fixture.db.count("centiloc.item_event").await, 18);
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
    let deleted = delete().await.unwrap();
    assert_eq!(deleted.problems, Vec::<String>::new());
    assert_eq!((deleted.partitions, deleted.stays), (5, 5));
    let days = "(select from centiloc.board_hour where movements = 2 and hour < '2025-03-15') h";
    assert_eq!(fixture.db.count(days).await, 5);
    let kept = "select kept = '2025-03-16' from centiloc.rollup_floor";
    assert!(fixture.db.value::<bool>(kept).await);
}

#[tokio::test]
async fn stays_last_as_long_as_events() {
    let fixture = StoreFixture::new().await;
    let visit = |day: i64| [arrives("U", "A", day * DAY), leaves("U", "A", day * DAY + 90)];
    fixture.items(&[visit(0), visit(10)].concat()).await;
    compute_all(&fixture).await;
    let retained = Some(Duration::from_secs(86_400));
    // In the middle of a partition of a month.
    let deleted = fixture.store.delete_expired(retained, at(8 * DAY)).await.unwrap();
    assert_eq!((deleted.partitions, deleted.stays), (0, 0));
    let deleted = fixture.store.delete_expired(retained, at(40 * DAY)).await.unwrap();
    assert_eq!((deleted.partitions, deleted.stays), (1, 2));
}

#[tokio::test]
async fn late_events_count_after_final_days() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 1), leaves("U", "A", 2 * DAY)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let retained = Some(Duration::from_secs(86_400));
    fixture.store.delete_expired(retained, at(10 * DAY)).await.unwrap();
    // Of a day that is final, but it lies there since then.
    fixture.items(&[arrives("V", "A", DAY)]).await;
    let deleted = fixture.store.delete_expired(retained, at(12 * DAY)).await.unwrap();
    assert_eq!(deleted.problems, Vec::<String>::new());
    let kept = "select kept = '2025-03-21' from centiloc.rollup_floor";
    assert!(fixture.db.value::<bool>(kept).await);
    let lying = "(select from centiloc.board_hour
                   where hour >= '2025-03-20' and hour < '2025-03-21' and items = 1) h";
    assert_eq!(fixture.db.count(lying).await, 24);
}

#[tokio::test]
async fn erasing_twice_keeps_sums_exact() {
    let fixture = StoreFixture::new().await;
    let hours = |uid: &str, board: &str| {
        [item(uid, board, hours_ago(99), true), item(uid, board, hours_ago(70), false)]
    };
    fixture.items(&[hours("U", "A"), hours("V", "B")].concat()).await;
    fixture.items(&[item("W", "A", hours_ago(80) + time::Duration::MINUTE, true)]).await;
    compute_all(&fixture).await;
    let before = hours_ago(80) + time::Duration::seconds(30);
    let before = before.format(&time::format_description::well_known::Rfc3339).unwrap();
    for run in 1..=2 {
        let erased = fixture.run(&["erase", "--before", &before]).await;
        assert!(erased.status.success(), "{erased:?}");
        compute_all(&fixture).await;
        let definition = by_definition("board_sn", "coalesce(board_sn, '')", "hour", "1 hour");
        let ended = "hour + interval '1 hour'";
        let wrong = differences(&fixture.db, "board_hour", &definition, ended).await;
        assert!(wrong.is_empty(), "run {run}: {wrong:#?}");
    }
}
