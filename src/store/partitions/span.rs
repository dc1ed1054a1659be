//! Ranges of partitions, and the range for an event. Pure: no database and no clock.

use time::{Date, Duration, Month, OffsetDateTime, Time};

use crate::config::PartitionSpan;
use crate::event::plausibility;
pub(in crate::store) use crate::event::plausibility::{EARLIEST, MAX_AHEAD as AHEAD};

/// A partition's bounds: `from` is in it, `to` is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct PartitionRange {
    pub from: OffsetDateTime,
    pub to: OffsetDateTime,
}

impl PartitionRange {
    /// Returns the span around `momentum`, in UTC. `None` at the end of the calendar.
    pub fn around(momentum: OffsetDateTime, span: PartitionSpan) -> Option<Self> {
        let date = momentum.to_offset(time::UtcOffset::UTC).date();
        let (from, to) = match span {
            PartitionSpan::Day => (date, date.next_day()?),
            PartitionSpan::Month => {
                let first = date.replace_day(1).ok()?;
                (first, next_month(first)?)
            }
        };
        Some(Self { from: midnight(from), to: midnight(to) })
    }

    /// Returns true if `momentum` lies in it.
    pub fn contains(&self, momentum: OffsetDateTime) -> bool {
        self.from <= momentum && momentum < self.to
    }

    /// Returns true if the two share a moment.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.from < other.to && other.from < self.to
    }

    /// Returns true if the other lies within it.
    pub fn covers(&self, other: &Self) -> bool {
        self.from <= other.from && other.to <= self.to
    }

    /// Returns the name of the partition: `item_event_y2026m11`, or with `d07` for a day or a part of one.
    pub fn table(&self) -> String {
        let (year, month) = (self.from.year(), u8::from(self.from.month()));
        if self.to - self.from > Duration::days(1) {
            format!("item_event_y{year:04}m{month:02}")
        } else {
            format!("item_event_y{year:04}m{month:02}d{:02}", self.from.day())
        }
    }

    /// Returns the bounds as SQL literals.
    pub fn literals(&self) -> (String, String) {
        let literal = |at: OffsetDateTime| {
            let at = at.to_offset(time::UtcOffset::UTC);
            let (date, (hour, minute, second, microsecond)) = (at.date(), at.to_hms_micro());
            format!("'{date} {hour:02}:{minute:02}:{second:02}.{microsecond:06}+00'")
        };
        (literal(self.from), literal(self.to))
    }
}

/// Returns true if a partition may be made for `momentum`.
pub(in crate::store) fn is_plausible(momentum: OffsetDateTime, now: OffsetDateTime) -> bool {
    plausibility::is_plausible(momentum, plausibility::latest(now))
}

/// Returns the range to make for `momentum` next to the `existing` ones: the configured span, or a day
/// where the span was configured differently before and part of it exists, or the part of the day
/// that is free. `None` if `momentum` lies in an existing one.
pub(in crate::store) fn range_to_make(
    momentum: OffsetDateTime,
    span: PartitionSpan,
    existing: &[PartitionRange],
) -> Option<PartitionRange> {
    [span, PartitionSpan::Day]
        .into_iter()
        .filter_map(|span| PartitionRange::around(momentum, span))
        .find(|range| !existing.iter().any(|e| e.overlaps(range)))
        .or_else(|| {
            free_part(PartitionRange::around(momentum, PartitionSpan::Day)?, momentum, existing)
        })
}

/// Returns the part of `range` around `momentum` that no existing one covers.
fn free_part(
    range: PartitionRange,
    momentum: OffsetDateTime,
    existing: &[PartitionRange],
) -> Option<PartitionRange> {
    if existing.iter().any(|e| e.contains(momentum)) {
        return None;
    }
    let before = existing.iter().map(|e| e.to).filter(|to| *to <= momentum).max();
    let after = existing.iter().map(|e| e.from).filter(|from| *from > momentum).min();
    let from = before.map_or(range.from, |to| to.max(range.from));
    let to = after.map_or(range.to, |from| from.min(range.to));
    Some(PartitionRange { from, to })
}

fn midnight(date: Date) -> OffsetDateTime {
    date.with_time(Time::MIDNIGHT).assume_utc()
}

fn next_month(first: Date) -> Option<Date> {
    let year = first.year() + i32::from(first.month() == Month::December);
    Date::from_calendar_date(year, first.month().next(), 1).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn moments() -> impl Strategy<Value = OffsetDateTime> {
        // 1970 to 2100.
        (0i64..4_102_444_800).prop_map(|s| OffsetDateTime::from_unix_timestamp(s).unwrap())
    }

    fn spans() -> impl Strategy<Value = PartitionSpan> {
        prop_oneof![Just(PartitionSpan::Day), Just(PartitionSpan::Month)]
    }

    proptest! {
        #[test]
        fn ranges_tile_time(at in moments(), span in spans()) {
            let range = PartitionRange::around(at, span).unwrap();
            prop_assert!(range.contains(at));
            let next = PartitionRange::around(range.to, span).unwrap();
            prop_assert_eq!(next.from, range.to);
            let last = PartitionRange::around(range.to - Duration::microseconds(1), span).unwrap();
            prop_assert_eq!(last, range);
        }

        #[test]
        fn what_is_made_never_overlaps_what_exists(
            moments in prop::collection::vec((moments(), spans()), 1..40)
        ) {
            let mut made: Vec<PartitionRange> = Vec::new();
            for (at, span) in moments {
                if made.iter().any(|r| r.contains(at)) { continue }
                let range = range_to_make(at, span, &made);
                prop_assert!(range.is_some_and(|r| r.contains(at)));
                let range = range.unwrap();
                prop_assert!(!made.iter().any(|r| r.overlaps(&range)));
                prop_assert!(!made.iter().any(|r| r.table() == range.table()));
                made.push(range);
            }
        }
    }

    #[test]
    fn names_and_bounds_are_utc_whatever_the_offset() {
        let at = datetime!(2027-01-01 00:30 +01:00);
        let month = PartitionRange::around(at, PartitionSpan::Month).unwrap();
        assert_eq!(month.table(), "item_event_y2026m12");
        let (from, to) = month.literals();
        assert_eq!(from, "'2026-12-01 00:00:00.000000+00'");
        assert_eq!(to, "'2027-01-01 00:00:00.000000+00'");
        assert_eq!(
            PartitionRange::around(at, PartitionSpan::Day).unwrap().table(),
            "item_event_y2026m12d31"
        );
    }

    proptest! {
        #[test]
        fn any_moment_outside_the_others_finds_a_range(
            at in moments(),
            span in spans(),
            bounds in prop::collection::btree_set(moments(), 2..20)
        ) {
            let bounds: Vec<_> = bounds.into_iter().collect();
            let existing: Vec<PartitionRange> =
                bounds.chunks_exact(2).map(|b| PartitionRange { from: b[0], to: b[1] }).collect();
            let taken = existing.iter().any(|e| e.contains(at));
            let range = range_to_make(at, span, &existing);
            prop_assert_eq!(range.is_none(), taken);
            if let Some(range) = range {
                prop_assert!(range.contains(at));
                prop_assert!(!existing.iter().any(|e| e.overlaps(&range)));
            }
        }
    }

    #[test]
    fn only_plausible_momenta_get_partitions() {
        let now = datetime!(2026-11-22 12:00 UTC);
        assert!(is_plausible(now + Duration::hours(24), now));
        assert!(!is_plausible(now + Duration::hours(24) + Duration::microseconds(1), now));
        assert!(is_plausible(EARLIEST, now));
        assert!(!is_plausible(EARLIEST - Duration::microseconds(1), now));
    }
}
