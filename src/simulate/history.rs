//! Distributes the events of a run over a past period, with the days, nights and weekends of a real
//! site. Pure: the end is an argument, and random choices follow from the seed.

use std::time::Duration;

use time::{OffsetDateTime, Weekday};

use super::rng::SeededRng;
use super::source::unix_ns;

/// Relative activity by hour of the day, UTC: quiet nights, busy mornings and afternoons.
const DAY: [u64; 24] =
    [2, 1, 1, 1, 1, 3, 10, 25, 45, 50, 50, 45, 35, 45, 50, 48, 40, 30, 20, 15, 10, 8, 5, 3];
/// Divisor of the activity on Saturdays and Sundays.
const WEEKEND_DIVISOR: u64 = 3;
const HOUR: Duration = Duration::from_secs(3600);
/// Scale of the activity, so that a short last hour is not rounded to 0.
const SCALE: u64 = 1 << 16;

/// The times of all events of a run.
#[derive(Debug, PartialEq, Eq)]
pub struct EventHistory {
    /// Start of the period, nanoseconds since the Unix epoch.
    start_ns: i64,
    end_ns: i64,
    /// Sum of the activity from the start to the end of each hour.
    cumulative: Vec<u64>,
    events: u64,
    seed: u64,
}

impl EventHistory {
    /// Distributes this many events over the period `over` before `end`.
    pub fn new(end: OffsetDateTime, over: Duration, events: u64, seed: u64) -> Self {
        let start = end - over;
        let hours = over.as_nanos().div_ceil(HOUR.as_nanos());
        let mut cumulative = Vec::new();
        let mut sum = 0;
        for hour in 0..u32::try_from(hours).unwrap_or(u32::MAX) {
            let begins = HOUR * hour;
            let length = over.saturating_sub(begins).min(HOUR);
            let whole = activity(start + begins) * SCALE;
            sum += (whole * length.as_secs() / HOUR.as_secs()).max(1);
            cumulative.push(sum);
        }
        Self {
            start_ns: unix_ns(start),
            end_ns: unix_ns(end),
            cumulative,
            events: events.max(1),
            seed,
        }
    }

    /// Returns the time of an event, nanoseconds since the Unix epoch. It is never earlier than
    /// that of the event before.
    pub(super) fn at(&self, event: u64) -> i64 {
        let total = u128::from(self.cumulative.last().copied().unwrap_or(1));
        let jitter = SeededRng::new(self.seed ^ event.rotate_left(32)).next_u32();
        // Both numbers are in units of 2^-32 of the activity.
        let position =
            ((u128::from(event) << 32) + u128::from(jitter)) * total / u128::from(self.events);
        let hour = self.cumulative.partition_point(|sum| u128::from(*sum) << 32 <= position);
        let Some(sum) = self.cumulative.get(hour) else { return self.end_ns };
        let before = hour.checked_sub(1).map_or(0, |hour| self.cumulative[hour]);
        let within = (position - (u128::from(before) << 32)) * HOUR.as_nanos()
            / (u128::from(sum - before) << 32);
        let offset = HOUR.as_nanos() * hour as u128 + within;
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        self.start_ns.saturating_add(offset).min(self.end_ns)
    }
}

fn activity(at: OffsetDateTime) -> u64 {
    let weekday = DAY[usize::from(at.hour())] * WEEKEND_DIVISOR;
    match at.weekday() {
        Weekday::Saturday | Weekday::Sunday => weekday / WEEKEND_DIVISOR,
        _ => weekday,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    /// End of the period, a Monday.
    const END: OffsetDateTime = datetime!(2026-03-02 00:00 UTC);

    fn times(over: Duration, events: u64) -> Vec<i64> {
        let history = EventHistory::new(END, over, events, 1);
        (0..events).map(|event| history.at(event)).collect()
    }

    proptest! {
        #[test]
        fn times_grow_from_start_to_end(
            seconds in 60u64..100_000_000, events in 1u64..2_000, seed: u64
        ) {
            let over = Duration::from_secs(seconds);
            let history = EventHistory::new(END, over, events, seed);
            let mut last = unix_ns(END - over);
            for event in 0..events + 3 {
                let at = history.at(event);
                prop_assert!(at >= last && at <= unix_ns(END), "{event}: {at} after {last}");
                last = at;
            }
        }
    }

    #[test]
    fn days_are_busier_than_nights_and_weekends() {
        let times = times(Duration::from_secs(28 * 86_400), 28_000);
        let count = |filter: &dyn Fn(OffsetDateTime) -> bool| {
            let at = |ns: &i64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(*ns));
            times.iter().filter(|ns| filter(at(ns).expect("in range"))).count()
        };
        let weekend =
            |at: OffsetDateTime| [Weekday::Saturday, Weekday::Sunday].contains(&at.weekday());
        let (day, night) = (count(&|at| at.hour() == 10), count(&|at| at.hour() == 3));
        assert!(day > 20 * night.max(1), "{day} by day, {night} by night");
        let (week, ends) = (count(&|at| !weekend(at)) / 5, count(&weekend) / 2);
        assert!(week > 2 * ends && ends > 100, "{week} on a weekday, {ends} on a weekend day");
        let first =
            times.iter().filter(|ns| **ns < unix_ns(END - time::Duration::days(14))).count();
        assert!((13_000..15_000).contains(&first), "{first} in the first half");
    }
}
