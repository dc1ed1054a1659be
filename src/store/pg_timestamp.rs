//! Reads points in time out of tables and catalogs that users can write to. PostgreSQL knows
//! `infinity` and years that [`OffsetDateTime`] does not. Sqlx's own decoding panics on them.

use sqlx::error::BoxDynError;
use sqlx::postgres::{PgRow, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Postgres, Row as _, Type};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use super::error::DbError;

/// Epoch of the binary form.
const EPOCH: OffsetDateTime = datetime!(2000-01-01 00:00 UTC);

/// Earlier points in time are read as this one. RFC 3339 knows no year before it.
pub(super) const LEAST: OffsetDateTime = datetime!(0001-01-01 00:00 UTC);

/// Later points in time are read as this one. It leaves a year for sums that follow.
pub(super) const GREATEST: OffsetDateTime = datetime!(9999-01-01 00:00 UTC);

/// A `timestamptz`. What lies beyond [`LEAST`] and [`GREATEST`], infinity too, is read as the nearer
/// of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PgTimestamp(pub OffsetDateTime);

impl PgTimestamp {
    fn from_microseconds(microseconds: i64) -> Self {
        let since = Duration::microseconds(microseconds);
        let beyond = if microseconds < 0 { LEAST } else { GREATEST };
        Self(EPOCH.checked_add(since).unwrap_or(beyond).clamp(LEAST, GREATEST))
    }
}

impl Type<Postgres> for PgTimestamp {
    fn type_info() -> PgTypeInfo {
        <OffsetDateTime as Type<Postgres>>::type_info()
    }
}

impl Decode<'_, Postgres> for PgTimestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        if value.format() == PgValueFormat::Text {
            return Err("a timestamptz in text form was not asked for".into());
        }
        <i64 as Decode<Postgres>>::decode(value).map(Self::from_microseconds)
    }
}

/// Reads a column of type `timestamptz`.
pub(super) fn time_of(row: &PgRow, column: &str) -> Result<OffsetDateTime, DbError> {
    Ok(row.try_get::<PgTimestamp, _>(column)?.0)
}

/// Reads a column of type `timestamptz` that may be null.
pub(super) fn optional_time_of(
    row: &PgRow,
    column: &str,
) -> Result<Option<OffsetDateTime>, DbError> {
    Ok(row.try_get::<Option<PgTimestamp>, _>(column)?.map(|timestamp| timestamp.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn infinity_is_read_as_the_nearer_bound() {
        assert_eq!(PgTimestamp::from_microseconds(i64::MIN).0, LEAST);
        assert_eq!(PgTimestamp::from_microseconds(i64::MAX).0, GREATEST);
    }

    proptest! {
        #[test]
        fn any_value_is_read_in_order(a in any::<i64>(), b in any::<i64>()) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(PgTimestamp::from_microseconds(low).0 <= PgTimestamp::from_microseconds(high).0);
        }

        #[test]
        fn ordinary_times_are_read_to_the_microsecond(
            seconds in 0i64..4_102_444_800, microseconds in 0i64..1_000_000
        ) {
            let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap()
                + Duration::microseconds(microseconds);
            let sent = i64::try_from((at - EPOCH).whole_microseconds()).unwrap();
            prop_assert_eq!(PgTimestamp::from_microseconds(sent).0, at);
        }
    }
}
