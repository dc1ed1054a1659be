//! What the session remembers beyond its pipeline: what was noticed and is not written down yet must
//! not be forgotten when a stage falls and all stages are built anew, nor, where there is a
//! [`Record`], when the process dies.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::hold::Hold;
use super::record::{Record, Unsaid};
use crate::message::{ConnectionNews, Gap, GapCause};

/// The memory.
#[derive(Debug)]
pub struct Memory {
    /// How long acknowledgements have been held.
    pub hold: Hold,
    gap: Option<Held>,
    /// How often the broker said that it had lost the session, as far as that is not durable yet.
    lost_sessions: usize,
    record: Record,
    /// Whether the record of the process before was read.
    recalled: bool,
}

/// Acknowledgements are or were held for too long, and none has left since.
#[derive(Debug)]
struct Held {
    gap: Gap,
    /// Whether that is durable: before, no acknowledgement may leave.
    noted: bool,
}

impl Memory {
    /// Of a process that has just started. `grace` is `mqtt.queue_grace`.
    pub fn new(grace: Duration, record: Record) -> Self {
        let hold = Hold::new(grace);
        Self { hold, gap: None, lost_sessions: 0, record, recalled: false }
    }

    /// Whether what is durable may be acknowledged: not before a possible loss is durable too.
    pub fn acks_may_leave(&self) -> bool {
        self.gap.as_ref().is_none_or(|held| held.noted)
    }

    /// The gap to be written down, when acknowledgements have been held for too long; once for
    /// each such time.
    pub fn overdue(
        &mut self,
        now: Instant,
        at: OffsetDateTime,
        describe: impl FnOnce(Duration) -> (String, GapCause, String),
    ) -> Option<Gap> {
        if self.gap.is_some() {
            return None;
        }
        let held = self.hold.overdue(now)?;
        let (client_id, cause, detail) = describe(held);
        let gap = Gap { client_id, started_at: at - held, ended_at: None, cause, detail };
        self.gap = Some(Held { gap: gap.clone(), noted: false });
        self.keep_record();
        Some(gap)
    }

    /// Acknowledgements left; the gap that thereby ended, to be written down. One that is not durable
    /// does not end: what left was under way when it was noticed.
    pub fn acknowledged(&mut self, at: OffsetDateTime) -> Option<Gap> {
        self.hold.acknowledged();
        let held = self.gap.take_if(|held| held.noted)?;
        Some(Gap { ended_at: Some(at), ..held.gap })
    }

    /// Takes note of a CONNACK; returns whether the session is to be told as present. `first` is
    /// the first of a pipeline: it tells again of a loss that an earlier one took with it, or an
    /// earlier process, which is recalled only now that this one has the session.
    pub fn opened(&mut self, first: bool, session_present: bool) -> bool {
        self.recall();
        let told_present = session_present && !(first && self.lost_sessions > 0);
        if first {
            self.lost_sessions = 0;
        }
        self.lost_sessions += usize::from(!told_present);
        self.keep_record();
        told_present
    }

    fn recall(&mut self) {
        if std::mem::replace(&mut self.recalled, true) {
            return;
        }
        let Unsaid { lost_session, gap } = self.record.read();
        self.lost_sessions += usize::from(lost_session);
        self.gap = self.gap.take().or(gap.map(|gap| Held { gap, noted: false }));
    }

    fn keep_record(&mut self) {
        let unsaid = Unsaid { lost_session: self.lost_sessions > 0, gap: self.unsaid_gap() };
        self.record.keep(unsaid);
    }

    /// The gap that an earlier pipeline took with it before it was written down.
    pub fn unsaid_gap(&self) -> Option<Gap> {
        self.gap.as_ref().filter(|held| !held.noted).map(|held| held.gap.clone())
    }

    /// Something is durable.
    pub fn noted(&mut self, news: &ConnectionNews) {
        match news {
            ConnectionNews::Gap(gap) => {
                if let Some(held) = &mut self.gap
                    && held.gap.started_at == gap.started_at
                    && held.gap.cause == gap.cause
                {
                    held.noted = true;
                }
            }
            ConnectionNews::Opened { session_present: false, .. } => {
                self.lost_sessions = self.lost_sessions.saturating_sub(1);
            }
            _ => {}
        }
        self.keep_record();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn overdue(memory: &mut Memory, now: Instant) -> Option<Gap> {
        let describe = |_| ("acme-bridge".into(), GapCause::Backpressure, "held".into());
        memory.overdue(now, OffsetDateTime::UNIX_EPOCH, describe)
    }

    fn held() -> (Memory, Gap, Instant) {
        let start = Instant::now();
        let mut memory = Memory::new(GRACE, Record::default());
        memory.hold.received(1, false, start);
        let late = start + 2 * GRACE;
        let gap = overdue(&mut memory, late).unwrap();
        (memory, gap, late)
    }

    fn opened_lost() -> ConnectionNews {
        ConnectionNews::Opened {
            connection: crate::message::ConnectionName {
                client_id: "acme-bridge".into(),
                instance: uuid::Uuid::nil(),
                id: crate::message::ConnectionId(1),
            },
            at: OffsetDateTime::UNIX_EPOCH,
            session_present: false,
            filters: vec![],
            spool_dir: None,
        }
    }

    #[test]
    fn nothing_leaves_between_noticing_a_gap_and_its_being_durable() {
        let (mut memory, gap, late) = held();
        assert_eq!(gap.started_at, OffsetDateTime::UNIX_EPOCH - 2 * GRACE);
        assert!(!memory.acks_may_leave());
        assert_eq!(overdue(&mut memory, late), None, "told once");
        let other = Gap { started_at: OffsetDateTime::UNIX_EPOCH, ..gap.clone() };
        memory.noted(&ConnectionNews::Gap(other));
        assert!(!memory.acks_may_leave(), "another gap is not this one");
        memory.noted(&ConnectionNews::Gap(gap));
        assert!(memory.acks_may_leave());
    }

    #[test]
    fn the_first_acknowledgement_ends_the_gap() {
        let (mut memory, gap, _) = held();
        memory.noted(&ConnectionNews::Gap(gap.clone()));
        let at = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(memory.acknowledged(at), Some(Gap { ended_at: Some(at), ..gap }));
        assert_eq!(memory.acknowledged(at), None);
    }

    #[test]
    fn a_gap_that_a_fallen_pipeline_took_with_it_is_told_again() {
        let (mut memory, gap, _) = held();
        assert_eq!(memory.unsaid_gap(), Some(gap.clone()));
        memory.noted(&ConnectionNews::Gap(gap));
        assert_eq!(memory.unsaid_gap(), None);
    }

    #[test]
    fn what_a_process_took_with_it_is_told_by_the_next_that_has_the_session() {
        let folder = tempfile::tempdir().unwrap();
        let process = || Memory::new(GRACE, Record::within(Some(folder.path()), "acme-bridge"));
        let mut dead = process();
        dead.opened(true, false);
        dead.hold.received(1, false, Instant::now());
        let gap = overdue(&mut dead, Instant::now() + 2 * GRACE);
        let mut next = process();
        assert!(next.acks_may_leave(), "it does not have the session yet");
        assert!(!next.opened(true, true));
        assert!(!next.acks_may_leave());
        assert_eq!(next.unsaid_gap(), gap);
        next.noted(&ConnectionNews::Gap(gap.unwrap()));
        next.noted(&opened_lost());
        assert!(process().opened(true, true), "all is said");
    }

    #[test]
    fn a_lost_session_is_told_again_by_the_next_pipeline_and_never_by_the_same_one() {
        let mut memory = Memory::new(GRACE, Record::default());
        assert!(!memory.opened(true, false));
        assert!(memory.opened(false, true), "it was told, in line with what follows");
        assert!(!memory.opened(true, true), "nobody wrote it down");
        memory.noted(&opened_lost());
        assert!(memory.opened(true, true));
    }
}
