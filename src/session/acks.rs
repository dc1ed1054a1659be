//! PUBACKs (and PUBRECs) on their way out, many in one write.
//!
//! rumqttc flushes after every request, which costs a TLS record and a system call each. Here the
//! first answer goes through rumqttc's queue, which ends its `poll`; the rest follow directly on
//! the connection, with one flush.

use std::collections::VecDeque;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, EventLoop, Outgoing, Packet, PubAck, PubRec, Publish, QoS,
};
use tokio::time::timeout;

use super::ledger::Answer;

/// A broker that takes no bytes for this long is not reading: shorter than any sensible keep
/// alive, so that polling never pauses longer than one.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers to be sent, in order.
#[derive(Debug, Default)]
pub struct Acks {
    waiting: VecDeque<Answer>,
    /// The one handed to rumqttc's queue and not seen leaving. Invariant: while it is
    /// `Some`, nothing of `waiting` is written, so the order holds.
    through_queue: Option<Answer>,
}

impl Acks {
    /// Where released answers are appended.
    pub fn queue(&mut self) -> &mut VecDeque<Answer> {
        &mut self.waiting
    }

    /// True when everything has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many have not been written.
    pub fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.through_queue.is_some())
    }

    /// Drops what waits: the broker delivers again what it answers.
    pub fn discard(&mut self) {
        self.waiting.clear();
    }

    /// Ends rumqttc's `poll` if there is something to write.
    pub fn wake(&mut self, client: &AsyncClient) {
        if self.through_queue.is_some() {
            return;
        }
        let Some(answer) = self.waiting.pop_front() else { return };
        let (qos, packet_id) = match answer {
            Answer::Puback(packet_id) => (QoS::AtLeastOnce, packet_id),
            Answer::Pubrec(packet_id) => (QoS::ExactlyOnce, packet_id),
        };
        let mut publish = Publish::new("", qos, Vec::new());
        publish.pkid = packet_id;
        // The queue is empty but for SUBSCRIBEs; if it were full or closed, the connection is
        // ending and the broker redelivers.
        if client.try_ack(&publish).is_ok() {
            self.through_queue = Some(answer);
        }
    }

    /// To be told of every outgoing packet; returns 1 when it was one of ours, to be counted.
    pub fn seen_leaving(&mut self, outgoing: &Outgoing) -> u64 {
        let left = match outgoing {
            Outgoing::PubAck(packet_id) => Some(Answer::Puback(*packet_id)),
            Outgoing::PubRec(packet_id) => Some(Answer::Pubrec(*packet_id)),
            _ => None,
        };
        if left.is_none() || left != self.through_queue {
            return 0;
        }
        self.through_queue = None;
        1
    }

    /// Writes what waits, with one flush, between two polls. Returns how many left.
    pub async fn write(&mut self, event_loop: &mut EventLoop) -> Result<u64, ConnectionError> {
        if self.through_queue.is_some() || self.waiting.is_empty() {
            return Ok(0);
        }
        let Some(network) = event_loop.network.as_mut() else { return Ok(0) };
        let count = self.waiting.len() as u64;
        let writing = async {
            for answer in self.waiting.drain(..) {
                network.write(packet(answer)).await?;
            }
            network.flush().await
        };
        match timeout(FLUSH_TIMEOUT, writing).await {
            Ok(result) => result.map(|()| count).map_err(ConnectionError::from),
            Err(_) => Err(ConnectionError::FlushTimeout),
        }
    }
}

fn packet(answer: Answer) -> Packet {
    match answer {
        Answer::Puback(packet_id) => Packet::PubAck(PubAck::new(packet_id)),
        Answer::Pubrec(packet_id) => Packet::PubRec(PubRec::new(packet_id)),
    }
}
