//! Acknowledgements (PUBACK and PUBREC): their release in order, and the gaps that must be durable
//! before they are sent.

use tokio::time::Instant;

use super::{BrokerConnection, DisconnectReason};
use crate::session::feedback::apply_committed;
use crate::session::intake_sender::PipelineClosed;
use crate::session::ledger::AckPacket;
use crate::session::transport::OutgoingPacket;
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::message::Feedback;

impl BrokerConnection<'_> {
    /// Applies the feedback of the downstream stages. `None` means that their channel is closed.
    pub(super) fn apply_feedback(
        &mut self,
        feedback: Option<Feedback>,
    ) -> Result<(), DisconnectReason> {
        match feedback {
            Some(Feedback::Committed(committed)) => {
                // Checked first, because the acknowledgements released here end a stall.
                self.note_stall()?;
                apply_committed(self.state.context, self.state.ledger, committed);
            }
            Some(Feedback::Persisted(event)) => self.state.gaps.persisted(&event),
            Some(Feedback::Unsubscribe(filters)) => self.unsubscribe(filters),
            None => {}
        }
        Ok(())
    }

    /// Queues the acknowledgements that may be sent.
    pub(super) fn release_acks(&mut self) {
        if !self.state.gaps.acks_may_leave() {
            return;
        }
        let packets = self.state.ledger.release().map(|ack| match ack {
            AckPacket::Puback(packet_id) => OutgoingPacket::PubAck(packet_id),
            AckPacket::Pubrec(packet_id) => OutgoingPacket::PubRec(packet_id),
        });
        self.outgoing.extend(packets);
    }

    /// Returns the number of deliveries of this connection that are not acknowledged.
    pub(super) fn unacked(&self) -> usize {
        self.state.ledger.outstanding() + self.refused
    }

    /// Reports a gap if acknowledgements have been held too long. From then on none is sent before the
    /// gap is durable. During shutdown no gap can be reported, so the acknowledgements stay unsent and
    /// the next process sends them.
    pub(super) fn note_stall(&mut self) -> Result<(), PipelineClosed> {
        let unacked = self.unacked();
        let context = self.state.context;
        let gap = self.state.gaps.overdue(Instant::now(), context.now_utc(), |held| {
            let (cause, detail) = context.describe_stall(held, unacked);
            (context.mqtt.client_id.clone(), cause, detail)
        });
        let Some(gap) = gap else { return Ok(()) };
        tracing::warn!(
            cause = gap.cause.as_str(),
            error = gap.detail,
            "acknowledgements stalled; the broker's queue may overflow"
        );
        self.send_event(ConnectionEvent::Gap(gap))
    }

    /// Counts acknowledgements that were sent. The first of them ends a gap, which is reported.
    pub(super) fn acknowledged(&mut self, count: u64) -> Result<(), PipelineClosed> {
        if count == 0 {
            return Ok(());
        }
        tracing::debug!(connection = self.id.0, count, "sent acknowledgements to the broker");
        self.state.context.metrics.acks.inc_by(count);
        let (unacked, now) = (self.unacked(), Instant::now());
        match self.state.gaps.acknowledged(unacked, now, self.state.context.now_utc()) {
            Some(gap) => self.send_event(ConnectionEvent::Gap(gap)),
            None => Ok(()),
        }
    }

    /// Sends an event to the next stage, unless the session is shutting down.
    pub(super) fn send_event(&self, event: ConnectionEvent) -> Result<(), PipelineClosed> {
        self.state.intake.as_ref().map_or(Ok(()), |intake| intake.send_event(event))
    }
}
