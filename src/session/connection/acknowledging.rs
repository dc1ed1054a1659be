//! PUBACKs: which may leave, and which gap must be durable before they do.

use tokio::time::Instant;

use super::{BrokerConnection, DisconnectReason};
use crate::connection_event::ConnectionEvent;
use crate::message::Feedback;
use crate::session::feedback::apply_committed;
use crate::session::intake_sender::PipelineClosed;
use crate::session::ledger::AckPacket;
use crate::session::transport::OutgoingPacket;

impl BrokerConnection<'_> {
    /// Applies the answer of the stages behind. `None` where their channel is closed.
    pub(super) fn apply_feedback(
        &mut self,
        feedback: Option<Feedback>,
    ) -> Result<(), DisconnectReason> {
        match feedback {
            Some(Feedback::Committed(committed)) => {
                // The last moment to notice: the acknowledgements released here end a stall.
                self.note_stall()?;
                apply_committed(self.state.context, self.state.ledger, committed);
            }
            Some(Feedback::Persisted(event)) => self.state.gaps.persisted(&event),
            Some(Feedback::Unsubscribe(filters)) => self.unsubscribe(filters),
            None => {}
        }
        Ok(())
    }

    /// Queues the acknowledgements that may leave.
    pub(super) fn release_acks(&mut self) {
        if !self.state.gaps.acks_may_leave() {
            return;
        }
        let packets = self.state.ledger.release().map(|answer| match answer {
            AckPacket::Puback(packet_id) => OutgoingPacket::PubAck(packet_id),
            AckPacket::Pubrec(packet_id) => OutgoingPacket::PubRec(packet_id),
        });
        self.outgoing.extend(packets);
    }

    /// Returns how many deliveries of this connection the broker has no answer to.
    pub(super) fn unacked(&self) -> usize {
        self.state.ledger.outstanding() + self.refused
    }

    /// Reports a possible loss when acknowledgements have been held for too long. From then on none
    /// leaves before that is durable. While stopping nothing can be reported any more: then they stay
    /// unsent, and the next process acknowledges.
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
            detail = gap.detail,
            "the broker's queue may overflow"
        );
        self.send_event(ConnectionEvent::Gap(gap))
    }

    /// Counts acknowledgements that left, and reports the end of a gap with the first.
    pub(super) fn acknowledged(&mut self, count: u64) -> Result<(), PipelineClosed> {
        if count == 0 {
            return Ok(());
        }
        self.state.context.metrics.acks.inc_by(count);
        let (unacked, now) = (self.unacked(), Instant::now());
        match self.state.gaps.acknowledged(unacked, now, self.state.context.now_utc()) {
            Some(gap) => self.send_event(ConnectionEvent::Gap(gap)),
            None => Ok(()),
        }
    }

    /// Passes an event on, unless the session is stopping.
    pub(super) fn send_event(&self, event: ConnectionEvent) -> Result<(), PipelineClosed> {
        self.state.intake.as_ref().map_or(Ok(()), |intake| intake.send_event(event))
    }
}
