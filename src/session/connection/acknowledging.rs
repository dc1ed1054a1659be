//! PUBACKs: which may leave, and what must be durable before they do.

use std::time::Instant;

use time::OffsetDateTime;

use super::{Connection, End};
use crate::message::{ConnectionNews, Feedback};
use crate::session::intake::Gone;

impl Connection<'_> {
    /// What the stages behind say.
    pub(super) fn apply_feedback(&mut self, feedback: Option<Feedback>) -> Result<(), End> {
        match feedback {
            Some(Feedback::Committed(committed)) => {
                // The last moment to notice: what is released here may end the hold.
                self.note_hold()?;
                self.ledger.commit(committed.tokens(), self.acks.queue());
            }
            Some(Feedback::Noted(news)) => self.shared.memory().noted(&news),
            Some(Feedback::Unsubscribe(filters)) => self.unsubscribe(filters),
            None if !self.acks_may_leave() => self.acks.discard(),
            None => {}
        }
        if self.acks_may_leave() {
            self.acks.wake(&self.client);
        }
        Ok(())
    }

    /// Deliveries of this connection that the broker certainly has no answer to. An answer on its
    /// way does not count: the broker may have it, and have sent another message for it.
    pub(super) fn unacked(&self) -> usize {
        self.ledger.outstanding() + self.refused
    }

    pub(super) fn acks_may_leave(&self) -> bool {
        self.shared.memory().acks_may_leave()
    }

    /// Announces a possible loss when acknowledgements have been held for too long; from then on
    /// none leaves before that is durable. While stopping nothing can be announced any more: then
    /// they stay unsent, and the next process acknowledges.
    pub(super) fn note_hold(&mut self) -> Result<(), Gone> {
        let gap = self.shared.memory().overdue(Instant::now(), OffsetDateTime::now_utc(), |held| {
            let (cause, detail) = self.shared.describe_hold(held, self.unacked());
            (self.shared.mqtt.client_id.clone(), cause, detail)
        });
        let Some(gap) = gap else { return Ok(()) };
        tracing::warn!(
            cause = gap.cause.as_str(),
            detail = gap.detail,
            "the broker's queue may overflow"
        );
        self.door.as_ref().map_or(Ok(()), |door| door.announce(ConnectionNews::Gap(gap)))
    }

    /// Counts acknowledgements that left, and announces the end of a gap with the first.
    pub(super) fn acknowledged(&mut self, count: u64) -> Result<(), Gone> {
        if count == 0 {
            return Ok(());
        }
        self.shared.metrics.acks.inc_by(count);
        let ended = self.shared.memory().acknowledged(OffsetDateTime::now_utc());
        match (ended, self.door.as_ref()) {
            (Some(gap), Some(door)) => door.announce(ConnectionNews::Gap(gap)),
            _ => Ok(()),
        }
    }
}
