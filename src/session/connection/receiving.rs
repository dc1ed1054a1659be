//! PUBLISH: which are let in, and when reading pauses so that TCP holds the broker back.

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{Connection, DisconnectReason, Subscription};
use crate::accounting::Disposal;
use crate::ack::AckToken;
use crate::message::ConnectionNews;
use crate::session::intake_sender::PipelineClosed;
use crate::session::ledger::{Answer, Arrival, Bound, DeliveryOutcome};
use crate::session::transport::Publish;

impl Connection<'_> {
    pub(super) fn apply_publish(&mut self, publish: Publish) -> Result<(), DisconnectReason> {
        let received_at = self.state.shared.now_utc();
        self.state.shared.count_received(&publish, received_at);
        let answer = match publish.qos {
            0 => return Ok(self.take_unanswered(publish, received_at)?),
            1 => Answer::Puback(publish.packet_id),
            _ => Answer::Pubrec(publish.packet_id),
        };
        let arrival = Arrival {
            answer,
            dup: publish.dup,
            digest: self.state.shared.digest(&publish),
            size: publish.size(),
        };
        let now = Instant::now();
        let accounting = &self.state.shared.process().accounting;
        match self.state.ledger.receive(arrival, now) {
            DeliveryOutcome::New(id) => {
                let token = AckToken::counted(id, accounting.admit());
                self.send_message(publish, token, received_at)?;
            }
            DeliveryOutcome::Repeated => {
                accounting.dispose(Disposal::Repeated);
                return Ok(());
            }
            DeliveryOutcome::Refused => {
                accounting.dispose(Disposal::Refused);
                self.refused += 1;
            }
            DeliveryOutcome::IdReused => {
                accounting.dispose(Disposal::Refused);
                return Err(DisconnectReason::PacketIdReused(publish.packet_id));
            }
        }
        self.state.gaps.stall.received(self.unacked(), arrival.dup, now);
        self.pause_or_resume();
        Ok(())
    }

    /// Takes in a QoS-0 message, which the broker does not repeat.
    fn take_unanswered(
        &mut self,
        publish: Publish,
        received_at: OffsetDateTime,
    ) -> Result<(), PipelineClosed> {
        self.state.shared.warn_of_qos0(&publish.topic);
        let accounting = &self.state.shared.process().accounting;
        if let Some(id) = self.state.ledger.receive_unanswered(publish.size(), Instant::now()) {
            let token = AckToken::counted(id, accounting.admit());
            self.send_message(publish, token, received_at)?;
            self.pause_or_resume();
            return Ok(());
        }
        accounting.dispose(Disposal::Dropped);
        let client_id = &self.state.shared.mqtt.client_id;
        match self.state.gaps.drop_message(client_id, received_at) {
            Some(gap) => {
                self.state.shared.warn_of_dropped_qos0(&publish.topic);
                self.send_event(ConnectionNews::Gap(gap))
            }
            None => Ok(()),
        }
    }

    fn send_message(
        &self,
        publish: Publish,
        token: AckToken,
        received_at: OffsetDateTime,
    ) -> Result<(), PipelineClosed> {
        let intake = self.state.intake.as_ref().ok_or(PipelineClosed)?;
        intake.send_message(publish, token, received_at)
    }

    /// Reports a row of dropped QoS-0 messages as ended.
    pub(super) fn end_drops(&mut self) -> Result<(), PipelineClosed> {
        match self.state.gaps.end_drops(self.state.shared.now_utc()) {
            Some(gap) => self.send_event(ConnectionNews::Gap(gap)),
            None => Ok(()),
        }
    }

    /// Stops reading at a bound of the ledger, and resumes once half of it is free.
    pub(super) fn pause_or_resume(&mut self) {
        let ledger = &*self.state.ledger;
        match self.paused {
            None if self.refusing.is_none() => {
                let Some(bound) = ledger.reached() else { return };
                self.paused = Some((Instant::now(), bound));
                let (unacked, bytes) = (ledger.unacked(), ledger.unacked_bytes());
                self.state.shared.log_pause(self.id, bound, unacked, bytes);
                self.reading_changed();
            }
            Some(_) if ledger.has_recovered() => self.resume(),
            _ => {}
        }
    }

    /// Ends a pause before it outlives the keep-alive: a connection that is not read for longer cannot
    /// be told from a dead one. Where some room has returned since, it is read into, and the next pause
    /// counts anew.
    pub(super) fn check_pause(&mut self, now: Instant) {
        let Some((since, bound)) = self.paused else { return };
        let (paused, keep_alive) = (now - since, self.state.shared.mqtt.keep_alive);
        if paused >= keep_alive * 3 / 4 && self.state.ledger.reached().is_none() {
            self.resume();
        } else if paused >= keep_alive {
            self.refuse(bound);
        }
    }

    fn resume(&mut self) {
        self.paused = None;
        self.reading_changed();
        tracing::debug!(connection = self.id.0, "reading from the broker again");
    }

    /// Reads further messages and refuses them. Nothing received after the first of them is
    /// acknowledged.
    fn refuse(&mut self, bound: Bound) {
        self.paused = None;
        self.refusing = Some(bound);
        self.state.ledger.seal();
        self.reading_changed();
        self.state.shared.warn_of_refusals(self.id, bound);
    }

    /// Lets what watches the broker's silence count anew.
    fn reading_changed(&mut self) {
        let now = Instant::now();
        self.keep_alive.reading_changed();
        self.state.gaps.stall.reading_changed(self.paused.is_some(), now);
        if let Subscription::Asked { since, .. } = &mut self.subscription {
            *since = now;
        }
    }
}
