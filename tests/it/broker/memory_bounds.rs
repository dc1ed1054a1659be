//! Large packets and full memory. Messages received and not yet committed are bounded, and the
//! broker never notices, because polling goes on.

use sha2::{Digest, Sha256};

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::database::{Database, hex};
use crate::support::event::ItemEvent;
use crate::support::expect::{
    assert_never_reconnected, pass_through, until_count, until_stored, until_stored_within,
};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::proxy::{Direction, TcpProxy};
use crate::support::publisher::TestPublisher;
use crate::support::rig::Rig;
use crate::support::tap::MqttTap;
use crate::support::wait::{SOON, until, until_eq, until_true};
use crate::support::worst_messages::{self, OversizedMessage};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Pings that must be answered as proof that polling goes on. The broker gives up after one and a
/// half keep-alives of silence.
const PINGS: u64 = 3;

async fn publish_padded(broker: &Mosquitto, events: &[ItemEvent], padding: usize) {
    let messages = events.iter().map(|event| (event.json_topic(), event.padded_json(padding)));
    let publisher = TestPublisher::connect(broker).await;
    assert_eq!(publisher.publish_all(messages).await, events.len(), "the broker took not all");
}

/// Waits until pings have passed in both directions through a plain link that carries nothing else.
async fn until_pinged(proxy: &TcpProxy) {
    let counts = || (proxy.forwarded(Direction::Up), proxy.forwarded(Direction::Down));
    let (up, down) = counts();
    // PINGREQ and PINGRESP have two bytes each.
    let enough = || counts().0 >= up + 2 * PINGS && counts().1 >= down + 2 * PINGS;
    until_true("pings to go on", SOON, enough).await;
}

#[tokio::test]
async fn message_over_rumqttc_default_limit_is_stored() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let bridge = Bridge::ready(&Config::new(&broker, &database)).await;
    let events = ItemEvent::series(TENANT, 3);
    publish_padded(&broker, &events[..1], 11 * KIB).await;
    publish_padded(&broker, &events[1..2], 200 * KIB).await;
    publish_padded(&broker, &events[2..], 3 * MIB).await;
    until_stored(&database, 3).await;
    assert_never_reconnected(&bridge).await;
}

#[tokio::test]
async fn message_over_max_packet_size_is_dead_lettered() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database).set("mqtt.max_packet_size", "4KiB");
    let mut bridge = Bridge::ready(&config).await;
    let events = ItemEvent::series(TENANT, 3);
    publish_padded(&broker, &events[..1], 0).await;
    publish_padded(&broker, &events[1..2], 8 * KIB).await;
    publish_padded(&broker, &events[2..], 0).await;
    until_stored(&database, 2).await;
    let kept = "select reason || ' ' || length(payload) from centiloc.dead_letter";
    let expected = vec![format!("out_of_range {}", events[1].padded_json(8 * KIB).len())];
    until_eq("the dead letter", SOON, expected, || database.column::<String>(kept)).await;
    until_count(&bridge, "centiloc_bridge_acks_total", "", 3).await;
    bridge.until_ready().await;
    pass_through(&broker, &database, 1).await;
}

#[tokio::test]
async fn sixteen_mib_payload_with_larger_limit_is_stored() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config().set("mqtt.max_packet_size", "17MiB")).await;
    let events = ItemEvent::series(TENANT, 3);
    let padding = 16 * MIB - events[1].json().to_string().len();
    publish_padded(&rig.broker, &events[..1], 0).await;
    publish_padded(&rig.broker, &events[1..2], padding).await;
    publish_padded(&rig.broker, &events[2..], 0).await;
    rig.until_kept(&events).await;
    let largest = "select max(length(payload)) from centiloc.item_event";
    assert_eq!(rig.database.value::<i32>(largest).await, i32::try_from(16 * MIB).unwrap());
    assert_never_reconnected(&bridge).await;
}

#[tokio::test]
async fn messages_over_default_limit_never_block_session() {
    let rig = Rig::new().await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    let events = ItemEvent::series(TENANT, 20);
    let paddings = [16 * MIB, 40 * MIB];
    for (padding, events) in paddings.into_iter().zip(events.chunks(10)) {
        publish_padded(&rig.broker, &events[..5], 0).await;
        let too_large = ItemEvent::new(TENANT, "TOO-LARGE", "B-0001", events[0].momentum);
        publish_padded(&rig.broker, &[too_large], padding).await;
        publish_padded(&rig.broker, &events[5..], 0).await;
    }
    rig.until_rows("item_event", events.len()).await;
    let length = |padding| {
        let event = ItemEvent::new(TENANT, "TOO-LARGE", "B-0001", events[0].momentum);
        i32::try_from(event.padded_json(padding).len()).unwrap()
    };
    let kept = "select length(payload) from centiloc.dead_letter where reason = 'out_of_range' \
                order by 1";
    let expected = paddings.map(length).to_vec();
    until_eq("the dead letters", SOON, expected, || rig.database.column::<i32>(kept)).await;
    until_count(&bridge, "centiloc_bridge_unacked", "", 0).await;
    bridge.until_ready().await;
    pass_through(&rig.broker, &rig.database, 1).await;
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn message_larger_than_max_unacked_passes() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database).set("mqtt.max_unacked", "1MiB");
    let _bridge = Bridge::ready(&config).await;
    publish_padded(&broker, &ItemEvent::series(TENANT, 4), 2 * MIB).await;
    until_stored(&database, 4).await;
}

#[tokio::test]
async fn database_outage_bounds_memory_and_keeps_polling() {
    const EVENTS: usize = 64;
    const LATE: usize = 10;
    const PADDING: usize = 256 * KIB;
    /// Peak memory allowed with 16 MiB waiting. It leaves room for buffers and allocators in
    /// addition to `max_unacked`.
    const ROOM: usize = 8 * MIB;
    let mut postgres = Postgres::own().await;
    let database = postgres.database().await;
    let broker = Mosquitto::builder().max_inflight_messages(0).start().await;
    let tap = TcpProxy::to(broker.plain_port()).await;
    let config = Config::new(&broker, &database)
        .plain(tap.port())
        .set("mqtt.max_unacked", "2MiB")
        .set("mqtt.keep_alive", "3s");
    let mut bridge = Bridge::ready(&config).await;
    pass_through(&broker, &database, 10).await;
    let before = bridge.memory();
    postgres.stop().await;
    publish_padded(&broker, &ItemEvent::series(TENANT, EVENTS), PADDING).await;
    bridge.until_logged(&["WARN", "refusing further messages"]).await;
    // Messages that come now are read and refused, because the pause outlived the keep-alive.
    publish_padded(&broker, &ItemEvent::series(TENANT, LATE), 0).await;
    until_received(&bridge, 10 + EVENTS + LATE).await;
    assert_eq!(tap.accepted(), 1, "the link was lost; its log:\n{}", bridge.log().tail());
    let unacked = bridge.count("centiloc_bridge_unacked", "").await.unwrap();
    assert!((1..=8).contains(&unacked), "{unacked} messages of 256 KiB are held in 2 MiB");
    let grown = bridge.memory().saturating_sub(before);
    assert!(grown < ROOM, "memory grew by {grown} bytes");
    postgres.start().await;
    until_stored_within(2 * SOON, &database, 10 + EVENTS + LATE).await;
    bridge.assert_running();
    until_count(&bridge, "centiloc_bridge_duplicates_total", "", 0).await;
    until_count(&bridge, "centiloc_bridge_messages_unaccounted", "", 0).await;
}

/// More than MQTT has packet ids, so that the bound in messages is reached.
const FLOOD: usize = 70_000;
/// Packet ids, and so the most messages that a broker may have outstanding at QoS 1.
const OUTSTANDING: u16 = 65_535;
/// Messages that the bridge accepts before it stops reading.
const MAX_MESSAGES: usize = 32_768;
/// Memory of a message in addition to its payload and topic: its place in a channel, the
/// allocations of both, and its entry in the ledger. Once decoded, which few are at a time, also
/// its event.
const OVERHEAD: usize = 512;

/// `mqtt.max_unacked`, which bounds payloads and topics.
const MAX_UNACKED: usize = 64 * MIB;

/// Amount at which reading pauses: `mqtt.max_unacked` less one packet.
const MAX_BYTES: usize = 48 * MIB;

/// Memory of a batch of 16 MiB on its way to the database: as parameters, in the buffer of the
/// connection, and as memory that allocators keep from an earlier one.
const UNDER_WAY: usize = 3 * 16 * MIB;

fn mib(bytes: usize) -> usize {
    bytes / MIB
}

/// Publishes messages, the largest of `size` bytes with its topic, at full speed while the database
/// is away, to a bridge with default settings and a broker that holds nothing back. Asserts that
/// the peak stays below the held bytes, their overhead, and `decoded`. Afterwards the peak may rise
/// further: glibc keeps freed memory for the thread that allocated it, and other threads allocate
/// more. Returns how far it is above that bound in the end.
async fn assert_peak_memory(
    messages: impl ExactSizeIterator<Item = (String, Vec<u8>)>,
    size: usize,
    decoded: usize,
) -> usize {
    let mut postgres = Postgres::own().await;
    let database = postgres.database().await;
    let builder = Mosquitto::builder().max_inflight_messages(OUTSTANDING).max_queued_messages(0);
    let broker = builder.start().await;
    let config = Config::new(&broker, &database).plain(broker.plain_port());
    let mut bridge = Bridge::ready(&config).await;
    pass_through(&broker, &database, 10).await;
    let before = bridge.peak_memory().unwrap();
    postgres.stop().await;
    let count = messages.len();
    let taken = TestPublisher::connect(&broker).await.publish_all(messages).await;
    assert_eq!(taken, count, "the broker took not all");
    let full = MAX_MESSAGES.min(MAX_BYTES / size).min(count);
    until("as much as may be held to be held", 2 * SOON, || async {
        let unacked = bridge.count("centiloc_bridge_unacked", "").await;
        if unacked >= Some(full) { Ok(()) } else { Err(unacked) }
    })
    .await;
    let held = full * size;
    // A quarter more: a message holds the whole buffer it was read into, and a packet that does not
    // fit into the rest of one is copied into the next.
    let bound = before + held + held / 4 + full * OVERHEAD + decoded;
    let peak = bridge.peak_memory().unwrap();
    postgres.start().await;
    until_stored_within(4 * SOON, &database, 10 + count).await;
    let end = bridge.peak_memory().unwrap();
    println!(
        "messages of {size} bytes, {} MiB of them held: {} MiB before, {} MiB at the peak with the \
         database away, {} MiB in the end; the bound is {} MiB",
        mib(held),
        mib(before),
        mib(peak),
        mib(end),
        mib(bound)
    );
    assert!(peak < bound, "{peak} bytes at the peak, {bound} are the bound");
    bridge.assert_running();
    end.saturating_sub(bound)
}

/// Returns [`FLOOD`] ordinary events, each after that much white space.
async fn assert_peak_memory_of_padded(padding: usize) {
    let events = ItemEvent::series(TENANT, FLOOD);
    let longest = events.iter().map(|event| event.json().to_string().len()).max().unwrap();
    let size = events[0].json_topic().len() + padding + longest;
    let messages = events.iter().map(|event| (event.json_topic(), event.padded_json(padding)));
    let _ = assert_peak_memory(messages, size, 0).await;
}

#[tokio::test]
async fn small_messages_are_bounded_by_their_number() {
    assert_peak_memory_of_padded(0).await;
}

#[tokio::test]
async fn large_messages_are_bounded_by_max_unacked() {
    assert_peak_memory_of_padded(KIB).await;
}

#[tokio::test]
async fn events_growing_when_decoded_wait_for_room() {
    /// Twice the number of messages that fit between decoding and storing.
    const DENSE: usize = 6_000;
    /// Memory of the events decoded ahead, and of the event that waits for room.
    const DECODED: usize = 25 * MIB;
    let events = ItemEvent::series(TENANT, DENSE);
    let message =
        |(place, event): (usize, &ItemEvent)| worst_messages::dense(event, place % 2 == 0);
    let of_both = events.iter().take(2).enumerate().map(message);
    let size = of_both.map(|(topic, payload)| topic.len() + payload.len()).max().unwrap();
    let messages = events.iter().enumerate().map(message);
    let more = assert_peak_memory(messages, size, DECODED).await;
    assert!(more < UNDER_WAY, "storing them took {more} bytes more");
}

/// Returns messages of 8 MiB with millions of parts, which took several hundred MiB each when they
/// were decoded whole.
#[tokio::test]
async fn worst_messages_peak_near_max_unacked() {
    const SIZE: usize = 8 * MIB - KIB;
    let database = Postgres::shared().await.database().await;
    let broker = Mosquitto::start().await;
    let mut bridge = Bridge::ready(&Config::new(&broker, &database)).await;
    pass_through(&broker, &database, 10).await;
    let before = bridge.peak_memory().unwrap();
    let excesses = worst_messages::excesses(TENANT, SIZE);
    let messages = excesses.iter().map(|excess| (excess.topic.clone(), excess.payload.clone()));
    let taken = TestPublisher::connect(&broker).await.publish_all(messages).await;
    assert_eq!(taken, excesses.len(), "the broker took not all");
    let set_aside = i64::try_from(excesses.len()).unwrap();
    until_eq("dead letters", 4 * SOON, set_aside, || database.count("centiloc.dead_letter")).await;
    let peak = bridge.peak_memory().unwrap();
    // A quarter more for the buffers that messages were read into, as above.
    let bound = before + MAX_UNACKED + MAX_UNACKED / 4 + UNDER_WAY;
    println!("{} MiB before, {} at the peak, {} the bound", mib(before), mib(peak), mib(bound));
    for OversizedMessage { topic, payload, said } in &excesses {
        let sql = format!(
            "select reason || ': ' || detail from centiloc.dead_letter
              where topic = '{topic}' and sha256(payload) = '\\x{}'",
            hex(&Sha256::digest(payload))
        );
        let kept: String = database.value(&sql).await;
        assert!(kept.starts_with(&format!("out_of_range: {said}")), "{kept} is not {said}");
    }
    assert!(peak < bound, "{peak} bytes at the peak, {bound} are the bound");
    pass_through(&broker, &database, 10).await;
    bridge.assert_running();
}

/// Waits until that many PUBLISH packets have been read.
async fn until_received(bridge: &Bridge, events: usize) {
    until("everything to be delivered", SOON, || async {
        let received = bridge.count("centiloc_bridge_received_total", "").await;
        if received >= Some(events) { Ok(()) } else { Err(received) }
    })
    .await;
}

async fn hangs_behind(database: &Database, port: u16) -> (TcpProxy, String) {
    let proxy = TcpProxy::to(port).await;
    let url = database.url_at(proxy.port());
    (proxy, url)
}

#[tokio::test]
async fn polling_never_pauses_while_the_database_hangs() {
    const EVENTS: usize = 50;
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let (link, url) = hangs_behind(&database, postgres.port()).await;
    let broker = Mosquitto::start().await;
    let tap = MqttTap::to(broker.plain_port()).await;
    let config = Config::new(&broker, &database)
        .plain(tap.proxy.port())
        .set("mqtt.keep_alive", "2s")
        .set("database.statement_timeout", "2s")
        .set("database.url", url);
    let mut bridge = Bridge::ready(&config).await;
    pass_through(&broker, &database, 5).await;
    link.stall_both().await;
    TestPublisher::connect(&broker).await.publish_json(&ItemEvent::series(TENANT, EVENTS)).await;
    // Mosquitto's window: no more arrives while nothing is acknowledged.
    until_received(&bridge, 5 + 20).await;
    until_pinged(&tap.proxy).await;
    assert_eq!(tap.proxy.accepted(), 1, "the link was lost; its log:\n{}", bridge.log().tail());
    assert_eq!(broker.log().count("has exceeded timeout"), 0);
    assert_eq!(tap.pubacks(), 5, "something was acknowledged that cannot be stored");
    link.pass().await;
    until_stored(&database, 5 + EVENTS).await;
    until_eq("the PUBACKs", SOON, 5 + EVENTS, || async { tap.pubacks() }).await;
    tap.assert_no_violation();
    bridge.assert_running();
    assert_eq!(bridge.get("/livez").await.map(|(status, _)| status), Ok(200));
}

/// Asserts that an outage of the database causes no reconnect to the broker, however long it lasts.
#[tokio::test]
async fn database_outage_costs_no_broker_connection() {
    let mut postgres = Postgres::own().await;
    let database = postgres.database().await;
    let broker = Mosquitto::start().await;
    let mut bridge = Bridge::ready(&Config::new(&broker, &database)).await;
    postgres.stop().await;
    TestPublisher::connect(&broker).await.publish_json(&ItemEvent::series(TENANT, 30)).await;
    until("not to be ready", SOON, || async {
        match bridge.get("/readyz").await {
            Ok((503, _)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(bridge.get("/livez").await.map(|(status, _)| status), Ok(200), "not live");
    postgres.start().await;
    bridge.until_ready().await;
    until_stored(&database, 30).await;
    assert_never_reconnected(&bridge).await;
}
