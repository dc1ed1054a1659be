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
    tracker.restore(PendingGaps::default(), AT);
    tracker.stall.received(1, false, start);
    let late = start + 2 * GRACE;
    let gap = overdue(&mut tracker, late).unwrap();
    (tracker, gap, late)
}

fn opened_lost() -> ConnectionEvent {
    ConnectionEvent::Opened {
        connection: crate::stream::connection_event::ConnectionName {
            client_id: "acme-bridge".into(),
            instance: uuid::Uuid::nil(),
            id: crate::stream::ack::ConnectionId(1),
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
    tracker.persisted(&ConnectionEvent::Gap(other));
    assert!(!tracker.acks_may_leave(), "another gap is not this one");
    tracker.persisted(&ConnectionEvent::Gap(gap));
    assert!(tracker.acks_may_leave());
}

#[test]
fn acks_wait_until_a_new_session_is_stored() {
    let mut tracker = GapTracker::new(GRACE);
    tracker.opened(true, false, "acme-bridge", AT);
    assert!(!tracker.acks_may_leave());
    tracker.persisted(&opened_lost());
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
    dead.opened(true, false, "acme-bridge", AT);
    let saved = dead.unsaved().unwrap();
    dead.saved(saved.clone());
    assert_eq!(dead.unsaved(), None, "nothing has changed since");
    let mut next = GapTracker::new(GRACE);
    assert!(next.acks_may_leave(), "it does not have the session yet");
    next.restore(saved, AT);
    assert!(!next.opened(true, true, "acme-bridge", AT));
    assert!(!next.acks_may_leave());
    assert_eq!(next.pending_gaps(), std::slice::from_ref(&gap));
    next.persisted(&ConnectionEvent::Gap(gap));
    next.persisted(&opened_lost());
    assert_eq!(next.unsaved(), Some(PendingGaps::default()));
    assert!(next.opened(true, true, "acme-bridge", AT), "everything is stored");
}

#[test]
fn only_another_pipeline_reports_a_loss_again() {
    let mut tracker = GapTracker::new(GRACE);
    assert!(tracker.opened(true, true, "acme-bridge", AT));
    assert!(!tracker.opened(false, false, "acme-bridge", AT));
    assert!(
        tracker.opened(false, true, "acme-bridge", AT),
        "it was reported, in line with the messages"
    );
    assert!(!tracker.opened(true, true, "acme-bridge", AT), "no process stored it");
    tracker.persisted(&opened_lost());
    assert!(tracker.opened(true, true, "acme-bridge", AT));
}

#[test]
fn gaps_of_the_process_between_are_restored() {
    let (other, gap, _) = held();
    let mut tracker = GapTracker::new(GRACE);
    tracker.restore(PendingGaps::default(), AT);
    tracker.stand_by();
    assert_eq!(tracker.unsaved(), None, "the file is the other's");
    assert!(tracker.needs_restore());
    tracker.restore(other.unsaved().unwrap(), AT);
    assert_eq!(tracker.pending_gaps(), [gap]);
}

#[test]
fn session_new_twice_was_lost_between() {
    let mut dead = GapTracker::new(GRACE);
    dead.restore(PendingGaps::default(), AT);
    dead.opened(true, false, "acme-bridge", AT);
    let later = AT + Duration::from_secs(5);
    let mut next = GapTracker::new(GRACE);
    next.restore(dead.unsaved().unwrap(), later);
    assert!(!next.opened(true, false, "acme-bridge", later));
    let [gap] = next.pending_gaps().try_into().unwrap();
    assert_eq!((gap.started_at, gap.ended_at), (AT, Some(later)));
    assert_eq!(gap.cause, GapCause::SessionLost);
    assert!(!next.acks_may_leave());
    let mut third = GapTracker::new(GRACE);
    third.restore(next.unsaved().unwrap(), later);
    assert!(!third.opened(true, true, "acme-bridge", later), "nothing was stored yet");
    assert_eq!(third.pending_gaps(), std::slice::from_ref(&gap));
    third.persisted(&opened_lost());
    third.persisted(&ConnectionEvent::Gap(gap));
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
    let mut tracker = GapTracker::new(GRACE);
    tracker.restore(PendingGaps::default(), AT);
    assert!(tracker.opened(true, true, "acme-bridge", AT));
    assert_eq!(tracker.unsaved(), None);
}
