//! A model broker with one durable session. It shows all behaviour that MQTT allows and some that
//! real brokers show beyond it, and it knows for each PUBACK the message that it acknowledges.

mod connecting;
mod delivering;
mod misbehaving;
mod receiving;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::link::ModelLink;
use crate::message::TOPIC;
use crate::world::SimulatedWorld;

pub use self::connecting::ModelConnector;

/// Policy for assigning packet ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdPolicy {
    /// The lowest free id.
    LowestFree,
    /// In sequence, skipping those in use.
    InTurn,
    /// In sequence, in use or not.
    Blind,
}

/// The behaviour of the broker.
#[derive(Debug, Clone)]
pub struct BrokerBehavior {
    /// Policy for assigning packet ids.
    pub ids: IdPolicy,
    /// Largest packet id it uses.
    pub id_space: u16,
    /// Maximum of un-acknowledged messages. `None` if there is no such limit.
    pub window: Option<usize>,
    /// Redelivers in the order of the first delivery.
    pub keeps_order: bool,
    /// Redelivers under other packet ids.
    pub renumbers: bool,
    /// Its queue overflows when acknowledgements are held for longer than this.
    pub overflows_after: Option<Duration>,
    /// Share of messages delivered at QoS 2, per mille.
    pub qos2: u64,
    /// Ends a connection that was silent for 1.5 times this.
    pub keep_alive: Duration,
}

/// The response to CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectResponse {
    /// CONNACK.
    Open,
    /// The port is closed.
    Refused,
    /// No response.
    Silent,
    /// CONNACK with "not authorized".
    NotAuthorized,
    /// CONNACK, but SUBSCRIBE is refused.
    NoSubscription,
}

/// A message that the broker has accepted.
#[derive(Debug, Clone)]
pub struct AcceptedMessage {
    /// Number of the event in it.
    pub event: u64,
    pub payload: Bytes,
    /// QoS it is delivered at.
    pub qos: u8,
    pub retain: bool,
    /// The loss it was part of, if any.
    pub lost: Option<u64>,
}

/// The durable state, and so the messages that may be acknowledged.
pub trait DurableState {
    /// Returns true if an event is durable.
    fn has(&self, event: u64) -> bool;
    /// Returns true if a gap that covers this loss is durable.
    fn covers(&self, loss: &MessageLoss) -> bool;
}

/// A loss, by which messages never reach the bridge.
#[derive(Debug, Clone, Copy)]
pub struct MessageLoss {
    /// Number of the loss, from 1.
    pub number: u64,
    /// True if the session was forgotten, false if the queue overflowed.
    pub of_session: bool,
    /// True if the bridge could not detect it.
    pub excused: bool,
}

#[derive(Debug)]
struct SentMessage {
    id: u16,
    message: usize,
    /// True once PUBREC was received.
    received: bool,
    /// The connection it was sent on last, and its position there.
    sent: Option<(u64, u64)>,
    sent_before: bool,
}

#[derive(Debug, Default)]
struct ModelSession {
    filters: BTreeSet<String>,
    queue: VecDeque<usize>,
    in_flight: Vec<SentMessage>,
    last_id: u16,
}

#[derive(Debug)]
struct BrokerState {
    behavior: BrokerBehavior,
    door: ConnectResponse,
    messages: Vec<AcceptedMessage>,
    session: Option<ModelSession>,
    link: Option<Arc<ModelLink>>,
    links: u64,
    /// Packets sent on the current link that have a position in the order of acknowledgement.
    sent_on_link: u64,
    last_answered: u64,
    retained: Option<usize>,
    losses: Vec<MessageLoss>,
    /// True if the session is new, and no CONNACK has reported that yet.
    unannounced: bool,
    /// True if the CONNACK of the very first session never arrived.
    first_unseen: bool,
    last_progress: Instant,
    subscribed_once: bool,
    /// Largest number of messages in flight so far.
    widest: usize,
}

/// A model broker.
#[derive(Debug)]
pub struct ModelBroker {
    world: Arc<SimulatedWorld>,
    state: Mutex<BrokerState>,
}

impl ModelBroker {
    /// Creates a broker without a session.
    pub fn new(world: &Arc<SimulatedWorld>, behavior: BrokerBehavior) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            state: Mutex::new(BrokerState {
                behavior,
                door: ConnectResponse::Open,
                messages: Vec::new(),
                session: None,
                link: None,
                links: 0,
                sent_on_link: 0,
                last_answered: 0,
                retained: None,
                losses: Vec::new(),
                unannounced: true,
                first_unseen: false,
                last_progress: Instant::now(),
                subscribed_once: false,
                widest: 0,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BrokerState> {
        self.state.lock().unwrap()
    }

    /// Changes the response to CONNECT.
    pub fn set_door(&self, door: ConnectResponse) {
        self.world.note(format_args!("broker's door is {door:?}"));
        self.lock().door = door;
    }

    /// Changes the behaviour of the broker.
    pub fn change(&self, change: impl FnOnce(&mut BrokerBehavior)) {
        change(&mut self.lock().behavior);
    }

    /// Accepts a message from a publisher. Returns true if a session receives it.
    pub fn publish(&self, event: u64, payload: Bytes, qos: u8, retain: bool) -> bool {
        let mut state = self.lock();
        let qos = if qos == 1 && self.world.chance(state.behavior.qos2) { 2 } else { qos };
        let message = AcceptedMessage { event, payload, qos, retain: false, lost: None };
        let index = state.messages.len();
        if retain {
            state.messages.push(AcceptedMessage { retain: true, ..message.clone() });
            state.retained = Some(index);
        }
        let overflows = state.overflows();
        let connected = state.link.is_some();
        let Some(session) = &mut state.session else {
            // Lost with the session that would have received it.
            if state.subscribed_once && qos > 0 {
                let loss = state.losses.last().map_or(0, |loss| loss.number);
                state.messages.push(AcceptedMessage { lost: Some(loss), ..message });
            }
            return false;
        };
        if session.filters.is_empty() || (qos == 0 && !connected) {
            return false;
        }
        let index = state.messages.len();
        if overflows && qos > 0 {
            let number = state.losses.len() as u64 + 1;
            state.losses.push(MessageLoss { number, of_session: false, excused: false });
            state.messages.push(AcceptedMessage { lost: Some(number), ..message });
            drop(state);
            self.world.fault("queue overflow");
            return false;
        }
        state.messages.push(message);
        // Unwrap safety: checked above.
        state.session.as_mut().unwrap().queue.push_back(index);
        self.world.note(format_args!("broker takes event {event} at QoS {qos} as message {index}"));
        true
    }

    /// Returns the number of losses so far.
    pub fn losses(&self) -> u64 {
        self.lock().losses.len() as u64
    }

    /// Returns each message with its loss.
    pub fn messages(&self) -> Vec<(AcceptedMessage, Option<MessageLoss>)> {
        let state = self.lock();
        let loss = |number: u64| state.losses.iter().find(|l| l.number == number).copied();
        state.messages.iter().map(|m| (m.clone(), m.lost.and_then(loss))).collect()
    }

    /// Returns the number of sessions that were lost.
    pub fn lost_sessions(&self) -> usize {
        self.lock().losses.iter().filter(|loss| loss.of_session).count()
    }

    /// Describes the reason why the broker is not at rest.
    pub fn unrest(&self) -> Option<String> {
        let state = self.lock();
        let Some(session) = &state.session else { return Some("there is no session".into()) };
        let idle = state.link.as_ref().is_some_and(|link| link.is_usable() && link.is_idle());
        let quiet = idle && session.queue.is_empty() && session.in_flight.is_empty();
        let subscribed = session.filters.contains(TOPIC);
        (!quiet || !subscribed).then(|| {
            format!(
                "connected {}, subscribed {subscribed}, queue {}, in flight {}, first {:?}",
                state.link.is_some(),
                session.queue.len(),
                session.in_flight.len(),
                session.in_flight.first()
            )
        })
    }
}

impl ModelSession {
    /// Gives every message in flight an id of its own if two have the same. Otherwise no client
    /// could ever answer them. A message without a free id is queued again.
    fn part_equal_ids(&mut self, id_space: u16) {
        let ids: BTreeSet<u16> = self.in_flight.iter().map(|entry| entry.id).collect();
        if ids.len() == self.in_flight.len() {
            return;
        }
        let kept = self.in_flight.len().min(usize::from(id_space / 2));
        for entry in self.in_flight.split_off(kept).into_iter().rev().filter(|e| !e.received) {
            self.queue.push_front(entry.message);
        }
        for (id, entry) in (1..).zip(&mut self.in_flight) {
            entry.id = id;
            self.last_id = id;
        }
    }
}

impl BrokerState {
    fn overflows(&self) -> bool {
        let (Some(after), Some(session)) = (self.behavior.overflows_after, &self.session) else {
            return false;
        };
        let full = session.is_full(&self.behavior);
        // The bridge assumes that a broker keeps the widest window that it has shown.
        let shown_wide = self.widest >= 20 && session.in_flight.len() < 10;
        // The bridge cannot know that the broker does not read its packets.
        let idle = |link: &ModelLink| link.is_usable() && link.is_idle() && !link.is_writing();
        let Some(link) = self.link.as_deref().filter(|link| idle(link)) else {
            return false;
        };
        // Nor which messages the broker has not delivered again yet.
        let sent = |e: &SentMessage| e.sent.is_some_and(|(on, _)| on == link.number);
        session.in_flight.iter().all(sent)
            && full
            && !shown_wide
            && self.last_progress.elapsed() > after
    }
}
