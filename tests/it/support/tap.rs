//! Watches MQTT through a [`Proxy`] in front of a plain listener: which PUBLISH the broker
//! delivered, which PUBACK came back, in which order, and what was true when it did.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::proxy::{Direction, Observer, Proxy};

/// MQTT control packet types, upper four bits of the first byte.
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const DISCONNECT: u8 = 14;

/// A packet that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// The broker delivered a message.
    Publish(Publish),
    /// The client acknowledged a packet id on a connection.
    Puback(u64, u16),
    /// The client said DISCONNECT on a connection.
    Disconnect(u64),
}

/// A PUBLISH from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The connection, counted from 0.
    pub connection: u64,
    /// 0 for QoS 0.
    pub packet_id: u16,
    /// Whether the broker says that it delivers again.
    pub dup: bool,
    /// The topic.
    pub topic: String,
    /// The application message.
    pub payload: Vec<u8>,
}

/// How often what has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Messages that the broker delivered, repetitions included.
    pub deliveries: usize,
    /// Those of them that it called repetitions.
    pub repetitions: usize,
    /// Acknowledgements.
    pub pubacks: usize,
}

impl Tally {
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

type Verdict = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type Check = dyn Fn(Publish) -> Verdict + Send + Sync;

/// A proxy with its record.
pub struct Tap {
    /// To connect through, and to break.
    pub proxy: Proxy,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    state: Mutex<State>,
    /// Asked before each PUBACK is forwarded.
    check: Option<Box<Check>>,
}

#[derive(Default)]
struct State {
    packets: Vec<(Instant, Packet)>,
    violations: Vec<String>,
    /// Up, then Down: bytes of a packet that is not complete yet, by connection.
    partial: [HashMap<u64, Vec<u8>>; 2],
    /// Delivered and not acknowledged, by connection.
    unacked: HashMap<u64, Unacked>,
}

/// Of one connection.
#[derive(Default)]
struct Unacked {
    /// In the order of delivery.
    deliveries: VecDeque<Publish>,
    /// Their packet ids: there may be tens of thousands.
    ids: HashSet<u16>,
}

impl Tap {
    /// In front of a broker's plain listener.
    pub async fn to(port: u16) -> Self {
        Self::with(port, Record::default()).await
    }

    /// As [`Tap::to`]; before each PUBACK is forwarded, `check` is asked whether the message may
    /// be acknowledged, for example because its row can be seen. What it objects to is a
    /// violation.
    pub async fn checking<F>(
        port: u16,
        check: impl Fn(Publish) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let check: Box<Check> = Box::new(move |publish| -> Verdict { Box::pin(check(publish)) });
        Self::with(port, Record { check: Some(check), ..Record::default() }).await
    }

    async fn with(port: u16, record: Record) -> Self {
        let record = Arc::new(record);
        let observer: Arc<dyn Observer> = record.clone();
        Self { proxy: Proxy::observed(port, Some(observer)).await, record }
    }

    /// Everything that passed, in the order of passing.
    pub fn packets(&self) -> Vec<Packet> {
        self.timed_packets().into_iter().map(|(_, packet)| packet).collect()
    }

    /// As [`Tap::packets`], each with when it passed.
    pub fn timed_packets(&self) -> Vec<(Instant, Packet)> {
        self.record.state.lock().unwrap().packets.clone()
    }

    /// What the broker delivered, deliveries of the same message repeated.
    pub fn publishes(&self) -> Vec<Publish> {
        let packets = self.packets().into_iter();
        packets.filter_map(|p| if let Packet::Publish(p) = p { Some(p) } else { None }).collect()
    }

    /// How often what has passed so far.
    pub fn tally(&self) -> Tally {
        let state = self.record.state.lock().unwrap();
        state.packets.iter().map(|(_, packet)| packet).fold(Tally::default(), Tally::add)
    }

    /// PUBACKs so far.
    pub fn pubacks(&self) -> usize {
        self.tally().pubacks
    }

    /// Delivered on the newest connection that delivered anything, and not acknowledged there.
    pub fn unacked(&self) -> usize {
        let state = self.record.state.lock().unwrap();
        state
            .unacked
            .iter()
            .max_by_key(|(number, _)| **number)
            .map_or(0, |(_, left)| left.ids.len())
    }

    /// PUBACKs that came out of the order of receipt (MQTT-4.6.0-2), acknowledged what was not
    /// delivered on their connection, or were objected to by the check.
    pub fn violations(&self) -> Vec<String> {
        self.record.state.lock().unwrap().violations.clone()
    }

    /// Panics if there is any of [`Tap::violations`].
    pub fn assert_no_violation(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "acknowledgements broke the rules: {violations:#?}");
    }
}

impl Record {
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

impl State {
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

impl Observer for Record {
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

/// Lengths of the fixed header and of what follows; `None` while the packet is incomplete.
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
