//! A model broker with one durable session. It does what MQTT allows and what real brokers do beside
//! that, and it knows of each PUBACK which message it stands for.

mod connecting;
mod delivering;
mod misbehaving;
mod receiving;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::link::Link;
use crate::message::TOPIC;
use crate::world::World;

pub use self::connecting::ModelConnector;

/// How packet ids are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The lowest that is free.
    LowestFree,
    /// In turn, leaving out those in use.
    InTurn,
    /// In turn, whether in use or not.
    Blind,
}

/// What kind of broker it is.
#[derive(Debug, Clone)]
pub struct Behavior {
    /// How packet ids are given out.
    pub ids: Ids,
    /// Largest packet id it uses.
    pub id_space: u16,
    /// Most un-acknowledged messages; `None` where there is no such limit.
    pub window: Option<usize>,
    /// Redelivers in the order of the first delivery.
    pub keeps_order: bool,
    /// Redelivers under other packet ids.
    pub renumbers: bool,
    /// Its queue overflows when acknowledgements are held for longer than this.
    pub overflows_after: Option<Duration>,
    /// Delivers so many of 1,000 messages at QoS 2.
    pub qos2: u64,
    /// Ends a connection that was silent for 1.5 times this.
    pub keep_alive: Duration,
}

/// Whether CONNECT is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// With CONNACK.
    Open,
    /// The port is closed.
    Refused,
    /// Not at all.
    Silent,
    /// With "not authorized".
    NotAuthorized,
    /// With CONNACK, but SUBSCRIBE is refused.
    NoSubscription,
}

/// A message that the broker has taken over.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The event in it.
    pub event: u64,
    /// Application message.
    pub payload: Bytes,
    /// QoS it is delivered at.
    pub qos: u8,
    /// RETAIN flag.
    pub retain: bool,
    /// The loss it was part of, if any.
    pub lost: Option<u64>,
}

/// Tells what is durable, and so may be acknowledged.
pub trait Durable {
    /// Returns true if an event is.
    fn has(&self, event: u64) -> bool;
    /// Returns true if a gap that covers this loss is.
    fn covers(&self, loss: &Loss) -> bool;
}

/// A loss, by which messages never reach the bridge.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// Counts from 1.
    pub number: u64,
    /// The session was forgotten, rather than a message dropped from a full queue.
    pub of_session: bool,
    /// The bridge had no way to see it.
    pub excused: bool,
}

#[derive(Debug)]
struct InFlight {
    id: u16,
    message: usize,
    /// PUBREC was received.
    received: bool,
    /// The connection it was sent on last, and its place there.
    sent: Option<(u64, u64)>,
    sent_before: bool,
}

#[derive(Debug, Default)]
struct Session {
    filters: BTreeSet<String>,
    queue: VecDeque<usize>,
    in_flight: Vec<InFlight>,
    last_id: u16,
}

#[derive(Debug)]
struct State {
    behavior: Behavior,
    door: Door,
    messages: Vec<Stored>,
    session: Option<Session>,
    link: Option<Arc<Link>>,
    links: u64,
    /// Packets sent on the present link that have a place in the order of acknowledgement.
    sent_on_link: u64,
    last_answered: u64,
    retained: Option<usize>,
    losses: Vec<Loss>,
    /// The session is new, and no CONNACK has said so yet.
    unannounced: bool,
    /// The CONNACK of the very first session never arrived.
    first_unseen: bool,
    last_progress: Instant,
    subscribed_once: bool,
    /// Most messages that were ever in flight.
    widest: usize,
}

/// The model.
#[derive(Debug)]
pub struct Broker {
    world: Arc<World>,
    state: Mutex<State>,
}

impl Broker {
    /// Makes a broker without a session.
    pub fn new(world: &Arc<World>, behavior: Behavior) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            state: Mutex::new(State {
                behavior,
                door: Door::Open,
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Opens or closes the door.
    pub fn set_door(&self, door: Door) {
        self.world.note(format_args!("broker's door is {door:?}"));
        self.lock().door = door;
    }

    /// Changes what kind of broker it is.
    pub fn change(&self, change: impl FnOnce(&mut Behavior)) {
        change(&mut self.lock().behavior);
    }

    /// Takes a message over from a publisher. Returns true if a session gets it.
    pub fn publish(&self, event: u64, payload: Bytes, qos: u8, retain: bool) -> bool {
        let mut state = self.lock();
        let qos = if qos == 1 && self.world.chance(state.behavior.qos2) { 2 } else { qos };
        let message = Stored { event, payload, qos, retain: false, lost: None };
        let index = state.messages.len();
        if retain {
            state.messages.push(Stored { retain: true, ..message.clone() });
            state.retained = Some(index);
        }
        let overflows = state.overflows();
        let connected = state.link.is_some();
        let Some(session) = &mut state.session else {
            // Gone with the session that would have had it.
            if state.subscribed_once && qos > 0 {
                let loss = state.losses.last().map_or(0, |loss| loss.number);
                state.messages.push(Stored { lost: Some(loss), ..message });
            }
            return false;
        };
        if session.filters.is_empty() || (qos == 0 && !connected) {
            return false;
        }
        let index = state.messages.len();
        if overflows && qos > 0 {
            let number = state.losses.len() as u64 + 1;
            state.losses.push(Loss { number, of_session: false, excused: false });
            state.messages.push(Stored { lost: Some(number), ..message });
            drop(state);
            self.world.fault("queue overflow");
            return false;
        }
        state.messages.push(message);
        // Unwrap safety: looked at above.
        state.session.as_mut().unwrap().queue.push_back(index);
        self.world.note(format_args!("broker takes event {event} at QoS {qos} as message {index}"));
        true
    }

    /// Returns the number of losses so far.
    pub fn losses(&self) -> u64 {
        self.lock().losses.len() as u64
    }

    /// Returns each message with its loss.
    pub fn messages(&self) -> Vec<(Stored, Option<Loss>)> {
        let state = self.lock();
        let loss = |number: u64| state.losses.iter().find(|l| l.number == number).copied();
        state.messages.iter().map(|m| (m.clone(), m.lost.and_then(loss))).collect()
    }

    /// Returns true if any session was lost.
    pub fn lost_a_session(&self) -> bool {
        self.lock().losses.iter().any(|loss| loss.of_session)
    }

    /// Describes what keeps the broker from being at rest.
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

impl Session {
    /// Gives every message in flight an id of its own, if two have the same: else no client could
    /// ever answer them. What finds no id is queued again.
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

impl State {
    fn overflows(&self) -> bool {
        let (Some(after), Some(session)) = (self.behavior.overflows_after, &self.session) else {
            return false;
        };
        let full = session.is_full(&self.behavior);
        // A broker that has shown a wide window is taken to keep it.
        let shown_wide = self.widest >= 20 && session.in_flight.len() < 10;
        // What the bridge has written and the broker does not read, the bridge cannot know.
        let Some(link) = self.link.as_ref().filter(|link| link.is_usable() && link.is_idle())
        else {
            return false;
        };
        // Nor what the broker has not delivered again yet.
        let sent = |e: &InFlight| e.sent.is_some_and(|(on, _)| on == link.number);
        session.in_flight.iter().all(sent)
            && full
            && !shown_wide
            && self.last_progress.elapsed() > after
    }
}
