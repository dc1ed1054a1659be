//! Messages that cannot become an event are set aside with their bytes, and delay nothing else.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use time::macros::datetime;

use crate::support::bridge::Bridge;
use crate::support::database::hex;
use crate::support::event::{ItemEvent, board_topic};
use crate::support::mosquitto::TENANT;
use crate::support::proxy::Direction;
use crate::support::rig::{Rig, TableLock, counter};
use crate::support::subscriber::TestSubscriber;
use crate::support::wait::{SOON, until_eq};

/// A topic that the vendor might add.
const UNKNOWN_TOPIC: &str = "centiloc/acme/json/temperature/v1/update";

/// Lets the bridge's session hold a filter that no configuration asks for.
async fn leave_in_session(rig: &Rig, filter: &str) {
    let port = rig.broker.plain_port();
    let mut session = TestSubscriber::connect(port, &format!("{TENANT}-bridge")).await.unwrap();
    session.subscribe(filter).await.unwrap();
}

/// Returns topic, payload and reason of undecodable messages.
fn garbage() -> Vec<(String, Vec<u8>, &'static str)> {
    let item = format!("centiloc/{TENANT}");
    let item_json = format!("{item}/json/item/v1/update");
    // The platform is younger than this momentum, which suggests field numbers other than the
    // assumed ones.
    let implausible = ItemEvent::new(TENANT, "X", "B-1", datetime!(2014-12-31 23:59 UTC));
    let mut out_of_range = ItemEvent::series(TENANT, 1)[0].json();
    out_of_range["nb_hits"] = json!(5_000_000_000_i64);
    vec![
        (item.clone(), b"\xff\xff\xff\xff".to_vec(), "malformed"),
        (item.clone(), Vec::new(), "missing_field"),
        (board_topic(TENANT), Vec::new(), "missing_field"),
        (item.clone(), implausible.protobuf(), "implausible"),
        (item_json.clone(), Vec::new(), "malformed"),
        (item_json.clone(), b"{\"uid\": \"X\", \0".to_vec(), "malformed"),
        (item_json.clone(), b"{\"uid\": \"X\"}".to_vec(), "missing_field"),
        (item_json, out_of_range.to_string().into_bytes(), "out_of_range"),
        (UNKNOWN_TOPIC.to_owned(), b"{\"celsius\": 21.5}".to_vec(), "unknown_topic"),
    ]
}

#[tokio::test]
async fn garbage_becomes_one_dead_letter_with_bytes() {
    let rig = Rig::new().await;
    leave_in_session(&rig, UNKNOWN_TOPIC).await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    // Held back, so that all of it is delivered a second time.
    rig.tap.proxy.stall(Direction::Up).await;
    let garbage = garbage();
    let good = ItemEvent::series(TENANT, garbage.len());
    let messages = garbage.iter().zip(&good).flat_map(|((topic, payload, _), good)| {
        let good = (good.json_topic(), good.json().to_string().into_bytes());
        [(topic.clone(), payload.clone()), good]
    });
    let count = garbage.len() * 2;
    assert_eq!(rig.platform().await.publish_all(messages).await, count);
    rig.until_rows("dead_letter where seen = 1", garbage.len()).await;
    rig.until_rows("item_event", good.len()).await;
    rig.tap.proxy.cut().await;
    rig.tap.proxy.pass().await;
    rig.until_acked(count).await;
    rig.until_rows("dead_letter where seen = 2", garbage.len()).await;
    rig.until_rows("dead_letter", garbage.len()).await;
    rig.until_rows("item_event", good.len()).await;
    for (topic, payload, reason) in &garbage {
        let bytes = hex(payload.as_ref());
        let row: Value = rig
            .database
            .value(&format!(
                "select to_jsonb(d) from centiloc.dead_letter d \
                 where topic = '{topic}' and payload = '\\x{bytes}'"
            ))
            .await;
        assert_eq!(row["reason"], *reason, "{row}");
        assert!(!row["detail"].as_str().unwrap().is_empty(), "{row}");
        assert_eq!((&row["sqlstate"], &row["replayed_at"]), (&Value::Null, &Value::Null));
        assert!(row["last_seen_at"].as_str() > row["received_at"].as_str(), "{row}");
    }
    for reason in ["malformed", "missing_field", "out_of_range", "implausible", "unknown_topic"] {
        let labels = format!("reason=\"{reason}\"");
        assert!(counter(&bridge, "dead_letters_total", &labels).await >= 2.0, "{reason}");
    }
    bridge.assert_running();
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn refused_rows_become_dead_letters_with_sqlstate() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let mut events: Vec<Value> =
        ItemEvent::series(TENANT, 19).iter().map(ItemEvent::json).collect();
    events[3]["loc_labels"] = json!(["ward 3", "a\0b"]);
    events[8]["new_field"] = json!({"nested": ["\0"]});
    // Random, or it would be compressed until it fits into the index.
    let mut rng = StdRng::seed_from_u64(1);
    let uid: String = (0..6000).map(|_| char::from(rng.random_range(b'A'..=b'Z'))).collect();
    events[13]["uid"] = json!(uid);
    // Collects them into one batch, behind one that waits for the table.
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    let first = ItemEvent::new(TENANT, "FIRST", "B-1", time::OffsetDateTime::now_utc());
    platform.publish_json(std::slice::from_ref(&first)).await;
    lock.until_waited_for().await;
    let messages = events.iter().map(|e| (first.json_topic(), e.to_string().into_bytes()));
    assert_eq!(platform.publish_all(messages).await, 19);
    rig.until_delivered(20).await;
    lock.release().await;
    rig.until_acked(20).await;
    assert_eq!(rig.database.count("centiloc.item_event").await, 17);
    assert_eq!(rig.database.count("centiloc.item_state").await, 17);
    for (index, sqlstate) in [(3, "22021"), (8, "22P05"), (13, "54000")] {
        let bytes = hex(events[index].to_string().as_bytes());
        let row: Value = rig
            .database
            .value(&format!(
                "select to_jsonb(d) - 'payload' from centiloc.dead_letter d \
                 where payload = '\\x{bytes}'"
            ))
            .await;
        assert_eq!(row["reason"], "refused_by_database", "{row}");
        assert_eq!(row["sqlstate"], sqlstate, "{row}");
        assert_eq!(row["seen"], 1);
    }
    until_eq("three refusals", SOON, 3.0, || {
        counter(&bridge, "dead_letters_total", "reason=\"refused_by_database\"")
    })
    .await;
    let batches = counter(&bridge, "batch_events_count", "").await;
    assert!(batches < 5.0, "the refused rows were not in one batch with others: {batches}");
    rig.assert_promises_kept().await;
}
