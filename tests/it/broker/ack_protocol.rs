//! The acknowledgement protocol on the wire, against a scripted broker with rare behaviour: it
//! redelivers on the same connection, reuses packet ids, dies at the worst moment, and sends QoS 2.

use std::time::Duration;

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::expect::{
    assert_accounted_for, assert_never_reconnected, until_count, until_reconnects, until_stored,
};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::publisher::TestPublisher;
use crate::support::scripted_broker::{BridgePacket, ScriptedPublish};
use crate::support::scripted_rig::{ScriptedRig, deliver, let_go};
use crate::support::subscriber::TestSubscriber;

/// Time within which a forbidden acknowledgement would arrive.
const A_MOMENT: Duration = Duration::from_millis(200);

/// Reason of a reconnect.
const REUSED: &str = "packet_id_reused";

#[tokio::test]
async fn repeat_on_one_connection_gets_one_puback() {
    let (rig, mut broker) = ScriptedRig::new().await;
    let events = ItemEvent::series(TENANT, 2);
    let hold = rig.hold_commits().await;
    for dup in [false, true, true] {
        deliver(&mut broker, 1, 7, dup, &events[0]).await;
    }
    rig.until_received(3).await;
    let_go(hold).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(7));
    assert!(rig.stored(&events[0]).await);
    deliver(&mut broker, 1, 8, false, &events[1]).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(8), "7 was acknowledged again");
    until_stored(&rig.database, 2).await;
    until_count(&rig.bridge, "centiloc_bridge_acks_total", "", 2).await;
}

/// Sends the second event under id 1 while the first is un-acknowledged under the same id. This
/// must end the connection, and nothing may be acknowledged before both were delivered again.
async fn reuse_of_an_outstanding_id(dup: bool) {
    let (rig, mut broker) = ScriptedRig::new().await;
    let events = ItemEvent::series(TENANT, 2);
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 1, 1, false, &events[0]).await;
    rig.until_held().await;
    deliver(&mut broker, 1, 1, dup, &events[1]).await;
    let sent = broker.until_closed().await;
    assert!(!sent.contains(&BridgePacket::Puback(1)), "one of the two was acknowledged: {sent:?}");
    until_reconnects(&rig.bridge, REUSED, 1).await;
    rig.bridge.until_logged(&["WARN", REUSED]).await;
    let mut broker = rig.peer.subscribed(true).await;
    deliver(&mut broker, 1, 1, true, &events[1]).await;
    deliver(&mut broker, 1, 2, true, &events[0]).await;
    rig.until_received(4).await;
    let_go(hold).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(1));
    assert!(rig.stored(&events[1]).await, "the PUBACK was for the other message of this id");
    assert_eq!(broker.next().await, BridgePacket::Puback(2));
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
async fn repeat_crossing_its_puback_is_not_answered() {
    let (rig, mut broker) = ScriptedRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    deliver(&mut broker, 1, 1, false, &events[0]).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(1));
    // From the broker's view, that PUBACK is still in flight.
    deliver(&mut broker, 1, 1, true, &events[0]).await;
    rig.until_received(2).await;
    assert!(broker.is_quiet_for(A_MOMENT).await, "the repetition was answered");
    deliver(&mut broker, 1, 1, false, &events[1]).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(1));
    assert!(rig.stored(&events[1]).await, "the PUBACK was for the repetition");
    deliver(&mut broker, 1, 2, false, &events[2]).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(2), "id 1 was answered again");
    until_stored(&rig.database, 3).await;
    assert_never_reconnected(&rig.bridge).await;
    until_count(&rig.bridge, "centiloc_bridge_acks_total", "", 3).await;
    assert_accounted_for(&rig.bridge).await;
}

#[tokio::test]
async fn crossing_repeat_and_reused_id_are_distinguished() {
    let (rig, mut broker) = ScriptedRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    deliver(&mut broker, 1, 1, false, &events[0]).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(1));
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 1, 1, true, &events[0]).await;
    deliver(&mut broker, 1, 1, false, &events[1]).await;
    // The second itself is redelivered while it is un-acknowledged.
    deliver(&mut broker, 1, 1, true, &events[1]).await;
    rig.until_received(4).await;
    let_go(hold).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(1));
    assert!(rig.stored(&events[1]).await, "the PUBACK was for the repetition");
    deliver(&mut broker, 1, 2, false, &events[2]).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(2), "id 1 was answered again");
    until_stored(&rig.database, 3).await;
    assert_never_reconnected(&rig.bridge).await;
    assert_accounted_for(&rig.bridge).await;
}

/// Blocks the commit of an event of one tag while another session holds advisory lock 1.
const GATE: &str = "
    create function gate() returns trigger language plpgsql as $$
    begin
        if new.uid = 'GATED' then perform pg_advisory_xact_lock_shared(1); end if;
        return new;
    end $$;
    create trigger gate before insert on centiloc.item_event
        for each row execute function gate()";

#[tokio::test]
async fn late_commit_is_not_acknowledged_on_next_connection() {
    let (rig, mut broker) = ScriptedRig::new().await;
    rig.database.execute(GATE).await;
    let mut events = ItemEvent::series(TENANT, 3);
    events[1].uid = "GATED".to_owned();
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 1, 1, false, &events[0]).await;
    rig.until_held().await;
    broker.reset();
    // The broker gives the packet id to another message and redelivers the first under a new one.
    let mut broker = rig.peer.subscribed(true).await;
    let mut gate = rig.database.connect().await.unwrap();
    sqlx::raw_sql("select pg_advisory_lock(1)").execute(&mut gate).await.unwrap();
    deliver(&mut broker, 1, 1, false, &events[1]).await;
    deliver(&mut broker, 1, 2, true, &events[0]).await;
    rig.until_received(3).await;
    let_go(hold).await;
    // The first is committed now, while another message with its packet id is outstanding.
    until_stored(&rig.database, 1).await;
    rig.until_held().await;
    assert!(broker.is_quiet_for(A_MOMENT).await, "acknowledged before it was stored");
    let_go(gate).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(1));
    assert!(rig.stored(&events[1]).await, "the PUBACK was for the message of the old connection");
    assert_eq!(broker.next().await, BridgePacket::Puback(2));
    deliver(&mut broker, 1, 3, false, &events[2]).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(3));
    until_stored(&rig.database, 3).await;
}

#[tokio::test]
async fn buffered_publishes_are_not_replayed_into_next_connection() {
    let (rig, mut broker) = ScriptedRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    for (packet_id, event) in (1..).zip(&events) {
        deliver(&mut broker, 1, packet_id, false, event).await;
    }
    broker.reset();
    let mut broker = rig.peer.subscribed(false).await;
    // Nothing is outstanding here, so any acknowledgement now is stale.
    assert!(broker.is_quiet_for(A_MOMENT).await);
    deliver(&mut broker, 1, 9, false, &events[2]).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(9));
    assert!(rig.stored(&events[2]).await);
}

#[tokio::test]
async fn rejected_messages_keep_puback_order() {
    let (rig, mut broker) = ScriptedRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    let topic = events[0].json_topic();
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 1, 500, false, &events[0]).await;
    let garbage =
        ScriptedPublish { qos: 1, packet_id: 3, dup: false, topic: &topic, payload: b"{" };
    broker.publish(garbage).await;
    deliver(&mut broker, 0, 0, false, &events[1]).await;
    deliver(&mut broker, 1, 65_535, false, &events[1]).await;
    let lost = ScriptedPublish { topic: "centiloc/acme/what/is/this", packet_id: 2, ..garbage };
    broker.publish(lost).await;
    deliver(&mut broker, 1, 1, false, &events[2]).await;
    rig.until_received(6).await;
    let_go(hold).await;
    for packet_id in [500, 3, 65_535, 2, 1] {
        assert_eq!(broker.next().await, BridgePacket::Puback(packet_id));
    }
    until_stored(&rig.database, 3).await;
    assert_eq!(rig.database.count("centiloc.dead_letter").await, 2);
}

#[tokio::test]
async fn packet_ids_are_reusable_after_their_puback() {
    const ROUNDS: usize = 5;
    let (rig, mut broker) = ScriptedRig::new().await;
    let events = ItemEvent::series(TENANT, 3 * ROUNDS);
    for round in events.chunks(3) {
        for (packet_id, event) in (1..).zip(round) {
            deliver(&mut broker, 1, packet_id, false, event).await;
        }
        for packet_id in 1..=3 {
            assert_eq!(broker.next().await, BridgePacket::Puback(packet_id));
        }
    }
    until_stored(&rig.database, events.len()).await;
}

#[tokio::test]
async fn qos_2_message_is_stored_before_pubrec() {
    let (rig, mut broker) = ScriptedRig::new().await;
    let events = ItemEvent::series(TENANT, 3);
    let hold = rig.hold_commits().await;
    deliver(&mut broker, 2, 1, false, &events[0]).await;
    deliver(&mut broker, 1, 2, false, &events[1]).await;
    deliver(&mut broker, 2, 1, true, &events[0]).await;
    rig.until_received(3).await;
    assert!(broker.is_quiet_for(A_MOMENT).await, "acknowledged before it was stored");
    let_go(hold).await;
    assert_eq!(broker.next().await, BridgePacket::Pubrec(1));
    assert!(rig.stored(&events[0]).await);
    assert_eq!(broker.next().await, BridgePacket::Puback(2));
    broker.pubrel(1).await;
    assert_eq!(broker.next().await, BridgePacket::Pubcomp(1));
    deliver(&mut broker, 2, 1, false, &events[2]).await;
    assert_eq!(broker.next().await, BridgePacket::Pubrec(1));
    until_stored(&rig.database, 3).await;
}

#[tokio::test]
async fn pubrel_from_earlier_connection_is_completed() {
    let (mut rig, mut broker) = ScriptedRig::new().await;
    let events = ItemEvent::series(TENANT, 2);
    deliver(&mut broker, 2, 4, false, &events[0]).await;
    assert_eq!(broker.next().await, BridgePacket::Pubrec(4));
    // The PUBREC arrived. The connection dies before the PUBREL does.
    broker.reset();
    let mut broker = rig.peer.subscribed(true).await;
    broker.pubrel(4).await;
    broker.pubrel(65_535).await;
    assert_eq!(broker.next().await, BridgePacket::Pubcomp(4));
    assert_eq!(broker.next().await, BridgePacket::Pubcomp(65_535));
    deliver(&mut broker, 1, 4, false, &events[1]).await;
    assert_eq!(broker.next().await, BridgePacket::Puback(4));
    until_stored(&rig.database, 2).await;
    rig.bridge.assert_running();
}

#[tokio::test]
async fn foreign_qos_2_subscription_does_not_block_session() {
    const EVENTS: usize = 50;
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let mut other = TestSubscriber::connect(broker.plain_port(), "acme-bridge").await.unwrap();
    other.subscribe_qos2("centiloc/acme/json/item/#").await.unwrap();
    drop(other);
    let publisher = TestPublisher::connect(&broker).await;
    // More than Mosquitto's window of 20, which would fill up without answers.
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
