//! Remembers possible losses until they are durable in the database: beyond the pipeline that noticed
//! them and, where there is a [`GapState`](super::gap_state_file::GapState), beyond the process. While
//! one of them is not durable, no acknowledgement may leave.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::ack_stall::AckStallDetector;
use super::gap_state_file::PendingGaps;
use crate::message::{ConnectionNews, Gap, GapCause};

/// Tracks the gaps of one session.
#[derive(Debug)]
pub struct GapTracker {
    /// Detects acknowledgements that are held for too long.
    pub stall: AckStallDetector,
    /// Acknowledgements are or were held for too long, and none has left since.
    held: Option<OpenGap>,
    /// QoS-0 messages were dropped for want of room.
    dropped: Option<Drops>,
    /// How often the broker said that it had lost the session, as far as that is not durable yet.
    lost_sessions: usize,
    /// True once the state of an earlier process was taken over.
    recalled: bool,
    /// The state as it was last handed to the file.
    saved: PendingGaps,
}

#[derive(Debug)]
struct OpenGap {
    gap: Gap,
    durable: bool,
}

#[derive(Debug)]
struct Drops {
    open: OpenGap,
    messages: u64,
}

impl GapTracker {
    /// Makes the tracker of a process that has just started. `grace` is `mqtt.queue_grace`.
    pub fn new(grace: Duration) -> Self {
        Self {
            stall: AckStallDetector::new(grace),
            held: None,
            dropped: None,
            lost_sessions: 0,
            recalled: false,
            saved: PendingGaps::default(),
        }
    }

    /// Returns true if durable messages may be acknowledged: not before every possible loss that was
    /// noticed is durable too.
    pub fn acks_may_leave(&self) -> bool {
        let dropped = self.dropped.as_ref().map(|drops| &drops.open);
        self.held.iter().chain(dropped).all(|open| open.durable)
    }

    /// Returns the gap to be stored when acknowledgements have been held for too long, once for each
    /// such time.
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

    /// Notes that acknowledgements left, and how many deliveries still wait for theirs. Returns the gap that thereby ended, to be stored. One that is
    /// not durable does not end, because those acknowledgements were under way when it was noticed.
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

    /// Notes a QoS-0 message that was dropped. Returns the gap to be stored, for the first of a row.
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
        self.dropped = Some(Drops { open, messages: 1 });
        Some(gap)
    }

    /// Ends a row of dropped QoS-0 messages. Returns the gap to be stored, with their number.
    pub fn end_drops(&mut self, at: OffsetDateTime) -> Option<Gap> {
        let drops = self.dropped.as_mut().filter(|drops| drops.open.gap.ended_at.is_none())?;
        drops.open.gap.ended_at = Some(at);
        drops.open.gap.detail =
            format!("{} QoS-0 messages were dropped: mqtt.max_unacked was reached", drops.messages);
        drops.open.durable = false;
        Some(drops.open.gap.clone())
    }

    /// Notes a CONNACK. Returns whether the session is to be reported as present. `first` is the first
    /// connection of a pipeline: it reports a loss again that an earlier pipeline or process noticed
    /// and did not store.
    pub fn opened(&mut self, first: bool, session_present: bool) -> bool {
        let reported_present = session_present && !(first && self.lost_sessions > 0);
        if first {
            self.lost_sessions = 0;
        }
        self.lost_sessions += usize::from(!reported_present);
        reported_present
    }

    /// Returns true until [`Self::recall`] was called. The file is read only once this process has
    /// the session: until then another one may write it.
    pub fn needs_recall(&self) -> bool {
        !self.recalled
    }

    /// Takes over the gaps that an earlier process noticed and did not store.
    /// That process ended at `at` or before.
    pub fn recall(&mut self, pending: PendingGaps, at: OffsetDateTime) {
        self.recalled = true;
        self.saved = pending.clone();
        self.lost_sessions += usize::from(pending.lost_session);
        let open = |gap| OpenGap { gap, durable: false };
        if self.held.is_none() {
            self.held = pending.gap.map(open);
        }
        if self.dropped.is_none() {
            self.dropped = pending.dropped.map(|mut gap| {
                gap.ended_at.get_or_insert(at);
                Drops { open: open(gap), messages: 0 }
            });
        }
    }

    /// Returns the gaps that an earlier pipeline or process noticed and did not store.
    pub fn pending_gaps(&self) -> Vec<Gap> {
        let PendingGaps { gap, dropped, .. } = self.pending();
        gap.into_iter().chain(dropped).collect()
    }

    fn pending(&self) -> PendingGaps {
        let pending = |open: &OpenGap| (!open.durable).then(|| open.gap.clone());
        PendingGaps {
            lost_session: self.lost_sessions > 0,
            gap: self.held.as_ref().and_then(pending),
            dropped: self.dropped.as_ref().and_then(|drops| pending(&drops.open)),
        }
    }

    /// Returns the state to be handed to the file, if it has changed since the last call.
    pub fn take_unsaved(&mut self) -> Option<PendingGaps> {
        let pending = self.pending();
        if !self.recalled || pending == self.saved {
            return None;
        }
        self.saved = pending.clone();
        Some(pending)
    }

    /// Notes that an event is durable.
    pub fn persisted(&mut self, event: &ConnectionNews) {
        match event {
            ConnectionNews::Gap(gap) => self.gap_persisted(gap),
            ConnectionNews::Opened { session_present: false, .. } => {
                self.lost_sessions = self.lost_sessions.saturating_sub(1);
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
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);
    const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn overdue(tracker: &mut GapTracker, now: Instant) -> Option<Gap> {
        let describe = |_| ("acme-bridge".into(), GapCause::Backpressure, "held".into());
        tracker.overdue(now, AT, describe)
    }

    fn held() -> (GapTracker, Gap, Instant) {
        let start = Instant::now();
        let mut tracker = GapTracker::new(GRACE);
        tracker.recall(PendingGaps::default(), AT);
        tracker.stall.received(1, false, start);
        let late = start + 2 * GRACE;
        let gap = overdue(&mut tracker, late).unwrap();
        (tracker, gap, late)
    }

    fn opened_lost() -> ConnectionNews {
        ConnectionNews::Opened {
            connection: crate::message::ConnectionName {
                client_id: "acme-bridge".into(),
                instance: uuid::Uuid::nil(),
                id: crate::ack::ConnectionId(1),
            },
            at: AT,
            session_present: false,
            filters: vec![],
            spool_dir: None,
        }
    }

    #[test]
    fn acks_wait_for_the_gap_row() {
        let (mut tracker, gap, late) = held();
        assert_eq!(gap.started_at, AT - 2 * GRACE);
        assert!(!tracker.acks_may_leave());
        assert_eq!(overdue(&mut tracker, late), None, "reported once");
        let other = Gap { started_at: AT, ..gap.clone() };
        tracker.persisted(&ConnectionNews::Gap(other));
        assert!(!tracker.acks_may_leave(), "another gap is not this one");
        tracker.persisted(&ConnectionNews::Gap(gap));
        assert!(tracker.acks_may_leave());
    }

    #[test]
    fn the_first_acknowledgement_ends_the_gap() {
        let (mut tracker, gap, late) = held();
        tracker.persisted(&ConnectionNews::Gap(gap.clone()));
        assert_eq!(tracker.acknowledged(0, late, AT), Some(Gap { ended_at: Some(AT), ..gap }));
        assert_eq!(tracker.acknowledged(0, late, AT), None);
    }

    #[test]
    fn an_unstored_gap_is_pending() {
        let (mut tracker, gap, _) = held();
        assert_eq!(tracker.pending_gaps(), std::slice::from_ref(&gap));
        tracker.persisted(&ConnectionNews::Gap(gap));
        assert_eq!(tracker.pending_gaps(), []);
    }

    #[test]
    fn the_next_process_reports_unstored_gaps() {
        let (mut dead, gap, _) = held();
        dead.opened(true, false);
        let saved = dead.take_unsaved().unwrap();
        assert_eq!(dead.take_unsaved(), None, "nothing has changed since");
        let mut next = GapTracker::new(GRACE);
        assert!(next.acks_may_leave(), "it does not have the session yet");
        next.recall(saved, AT);
        assert!(!next.opened(true, true));
        assert!(!next.acks_may_leave());
        assert_eq!(next.pending_gaps(), std::slice::from_ref(&gap));
        next.persisted(&ConnectionNews::Gap(gap));
        next.persisted(&opened_lost());
        assert_eq!(next.take_unsaved(), Some(PendingGaps::default()));
        assert!(next.opened(true, true), "everything is stored");
    }

    #[test]
    fn only_another_pipeline_reports_a_loss_again() {
        let mut tracker = GapTracker::new(GRACE);
        assert!(tracker.opened(true, true));
        assert!(!tracker.opened(false, false));
        assert!(tracker.opened(false, true), "it was reported, in line with the messages");
        assert!(!tracker.opened(true, true), "nobody stored it");
        tracker.persisted(&opened_lost());
        assert!(tracker.opened(true, true));
    }

    #[test]
    fn dropped_messages_are_one_gap_until_it_ends() {
        let mut tracker = GapTracker::new(GRACE);
        let first = tracker.drop_message("acme-bridge", AT).unwrap();
        assert_eq!(tracker.drop_message("acme-bridge", AT), None);
        assert!(!tracker.acks_may_leave());
        tracker.persisted(&ConnectionNews::Gap(first));
        assert!(tracker.acks_may_leave());
        let ended = tracker.end_drops(AT).unwrap();
        assert!(ended.detail.starts_with("2 QoS-0 messages"), "{}", ended.detail);
        assert!(!tracker.acks_may_leave(), "their number is not stored yet");
        assert_eq!(tracker.end_drops(AT), None);
        tracker.persisted(&ConnectionNews::Gap(ended));
        assert!(tracker.acks_may_leave());
        assert!(tracker.drop_message("acme-bridge", AT).is_some(), "a new row of drops");
    }
}
