//! Records MQTT packets through a [`TcpProxy`] in front of a plain listener: the PUBLISH packets of the
//! broker and the PUBACKs returned, their order, and a check made at each PUBACK.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::proxy::{Direction, TcpProxy, TrafficObserver};

/// MQTT control packet types, upper four bits of the first byte.
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const DISCONNECT: u8 = 14;

/// A recorded packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A message delivered by the broker.
    Publish(Publish),
    /// A PUBACK of the client: connection and packet id.
    Puback(u64, u16),
    /// A DISCONNECT of the client on a connection.
    Disconnect(u64),
}

/// A PUBLISH from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Number of the connection, from 0.
    pub connection: u64,
    /// Packet id, 0 for QoS 0.
    pub packet_id: u16,
    /// The DUP flag: true for a redelivery.
    pub dup: bool,
    pub topic: String,
    pub payload: Vec<u8>,
}

/// Counts of recorded packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacketCounts {
    /// Messages delivered by the broker, redeliveries included.
    pub deliveries: usize,
    /// Deliveries with the DUP flag.
    pub repetitions: usize,
    /// Acknowledgements sent.
    pub pubacks: usize,
}

impl PacketCounts {
    fn add(mut self, packet: &Packet) -> Self {
        match packet {
            Packet::Publish(publish) => {
                self.deliveries += 1;
                self.repetitions += usize::from(publish.dup);
            }
            Packet::Puback(..) => self.pubacks += 1,
            Packet::Disconnect(_) => {}
        }
        self
    }
}

type CheckFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type AckCheck = dyn Fn(Publish) -> CheckFuture + Send + Sync;

/// A recording proxy.
pub struct MqttTap {
    /// The proxy to connect through and to break.
    pub proxy: TcpProxy,
    record: Arc<TapRecord>,
}

#[derive(Default)]
struct TapRecord {
    state: Mutex<TapState>,
    /// Called before each PUBACK is forwarded.
    check: Option<Box<AckCheck>>,
}

#[derive(Default)]
struct TapState {
    packets: Vec<(Instant, Packet)>,
    violations: Vec<String>,
    /// Bytes of incomplete packets, by connection: Up, then Down.
    partial: [HashMap<u64, Vec<u8>>; 2],
    /// Delivered and unacknowledged messages, by connection.
    unacked: HashMap<u64, UnackedPublishes>,
}

/// Unacknowledged messages of one connection.
#[derive(Default)]
struct UnackedPublishes {
    /// Messages in the order of delivery.
    deliveries: VecDeque<Publish>,
    /// Their packet ids, as a set, because there may be tens of thousands.
    ids: HashSet<u16>,
}

impl MqttTap {
    /// Starts a tap in front of a broker's plain listener.
    pub async fn to(port: u16) -> Self {
        Self::with(port, TapRecord::default()).await
    }

    /// Does the same as [`MqttTap::to`]. Before each PUBACK is forwarded, `check` decides if the
    /// message may be acknowledged, for example because its row is visible. An `Err` is recorded
    /// as a violation.
    pub async fn checking<F>(
        port: u16,
        check: impl Fn(Publish) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let check: Box<AckCheck> =
            Box::new(move |publish| -> CheckFuture { Box::pin(check(publish)) });
        Self::with(port, TapRecord { check: Some(check), ..TapRecord::default() }).await
    }

    async fn with(port: u16, record: TapRecord) -> Self {
        let record = Arc::new(record);
        let observer: Arc<dyn TrafficObserver> = record.clone();
        Self { proxy: TcpProxy::observed(port, Some(observer)).await, record }
    }

    /// Returns all recorded packets in order.
    pub fn packets(&self) -> Vec<Packet> {
        self.timed_packets().into_iter().map(|(_, packet)| packet).collect()
    }

    /// Returns the same as [`MqttTap::packets`], each with its time.
    pub fn timed_packets(&self) -> Vec<(Instant, Packet)> {
        self.record.state.lock().unwrap().packets.clone()
    }

    /// Returns the messages that the broker delivered, redeliveries included.
    pub fn publishes(&self) -> Vec<Publish> {
        let packets = self.packets().into_iter();
        packets.filter_map(|p| if let Packet::Publish(p) = p { Some(p) } else { None }).collect()
    }

    /// Returns the counts so far.
    pub fn tally(&self) -> PacketCounts {
        let state = self.record.state.lock().unwrap();
        state
            .packets
            .iter()
            .map(|(_, packet)| packet)
            .fold(PacketCounts::default(), PacketCounts::add)
    }

    /// Counts the PUBACKs so far.
    pub fn pubacks(&self) -> usize {
        self.tally().pubacks
    }

    /// Counts the messages delivered on the newest connection with deliveries and not acknowledged
    /// there.
    pub fn unacked(&self) -> usize {
        let state = self.record.state.lock().unwrap();
        state
            .unacked
            .iter()
            .max_by_key(|(number, _)| **number)
            .map_or(0, |(_, left)| left.ids.len())
    }

    /// Returns the PUBACKs that left out of the order of receipt (MQTT-4.6.0-2), acknowledged a
    /// message that was not delivered on their connection, or failed the check.
    pub fn violations(&self) -> Vec<String> {
        self.record.state.lock().unwrap().violations.clone()
    }

    /// Panics if there is any of [`MqttTap::violations`].
    pub fn assert_no_violation(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "acknowledgements broke the rules: {violations:#?}");
    }
}

impl TapRecord {
    async fn packet(&self, connection: u64, direction: Direction, first: u8, body: &[u8]) {
        match (direction, first >> 4) {
            (Direction::Down, PUBLISH) => {
                let publish = parse_publish(connection, first, body);
                let mut state = self.state.lock().unwrap();
                let unacked = state.unacked.entry(connection).or_default();
                if publish.packet_id != 0 && unacked.ids.insert(publish.packet_id) {
                    unacked.deliveries.push_back(publish.clone());
                }
                state.note(Packet::Publish(publish));
            }
            (Direction::Up, PUBACK) => {
                let packet_id = u16::from_be_bytes([body[0], body[1]]);
                let acknowledged = self.state.lock().unwrap().acknowledge(connection, packet_id);
                if let (Some(check), Some(publish)) = (&self.check, acknowledged)
                    && let Err(objection) = check(publish).await
                {
                    self.state.lock().unwrap().violations.push(objection);
                }
            }
            (Direction::Up, DISCONNECT) => {
                self.state.lock().unwrap().note(Packet::Disconnect(connection));
            }
            _ => {}
        }
    }
}

impl TapState {
    fn note(&mut self, packet: Packet) {
        self.packets.push((Instant::now(), packet));
    }

    fn acknowledge(&mut self, connection: u64, packet_id: u16) -> Option<Publish> {
        self.note(Packet::Puback(connection, packet_id));
        let unacked = self.unacked.entry(connection).or_default();
        let place = unacked.deliveries.iter().position(|p| p.packet_id == packet_id);
        if place != Some(0) {
            self.violations.push(match place {
                Some(place) => format!("PUBACK {packet_id} overtook {place} earlier deliveries"),
                None => format!("PUBACK {packet_id} for nothing delivered on its connection"),
            });
        }
        unacked.ids.remove(&packet_id);
        unacked.deliveries.remove(place?)
    }

    fn complete(&mut self, connection: u64, up: Direction, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let partial = self.partial[up as usize].entry(connection).or_default();
        partial.extend_from_slice(bytes);
        let mut packets = Vec::new();
        while let Some((header, length)) = frame(partial) {
            let rest = partial.split_off(header + length);
            packets.push((partial[0], partial[header..].to_vec()));
            *partial = rest;
        }
        packets
    }
}

impl TrafficObserver for TapRecord {
    fn bytes<'a>(
        &'a self,
        connection: u64,
        direction: Direction,
        bytes: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let packets = self.state.lock().unwrap().complete(connection, direction, bytes);
            for (first, body) in packets {
                self.packet(connection, direction, first, &body).await;
            }
        })
    }
}

/// Returns the lengths of the fixed header and of the rest. `None` while the packet is incomplete.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let header = index + 2;
            return (bytes.len() >= header + length).then_some((header, length));
        }
    }
    None
}

fn parse_publish(connection: u64, first: u8, body: &[u8]) -> Publish {
    let (length, rest) = body.split_at(2);
    let (topic, rest) = rest.split_at(usize::from(u16::from_be_bytes([length[0], length[1]])));
    let (packet_id, payload) = if first & 0b0110 == 0 {
        (0, rest)
    } else {
        (u16::from_be_bytes([rest[0], rest[1]]), &rest[2..])
    };
    Publish {
        connection,
        packet_id,
        dup: first & 0b1000 != 0,
        topic: String::from_utf8_lossy(topic).into_owned(),
        payload: payload.to_vec(),
    }
}
