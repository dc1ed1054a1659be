//! Expectations that many tests share.

use std::time::Duration;

use super::bridge::Bridge;
use super::database::Database;
use super::event::ItemEvent;
use super::mosquitto::{Mosquitto, TENANT};
use super::publisher::TestPublisher;
use super::wait::{SOON, until, until_eq};

/// The table of item events.
pub const ITEMS: &str = "centiloc.item_event";

/// Waits until the bridge has counted a lost or refused connection under this reason and logged a
/// line with all of `said`. Asserts that it is still running and not ready, with the reason.
pub async fn until_failing(bridge: &mut Bridge, reason: &str, said: &[&str]) {
    let reason_field = format!("reason=\"{reason}\"");
    let mut parts = vec!["broker connection failed", reason_field.as_str()];
    parts.extend_from_slice(said);
    bridge.until_logged(&parts).await;
    until_reconnects(bridge, reason, 1).await;
    bridge.assert_running();
    assert_eq!(bridge.get("/livez").await.map(|(status, _)| status), Ok(200), "not live");
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert_eq!(status, 503, "ready without a connection: {body}");
}

/// Waits until `reconnects_total{reason}` is at least `count`.
pub async fn until_reconnects(bridge: &Bridge, reason: &str, count: usize) {
    let label = format!("reason=\"{reason}\"");
    until(&format!("{count} reconnects by {reason}"), SOON, || async {
        let seen = bridge.count("centiloc_bridge_reconnects_total", &label).await;
        if seen >= Some(count) { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// Panics if any connection was lost or refused.
pub async fn assert_never_reconnected(bridge: &Bridge) {
    let lost = bridge.count("centiloc_bridge_reconnects_total", "").await;
    assert_eq!(lost, Some(0), "connections were lost; the log:\n{}", bridge.log().tail());
}

/// Panics unless the bridge accounts for every message that it received.
pub async fn assert_accounted_for(bridge: &Bridge) {
    let unaccounted = bridge.metric("centiloc_bridge_messages_unaccounted", "").await;
    assert_eq!(unaccounted, Some(0.0), "messages_unaccounted; `None` is no such metric");
}

/// Waits until a counting metric has exactly this value.
pub async fn until_count(bridge: &Bridge, name: &str, labels: &str, count: usize) {
    until_eq(&format!("{name}{{{labels}}}"), SOON, Some(count), || bridge.count(name, labels))
        .await;
}

/// Waits until exactly that many item events are stored.
pub async fn until_stored(database: &Database, events: usize) {
    until_stored_within(SOON, database, events).await;
}

/// Does the same as [`until_stored`], with another deadline.
pub async fn until_stored_within(deadline: Duration, database: &Database, events: usize) {
    let expected = i64::try_from(events).unwrap();
    until_eq("the stored item events", deadline, expected, || database.count(ITEMS)).await;
}

/// Publishes new events and waits until exactly these have been added.
pub async fn pass_through(broker: &Mosquitto, database: &Database, events: usize) {
    let before = usize::try_from(database.count(ITEMS).await.max(0)).unwrap();
    let events = ItemEvent::series(TENANT, events);
    TestPublisher::connect(broker).await.publish_json(&events).await;
    until_stored(database, before + events.len()).await;
}

/// Waits until a bridge that could not connect is connected and stores an event.
pub async fn until_recovered(bridge: &mut Bridge, broker: &Mosquitto, database: &Database) {
    bridge.until_ready().await;
    pass_through(broker, database, 1).await;
}
