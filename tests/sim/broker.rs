//! A model broker with one durable session. It does what MQTT allows and what real brokers do beside
//! that, and it knows of each PUBACK which message it stands for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use centiloc_bridge::session::transport::{
    Accepted, Connect, ConnectRequest, Incoming, Outgoing, Publish, Step,
};
use rumqttc::{ConnectReturnCode, ConnectionError};
use tokio::time::Instant;

use crate::link::{ClientEnd, Link};
use crate::message::{OLD_FILTER, TOPIC};
use crate::world::World;

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

    /// Sends up to so many packets to the bridge.
    pub fn deliver(&self, most: u64) {
        for _ in 0..most {
            if !self.deliver_one() {
                return;
            }
        }
    }

    fn deliver_one(&self) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(link) = state.link.clone().filter(|link| link.is_usable()) else { return false };
        let Some(session) = &mut state.session else { return false };
        let behavior = &state.behavior;
        let due: Vec<usize> = (0..session.in_flight.len())
            .filter(|i| session.in_flight[*i].sent.is_none_or(|(on, _)| on != link.number))
            .collect();
        let place = match due.first() {
            Some(first) if behavior.keeps_order => *first,
            Some(_) => due[self.world.index(due.len())],
            None => {
                let full = behavior.window.is_some_and(|most| session.in_flight.len() >= most);
                let Some(message) = session.queue.front().copied().filter(|_| !full) else {
                    return false;
                };
                if state.messages[message].qos == 0 {
                    session.queue.pop_front();
                    let stored = &state.messages[message];
                    link.send(publish(stored, 0, false));
                    return true;
                }
                let Some(id) = free_id(session, behavior) else { return false };
                session.queue.pop_front();
                session.in_flight.push(InFlight {
                    id,
                    message,
                    received: false,
                    sent: None,
                    sent_before: false,
                });
                state.widest = state.widest.max(session.in_flight.len());
                session.in_flight.len() - 1
            }
        };
        let received = session.in_flight[place].received;
        if session.in_flight[place].sent_before && behavior.renumbers && !received {
            session.in_flight[place].id =
                free_id(session, behavior).unwrap_or(session.in_flight[place].id);
        }
        let entry = &mut session.in_flight[place];
        state.sent_on_link += 1;
        entry.sent = Some((link.number, state.sent_on_link));
        let dup = std::mem::replace(&mut entry.sent_before, true);
        if received {
            link.send(Incoming::PubRel(entry.id));
        } else {
            let message = &state.messages[entry.message];
            self.world.note(format_args!(
                "{} broker sends message {} id {} dup {dup}",
                link.number, entry.message, entry.id
            ));
            link.send(publish(message, entry.id, dup));
            if !dup {
                state.last_progress = Instant::now();
            }
        }
        true
    }

    /// Sends a message once more on the same connection, as brokers of MQTT 3.1 do. Where two messages
    /// in flight have one id, no client could tell which a repetition is of.
    pub fn retry_live(&self) {
        let state = self.lock();
        let (Some(link), Some(session)) = (&state.link, &state.session) else { return };
        let sent: Vec<_> = session
            .in_flight
            .iter()
            .filter(|e| !e.received && e.sent.is_some_and(|(on, _)| on == link.number))
            .filter(|e| session.in_flight.iter().filter(|other| other.id == e.id).count() == 1)
            .collect();
        if sent.is_empty() {
            return;
        }
        let entry = sent[self.world.index(sent.len())];
        link.send(publish(&state.messages[entry.message], entry.id, true));
        self.world.note(format_args!("broker repeats message {}", entry.message));
        drop(state);
        self.world.fault("live retry");
    }

    /// Takes up to so many packets of the bridge.
    pub fn receive(&self, most: u64, durable: &dyn Durable) {
        for _ in 0..most {
            let link = self.lock().link.clone();
            let Some((link, packet)) = link.and_then(|l| l.take().map(|packet| (l, packet))) else {
                return;
            };
            self.apply(&link, packet, durable);
        }
    }

    fn apply(&self, link: &Arc<Link>, packet: Outgoing, durable: &dyn Durable) {
        let mut guard = self.lock();
        let state = &mut *guard;
        self.world.note(format_args!("{} broker takes {packet:?}", link.number));
        match packet {
            Outgoing::PubAck(id) => self.answered(state, link, id, 1, durable),
            Outgoing::PubRec(id) => self.answered(state, link, id, 2, durable),
            Outgoing::PubComp(id) => {
                let Some(session) = &mut state.session else { return };
                let done = |e: &InFlight| e.id == id && e.received;
                if let Some(place) = session.in_flight.iter().position(done) {
                    session.in_flight.remove(place);
                }
            }
            Outgoing::Subscribe { packet_id, filters } => {
                let refused = state.door == Door::NoSubscription;
                let granted = filters.iter().map(|_| (!refused).then_some(1)).collect();
                link.send(Incoming::SubAck { packet_id, granted });
                if refused {
                    return;
                }
                state.subscribed_once = true;
                let copy =
                    state.retained.map(|r| Stored { lost: None, ..state.messages[r].clone() });
                let index = state.messages.len();
                let Some(session) = &mut state.session else { return };
                session.filters.extend(filters);
                if let Some(copy) = copy {
                    session.queue.push_back(index);
                    state.messages.push(copy);
                }
            }
            Outgoing::Unsubscribe { packet_id, filter } => {
                assert_eq!(filter, OLD_FILTER);
                link.send(Incoming::UnsubAck(packet_id));
            }
            Outgoing::PingReq => link.send(Incoming::PingResp),
            Outgoing::Disconnect => {
                link.close(true);
                state.link = None;
            }
        }
    }

    fn answered(
        &self,
        state: &mut State,
        link: &Arc<Link>,
        id: u16,
        qos: u8,
        durable: &dyn Durable,
    ) {
        let Some(session) = &mut state.session else { return };
        let matches = |e: &InFlight| {
            e.id == id && !e.received && e.sent.is_some_and(|(on, _)| on == link.number)
        };
        let Some(place) = session.in_flight.iter().position(matches) else {
            self.world.violated(format_args!("packet id {id} is answered, but is not outstanding"));
            return;
        };
        let entry = &mut session.in_flight[place];
        let message = &state.messages[entry.message];
        let (_, order) = entry.sent.unwrap_or_default();
        // An overflow needs an empty link, so this answer was written after it.
        if let Some(loss) = state.losses.iter().find(|loss| !durable.covers(loss)) {
            self.world
                .violated(format_args!("packet id {id} is answered before the gap of {loss:?}"));
        }
        if !durable.has(message.event) {
            self.world.violated(format_args!(
                "message {} (event {}) is acknowledged and not durable",
                entry.message, message.event
            ));
        }
        if order <= state.last_answered {
            self.world.violated(format_args!("packet id {id} is answered out of order"));
        }
        if message.qos != qos {
            self.world.violated(format_args!("packet id {id} is answered as of QoS {qos}"));
        }
        state.last_answered = order;
        state.last_progress = Instant::now();
        if qos == 2 {
            entry.received = true;
            link.send(Incoming::PubRel(id));
        } else {
            session.in_flight.remove(place);
        }
    }

    /// Ends the connection, if there is one.
    pub fn cut(&self, orderly: bool) {
        if let Some(link) = self.lock().link.take() {
            link.close(orderly);
        }
    }

    /// Loses the connection without a word to the bridge.
    pub fn half_open(&self) {
        if let Some(link) = self.lock().link.take() {
            link.silence();
        }
    }

    /// Stops or resumes reading what the bridge writes.
    pub fn stall(&self, stalled: bool) {
        if let Some(link) = &self.lock().link {
            link.stall(stalled);
        }
    }

    /// Ends a connection whose client was silent for too long (MQTT-3.1.2-24).
    pub fn enforce_keep_alive(&self) {
        let state = self.lock();
        let Some(link) = &state.link else { return };
        let silent =
            link.is_idle() && link.heard().elapsed() > state.behavior.keep_alive.mul_f64(1.5);
        drop(state);
        if silent {
            self.world.fault("broker misses PINGREQ");
            self.cut(false);
        }
    }

    /// Gives the session to another client with the same id for a moment: it takes some messages and
    /// answers none.
    pub fn foreign_takeover(&self) {
        self.cut(true);
        let mut guard = self.lock();
        let state = &mut *guard;
        let few = self.world.draw(0..=3);
        let behavior = state.behavior.clone();
        let Some(session) = &mut state.session else { return };
        for _ in 0..few {
            let full = behavior.window.is_some_and(|most| session.in_flight.len() >= most);
            let Some(message) = session.queue.front().copied().filter(|_| !full) else { break };
            let Some(id) = free_id(session, &behavior) else { break };
            session.queue.pop_front();
            session.in_flight.push(InFlight {
                id,
                message,
                received: false,
                sent: None,
                sent_before: true,
            });
        }
        session.in_flight.retain(|e| state.messages[e.message].qos > 0);
    }

    /// Forgets the session with all that it holds. Returns the number of the loss.
    pub fn forget_session(&self) -> Option<u64> {
        self.cut(false);
        let mut state = self.lock();
        let session = state.session.take()?;
        let number = state.losses.len() as u64 + 1;
        // A first session that was never seen may be taken for one that was always there.
        let excused = state.first_unseen && state.losses.is_empty();
        state.losses.push(Loss { number, of_session: true, excused });
        state.unannounced = true;
        let held = session.queue.into_iter().chain(session.in_flight.iter().map(|e| e.message));
        for message in held {
            state.messages[message].lost = Some(number);
        }
        drop(state);
        self.world.fault("session lost");
        Some(number)
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

    /// Answers CONNECT. Creates the session if there is none.
    fn accept(&self) -> (Arc<Link>, bool) {
        let mut state = self.lock();
        if let Some(old) = state.link.take() {
            self.world.note(format_args!("connection {} is taken over", old.number));
            old.close(self.world.chance(500));
        }
        state.links += 1;
        let link = Link::new(state.links, &self.world);
        state.link = Some(Arc::clone(&link));
        (state.sent_on_link, state.last_answered) = (0, 0);
        state.last_progress = Instant::now();
        let present = state.session.is_some();
        let id_space = state.behavior.id_space;
        let session = state.session.get_or_insert_default();
        for entry in &mut session.in_flight {
            entry.sent = None;
        }
        session.part_equal_ids(id_space);
        self.world.note(format_args!("broker accepts {}, session {present}", link.number));
        (link, present)
    }

    /// Notes whether CONNACK reached the client, which alone tells it of a lost session.
    fn announced(&self, present: bool, reached: bool) {
        if present || !std::mem::take(&mut self.lock().unannounced) {
            return;
        }
        if reached {
            self.world.news_in_memory(true);
        } else {
            self.excuse_losses();
        }
    }

    /// Notes that nobody knows of the session being new: neither CONNACK nor a process has told.
    pub fn excuse_losses(&self) {
        let mut state = self.lock();
        state.first_unseen |= state.losses.is_empty();
        for loss in &mut state.losses {
            loss.excused |= loss.of_session;
        }
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
        let full = self.behavior.window.is_some_and(|most| session.in_flight.len() >= most);
        // A broker that has shown a wide window is taken to keep it.
        let shown_wide = self.widest >= 20 && session.in_flight.len() < 10;
        // What the bridge has written and the broker does not read, the bridge cannot know.
        self.link.as_ref().is_some_and(|link| link.is_usable() && link.is_idle())
            && full
            && !shown_wide
            && self.last_progress.elapsed() > after
    }
}

fn free_id(session: &mut Session, behavior: &Behavior) -> Option<u16> {
    let in_use = |id: u16| session.in_flight.iter().any(|e| e.id == id);
    let next = |id: u16| if id >= behavior.id_space { 1 } else { id + 1 };
    let id = match behavior.ids {
        Ids::LowestFree => (1..=behavior.id_space).find(|id| !in_use(*id))?,
        Ids::Blind => next(session.last_id),
        Ids::InTurn => {
            let mut id = next(session.last_id);
            let mut tried = 0;
            while in_use(id) {
                id = next(id);
                tried += 1;
                if tried > behavior.id_space {
                    return None;
                }
            }
            id
        }
    };
    session.last_id = id;
    Some(id)
}

fn publish(message: &Stored, packet_id: u16, dup: bool) -> Incoming {
    Incoming::Publish(Publish {
        topic: TOPIC.to_owned(),
        payload: message.payload.clone(),
        qos: message.qos,
        dup,
        retain: message.retain,
        packet_id,
    })
}

/// Opens connections to the model.
pub struct ModelConnector {
    /// Shared.
    pub world: Arc<World>,
    /// Where to connect to.
    pub broker: Arc<Broker>,
}

/// Tells the model whether CONNACK arrived, also when the attempt is given up.
struct Answer<'a> {
    broker: &'a Broker,
    present: bool,
    reached: bool,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.broker.announced(self.present, self.reached);
    }
}

impl Connect for ModelConnector {
    fn connect<'a>(&'a self, request: &'a ConnectRequest<'a>) -> Step<'a, Accepted> {
        Box::pin(async move {
            self.world.sleep(0..=20).await;
            let refused = ConnectionError::ConnectionRefused;
            let door = self.broker.lock().door;
            match door {
                Door::Open | Door::NoSubscription => {}
                Door::Refused => {
                    return Err(ConnectionError::Io(std::io::ErrorKind::ConnectionRefused.into()));
                }
                Door::NotAuthorized => return Err(refused(ConnectReturnCode::NotAuthorized)),
                Door::Silent => {
                    tokio::time::sleep(request.mqtt.connect_timeout).await;
                    return Err(ConnectionError::NetworkTimeout);
                }
            }
            let (link, session_present) = self.broker.accept();
            let transport = Box::new(ClientEnd(link));
            let mut answer =
                Answer { broker: &self.broker, present: session_present, reached: false };
            self.world.sleep(0..=5).await;
            answer.reached = true;
            Ok(Accepted { transport, session_present })
        })
    }
}
