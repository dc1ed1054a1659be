//! The views that dashboards read.

use sqlx::Row;
use time::OffsetDateTime;

use crate::support::store::{EXPIRY, StoreFixture, arrives, at, board, leaves, of_board, of_item};

async fn where_is(fixture: &StoreFixture, uid: &str) -> Vec<(Option<String>, bool)> {
    let sql = format!("select board_sn, is_in from centiloc.item_location where uid = '{uid}'");
    fixture.db.rows(&sql).await.unwrap().iter().map(|r| (r.get(0), r.get(1))).collect()
}

async fn lying_on(fixture: &StoreFixture, board: &str) -> Vec<String> {
    let sql =
        format!("select uid from centiloc.board_content where board_sn = '{board}' order by uid");
    fixture.db.column(&sql).await
}

/// Returns stays in order, as `board entered-left` with seconds since the start of the tests' time.
async fn stays(fixture: &StoreFixture, uid: &str) -> Vec<String> {
    fixture.store.compute_all_stays().await.unwrap();
    let sql = format!(
        "select board_sn, entered_at, left_at, duration = left_at - entered_at as exact
           from centiloc.item_stay where uid = '{uid}' order by entered_at"
    );
    let seconds = |at: OffsetDateTime| (at - crate::support::store::at(0)).whole_seconds();
    let stay = |row: &sqlx::postgres::PgRow| {
        let board: Option<String> = row.get("board_sn");
        let left: Option<OffsetDateTime> = row.get("left_at");
        assert_eq!(row.get::<Option<bool>, _>("exact"), left.map(|_| true));
        let left = left.map(|at| seconds(at).to_string()).unwrap_or_default();
        format!("{} {}-{left}", board.unwrap_or_default(), seconds(row.get("entered_at")))
    };
    fixture.db.rows(&sql).await.unwrap().iter().map(stay).collect()
}

#[tokio::test]
async fn late_leave_does_not_hide_item() {
    let order = [arrives("U", "A", 1), arrives("U", "B", 10), leaves("U", "A", 11)];
    for turn in 0..3 {
        let fixture = StoreFixture::new().await;
        let mut events = order.to_vec();
        events.rotate_left(turn);
        for event in events {
            fixture.items(&[event]).await;
        }
        assert_eq!(where_is(&fixture, "U").await, [(Some("B".into()), true)], "turned by {turn}");
        assert_eq!(lying_on(&fixture, "B").await, ["U"]);
        assert!(lying_on(&fixture, "A").await.is_empty());
    }
}

#[tokio::test]
async fn absent_item_keeps_its_last_location() {
    let fixture = StoreFixture::new().await;
    fixture
        .items(&[
            arrives("U", "A", 1),
            leaves("U", "A", 20),
            arrives("U", "B", 10),
            leaves("U", "B", 15),
        ])
        .await;
    assert_eq!(where_is(&fixture, "U").await, [(Some("B".into()), false)], "newest arrival");
    assert!(lying_on(&fixture, "A").await.is_empty());
}

#[tokio::test]
async fn item_is_on_its_latest_board() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "B", 5), arrives("U", "A", 9), arrives("V", "B", 1)]).await;
    assert_eq!(where_is(&fixture, "U").await, [(Some("A".into()), true)]);
    assert_eq!(lying_on(&fixture, "B").await, ["V"]);
}

#[tokio::test]
async fn masked_board_gives_location_without_board() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "", 5)]).await;
    assert_eq!(where_is(&fixture, "U").await, [(None, true)]);
    assert_eq!(fixture.db.count("centiloc.board_content").await, 0);
}

#[tokio::test]
async fn stay_ends_at_first_leave_or_arrival_elsewhere() {
    let fixture = StoreFixture::new().await;
    fixture
        .items(&[
            arrives("U", "A", 1),
            arrives("U", "A", 2), // moved on the board
            leaves("U", "A", 5),
            leaves("U", "A", 6), // again: nothing to end
            arrives("U", "A", 10),
            arrives("U", "B", 20), // ends A
            leaves("U", "A", 21),  // late
            arrives("U", "B", 22),
            arrives("U", "A", 30), // ends B
            arrives("V", "A", 15), // somebody else
        ])
        .await;
    assert_eq!(stays(&fixture, "U").await, ["A 1-5", "A 10-20", "B 20-30", "A 30-"]);
    assert_eq!(stays(&fixture, "V").await, ["A 15-"]);
}

#[tokio::test]
async fn stays_are_independent_of_arrival_order() {
    let fixture = StoreFixture::new().await;
    for event in [
        leaves("U", "B", 30),
        arrives("U", "B", 20),
        leaves("U", "A", 10),
        arrives("U", "A", 1),
        leaves("W", "A", 3),
    ] {
        fixture.items(&[event]).await;
    }
    assert_eq!(stays(&fixture, "U").await, ["A 1-10", "B 20-30"]);
    assert!(stays(&fixture, "W").await.is_empty());
}

/// Computes stays by the words of the design, without window functions.
fn stays_by_the_book(events: &[(i64, &'static str, bool)]) -> Vec<String> {
    let mut stays = Vec::new();
    let mut current: Option<(&str, i64)> = None;
    for (at, board, is_in) in events {
        match current {
            Some((on, since)) if on == *board && !is_in => {
                stays.push(format!("{on} {since}-{at}"));
                current = None;
            }
            Some((on, since)) if on != *board && *is_in => {
                stays.push(format!("{on} {since}-{at}"));
                current = Some((board, *at));
            }
            None if *is_in => current = Some((board, *at)),
            _ => {}
        }
    }
    stays.extend(current.map(|(on, since)| format!("{on} {since}-")));
    stays
}

#[tokio::test]
async fn stays_match_reference_on_random_histories() {
    let fixture = StoreFixture::new().await;
    let mut state = 7u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    for tag in 0..40 {
        let uid = format!("U{tag}");
        let mut history = Vec::new();
        for at in 1..=25 {
            let board = ["A", "B", "C"][usize::try_from(random(3)).unwrap()];
            history.push((at, board, random(5) < 3));
        }
        let batch: Vec<_> = history
            .iter()
            .map(|(at, board, is_in)| {
                of_item(if *is_in { arrives(&uid, board, *at) } else { leaves(&uid, board, *at) })
            })
            .collect();
        fixture.commit(&batch).await;
        assert_eq!(stays(&fixture, &uid).await, stays_by_the_book(&history), "{history:?}");
    }
}

#[tokio::test]
async fn movements_are_counted_per_board_and_bucket() {
    let fixture = StoreFixture::new().await;
    fixture
        .items(&[
            arrives("U", "A", 0),
            leaves("U", "A", 3599),
            arrives("U", "A", 3600),
            arrives("V", "B", 3601),
        ])
        .await;
    let sql = "select bucket_start, board_sn, movements, in_events, out_events
                 from centiloc.movement_rate('1 hour') order by 1, 2";
    let rows = fixture.db.rows(sql).await.unwrap();
    let rows: Vec<(OffsetDateTime, String, i64, i64, i64)> =
        rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3), r.get(4))).collect();
    let expected = [
        (at(0), "A".into(), 2, 1, 1),
        (at(3600), "A".into(), 1, 1, 0),
        (at(3600), "B".into(), 1, 1, 0),
    ];
    assert_eq!(rows, expected);
    let since = "select sum(movements)::bigint
                   from centiloc.movement_rate('1 day', since => '2025-03-10 01:00+00')";
    assert_eq!(fixture.db.value::<i64>(since).await, 2);
}

type BoardHealthRow = (String, Option<String>, Option<OffsetDateTime>, i64, Option<bool>);

#[tokio::test]
async fn board_health_shows_every_known_board() {
    let fixture = StoreFixture::new().await;
    let statuses =
        [board("A", 5, "CONNECTED"), board("C", 6, "ONERROR"), board("D", 7, "DEGRADED")];
    fixture.commit(&statuses.map(of_board)).await;
    fixture.items(&[arrives("U", "A", 7), arrives("V", "B", 8), leaves("V", "B", 9)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let sql = "select board_sn, status, last_item_at, items, is_healthy
                 from centiloc.board_health order by 1";
    let rows = fixture.db.rows(sql).await.unwrap();
    let rows: Vec<BoardHealthRow> =
        rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3), r.get(4))).collect();
    let expected = [
        ("A".into(), Some("CONNECTED".into()), Some(at(7)), 1, Some(true)),
        ("B".into(), None, Some(at(9)), 0, None),
        ("C".into(), Some("ONERROR".into()), None, 0, Some(false)),
        ("D".into(), Some("DEGRADED".into()), None, 0, Some(false)),
    ];
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn data_gap_shows_open_and_closed_gaps() {
    use centiloc_bridge::stream::connection_event::ConnectionEvent;
    use centiloc_bridge::stream::gap::{Gap, GapCause};
    let fixture = StoreFixture::new().await;
    let mut gap = Gap {
        client_id: "T-bridge".into(),
        started_at: at(0),
        ended_at: None,
        cause: GapCause::Backpressure,
        detail: "acks held".into(),
    };
    let note = async |gap: &Gap| {
        fixture.store.note(EXPIRY, None, &ConnectionEvent::Gap(gap.clone())).await.unwrap()
    };
    assert_eq!(note(&gap).await.gap, Some(GapCause::Backpressure));
    let open = "select duration > '1 day' and ended_at is null from centiloc.data_gap";
    assert!(fixture.db.value::<bool>(open).await);
    gap.ended_at = Some(at(60));
    assert_eq!(note(&gap).await.gap, None, "the end of a gap is no new gap");
    let closed = "select duration = '1 minute' from centiloc.data_gap";
    assert!(fixture.db.value::<bool>(closed).await);
}
