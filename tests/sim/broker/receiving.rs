//! Packets from the bridge, most of them PUBACKs.

use std::sync::Arc;

use centiloc_bridge::session::transport::{IncomingPacket, OutgoingPacket};
use tokio::time::Instant;

use super::{
    AcceptedMessage, BrokerState, ConnectResponse, DurableState, ModelBroker, SentMessage,
};
use crate::link::ModelLink;
use crate::message::OLD_FILTER;

impl ModelBroker {
    /// Receives up to that many packets of the bridge.
    pub fn receive(&self, most: u64, durable: &dyn DurableState) {
        for _ in 0..most {
            let link = self.lock().link.clone();
            let Some((link, packet)) = link.and_then(|l| l.take().map(|packet| (l, packet))) else {
                return;
            };
            self.apply(&link, packet, durable);
        }
    }

    fn apply(&self, link: &Arc<ModelLink>, packet: OutgoingPacket, durable: &dyn DurableState) {
        let mut guard = self.lock();
        let state = &mut *guard;
        self.world.note(format_args!("{} broker takes {packet:?}", link.number));
        match packet {
            OutgoingPacket::PubAck(id) => self.answered(state, link, id, 1, durable),
            OutgoingPacket::PubRec(id) => self.answered(state, link, id, 2, durable),
            OutgoingPacket::PubComp(id) => {
                let Some(session) = &mut state.session else { return };
                let done = |e: &SentMessage| e.id == id && e.received;
                if let Some(place) = session.in_flight.iter().position(done) {
                    session.in_flight.remove(place);
                }
            }
            OutgoingPacket::Subscribe { packet_id, filters } => {
                let refused = state.door == ConnectResponse::NoSubscription;
                let granted = filters.iter().map(|_| (!refused).then_some(1)).collect();
                link.send(IncomingPacket::SubAck { packet_id, granted });
                if refused {
                    return;
                }
                state.subscribed_once = true;
                let copy = state
                    .retained
                    .map(|r| AcceptedMessage { lost: None, ..state.messages[r].clone() });
                let index = state.messages.len();
                let Some(session) = &mut state.session else { return };
                session.filters.extend(filters);
                if let Some(copy) = copy {
                    session.queue.push_back(index);
                    state.messages.push(copy);
                }
            }
            OutgoingPacket::Unsubscribe { packet_id, filter } => {
                assert_eq!(filter, OLD_FILTER);
                link.send(IncomingPacket::UnsubAck(packet_id));
            }
            OutgoingPacket::PingReq => link.send(IncomingPacket::PingResp),
            OutgoingPacket::Disconnect => {
                link.close(true);
                state.link = None;
            }
        }
    }

    fn answered(
        &self,
        state: &mut BrokerState,
        link: &Arc<ModelLink>,
        id: u16,
        qos: u8,
        durable: &dyn DurableState,
    ) {
        let Some(session) = &mut state.session else { return };
        let matches = |e: &SentMessage| {
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
            link.send(IncomingPacket::PubRel(id));
        } else {
            session.in_flight.remove(place);
        }
    }
}
