//! PUBLISH packets to the bridge, and their packet ids.

use centiloc_bridge::session::transport::{IncomingPacket, PublishPacket};
use tokio::time::Instant;

use super::{AcceptedMessage, BrokerBehavior, IdPolicy, ModelBroker, ModelSession, SentMessage};
use crate::message::TOPIC;

impl ModelBroker {
    /// Sends up to that many packets to the bridge.
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
                let full = session.is_full(behavior);
                let Some(message) = session.queue.front().copied().filter(|_| !full) else {
                    return false;
                };
                if state.messages[message].qos == 0 {
                    session.queue.pop_front();
                    let stored = &state.messages[message];
                    link.send(publish(stored, 0, false));
                    return true;
                }
                let Some(place) = session.start_next(behavior, false) else { return false };
                state.widest = state.widest.max(session.in_flight.len());
                place
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
            link.send(IncomingPacket::PubRel(entry.id));
        } else {
            let message = &state.messages[entry.message];
            self.world.note(format_args!(
                "{} broker sends message {} id {} dup {dup}",
                link.number, entry.message, entry.id
            ));
            link.send(publish(message, entry.id, dup));
            state.last_progress = Instant::now();
        }
        true
    }

    /// Redelivers a message on the same connection, as brokers of MQTT 3.1 do. If two messages in
    /// flight have one id, no client could tell them apart in a redelivery.
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
}

impl ModelSession {
    pub(super) fn is_full(&self, behavior: &BrokerBehavior) -> bool {
        behavior.window.is_some_and(|most| self.in_flight.len() >= most)
    }

    /// Takes the next message out of the queue and gives it a packet id. Returns its position in
    /// flight.
    pub(super) fn start_next(
        &mut self,
        behavior: &BrokerBehavior,
        sent_before: bool,
    ) -> Option<usize> {
        let message = *self.queue.front()?;
        let id = free_id(self, behavior)?;
        self.queue.pop_front();
        self.in_flight.push(SentMessage { id, message, received: false, sent: None, sent_before });
        Some(self.in_flight.len() - 1)
    }
}

fn free_id(session: &mut ModelSession, behavior: &BrokerBehavior) -> Option<u16> {
    let in_use = |id: u16| session.in_flight.iter().any(|e| e.id == id);
    let next = |id: u16| if id >= behavior.id_space { 1 } else { id + 1 };
    let id = match behavior.ids {
        IdPolicy::LowestFree => (1..=behavior.id_space).find(|id| !in_use(*id))?,
        IdPolicy::Blind => next(session.last_id),
        IdPolicy::InTurn => {
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

fn publish(message: &AcceptedMessage, packet_id: u16, dup: bool) -> IncomingPacket {
    IncomingPacket::Publish(PublishPacket {
        topic: TOPIC.to_owned(),
        payload: message.payload.clone(),
        qos: message.qos,
        dup,
        retain: message.retain,
        packet_id,
    })
}
