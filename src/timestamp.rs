//! Times in one form everywhere: RFC 3339 in UTC, to the millisecond.

use serde::Serializer;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

const SECONDS: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const MILLISECONDS: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Formats a time, without a fraction where that is zero.
pub fn shown(at: OffsetDateTime) -> String {
    format(at, if at.millisecond() == 0 { SECONDS } else { MILLISECONDS })
}

/// Formats a time with a fraction always, so that lines align.
pub fn aligned(at: OffsetDateTime) -> String {
    format(at, MILLISECONDS)
}

fn format(at: OffsetDateTime, form: StaticFormatDescription) -> String {
    let utc = at.checked_to_offset(UtcOffset::UTC).unwrap_or(at);
    utc.format(form).unwrap_or_else(|_| utc.to_string())
}

/// Serializes a time as [`shown`].
pub fn serialize<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(*at))
}

/// Serializes a time that may be absent.
pub mod option {
    use super::{OffsetDateTime, Serializer, shown};

    /// Serializes a time as [`shown`], or none.
    pub fn serialize<S: Serializer>(
        at: &Option<OffsetDateTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.serialize_some(&shown(*at)),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_utc_to_the_millisecond() {
        assert_eq!(shown(datetime!(2026-11-27 07:24:12.963_743_9 +1)), "2026-11-27T06:24:12.963Z");
        assert_eq!(shown(datetime!(2026-11-27 06:24:12.000_4 UTC)), "2026-11-27T06:24:12Z");
        assert_eq!(aligned(datetime!(2026-11-27 06:24:12 UTC)), "2026-11-27T06:24:12.000Z");
    }
}
