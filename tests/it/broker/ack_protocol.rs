//! The rules of acknowledging, on the wire, against a peer that does what brokers rarely do:
//! repeats on the same connection, reuses packet ids, dies at the worst moment, sends QoS 2.

use std::time::Duration;

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::expect::{
    assert_accounted_for, assert_never_reconnected, until_count, until_reconnects, until_stored,
};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::peer::{Delivery, FromBridge};
use crate::support::peer_rig::{PeerRig, deliver, let_go};
use crate::support::postgres::Postgres;
use crate::support::publisher::Publisher;
use crate::support::subscriber::Subscriber;

/// Long enough for an acknowledgement that must not come to come.
const A_MOMENT: Duration = Duration::from_millis(200);

/// Reason of a reconnect.
const REUSED: &str = "packet_id_reused";

#[tokio::test]
async fn a_message_repeated_on_the_same_connection_is_one_row_and_one_puback() {
    let (rig, mut broker) = PeerRig::new().await;
    let events = ItemEvent::series(TENANT, 2);
    let hold = rig.hold_commits().await;
    for dup in [false, true, true] {
        deliver(&mut broker, 1, 7, dup, &events[0]).await;
    }
    rig.until_received(3).await;
    let_go(hold).await;
    assert_eq!(broker.next().await, FromBridge::Puback(7));
    assert!(rig.stored(&events[0]).await);
    deliver(&mut broker, 1, 8, false, &events[1]).await;
    assert_eq!(broker.next().await, FromBridge::Puback(8), "7 was acknowledged again");
    until_stored(&rig.database, 2).await;
    until_count(&rig.bridge, "centiloc_bridge_acks_total", "", 2).await;
}

/// While the first event is un-acknowledged under id 1, sends the second under the same id. It must
/// end the connection, and nothing may be acknowledged before both were delivered again.
async fn reuse_of_an_outstanding_id(dup: bool) {
    let (rig, mut broker) = PeerRig::new().await;
    let events = ItemEvent::series(TENANT, 2);
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 1, 1, false, &events[0]).await;
    rig.until_held().await;
    deliver(&mut broker, 1, 1, dup, &events[1]).await;
    let sent = broker.until_closed().await;
    assert!(!sent.contains(&FromBridge::Puback(1)), "one of the two was acknowledged: {sent:?}");
    until_reconnects(&rig.bridge, REUSED, 1).await;
    rig.bridge.until_logged(&["WARN", REUSED]).await;
    let mut broker = rig.peer.subscribed(true).await;
    deliver(&mut broker, 1, 1, true, &events[1]).await;
    deliver(&mut broker, 1, 2, true, &events[0]).await;
    rig.until_received(4).await;
    let_go(hold).await;
    assert_eq!(broker.next().await, FromBridge::Puback(1));
    assert!(rig.stored(&events[1]).await, "the PUBACK was for the other message of this id");
    assert_eq!(broker.next().await, FromBridge::Puback(2));
    assert!(rig.stored(&events[0]).await);
    until_stored(&rig.database, 2).await;
    assert!(broker.is_quiet_for(A_MOMENT).await);
    assert_accounted_for(&rig.bridge).await;
}

#[tokio::test]
async fn new_message_under_outstanding_id_ends_connection() {
    reuse_of_an_outstanding_id(false).await;
}

#[tokio::test]
async fn repeat_with_other_payload_ends_connection() {
    reuse_of_an_outstanding_id(true).await;
}

#[tokio::test]
async fn repeat_that_crosses_its_puback_is_not_answered() {
    let (rig, mut broker) = PeerRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    deliver(&mut broker, 1, 1, false, &events[0]).await;
    assert_eq!(broker.next().await, FromBridge::Puback(1));
    // For the broker, that PUBACK is still on its way.
    deliver(&mut broker, 1, 1, true, &events[0]).await;
    rig.until_received(2).await;
    assert!(broker.is_quiet_for(A_MOMENT).await, "the repetition was answered");
    deliver(&mut broker, 1, 1, false, &events[1]).await;
    assert_eq!(broker.next().await, FromBridge::Puback(1));
    assert!(rig.stored(&events[1]).await, "the PUBACK was for the repetition");
    deliver(&mut broker, 1, 2, false, &events[2]).await;
    assert_eq!(broker.next().await, FromBridge::Puback(2), "id 1 was answered again");
    until_stored(&rig.database, 3).await;
    assert_never_reconnected(&rig.bridge).await;
    until_count(&rig.bridge, "centiloc_bridge_acks_total", "", 3).await;
    assert_accounted_for(&rig.bridge).await;
}

#[tokio::test]
async fn crossing_repeat_and_reused_id_together_are_told_apart() {
    let (rig, mut broker) = PeerRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    deliver(&mut broker, 1, 1, false, &events[0]).await;
    assert_eq!(broker.next().await, FromBridge::Puback(1));
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 1, 1, true, &events[0]).await;
    deliver(&mut broker, 1, 1, false, &events[1]).await;
    // The second itself is repeated while it is un-acknowledged.
    deliver(&mut broker, 1, 1, true, &events[1]).await;
    rig.until_received(4).await;
    let_go(hold).await;
    assert_eq!(broker.next().await, FromBridge::Puback(1));
    assert!(rig.stored(&events[1]).await, "the PUBACK was for the repetition");
    deliver(&mut broker, 1, 2, false, &events[2]).await;
    assert_eq!(broker.next().await, FromBridge::Puback(2), "id 1 was answered again");
    until_stored(&rig.database, 3).await;
    assert_never_reconnected(&rig.bridge).await;
    assert_accounted_for(&rig.bridge).await;
}

/// Lets an event of one tag be committed only while nobody else holds advisory lock 1.
const GATE: &str = "
    create function gate() returns trigger language plpgsql as $$
    begin
        if new.uid = 'GATED' then perform pg_advisory_xact_lock_shared(1); end if;
        return new;
    end $$;
    create trigger gate before insert on centiloc.item_event
        for each row execute function gate()";

#[tokio::test]
async fn what_commits_after_its_connection_died_is_not_acknowledged_on_the_next() {
    let (rig, mut broker) = PeerRig::new().await;
    rig.database.execute(GATE).await;
    let mut events = ItemEvent::series(TENANT, 3);
    events[1].uid = "GATED".to_owned();
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 1, 1, false, &events[0]).await;
    rig.until_held().await;
    broker.reset();
    // The broker gives the packet id to another message, and repeats the first under a new one.
    let mut broker = rig.peer.subscribed(true).await;
    let mut gate = rig.database.connect().await.unwrap();
    sqlx::raw_sql("select pg_advisory_lock(1)").execute(&mut gate).await.unwrap();
    deliver(&mut broker, 1, 1, false, &events[1]).await;
    deliver(&mut broker, 1, 2, true, &events[0]).await;
    rig.until_received(3).await;
    let_go(hold).await;
    // The first is committed now, while a packet id like its own is outstanding.
    until_stored(&rig.database, 1).await;
    rig.until_held().await;
    assert!(broker.is_quiet_for(A_MOMENT).await, "acknowledged before it was stored");
    let_go(gate).await;
    assert_eq!(broker.next().await, FromBridge::Puback(1));
    assert!(rig.stored(&events[1]).await, "the PUBACK was for the message of the old connection");
    assert_eq!(broker.next().await, FromBridge::Puback(2));
    deliver(&mut broker, 1, 3, false, &events[2]).await;
    assert_eq!(broker.next().await, FromBridge::Puback(3));
    until_stored(&rig.database, 3).await;
}

#[tokio::test]
async fn what_was_buffered_when_a_connection_died_is_not_replayed_into_the_next() {
    let (rig, mut broker) = PeerRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    for (packet_id, event) in (1..).zip(&events) {
        deliver(&mut broker, 1, packet_id, false, event).await;
    }
    broker.reset();
    let mut broker = rig.peer.subscribed(false).await;
    // Nothing is outstanding here: whatever is acknowledged now is stale.
    assert!(broker.is_quiet_for(A_MOMENT).await);
    deliver(&mut broker, 1, 9, false, &events[2]).await;
    assert_eq!(broker.next().await, FromBridge::Puback(9));
    assert!(rig.stored(&events[2]).await);
}

#[tokio::test]
async fn pubacks_leave_in_the_order_of_receipt_whatever_becomes_of_the_messages() {
    let (rig, mut broker) = PeerRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    let topic = events[0].json_topic();
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 1, 500, false, &events[0]).await;
    let garbage = Delivery { qos: 1, packet_id: 3, dup: false, topic: &topic, payload: b"{" };
    broker.publish(garbage).await;
    deliver(&mut broker, 0, 0, false, &events[1]).await;
    deliver(&mut broker, 1, 65_535, false, &events[1]).await;
    let lost = Delivery { topic: "centiloc/acme/what/is/this", packet_id: 2, ..garbage };
    broker.publish(lost).await;
    deliver(&mut broker, 1, 1, false, &events[2]).await;
    rig.until_received(6).await;
    let_go(hold).await;
    for packet_id in [500, 3, 65_535, 2, 1] {
        assert_eq!(broker.next().await, FromBridge::Puback(packet_id));
    }
    until_stored(&rig.database, 3).await;
    assert_eq!(rig.database.count("centiloc.dead_letter").await, 2);
}

#[tokio::test]
async fn packet_ids_are_used_again_after_their_puback() {
    const ROUNDS: usize = 5;
    let (rig, mut broker) = PeerRig::new().await;
    let events = ItemEvent::series(TENANT, 3 * ROUNDS);
    for round in events.chunks(3) {
        for (packet_id, event) in (1..).zip(round) {
            deliver(&mut broker, 1, packet_id, false, event).await;
        }
        for packet_id in 1..=3 {
            assert_eq!(broker.next().await, FromBridge::Puback(packet_id));
        }
    }
    until_stored(&rig.database, events.len()).await;
}

#[tokio::test]
async fn a_qos_2_message_is_taken_over_once_it_is_stored_and_released_afterwards() {
    let (rig, mut broker) = PeerRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 2, 1, false, &events[0]).await;
    deliver(&mut broker, 1, 2, false, &events[1]).await;
    deliver(&mut broker, 2, 1, true, &events[0]).await;
    rig.until_received(3).await;
    assert!(broker.is_quiet_for(A_MOMENT).await, "acknowledged before it was stored");
    let_go(hold).await;
    assert_eq!(broker.next().await, FromBridge::Pubrec(1));
    assert!(rig.stored(&events[0]).await);
    assert_eq!(broker.next().await, FromBridge::Puback(2));
    broker.pubrel(1).await;
    assert_eq!(broker.next().await, FromBridge::Pubcomp(1));
    deliver(&mut broker, 2, 1, false, &events[2]).await;
    assert_eq!(broker.next().await, FromBridge::Pubrec(1));
    until_stored(&rig.database, 3).await;
}

#[tokio::test]
async fn a_release_left_over_from_an_earlier_connection_is_completed() {
    let (mut rig, mut broker) = PeerRig::new().await;
    let events = ItemEvent::series(TENANT, 2);
    deliver(&mut broker, 2, 4, false, &events[0]).await;
    assert_eq!(broker.next().await, FromBridge::Pubrec(4));
    // The PUBREC arrived; the connection dies before the PUBREL does.
    broker.reset();
    let mut broker = rig.peer.subscribed(true).await;
    broker.pubrel(4).await;
    broker.pubrel(65_535).await;
    assert_eq!(broker.next().await, FromBridge::Pubcomp(4));
    assert_eq!(broker.next().await, FromBridge::Pubcomp(65_535));
    deliver(&mut broker, 1, 4, false, &events[1]).await;
    assert_eq!(broker.next().await, FromBridge::Puback(4));
    until_stored(&rig.database, 2).await;
    rig.bridge.assert_running();
}

#[tokio::test]
async fn a_qos_2_subscription_left_in_the_session_by_another_client_does_not_clog_it() {
    const EVENTS: usize = 50;
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let mut other = Subscriber::connect(broker.plain_port(), "acme-bridge").await.unwrap();
    other.subscribe_qos2("centiloc/acme/json/item/#").await.unwrap();
    drop(other);
    let publisher = Publisher::connect(&broker).await;
    // More than Mosquitto's window of 20: without answers it would close.
    publisher.publish_json_qos2(&ItemEvent::series(TENANT, EVENTS)).await;
    let config = Config::new(&broker, &database).set("mqtt.items", "protobuf");
    let bridge = Bridge::ready(&config).await;
    until_stored(&database, EVENTS).await;
    let after = ItemEvent::series(TENANT, 2 * EVENTS);
    publisher.publish_json_qos2(&after[..EVENTS]).await;
    publisher.publish_protobuf(&after[EVENTS..]).await;
    until_stored(&database, 3 * EVENTS).await;
    assert_never_reconnected(&bridge).await;
    let received = "centiloc_bridge_received_total";
    until_count(&bridge, received, "qos=\"2\"", 2 * EVENTS).await;
    until_count(&bridge, "centiloc_bridge_unacked", "", 0).await;
}
