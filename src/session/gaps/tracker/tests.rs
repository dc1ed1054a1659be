use uuid::Uuid;

use super::*;
use crate::stream::ack::ConnectionId;
use crate::stream::connection_event::ConnectionName;

const GRACE: Duration = Duration::from_secs(10);
const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn overdue(tracker: &mut GapTracker, now: Instant) -> Option<Gap> {
    let describe = |_| ("acme-bridge".into(), GapCause::Backpressure, "held".into());
    tracker.overdue(now, AT, describe)
}

fn held() -> (GapTracker, Gap, Instant) {
    let start = Instant::now();
    let mut tracker = started();
    tracker.stall.received(1, false, start);
    let late = start + 2 * GRACE;
    let gap = overdue(&mut tracker, late).unwrap();
    (tracker, gap, late)
}

/// The event of connection `id`, `id` seconds after the start.
fn connection(id: u64, session_present: bool) -> ConnectionEvent {
    ConnectionEvent::Opened {
        connection: ConnectionName {
            client_id: "acme-bridge".into(),
            instance: Uuid::nil(),
            id: ConnectionId(id),
        },
        at: AT + Duration::from_secs(id),
        session_present,
        filters: vec![],
        spool_dir: None,
    }
}

fn present(id: u64) -> ConnectionEvent {
    connection(id, true)
}

fn new(id: u64) -> ConnectionEvent {
    connection(id, false)
}

/// Returns the tracker of a process that starts after the death of another.
fn after(dead: &GapTracker) -> GapTracker {
    let mut next = GapTracker::new(GRACE);
    next.restore(dead.unsaved().unwrap(), AT);
    next
}

fn started() -> GapTracker {
    let mut tracker = GapTracker::new(GRACE);
    tracker.restore(PendingGaps::default(), AT);
    tracker
}

#[test]
fn acks_wait_for_the_gap_row() {
    let (mut tracker, gap, late) = held();
    assert_eq!(gap.started_at, AT - 2 * GRACE);
    assert!(!tracker.acks_may_leave());
    assert_eq!(overdue(&mut tracker, late), None, "reported once");
    let other = Gap { started_at: AT, ..gap.clone() };
    tracker.persisted(&ConnectionEvent::Gap(other));
    assert!(!tracker.acks_may_leave(), "another gap is not this one");
    tracker.persisted(&ConnectionEvent::Gap(gap));
    assert!(tracker.acks_may_leave());
}

#[test]
fn acks_wait_until_a_new_session_is_stored() {
    let mut tracker = GapTracker::new(GRACE);
    assert_eq!(tracker.opened(true, new(1)), [new(1)]);
    assert!(!tracker.acks_may_leave());
    tracker.persisted(&new(1));
    assert!(tracker.acks_may_leave());
}

#[test]
fn first_acknowledgement_ends_the_gap() {
    let (mut tracker, gap, late) = held();
    tracker.persisted(&ConnectionEvent::Gap(gap.clone()));
    assert_eq!(tracker.acknowledged(0, late, AT), Some(Gap { ended_at: Some(AT), ..gap }));
    assert_eq!(tracker.acknowledged(0, late, AT), None);
}

#[test]
fn unstored_gap_is_pending() {
    let (mut tracker, gap, _) = held();
    assert_eq!(tracker.pending_gaps(), std::slice::from_ref(&gap));
    tracker.persisted(&ConnectionEvent::Gap(gap));
    assert_eq!(tracker.pending_gaps(), []);
}

#[test]
fn next_process_reports_unstored_gaps() {
    let (mut dead, gap, _) = held();
    let gap = ConnectionEvent::Gap(gap);
    assert_eq!(dead.opened(true, new(1)), [new(1), gap.clone()]);
    let saved = dead.unsaved().unwrap();
    dead.saved(saved.clone());
    assert_eq!(dead.unsaved(), None, "nothing has changed since");
    let mut next = GapTracker::new(GRACE);
    assert!(next.acks_may_leave(), "it does not have the session yet");
    next.restore(saved, AT);
    assert_eq!(next.opened(true, present(2)), [new(1), present(2), gap.clone()]);
    next.persisted(&gap);
    next.persisted(&present(2));
    assert!(!next.acks_may_leave());
    next.persisted(&new(1));
    assert!(next.acks_may_leave());
    assert_eq!(next.unsaved(), Some(PendingGaps::default()));
    assert_eq!(next.opened(true, present(3)), [present(3)], "everything is stored");
}

#[test]
fn only_another_pipeline_reports_a_loss_again() {
    let mut tracker = GapTracker::new(GRACE);
    assert_eq!(tracker.opened(true, present(1)), [present(1)]);
    tracker.persisted(&present(1));
    assert_eq!(tracker.opened(false, new(2)), [new(2)]);
    let second = tracker.opened(false, present(3));
    assert_eq!(second, [present(3)], "it was reported, in line with the messages");
    let again = tracker.opened(true, present(4));
    assert_eq!(again, [new(2), present(4)], "no process stored it");
    tracker.persisted(&new(2));
    assert_eq!(tracker.opened(true, present(5)), [present(5)]);
}

#[test]
fn gaps_of_the_process_between_are_restored() {
    let (other, gap, _) = held();
    let mut tracker = started();
    tracker.stand_by();
    assert_eq!(tracker.unsaved(), None, "the file is the other's");
    assert!(tracker.needs_restore());
    tracker.restore(other.unsaved().unwrap(), AT);
    assert_eq!(tracker.pending_gaps(), [gap]);
}

#[test]
fn session_new_twice_was_lost_between() {
    let mut dead = started();
    dead.opened(true, new(1));
    let mut next = after(&dead);
    let events = next.opened(true, new(2));
    let [_, _, ConnectionEvent::Gap(gap)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(events[..2], [new(1), new(2)]);
    let (first, second) = (AT + Duration::from_secs(1), AT + Duration::from_secs(2));
    assert_eq!((gap.started_at, gap.ended_at), (first, Some(second)));
    assert_eq!(gap.cause, GapCause::SessionLost);
    assert!(!next.acks_may_leave());
    let mut third = after(&next);
    let gap = ConnectionEvent::Gap(gap.clone());
    assert_eq!(third.opened(true, present(3)), [new(2), present(3), gap.clone()]);
    let mut fourth = after(&next);
    let events = fourth.opened(true, new(4));
    let whole = |last: &ConnectionEvent| matches!(last, ConnectionEvent::Gap(gap) if gap.started_at == first);
    assert!(events.last().is_some_and(whole), "nothing was stored yet");
    third.persisted(&new(2));
    third.persisted(&gap);
    assert_eq!(third.unsaved(), Some(PendingGaps::default()));
    assert!(third.acks_may_leave());
}

#[test]
fn dropped_messages_are_one_gap_until_it_ends() {
    let mut tracker = GapTracker::new(GRACE);
    let first = tracker.drop_message("acme-bridge", AT).unwrap();
    assert_eq!(tracker.drop_message("acme-bridge", AT), None);
    assert!(!tracker.acks_may_leave());
    tracker.persisted(&ConnectionEvent::Gap(first));
    assert!(tracker.acks_may_leave());
    let ended = tracker.end_drops(AT).unwrap();
    assert!(ended.detail.starts_with("2 QoS-0 messages"), "{}", ended.detail);
    assert!(!tracker.acks_may_leave(), "their number is not stored yet");
    assert_eq!(tracker.end_drops(AT), None);
    tracker.persisted(&ConnectionEvent::Gap(ended));
    assert!(tracker.acks_may_leave());
    assert!(tracker.drop_message("acme-bridge", AT).is_some(), "a new row of drops");
}

#[test]
fn resumed_session_is_no_pending_loss() {
    let mut tracker = started();
    assert_eq!(tracker.opened(true, present(1)), [present(1)]);
    assert_eq!(tracker.unsaved(), None);
}

#[test]
fn loss_of_an_earlier_version_is_reported_once() {
    let mut tracker = GapTracker::new(GRACE);
    tracker.restore(PendingGaps { lost_session: true, ..PendingGaps::default() }, AT);
    assert_eq!(tracker.opened(true, present(1)), [new(1)]);
    assert_eq!(tracker.opened(false, present(2)), [present(2)]);
    assert_eq!(after(&tracker).opened(true, present(3)), [new(1), present(3)]);
}
