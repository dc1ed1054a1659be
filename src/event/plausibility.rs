//! One rule for which momenta can be true, for decoding, partitions, states and metrics. The views
//! have the same rule as the SQL function `centiloc.is_plausible`.

use time::{Duration, OffsetDateTime};

/// The platform is younger, so that no event is older.
pub const EARLIEST: OffsetDateTime = time::macros::datetime!(2015-01-01 00:00 UTC);

/// Limit of a momentum ahead of the clock: local time sent as UTC is accepted.
pub const MAX_AHEAD: Duration = Duration::days(1);

/// Returns the latest plausible momentum at `now`, the later of host and database clock.
pub fn latest(now: OffsetDateTime) -> OffsetDateTime {
    now.saturating_add(MAX_AHEAD)
}

/// Returns true if an event may have happened at `momentum`. `latest` is that of [`latest`].
pub fn is_plausible(momentum: OffsetDateTime, latest: OffsetDateTime) -> bool {
    EARLIEST <= momentum && momentum <= latest
}
