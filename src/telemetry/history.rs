//! The recent past of a few figures: one point every ten seconds for the last hour, and one every five
//! minutes for the last day. Pure: the time is an argument.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

/// Interval of the points of the last hour.
pub const HOUR_STEP: Duration = Duration::from_secs(10);
/// Interval of the points of the last day.
pub const DAY_STEP: Duration = Duration::from_secs(300);
/// Span of the short history.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// Span of the long history.
pub const DAY: Duration = Duration::from_secs(86_400);

/// Figures of one interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HistoryPoint {
    /// End of the interval.
    #[serde(serialize_with = "crate::timestamp::serialize")]
    pub at: OffsetDateTime,
    /// Events stored each second.
    pub rate: f64,
    /// Mean time from an event to its commit, seconds. `None` without events.
    pub lag: Option<f64>,
    /// Most messages received and not yet acknowledged.
    pub unacked: f64,
}

/// Counters at one moment, from which points are derived.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FigureTotals {
    /// Events stored since the start.
    pub committed: u64,
    /// Sum of all times from an event to its commit, seconds.
    pub lag_sum: f64,
    /// Number of these times.
    pub lag_count: u64,
    /// Messages not yet acknowledged at the moment.
    pub unacked: i64,
}

/// A bounded sequence of points, ordered by time.
#[derive(Debug)]
struct PointRing {
    /// Invariant: times rise strictly, within `span` of the last. At most `span / step` points.
    points: VecDeque<HistoryPoint>,
    span: Duration,
    most: usize,
}

impl PointRing {
    fn new(span: Duration, step: Duration) -> Self {
        let most = usize::try_from(span.as_secs() / step.as_secs().max(1)).unwrap_or(usize::MAX);
        Self { points: VecDeque::new(), span, most }
    }

    /// Adds the newest point. Those that a clock set back puts in its future are dropped.
    fn push(&mut self, point: HistoryPoint) {
        let oldest = point
            .at
            .saturating_sub(time::Duration::saturating_seconds_f64(self.span.as_secs_f64()));
        self.points.retain(|kept| kept.at < point.at && kept.at > oldest);
        if self.points.len() >= self.most {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }
}

/// The points of the last hour and the last day.
#[derive(Debug)]
struct HistoryState {
    hour: PointRing,
    day: PointRing,
    last: Option<FigureTotals>,
    long: LongInterval,
}

/// Sums of the current interval of the long history.
#[derive(Debug, Default)]
struct LongInterval {
    lasted: Duration,
    committed: u64,
    lag_sum: f64,
    lag_count: u64,
    unacked: f64,
}

impl LongInterval {
    fn point(&self, at: OffsetDateTime) -> HistoryPoint {
        point(at, self.lasted, self.committed, (self.lag_sum, self.lag_count), self.unacked)
    }
}

/// A copy of all points.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HistorySnapshot {
    /// Points of the last hour, oldest first.
    pub hour: Vec<HistoryPoint>,
    /// Points of the last day, oldest first.
    pub day: Vec<HistoryPoint>,
}

/// The history of the process, shared between the task that samples and the endpoint.
#[derive(Debug)]
pub struct FigureHistory(Mutex<HistoryState>);

impl Default for FigureHistory {
    fn default() -> Self {
        Self(Mutex::new(HistoryState {
            hour: PointRing::new(HOUR, HOUR_STEP),
            day: PointRing::new(DAY, DAY_STEP),
            last: None,
            long: LongInterval::default(),
        }))
    }
}

impl FigureHistory {
    /// Adds the point that ends now, `passed` after the one before. Returns the point of the long
    /// history where one has ended.
    pub fn sample(
        &self,
        at: OffsetDateTime,
        passed: Duration,
        totals: FigureTotals,
    ) -> Option<HistoryPoint> {
        let mut state = self.lock();
        let last = state.last.replace(totals)?;
        let committed = totals.committed.saturating_sub(last.committed);
        let lag_sum = (totals.lag_sum - last.lag_sum).max(0.0);
        let lag_count = totals.lag_count.saturating_sub(last.lag_count);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let unacked = totals.unacked.max(0) as f64;
        state.hour.push(point(at, passed, committed, (lag_sum, lag_count), unacked));
        let long = &mut state.long;
        long.lasted += passed;
        long.committed += committed;
        long.lag_sum += lag_sum;
        long.lag_count += lag_count;
        long.unacked = long.unacked.max(unacked);
        if long.lasted < DAY_STEP {
            return None;
        }
        let point = std::mem::take(long).point(at);
        state.day.push(point);
        Some(point)
    }

    /// Puts points of an earlier process, oldest first, before those of this one.
    pub fn restore(&self, earlier: &[HistoryPoint], now: OffsetDateTime) {
        let mut state = self.lock();
        let state = &mut *state;
        for ring in [&mut state.hour, &mut state.day] {
            let own: Vec<_> = ring.points.drain(..).collect();
            let first = own.first().map_or(now, |point| point.at);
            let oldest =
                now.saturating_sub(time::Duration::saturating_seconds_f64(ring.span.as_secs_f64()));
            let usable = earlier.iter().filter(|point| point.at < first && point.at > oldest);
            for point in usable.chain(&own) {
                ring.push(*point);
            }
        }
    }

    /// Returns a copy of all points.
    pub fn snapshot(&self) -> HistorySnapshot {
        let state = self.lock();
        let list = |ring: &PointRing| ring.points.iter().copied().collect();
        HistorySnapshot { hour: list(&state.hour), day: list(&state.day) }
    }

    fn lock(&self) -> MutexGuard<'_, HistoryState> {
        // A panic during a push loses at most one point.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn point(
    at: OffsetDateTime,
    passed: Duration,
    committed: u64,
    (lag_sum, lag_count): (f64, u64),
    unacked: f64,
) -> HistoryPoint {
    let seconds = passed.as_secs_f64();
    let rate = if seconds > 0.0 { committed as f64 / seconds } else { 0.0 };
    let lag = (lag_count > 0).then(|| lag_sum / lag_count as f64);
    HistoryPoint { at, rate, lag, unacked }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-11-27 00:00 UTC);

    fn totals(committed: u64) -> FigureTotals {
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let lag_sum = committed as f64 * 0.5;
        FigureTotals { committed, lag_sum, lag_count: committed, unacked: 3 }
    }

    #[test]
    fn rate_and_lag_are_those_of_the_interval() {
        let history = FigureHistory::default();
        assert_eq!(history.sample(START, HOUR_STEP, totals(100)), None);
        history.sample(START + HOUR_STEP, HOUR_STEP, totals(150));
        let hour = history.snapshot().hour;
        let expected =
            HistoryPoint { at: START + HOUR_STEP, rate: 5.0, lag: Some(0.5), unacked: 3.0 };
        assert_eq!(hour, [expected]);
        history.sample(START + HOUR_STEP * 2, HOUR_STEP, totals(150));
        assert_eq!(history.snapshot().hour[1].lag, None, "no event, no lag");
    }

    #[test]
    fn five_minutes_become_one_point() {
        let history = FigureHistory::default();
        let ended: Vec<_> = (0..=60u32)
            .filter_map(|n| {
                history.sample(START + HOUR_STEP * n, HOUR_STEP, totals(u64::from(n) * 20))
            })
            .collect();
        assert_eq!(ended.len(), 2);
        assert!(ended.iter().all(|point| (point.rate - 2.0).abs() < 1e-9), "{ended:?}");
        assert_eq!(history.snapshot().day, ended);
    }

    #[test]
    fn earlier_points_come_before_own_ones() {
        let history = FigureHistory::default();
        history.sample(START, HOUR_STEP, totals(0));
        history.sample(START + HOUR_STEP, HOUR_STEP, totals(0));
        let earlier = |minutes: i64| HistoryPoint {
            at: START - time::Duration::minutes(minutes),
            rate: 1.0,
            lag: None,
            unacked: 0.0,
        };
        let points = [earlier(3_000), earlier(600), earlier(30), earlier(-5)];
        history.restore(&points, START + HOUR_STEP);
        let snapshot = history.snapshot();
        assert_eq!(snapshot.day, points[1..3]);
        assert_eq!(snapshot.hour.len(), 2);
        assert_eq!(snapshot.hour[0], points[2]);
    }

    proptest! {
        #[test]
        fn rings_stay_bounded_under_any_clock(
            jumps in prop::collection::vec((-200_000i64..200_000, 0u64..400, any::<u32>()), 1..600)
        ) {
            let history = FigureHistory::default();
            let (mut at, mut committed) = (START, 0);
            for (jump, passed, events) in jumps {
                at += time::Duration::seconds(if jump % 3 == 0 { jump } else { 10 });
                committed += u64::from(events);
                history.sample(at, Duration::from_secs(passed), totals(committed));
                let snapshot = history.snapshot();
                for (points, span, step) in
                    [(&snapshot.hour, HOUR, HOUR_STEP), (&snapshot.day, DAY, DAY_STEP)]
                {
                    prop_assert!(points.len() as u64 <= span.as_secs() / step.as_secs());
                    prop_assert!(points.windows(2).all(|pair| pair[0].at < pair[1].at));
                    prop_assert!(points.iter().all(|p| p.rate.is_finite() && p.rate >= 0.0));
                    let ends = points.first().zip(points.last());
                    prop_assert!(ends.is_none_or(|(first, last)| last.at - first.at < span));
                }
            }
        }
    }
}
