//! An event from the future is kept as an event and has no effect on a state, a view, or a metric.

use sqlx::Row;
use time::{Duration, OffsetDateTime};

use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::rig::Rig;
use crate::support::store::{StoreFixture, arrives, at, board, item, of_board};

/// Returns the time of a board without NTP.
fn future() -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::days(3650)
}

/// Creates an event of such a board, received now.
fn future_item(board_sn: &str, is_in: bool) -> centiloc_bridge::event::ItemEvent {
    let mut event = item("U", board_sn, future(), is_in);
    event.received_at = OffsetDateTime::now_utc();
    event
}

/// Reads momentum and entry of the only item state.
async fn state(fixture: &StoreFixture) -> (OffsetDateTime, Option<OffsetDateTime>) {
    let sql = "select momentum, entered_at from centiloc.item_state";
    let rows = fixture.db.rows(sql).await.unwrap();
    assert_eq!(rows.len(), 1);
    (rows[0].get(0), rows[0].get(1))
}

async fn board_status(fixture: &StoreFixture) -> String {
    fixture.db.value("select status from centiloc.board_state").await
}

#[tokio::test]
async fn future_events_are_stored_without_becoming_state() {
    let fixture = StoreFixture::new().await;
    let mut late = board("B", 5, "ONERROR");
    (late.momentum, late.event_id) = (future(), uuid::Uuid::new_v4());
    // Alone, then in one batch with correctly dated ones.
    fixture.items(&[future_item("A", false)]).await;
    fixture.commit(&[of_board(late.clone())]).await;
    assert_eq!(fixture.db.count("centiloc.item_state").await, 0);
    assert_eq!(fixture.db.count("centiloc.board_state").await, 0);
    fixture.items(&[future_item("A", false), arrives("U", "A", 7)]).await;
    late.event_id = uuid::Uuid::new_v4();
    fixture.commit(&[of_board(late), of_board(board("B", 6, "CONNECTED"))]).await;
    assert_eq!(state(&fixture).await, (at(7), Some(at(7))));
    assert_eq!(board_status(&fixture).await, "CONNECTED");
    assert_eq!(fixture.db.count("centiloc.item_event").await, 3);
    assert_eq!(fixture.db.count("centiloc.board_event").await, 3);
}

#[tokio::test]
async fn any_event_replaces_a_future_state() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 100)]).await;
    fixture.commit(&[of_board(board("B", 100, "ONERROR"))]).await;
    // A state as earlier versions left it.
    for table in ["item_state", "board_state"] {
        let freeze = format!("update centiloc.{table} set momentum = now() + interval '10 years'");
        fixture.db.execute(&freeze).await;
    }
    fixture.items(&[arrives("U", "A", 50)]).await;
    fixture.commit(&[of_board(board("B", 50, "CONNECTED"))]).await;
    assert_eq!(state(&fixture).await, (at(50), Some(at(50))));
    assert_eq!(board_status(&fixture).await, "CONNECTED");
    // The state is then protected as any other.
    fixture.items(&[arrives("U", "A", 40)]).await;
    assert_eq!(state(&fixture).await.0, at(50));
}

#[tokio::test]
async fn views_ignore_future_events_and_states() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 10), future_item("B", true)]).await;
    fixture.commit(&[of_board(board("A", 1, "CONNECTED"))]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let stays = "select board_sn from centiloc.item_stay where left_at is null";
    assert_eq!(fixture.db.column::<String>(stays).await, ["A"]);
    let moved = "select coalesce(sum(movements), 0)::bigint from centiloc.movement_rate('1 hour')";
    assert_eq!(fixture.db.value::<i64>(moved).await, 1);
    // A frozen state of an earlier version, on another board.
    fixture
        .db
        .execute(
            "insert into centiloc.item_state
                    (tenant, uid, board_sn, momentum, event_id, received_at, is_in, first_seen_at)
             values ('T', 'U', 'B', now() + interval '10 years', gen_random_uuid(), now(), true, now());
             insert into centiloc.board_state
                    (tenant, board_sn, momentum, event_id, received_at, status)
             values ('T', 'F', now() + interval '10 years', gen_random_uuid(), now(), 'CONNECTED')",
        )
        .await;
    for view in ["item_location", "board_content"] {
        let boards = format!("select board_sn from centiloc.{view}");
        assert_eq!(fixture.db.column::<String>(&boards).await, ["A"], "{view}");
    }
    let boards = "select board_sn from centiloc.board_health";
    assert_eq!(fixture.db.column::<String>(boards).await, ["A"]);
}

#[tokio::test]
async fn metrics_ignore_future_events() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let true_one = ItemEvent::new(TENANT, "U", "B-1", OffsetDateTime::now_utc());
    let wrong_clock = ItemEvent::new(TENANT, "U", "B-1", future());
    rig.platform().await.publish_json(&[true_one.clone(), wrong_clock]).await;
    rig.until_rows("item_event", 2).await;
    rig.until_acked(2).await;
    let newest = bridge.metric("centiloc_bridge_last_event_timestamp_seconds", "").await;
    #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
    let expected = true_one.momentum.unix_timestamp() as f64;
    assert_eq!(newest, Some(expected));
    let state = "select momentum < now() + interval '1 minute' from centiloc.item_state";
    assert!(rig.database.value::<bool>(state).await);
}
