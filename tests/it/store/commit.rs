//! The result of a commit: each event once, and states by momentum rather than by arrival.

use centiloc_bridge::event::EventKind;
use centiloc_bridge::store::KindCount;
use sqlx::Row;

use crate::support::store::{
    StoreFixture, arrives, at, board, leaves, malformed, of_board, of_item, state,
};

#[tokio::test]
async fn every_item_column_round_trips() {
    let fixture = StoreFixture::new().await;
    let mut event = arrives("U", "B", 5);
    event.extra = serde_json::json!({"new": [1, "é"], "pos_mm": [1, 2, 3]}).as_object().cloned();
    let outcome = fixture.items(&[event.clone()]).await;
    assert_eq!(outcome.of(EventKind::Item), KindCount { inserted: 1, duplicates: 0 });
    let rows = fixture.db.rows("select * from centiloc.item_event").await.unwrap();
    let row = &rows[0];
    assert_eq!(row.get::<uuid::Uuid, _>("event_id"), event.event_id);
    assert_eq!(row.get::<time::OffsetDateTime, _>("momentum"), at(5));
    assert_eq!(row.get::<time::OffsetDateTime, _>("received_at"), at(6));
    assert_eq!(row.get::<Option<i32>, _>("x_mm"), Some(12));
    assert_eq!(row.get::<Option<i32>, _>("y_mm"), Some(-34));
    assert_eq!(row.get::<Option<i32>, _>("floor_x_mm"), None);
    assert_eq!(row.get::<Option<i32>, _>("floor"), Some(2));
    assert_eq!(row.get::<Option<f32>, _>("fill_ratio"), Some(0.25));
    assert_eq!(row.get::<Option<Vec<String>>, _>("item_labels"), event.item_labels);
    assert_eq!(row.get::<Option<Vec<String>>, _>("loc_labels"), None);
    assert_eq!(row.get::<Option<bool>, _>("is_interpolated"), Some(false));
    assert_eq!(row.get::<Option<Vec<u8>>, _>("payload").as_deref(), event.payload.as_deref());
    let hold: String = fixture.db.value("select hold_time::text from centiloc.item_event").await;
    assert_eq!(hold, "00:00:01.5");
    let extra: serde_json::Value = fixture.db.value("select extra from centiloc.item_event").await;
    assert_eq!(extra, serde_json::Value::Object(event.extra.unwrap()));
}

#[tokio::test]
async fn redelivery_is_counted_and_changes_nothing() {
    let fixture = StoreFixture::new().await;
    let batch = [arrives("U", "A", 1), leaves("U", "A", 2), arrives("V", "A", 3)];
    assert_eq!(
        fixture.items(&batch).await.of(EventKind::Item),
        KindCount { inserted: 3, duplicates: 0 }
    );
    let before = state(&fixture.db).await;
    let xmin: Vec<String> = fixture.db.column("select xmin::text from centiloc.item_state").await;
    assert_eq!(
        fixture.items(&batch).await.of(EventKind::Item),
        KindCount { inserted: 0, duplicates: 3 }
    );
    assert_eq!(state(&fixture.db).await, before);
    let after: Vec<String> = fixture.db.column("select xmin::text from centiloc.item_state").await;
    assert_eq!(after, xmin, "a redelivery must not write state rows");
    assert_eq!(fixture.db.count("centiloc.item_event").await, 3);
}

#[tokio::test]
async fn first_format_of_event_is_kept() {
    let fixture = StoreFixture::new().await;
    let mut other = arrives("U", "A", 1);
    other.product_reference = Some("from the other format".into());
    let outcome = fixture.items(&[arrives("U", "A", 1), other.clone()]).await;
    assert_eq!(outcome.of(EventKind::Item), KindCount { inserted: 1, duplicates: 1 });
    assert_eq!(
        fixture.items(&[other]).await.of(EventKind::Item),
        KindCount { inserted: 0, duplicates: 1 }
    );
    for table in ["item_event", "item_state"] {
        let product: String =
            fixture.db.value(&format!("select product_reference from centiloc.{table}")).await;
        assert_eq!(product, "scalpel", "{table}");
    }
}

#[tokio::test]
async fn older_event_moves_only_first_seen() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 100)]).await;
    let mut older = leaves("U", "A", 50);
    older.product_reference = Some("old".into());
    fixture.items(&[older]).await;
    let rows = fixture.db.rows("select * from centiloc.item_state").await.unwrap();
    assert_eq!(rows.len(), 1);
    assert!(rows[0].get::<bool, _>("is_in"));
    assert_eq!(rows[0].get::<time::OffsetDateTime, _>("momentum"), at(100));
    assert_eq!(rows[0].get::<time::OffsetDateTime, _>("first_seen_at"), at(50));
    assert_eq!(rows[0].get::<String, _>("product_reference"), "scalpel");
}

#[tokio::test]
async fn state_is_independent_of_order_and_batches() {
    let events = [
        arrives("U", "A", 1),
        arrives("U", "A", 2),
        leaves("U", "A", 3),
        arrives("U", "B", 3),
        arrives("U", "A", 9),
        leaves("U", "B", 8),
        arrives("V", "", 4),
    ];
    let comparable = "select (to_jsonb(s) - 'entered_at')::text
                        from centiloc.item_state s order by uid, board_sn";
    let mut seen: Option<Vec<String>> = None;
    for shift in 0..events.len() {
        let fixture = StoreFixture::new().await;
        let mut turned = events.to_vec();
        turned.rotate_left(shift);
        if shift % 2 == 1 {
            turned.reverse();
        }
        for part in turned.chunks(shift.max(1)) {
            fixture.items(part).await;
        }
        let state: Vec<String> = fixture.db.column(comparable).await;
        assert_eq!(state.len(), 3);
        assert_eq!(&state, seen.get_or_insert_with(|| state.clone()), "turned by {shift}");
    }
}

#[tokio::test]
async fn entered_at_is_first_arrival_since_leave() {
    let fixture = StoreFixture::new().await;
    let entered = "select entered_at from centiloc.item_state where uid = 'U'";
    let one = |event| async { fixture.items(&[event]).await };
    one(arrives("U", "A", 10)).await;
    one(arrives("U", "A", 20)).await;
    assert_eq!(fixture.db.value::<Option<time::OffsetDateTime>>(entered).await, Some(at(10)));
    one(leaves("U", "A", 30)).await;
    assert_eq!(fixture.db.value::<Option<time::OffsetDateTime>>(entered).await, None);
    // Several at once. Only the events after the leave within the batch count.
    fixture.items(&[arrives("U", "A", 40), leaves("U", "A", 50), arrives("U", "A", 60)]).await;
    assert_eq!(fixture.db.value::<Option<time::OffsetDateTime>>(entered).await, Some(at(60)));
    fixture.items(&[arrives("U", "A", 70), arrives("U", "A", 80)]).await;
    assert_eq!(fixture.db.value::<Option<time::OffsetDateTime>>(entered).await, Some(at(60)));
}

#[tokio::test]
async fn board_states_follow_momentum() {
    let fixture = StoreFixture::new().await;
    let batch = [of_board(board("B", 20, "DISCONNECTED")), of_board(board("B", 10, "CONNECTED"))];
    let outcome = fixture.commit(&batch).await;
    assert_eq!(outcome.of(EventKind::Board), KindCount { inserted: 2, duplicates: 0 });
    fixture.commit(&[of_board(board("B", 15, "ONERROR"))]).await;
    let status: String = fixture.db.value("select status from centiloc.board_state").await;
    assert_eq!(status, "DISCONNECTED");
    assert_eq!(
        fixture.commit(&batch).await.of(EventKind::Board),
        KindCount { inserted: 0, duplicates: 2 }
    );
    assert_eq!(fixture.db.count("centiloc.board_event").await, 3);
}

#[tokio::test]
async fn mixed_batch_is_one_transaction() {
    let fixture = StoreFixture::new().await;
    let batch = [
        of_item(arrives("U", "A", 1)),
        of_board(board("A", 1, "CONNECTED")),
        malformed(b"garbage"),
    ];
    let outcome = fixture.commit(&batch).await;
    assert_eq!(
        (outcome.of(EventKind::Item).inserted, outcome.of(EventKind::Board).inserted),
        (1, 1)
    );
    assert_eq!(outcome.dead_letters["malformed"], 1);
    let transactions: Vec<String> = fixture
        .db
        .column(
            "select xmin::text from centiloc.item_event
             union select xmin::text from centiloc.item_state
             union select xmin::text from centiloc.board_event
             union select xmin::text from centiloc.board_state
             union select xmin::text from centiloc.dead_letter",
        )
        .await;
    assert_eq!(transactions.len(), 1);
}

#[tokio::test]
async fn failed_mixed_batch_leaves_nothing() {
    let fixture = StoreFixture::new().await;
    fixture.db.execute("drop table centiloc.dead_letter").await;
    let batch = [of_item(arrives("U", "A", 1)), malformed(b"garbage")];
    let error = fixture.store.commit(&batch).await.unwrap_err();
    assert!(matches!(error, centiloc_bridge::store::StoreError::Stop(_)), "{error}");
    assert!(error.to_string().contains("centiloc-bridge migrate"), "{error}");
    assert_eq!(fixture.db.count("centiloc.item_event").await, 0);
    assert_eq!(fixture.db.count("centiloc.item_state").await, 0);
}

#[tokio::test]
async fn repeated_dead_letters_are_counted() {
    let fixture = StoreFixture::new().await;
    fixture.commit(&[malformed(b"x"), malformed(b"y"), malformed(b"x")]).await;
    fixture.commit(&[malformed(b"x")]).await;
    let seen: Vec<i32> =
        fixture.db.column("select seen from centiloc.dead_letter order by payload").await;
    assert_eq!(seen, [3, 1]);
}

#[tokio::test]
async fn dead_letters_take_any_text() {
    let fixture = StoreFixture::new().await;
    let mut letter = malformed(b"\0");
    letter.0.topic = format!("\0{}", "é".repeat(10_000));
    letter.1.as_mut().unwrap_err().detail = "\0\0".into();
    fixture.commit(&[letter]).await;
    let topic: i32 = fixture.db.value("select octet_length(topic) from centiloc.dead_letter").await;
    assert_eq!(topic, 8192);
}

#[tokio::test]
async fn thousand_mixed_events_fit_one_batch() {
    let fixture = StoreFixture::new().await;
    let batch: Vec<_> = (0i64..1000)
        .map(|i| match i % 50 {
            0 => of_board(board(&format!("B{}", i % 7), i, "CONNECTED")),
            1 => malformed(&i.to_be_bytes()),
            _ => of_item(arrives(&format!("U{}", i % 90), &format!("B{}", i % 7), i)),
        })
        .collect();
    let outcome = fixture.commit(&batch).await;
    assert_eq!(
        (outcome.of(EventKind::Item).inserted, outcome.of(EventKind::Board).inserted),
        (960, 20)
    );
    assert_eq!(outcome.dead_letters["malformed"], 20);
    assert_eq!(fixture.db.count("centiloc.item_state").await, {
        let pairs: std::collections::HashSet<_> =
            (0..1000).filter(|i| i % 50 > 1).map(|i| (i % 90, i % 7)).collect();
        i64::try_from(pairs.len()).unwrap()
    });
}
