//! Parses times and durations in the notation of Go.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const NS_PER_SECOND: i64 = 1_000_000_000;
/// Go's zero time, 0001-01-01T00:00:00Z, which means unset.
const ZERO_TIME: i64 = -62_135_596_800;
/// One day before 0000-01-01T00:00:00Z, the earliest time that four digits of a year and an offset can
/// express.
const EARLIEST: i64 = -62_167_305_600;
/// 9999-12-31T23:59:59Z, the latest second that protobuf and RFC 3339 can express.
const LATEST: i64 = 253_402_300_799;

/// Seconds and nanoseconds as sent, since the Unix epoch or of a duration. The two may differ in sign,
/// and the nanoseconds may exceed a second: the value is not normalised before it is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) seconds: i64,
    pub(super) nanos: i32,
}

impl Moment {
    pub(super) fn from_ns(ns: i64) -> Self {
        // The remainder is below a second, so it fits.
        let nanos = i32::try_from(ns.rem_euclid(NS_PER_SECOND)).unwrap_or(0);
        Self { seconds: ns.div_euclid(NS_PER_SECOND), nanos }
    }

    pub(super) fn total_ns(self) -> i128 {
        i128::from(self.seconds) * i128::from(NS_PER_SECOND) + i128::from(self.nanos)
    }

    /// Returns true for Go's zero time, which means unset.
    pub(super) fn is_zero_time(self) -> bool {
        self.seconds == ZERO_TIME && self.nanos == 0
    }

    /// Converts to a UTC time, cut towards the past to microseconds. Returns `None` outside the years 0
    /// to 9999.
    pub(super) fn to_utc(self) -> Option<OffsetDateTime> {
        let nanos = i64::from(self.nanos);
        let seconds = self.seconds.checked_add(nanos.div_euclid(NS_PER_SECOND))?;
        if !(EARLIEST..=LATEST).contains(&seconds) {
            return None;
        }
        let micros = u32::try_from(nanos.rem_euclid(NS_PER_SECOND) / 1000).ok()?;
        OffsetDateTime::from_unix_timestamp(seconds).ok()?.replace_microsecond(micros).ok()
    }

    /// Converts to a duration in microseconds, cut towards zero. Returns `None` if it does not fit.
    pub(super) fn to_micros(self) -> Option<i64> {
        i64::try_from(self.total_ns() / 1000).ok()
    }
}

/// Parses the form that Go's `time.Time` writes: RFC 3339 with `Z` or an offset, and any number of
/// fractional digits, of which those after the ninth are ignored.
pub(super) fn parse_time(text: &str) -> Option<Moment> {
    let bytes = text.as_bytes();
    // The library also accepts lower case and leap seconds, which Go refuses.
    if bytes.get(10) != Some(&b'T') || bytes.get(17..19)? == b"60" || bytes.ends_with(b"z") {
        return None;
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    // Nanoseconds of a second fit.
    let nanos = i32::try_from(time.nanosecond()).ok()?;
    Some(Moment { seconds: time.unix_timestamp(), nanos })
}

/// The reason why a duration could not be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DurationError {
    /// The text is not in Go's notation.
    Syntax,
    /// The value exceeds 64 bits of nanoseconds.
    Overflow,
}

/// Units of Go's notation with their nanoseconds. Both micro signs of Unicode are units.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Number of decimals that count. Later ones are below a nanosecond even of an hour, and with this many
/// the product with an hour in nanoseconds still fits 128 bits.
const MAX_DECIMALS: usize = 25;

/// Parses the notation of Go's `time.ParseDuration`, such as `1m30.5s`, into nanoseconds.
pub(super) fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(DurationError::Syntax);
    }
    let mut total = 0u128;
    while !rest.is_empty() {
        let (part, after) = duration_part(rest)?;
        total = total.checked_add(part).ok_or(DurationError::Overflow)?;
        rest = after;
    }
    let total = i128::try_from(total).map_err(|_| DurationError::Overflow)?;
    i64::try_from(if negative { -total } else { total }).map_err(|_| DurationError::Overflow)
}

/// Splits off one number with its unit. Returns its nanoseconds and the rest.
fn duration_part(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = split_digits(text);
    let (decimals, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && decimals.is_empty() {
        return Err(DurationError::Syntax);
    }
    // For Go the unit is everything up to the next digit or point.
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let unit = UNITS.iter().find(|(unit, _)| *unit == name).ok_or(DurationError::Syntax)?.1;
    let whole = if whole.is_empty() { "0" } else { whole };
    let whole: u128 = whole.parse().map_err(|_| DurationError::Overflow)?;
    let below =
        decimals.bytes().take(MAX_DECIMALS).fold((0u128, 1u128), |(value, scale), digit| {
            (value * 10 + u128::from(digit - b'0'), scale * 10)
        });
    let below = below.0 * unit / below.1;
    let ns = whole.checked_mul(unit).and_then(|ns| ns.checked_add(below));
    Ok((ns.ok_or(DurationError::Overflow)?, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests;
