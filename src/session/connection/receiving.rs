//! Incoming PUBLISH packets: admission to the pipeline, and pauses in reading.

use time::OffsetDateTime;
use tokio::time::Instant;

use super::read_pause::{PauseDecision, ReadPause};
use super::{BrokerConnection, DisconnectReason, SubscriptionState};
use crate::session::intake_sender::PipelineClosed;
use crate::session::ledger::{AckPacket, DeliveryInfo, DeliveryOutcome, LedgerBound};
use crate::session::transport::PublishPacket;
use crate::stream::accounting::MessageDisposal;
use crate::stream::ack::AckToken;
use crate::stream::connection_event::ConnectionEvent;

impl BrokerConnection<'_> {
    pub(super) fn apply_publish(&mut self, publish: PublishPacket) -> Result<(), DisconnectReason> {
        let received_at = self.state.context.now_utc();
        self.state.context.count_received(&publish, received_at);
        if let Some(retirement) = &mut self.retirement {
            retirement.delivered(Instant::now());
        }
        let ack = match publish.qos {
            0 => return Ok(self.admit_qos0(publish, received_at)?),
            1 => AckPacket::Puback(publish.packet_id),
            _ => AckPacket::Pubrec(publish.packet_id),
        };
        let delivery = DeliveryInfo {
            ack,
            dup: publish.dup,
            digest: self.state.context.digest(&publish),
            size: publish.size(),
        };
        let now = Instant::now();
        let accounting = &self.state.context.process().accounting;
        match self.state.ledger.receive(delivery, now) {
            DeliveryOutcome::New(id) => {
                let token = AckToken::counted(id, accounting.admit());
                self.send_message(publish, token, received_at)?;
            }
            DeliveryOutcome::Repeated => {
                accounting.dispose(MessageDisposal::Repeated);
                return Ok(());
            }
            DeliveryOutcome::Refused => {
                accounting.dispose(MessageDisposal::Refused);
                self.refused += 1;
            }
            DeliveryOutcome::IdReused => {
                accounting.dispose(MessageDisposal::Refused);
                return Err(DisconnectReason::PacketIdReused(publish.packet_id));
            }
        }
        self.state.gaps.stall.received(self.unacked(), delivery.dup, now);
        self.pause_or_resume();
        Ok(())
    }

    /// Admits a QoS-0 message, which the broker does not redeliver.
    fn admit_qos0(
        &mut self,
        publish: PublishPacket,
        received_at: OffsetDateTime,
    ) -> Result<(), PipelineClosed> {
        self.state.context.warn_of_qos0(&publish.topic);
        let accounting = &self.state.context.process().accounting;
        if let Some(id) = self.state.ledger.receive_qos0(publish.size(), Instant::now()) {
            let token = AckToken::counted(id, accounting.admit());
            self.send_message(publish, token, received_at)?;
            self.pause_or_resume();
            return Ok(());
        }
        accounting.dispose(MessageDisposal::Dropped);
        let client_id = &self.state.context.mqtt.client_id;
        match self.state.gaps.drop_message(client_id, received_at) {
            Some(gap) => {
                self.state.context.warn_of_dropped_qos0(&publish.topic);
                self.send_event(ConnectionEvent::Gap(gap))
            }
            None => Ok(()),
        }
    }

    fn send_message(
        &self,
        publish: PublishPacket,
        token: AckToken,
        received_at: OffsetDateTime,
    ) -> Result<(), PipelineClosed> {
        let intake = self.state.intake.as_ref().ok_or(PipelineClosed)?;
        intake.send_message(publish, token, received_at)
    }

    /// Reports the end of a gap of dropped QoS-0 messages.
    pub(super) fn end_drops(&mut self) -> Result<(), PipelineClosed> {
        match self.state.gaps.end_drops(self.state.context.now_utc()) {
            Some(gap) => self.send_event(ConnectionEvent::Gap(gap)),
            None => Ok(()),
        }
    }

    /// Pauses reading at a bound of the ledger. Resumes once there is enough room, or once the
    /// keep-alive allows no longer pause. If there is no room by then, messages are read and
    /// refused, and no message received after the first refused one is acknowledged.
    pub(super) fn pause_or_resume(&mut self) {
        let (now, ledger) = (Instant::now(), &*self.state.ledger);
        match self.paused {
            None if self.refusing.is_none() => {
                let Some(pause) = ReadPause::begin(ledger, now) else { return };
                self.paused = Some(pause);
                let (unacked, bytes) = (ledger.unacked(), ledger.unacked_bytes());
                self.state.context.log_pause(self.id, pause.bound(), unacked, bytes);
            }
            None => return,
            Some(pause) => match pause.decide(ledger, self.state.context.mqtt.keep_alive, now) {
                PauseDecision::Wait => return,
                PauseDecision::Resume => {
                    tracing::debug!(connection = self.id.0, "resumed reading from the broker");
                    self.paused = None;
                }
                PauseDecision::Refuse(bound) => self.begin_refusing(bound),
            },
        }
        self.keep_alive.reading_changed(now);
        self.state.gaps.stall.reading_changed(self.paused.is_some(), now);
        if let SubscriptionState::Asked { since, .. } = &mut self.subscription {
            *since = now;
        }
    }

    fn begin_refusing(&mut self, bound: LedgerBound) {
        self.paused = None;
        self.refusing = Some(bound);
        self.state.ledger.seal();
        self.state.context.warn_of_refusals(self.id, bound);
    }
}
