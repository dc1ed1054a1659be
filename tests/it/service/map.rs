//! The live map: snapshot and stream of a running bridge.

use std::collections::BTreeSet;
use std::time::Instant;

use time::OffsetDateTime;

use crate::support::bridge::{Bridge, command, finish};
use crate::support::event::ItemEvent;
use crate::support::map_stream::{MapStream, newest_id, snapshot};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until, until_eq};

/// Most streams at a time.
const STREAMS: usize = 100;

fn arrives(uid: &str) -> ItemEvent {
    ItemEvent::new(TENANT, uid, "A", OffsetDateTime::now_utc())
}

#[tokio::test]
async fn committed_event_shows_on_map() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let mut stream = MapStream::after(&bridge, &newest_id(&bridge).await).await;
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    rig.platform().await.publish_json(&[arrives("U")]).await;
    stream.until(|event| event.uids().contains(&"U".to_owned())).await;
    assert_eq!(rig.database.count("centiloc.item_event").await, 1, "it is committed");
    let shown = snapshot(&bridge).await;
    assert_eq!(shown["items"][0][0], "U");
    assert_eq!(shown["items"][0][1], "A");
    assert!(shown["plan"]["boards"].as_array().unwrap().iter().any(|board| board["sn"] == "A"));
    // The board is known once its activity is computed.
    until("the board", SOON, || async {
        let shown = snapshot(&bridge).await;
        if shown["boards"]["A"].is_object() { Ok(()) } else { Err(shown) }
    })
    .await;
}

#[tokio::test]
async fn resumed_stream_misses_no_event() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let mut last = newest_id(&bridge).await;
    let mut seen = BTreeSet::new();
    let mut expected = BTreeSet::new();
    for round in 0..5 {
        let mut stream = MapStream::after(&bridge, &last).await;
        let uids: Vec<_> = (0..4).map(|item| format!("U{round}-{item}")).collect();
        expected.extend(uids.iter().cloned());
        // The second half arrives while nobody follows.
        let (first, second) = uids.split_at(2);
        platform.publish_json(&first.iter().map(|uid| arrives(uid)).collect::<Vec<_>>()).await;
        while !first.iter().all(|uid| seen.contains(uid)) {
            let event = stream.until(|event| event.event == "delta").await;
            seen.extend(event.uids());
            last = event.id;
        }
        drop(stream);
        platform.publish_json(&second.iter().map(|uid| arrives(uid)).collect::<Vec<_>>()).await;
    }
    let mut stream = MapStream::after(&bridge, &last).await;
    while seen.len() < expected.len() {
        seen.extend(stream.until(|event| event.event == "delta").await.uids());
    }
    assert_eq!(seen, expected);
    let mut foreign = MapStream::after(&bridge, "another-process-1").await;
    foreign.until(|event| event.event == "reset").await;
    assert!(foreign.next().await.is_none(), "a reset ends the stream");
}

#[tokio::test]
async fn viewers_share_reads_and_are_limited() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let last = newest_id(&bridge).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(MapStream::after(&bridge, &last).await);
    }
    let refused = MapStream::after(&bridge, &last).await;
    assert!(refused.head.starts_with("http/1.1 503"), "{}", refused.head);
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    let reads = || async { bridge.count("centiloc_bridge_map_reads_total", "").await.unwrap() };
    let (before, began) = (reads().await, Instant::now());
    rig.platform().await.publish_json(&[arrives("U")]).await;
    let mut ids = BTreeSet::new();
    for stream in &mut streams {
        ids.insert(stream.until(|event| event.uids().contains(&"U".to_owned())).await.id);
    }
    assert_eq!(ids.len(), 1, "all viewers get the same frame");
    until("some reads", SOON, || async {
        let more = reads().await - before;
        if more >= 4 { Ok(()) } else { Err(more) }
    })
    .await;
    let most = began.elapsed().as_millis() / 500 + 2;
    assert!((reads().await - before) as u128 <= most, "one read for all viewers each time");
    let sessions = "select count(*) from pg_stat_activity where datname = current_database()
                     and query like '%stay_pending%' and query like '%recent_change%'";
    assert!(rig.database.value::<i64>(sessions).await <= 2);
    drop(streams);
    until_eq("the viewers", SOON, Some(0), || bridge.count("centiloc_bridge_map_viewers", ""))
        .await;
}

#[tokio::test]
async fn viewer_that_does_not_read_holds_nobody_up() {
    const ITEMS: usize = 1_000;
    let broker = Mosquitto::builder().max_queued_messages(0);
    let rig = Rig::with(broker, Postgres::shared().await).await;
    let bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let last = newest_id(&bridge).await;
    let mut idle = MapStream::after(&bridge, &last).await;
    let mut stream = MapStream::after(&bridge, &last).await;
    // More than the frames that are kept, which are 8 MiB at most.
    let mut sent = 0;
    for round in 0.. {
        let uids = (0..ITEMS).map(|item| format!("{}-{item}", "U".repeat(1_000)));
        let board = format!("B{round}");
        let events: Vec<_> = uids
            .map(|uid| ItemEvent::new(TENANT, &uid, &board, OffsetDateTime::now_utc()))
            .collect();
        platform.publish_json(&events).await;
        let mut moved = BTreeSet::new();
        while moved.len() < ITEMS {
            let event = stream.until(|event| event.event == "delta").await;
            sent += event.data.to_string().len();
            let items = event.data["items"].as_array().into_iter().flatten();
            let here = items.filter(|item| item[1] == board.as_str());
            moved.extend(here.map(|item| item[0].as_str().unwrap().to_owned()));
        }
        if sent > 12 << 20 {
            break;
        }
    }
    // It continues without a gap, or learns that it has to begin again.
    idle.until(|event| event.event == "reset").await;
    assert_eq!(snapshot(&bridge).await["items"].as_array().unwrap().len(), ITEMS);
}

#[tokio::test]
async fn database_outage_keeps_the_map() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let mut stream = MapStream::after(&bridge, &newest_id(&bridge).await).await;
    platform.publish_json(&[arrives("U")]).await;
    stream.until(|event| event.uids().contains(&"U".to_owned())).await;
    postgres.stop().await;
    stream.until(|event| event.data["problem"].is_string()).await;
    let shown = snapshot(&bridge).await;
    assert!(shown["problem"].is_string() && shown["read_at"].is_i64(), "{shown}");
    assert_eq!(shown["items"][0][0], "U", "the last content stays");
    postgres.start().await;
    platform.publish_json(&[arrives("V")]).await;
    let event = stream.until(|event| event.uids().contains(&"V".to_owned())).await;
    assert!(event.data["problem"].is_null(), "{event:?}");
}

#[tokio::test]
async fn erased_tag_leaves_the_map() {
    let rig = Rig::new().await;
    let config = rig.config();
    let bridge = Bridge::ready(&config).await;
    let mut stream = MapStream::after(&bridge, &newest_id(&bridge).await).await;
    rig.platform().await.publish_json(&[arrives("U"), arrives("V")]).await;
    let mut shown = BTreeSet::new();
    while shown.len() < 2 {
        shown.extend(stream.until(|event| event.event == "delta").await.uids());
    }
    let file = config.write();
    let erase = ["erase", "--uid", "U", "-c", file.to_str().unwrap()];
    let erased = finish(command(erase)).await;
    assert!(erased.status.success(), "{erased:?}");
    let gone = stream.until(|event| event.data["gone"].is_array()).await;
    assert_eq!(gone.data["gone"], serde_json::json!(["U"]));
}

#[tokio::test]
async fn history_of_item_is_answered() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    rig.platform().await.publish_json(&[arrives("U")]).await;
    rig.until_rows("item_stay", 1).await;
    let (status, body) = bridge.get("/api/map/item?uid=U").await.unwrap();
    assert_eq!(status, 200, "{body}");
    let history: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(history["stays"][0]["board"], "A");
    assert_eq!(history["moves"][0]["is_in"], true);
}
