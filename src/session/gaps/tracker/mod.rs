//! Tracks gaps until they are durable in the database: beyond the pipeline that detected them and,
//! with a [`GapState`](super::gaps::GapState), beyond the process. No acknowledgement may be sent
//! while one of them is not durable.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{AckStallDetector, PendingGaps};
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::gap::{Gap, GapCause};

/// Tracker of the gaps of one session.
#[derive(Debug)]
pub struct GapTracker {
    /// Detects acknowledgements that are held too long.
    pub stall: AckStallDetector,
    /// Gap for acknowledgements held too long. Ends with the next acknowledgement sent.
    held: Option<OpenGap>,
    /// Gap for QoS-0 messages dropped at `mqtt.max_unacked`.
    dropped: Option<DroppedMessages>,
    /// The last connection on which the broker reported a new session, unless it is durable. Its
    /// gap covers the losses that earlier such connections would have had.
    new_session: Option<ConnectionEvent>,
    /// True if an earlier version reported a new session, without its connection.
    lost_session: bool,
    /// Creation time of a session that the database may have no row for.
    unknown_since: Option<OffsetDateTime>,
    /// True once the database has a row for a session.
    known: bool,
    /// Gap for a session that the broker lost and that the database may have no row for.
    lost: Option<OpenGap>,
    restored: RestoreState,
    /// Content of the state file.
    saved: PendingGaps,
}

/// State of the restore of gaps that an earlier process detected.
#[derive(Debug, PartialEq)]
enum RestoreState {
    /// The state file must be read.
    Due,
    /// It was read, and no CONNACK has arrived since.
    Fresh,
    Done,
}

#[derive(Debug)]
struct OpenGap {
    gap: Gap,
    durable: bool,
}

#[derive(Debug)]
struct DroppedMessages {
    open: OpenGap,
    messages: u64,
}

impl GapTracker {
    /// Creates the tracker of a process that has just started. `grace` is `mqtt.queue_grace`.
    pub fn new(grace: Duration) -> Self {
        Self {
            stall: AckStallDetector::new(grace),
            held: None,
            dropped: None,
            new_session: None,
            lost_session: false,
            unknown_since: None,
            known: false,
            lost: None,
            restored: RestoreState::Due,
            saved: PendingGaps::default(),
        }
    }

    /// Returns true if durable messages may be acknowledged, which is once every detected gap is
    /// durable too.
    pub fn acks_may_leave(&self) -> bool {
        let dropped = self.dropped.as_ref().map(|drops| &drops.open);
        let gaps_are_durable =
            self.held.iter().chain(dropped).chain(&self.lost).all(|open| open.durable);
        gaps_are_durable && self.new_session.is_none()
    }

    /// Returns a gap to be stored if acknowledgements have been held too long, once per stall.
    pub fn overdue(
        &mut self,
        now: Instant,
        at: OffsetDateTime,
        describe: impl FnOnce(Duration) -> (String, GapCause, String),
    ) -> Option<Gap> {
        if self.held.is_some() {
            return None;
        }
        let held = self.stall.overdue(now)?;
        let (client_id, cause, detail) = describe(held);
        let gap = Gap { client_id, started_at: at - held, ended_at: None, cause, detail };
        self.held = Some(OpenGap { gap: gap.clone(), durable: false });
        Some(gap)
    }

    /// Records that acknowledgements were sent, with `unacked` deliveries remaining. Returns the
    /// gap that ends with them, to be stored. A gap that is not durable does not end, because those
    /// acknowledgements were already in flight when it was detected.
    pub fn acknowledged(
        &mut self,
        unacked: usize,
        now: Instant,
        at: OffsetDateTime,
    ) -> Option<Gap> {
        self.stall.acknowledged(unacked, now);
        let held = self.held.take_if(|held| held.durable)?;
        Some(Gap { ended_at: Some(at), ..held.gap })
    }

    /// Records a dropped QoS-0 message. Returns the gap to be stored for the first of consecutive
    /// drops.
    pub fn drop_message(&mut self, client_id: &str, at: OffsetDateTime) -> Option<Gap> {
        if let Some(drops) = &mut self.dropped {
            drops.messages += 1;
            return None;
        }
        let gap = Gap {
            client_id: client_id.to_owned(),
            started_at: at,
            ended_at: None,
            cause: GapCause::Backpressure,
            detail: "QoS-0 messages are dropped: mqtt.max_unacked was reached".to_owned(),
        };
        let open = OpenGap { gap: gap.clone(), durable: false };
        self.dropped = Some(DroppedMessages { open, messages: 1 });
        Some(gap)
    }

    /// Ends the gap of dropped QoS-0 messages. Returns it with their number, to be stored.
    pub fn end_drops(&mut self, at: OffsetDateTime) -> Option<Gap> {
        let drops = self.dropped.as_mut().filter(|drops| drops.open.gap.ended_at.is_none())?;
        drops.open.gap.ended_at = Some(at);
        drops.open.gap.detail =
            format!("{} QoS-0 messages were dropped: mqtt.max_unacked was reached", drops.messages);
        drops.open.durable = false;
        Some(drops.open.gap.clone())
    }

    /// Records a CONNACK, given the event of its connection. Returns the events to be stored, in this
    /// order. On the first connection of a pipeline (`first`), or after a restore, they begin with the
    /// connection on which an earlier pipeline or process detected a new session. That one may be
    /// stored, and is then the same row, so that a loss is never stored twice.
    pub fn opened(&mut self, first: bool, mut opened: ConnectionEvent) -> Vec<ConnectionEvent> {
        let mut events = Vec::new();
        if first || self.restored == RestoreState::Fresh {
            events.extend(self.new_session.clone());
        }
        if let ConnectionEvent::Opened { connection, at, session_present, .. } = &mut opened {
            if let Some(since) = self.unknown_since
                && !*session_present
            {
                self.lose_unknown_session(&connection.client_id, since.min(*at), *at);
            }
            if !self.known {
                self.unknown_since.get_or_insert(*at);
            }
            *session_present &= !std::mem::take(&mut self.lost_session);
            if !*session_present {
                self.new_session = Some(opened.clone());
            }
        }
        if self.restored == RestoreState::Fresh {
            self.restored = RestoreState::Done;
        }
        events.push(opened);
        events.extend(self.pending_gaps().into_iter().map(ConnectionEvent::Gap));
        events
    }

    /// Records the loss of a session. Without this gap, the database may take the new session for the
    /// first one ever, which would be no loss.
    fn lose_unknown_session(
        &mut self,
        client_id: &str,
        started_at: OffsetDateTime,
        ended_at: OffsetDateTime,
    ) {
        let gap = Gap {
            client_id: client_id.to_owned(),
            started_at,
            ended_at: Some(ended_at),
            cause: GapCause::SessionLost,
            detail: "the broker lost the session and the messages queued for it".to_owned(),
        };
        self.lost = Some(OpenGap { gap, durable: false });
    }

    /// Returns true if the state file must be read before connecting. It is read only once this
    /// process holds the lock, because until then another process may write it.
    pub fn needs_restore(&self) -> bool {
        self.restored == RestoreState::Due
    }

    /// Leaves the state file to the process that holds the lock now.
    pub fn stand_by(&mut self) {
        self.restored = RestoreState::Due;
    }

    /// Restores the gaps that an earlier process detected and did not store. That process ended at
    /// `at` or before.
    pub fn restore(&mut self, pending: PendingGaps, at: OffsetDateTime) {
        self.restored = RestoreState::Fresh;
        self.saved = pending.clone();
        if let Some(ConnectionEvent::Opened { at, .. }) = &pending.new_session {
            let lost = pending.lost.as_ref().map(|lost| lost.started_at);
            self.unknown_since = self.unknown_since.or(lost).or(Some(*at));
        }
        self.lost_session = pending.lost_session;
        self.new_session = pending.new_session.or(self.new_session.take());
        let open = |gap| OpenGap { gap, durable: false };
        if self.held.is_none() {
            self.held = pending.gap.map(open);
        }
        if self.lost.is_none() {
            self.lost = pending.lost.map(open);
        }
        if self.dropped.is_none() {
            self.dropped = pending.dropped.map(|mut gap| {
                gap.ended_at.get_or_insert(at);
                DroppedMessages { open: open(gap), messages: 0 }
            });
        }
    }

    /// Returns the gaps that an earlier pipeline or process detected and did not store.
    fn pending_gaps(&self) -> Vec<Gap> {
        let PendingGaps { gap, dropped, lost, .. } = self.pending();
        lost.into_iter().chain(gap).chain(dropped).collect()
    }

    fn pending(&self) -> PendingGaps {
        let pending = |open: &OpenGap| (!open.durable).then(|| open.gap.clone());
        PendingGaps {
            lost_session: self.lost_session,
            new_session: self.new_session.clone(),
            lost: self.lost.as_ref().and_then(pending),
            gap: self.held.as_ref().and_then(pending),
            dropped: self.dropped.as_ref().and_then(|drops| pending(&drops.open)),
        }
    }

    /// Returns the content to be saved if the state file does not have it yet.
    pub fn unsaved(&self) -> Option<PendingGaps> {
        let pending = self.pending();
        (!self.needs_restore() && pending != self.saved).then_some(pending)
    }

    /// Records the new content of the state file.
    pub fn saved(&mut self, pending: PendingGaps) {
        self.saved = pending;
    }

    /// Records that an event is durable in the database.
    pub fn persisted(&mut self, event: &ConnectionEvent) {
        match event {
            ConnectionEvent::Gap(gap) => self.gap_persisted(gap),
            ConnectionEvent::Opened { .. } => {
                _ = self.new_session.take_if(|opened| opened == event);
                (self.known, self.unknown_since) = (true, None);
            }
            _ => {}
        }
    }

    fn gap_persisted(&mut self, gap: &Gap) {
        if let Some(held) = &mut self.held
            && held.gap.started_at == gap.started_at
            && held.gap.cause == gap.cause
        {
            held.durable = true;
        }
        _ = self.lost.take_if(|lost| lost.gap == *gap);
        if let Some(drops) = &mut self.dropped
            && drops.open.gap == *gap
        {
            drops.open.durable = true;
        }
        // Another drop begins another gap.
        _ = self.dropped.take_if(|d| d.open.durable && d.open.gap.ended_at.is_some());
    }
}

#[cfg(test)]
mod tests;
