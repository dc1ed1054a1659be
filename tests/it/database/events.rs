//! An event becomes one row, whatever its format, and however often and in whatever order it
//! arrives.

use std::path::Path;

use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::support::bridge::Bridge;
use crate::support::event::{ItemEvent, board_protobuf, board_topic};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::rig::{Rig, TableLock, counter};
use crate::support::wait::{SOON, until_eq};

/// Reads a row as JSON, with everything that the samples describe in addition to the columns.
const ITEM: &str = "select to_jsonb(t) - 'payload' || jsonb_build_object(
        'payload_kept', payload is not null,
        'hold_time_us', (extract(epoch from hold_time) * 1000000)::bigint)
    from centiloc.item_event t where uid = ";
const BOARD: &str = "select to_jsonb(t) - 'payload' from centiloc.board_event t where board_sn = ";

/// Returns the topic of a board event in JSON.
fn board_json_topic() -> String {
    format!("centiloc/{TENANT}/json/board/v1/update")
}

fn micros(text: &str) -> OffsetDateTime {
    let time = OffsetDateTime::parse(text, &Rfc3339).unwrap_or_else(|e| panic!("{text}: {e}"));
    time.replace_microsecond(time.microsecond()).unwrap()
}

/// Compares one column with the value in a sample.
fn assert_column(file: &str, row: &Value, name: &str, expected: &Value) {
    let (name, expected) = match (name, expected.as_i64()) {
        ("hold_time_ns", Some(ns)) => ("hold_time_us", json!(ns / 1000)),
        ("hold_time_ns", None) => ("hold_time_us", Value::Null),
        _ => (name, expected.clone()),
    };
    let actual = row.get(name).unwrap_or_else(|| panic!("{file}: no column {name} in {row}"));
    match (name, actual.as_str(), expected.as_str()) {
        ("momentum", Some(actual), Some(expected)) => {
            assert_eq!(micros(actual), micros(expected), "{file}: momentum");
        }
        (_, Some(actual), Some(expected)) if name.ends_with("_at") => {
            assert_eq!(micros(actual), micros(expected), "{file}: {name}");
        }
        _ => assert_eq!(*actual, expected, "{file}: {name}"),
    }
}

/// Publishes the samples of one format and compares every row with the values given by the
/// encoder's author.
async fn samples_become_rows(extension: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let samples: Vec<_> = expected
        .as_object()
        .unwrap()
        .iter()
        .filter(|(file, _)| file.ends_with(&format!(".{extension}")))
        .collect();
    let rig = Rig::new().await;
    let config = rig.config().set("decode.keep_payload", "unknown");
    let mut bridge = Bridge::ready(&config).await;
    let messages = samples.iter().map(|(file, sample)| {
        let topic = sample["topic"].as_str().unwrap().to_owned();
        (topic, std::fs::read(folder.join(file)).unwrap())
    });
    assert_eq!(rig.platform().await.publish_all(messages).await, samples.len());
    rig.until_acked(samples.len()).await;
    for (file, sample) in &samples {
        let columns = sample["columns"].as_object().unwrap();
        let (sql, key) =
            if columns["kind"] == "item" { (ITEM, "uid") } else { (BOARD, "board_sn") };
        let key = columns[key].as_str().unwrap();
        let row: Value = rig.database.value(&format!("{sql} '{key}'")).await;
        for (name, value) in columns.iter().filter(|(name, _)| *name != "kind") {
            assert_column(file, &row, name, value);
        }
    }
    assert_eq!(rig.database.count("centiloc.dead_letter").await, 0);
    assert_eq!(bridge.terminate().await, 0);
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn every_protobuf_sample_becomes_expected_row() {
    samples_become_rows("pb").await;
}

#[tokio::test]
async fn every_json_sample_becomes_expected_row() {
    samples_become_rows("json").await;
}

#[tokio::test]
async fn every_event_of_every_topic_is_stored() {
    // The broker drops messages beyond its queue although it acknowledges them.
    let builder = Mosquitto::builder().max_queued_messages(0);
    let rig = Rig::with(builder, Postgres::shared().await).await;
    let bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let (protobuf, json): (Vec<_>, Vec<_>) = ItemEvent::series(TENANT, 1000)
        .into_iter()
        .enumerate()
        .partition(|(index, _)| index % 2 == 0);
    let now = OffsetDateTime::now_utc();
    let boards = (0..200).map(|index| {
        let (sn, at) = (format!("B-{index}"), now - Duration::seconds(index));
        if index % 2 == 0 {
            return (board_topic(TENANT), board_protobuf(&sn, at, 1));
        }
        let at = at.format(&Rfc3339).unwrap();
        let event = json!({"Momentum": at, "BoardSN": sn, "Status": "BOARDSTATUS_DISCONNECTED"});
        (board_json_topic(), event.to_string().into_bytes())
    });
    platform.publish_protobuf(&protobuf.into_iter().map(|(_, e)| e).collect::<Vec<_>>()).await;
    platform.publish_json(&json.into_iter().map(|(_, e)| e).collect::<Vec<_>>()).await;
    assert_eq!(platform.publish_all(boards).await, 200);
    rig.until_acked(1200).await;
    for (table, rows) in [
        ("item_event", 1000),
        ("item_state", 1000),
        ("board_event where status = 'DISCONNECTED'", 200),
        ("board_state", 200),
        ("dead_letter", 0),
        ("item_event_default", 0),
    ] {
        assert_eq!(rig.database.count(&format!("centiloc.{table}")).await, rows, "{table}");
    }
    assert!((counter(&bridge, "committed_total", "kind=\"item\"").await - 1000.0).abs() < 0.5);
    assert!((counter(&bridge, "committed_total", "kind=\"board\"").await - 200.0).abs() < 0.5);
    assert!((counter(&bridge, "received_total", "qos=\"1\"").await - 1200.0).abs() < 0.5);
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn second_format_counts_as_duplicate() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 10);
    platform.publish_protobuf(&events).await;
    rig.until_acked(10).await;
    platform.publish_json(&events).await;
    let at = OffsetDateTime::now_utc();
    let text = at.format(&Rfc3339).unwrap();
    let board = json!({"Momentum": text, "BoardSN": "B-7", "Status": "ONERROR"}).to_string();
    assert!(platform.publish(&board_json_topic(), board).await);
    assert!(platform.publish(&board_topic(TENANT), board_protobuf("B-7", at, 2)).await);
    rig.until_acked(22).await;
    for (kind, table, rows) in [("item", "item_event", 10), ("board", "board_event", 1)] {
        assert_eq!(rig.database.count(&format!("centiloc.{table}")).await, rows);
        let labels = format!("kind=\"{kind}\"");
        let duplicates = || counter(&bridge, "duplicates_total", &labels);
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        until_eq("the duplicates", SOON, rows as f64, duplicates).await;
    }
    rig.assert_promises_kept().await;
}

/// Reads the newest event of a tag on board B-1, and since when it is known.
async fn assert_state(rig: &Rig, uid: &str, newer: &ItemEvent, older: &ItemEvent) {
    let state: Value = rig
        .database
        .value(&format!("select to_jsonb(s) from centiloc.item_state s where uid = '{uid}'"))
        .await;
    let text = |at: OffsetDateTime| at.format(&Rfc3339).unwrap();
    assert_column(uid, &state, "momentum", &json!(text(newer.momentum)));
    assert_column(uid, &state, "first_seen_at", &json!(text(older.momentum)));
    assert_column(uid, &state, "x_mm", &json!(newer.pos_mm[0]));
    let events = format!("centiloc.item_event where uid = '{uid}'");
    assert_eq!(rig.database.count(&events).await, 2, "both happened: {uid}");
}

#[tokio::test]
async fn older_event_does_not_overwrite_state() {
    let rig = Rig::new().await;
    let _bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let now = OffsetDateTime::now_utc();
    let pair = |uid: &str| {
        let newer = ItemEvent { pos_mm: vec![1, 1], ..ItemEvent::new(TENANT, uid, "B-1", now) };
        let older = now - Duration::minutes(5);
        let older = ItemEvent { pos_mm: vec![9, 9], ..ItemEvent::new(TENANT, uid, "B-1", older) };
        (newer, older)
    };
    let (apart, together) = (pair("APART"), pair("TOGETHER"));
    // First one after the other in batches of their own, then in one batch behind an event that
    // keeps the writer busy.
    platform.publish_json(std::slice::from_ref(&apart.0)).await;
    rig.until_acked(1).await;
    platform.publish_json(std::slice::from_ref(&apart.1)).await;
    rig.until_acked(2).await;
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    platform.publish_json(&ItemEvent::series(TENANT, 1)).await;
    lock.until_waited_for().await;
    platform.publish_json(&[together.0.clone(), together.1.clone()]).await;
    rig.until_delivered(5).await;
    lock.release().await;
    let at = |event: &ItemEvent| event.momentum;
    for (status, momentum) in [(0, at(&apart.0)), (1, at(&apart.1))] {
        let payload = board_protobuf("B-1", momentum, status);
        assert!(platform.publish(&board_topic(TENANT), payload).await);
    }
    rig.until_acked(7).await;
    assert_state(&rig, "APART", &apart.0, &apart.1).await;
    assert_state(&rig, "TOGETHER", &together.0, &together.1).await;
    let status: String = rig.database.value("select status from centiloc.board_state").await;
    assert_eq!(status, "CONNECTED");
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn late_leave_does_not_hide_item() {
    let rig = Rig::new().await;
    let _bridge = Bridge::ready(&rig.config()).await;
    let now = OffsetDateTime::now_utc();
    let arrives = ItemEvent::new(TENANT, "X", "B-NEW", now - Duration::seconds(2));
    let leaves = ItemEvent { is_in: false, ..ItemEvent::new(TENANT, "X", "B-OLD", now) };
    rig.platform().await.publish_protobuf(&[arrives, leaves]).await;
    rig.until_acked(2).await;
    let sql = "select board_sn from centiloc.item_location where uid = 'X'";
    assert_eq!(rig.database.value::<String>(sql).await, "B-NEW");
    rig.assert_promises_kept().await;
}
