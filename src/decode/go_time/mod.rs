//! Times and durations as Go writes them.

use time::{Date, Month, OffsetDateTime};

const NS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Julian day of 1970-01-01.
const EPOCH_JULIAN_DAY: i64 = 2_440_588;
/// Go's zero time, 0001-01-01T00:00:00Z: it means unset.
const ZERO_TIME: i64 = -62_135_596_800;
/// One day before 0000-01-01T00:00:00Z: the earliest that four digits of year and an offset reach.
const EARLIEST: i64 = -62_167_305_600;
/// 9999-12-31T23:59:59Z: the latest second that protobuf and RFC 3339 can name.
const LATEST: i64 = 253_402_300_799;

/// Seconds and nanoseconds as sent: since the Unix epoch, or of a duration. The two may disagree
/// in sign and the nanoseconds may exceed a second; nothing is lost before it is looked at.
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

    /// Whether it is Go's way to say that there is no time.
    pub(super) fn is_zero_time(self) -> bool {
        self.seconds == ZERO_TIME && self.nanos == 0
    }

    /// As a UTC time cut, towards the past, to microseconds; `None` outside the years 0 to 9999.
    pub(super) fn to_utc(self) -> Option<OffsetDateTime> {
        let nanos = i64::from(self.nanos);
        let seconds = self.seconds.checked_add(nanos.div_euclid(NS_PER_SECOND))?;
        if !(EARLIEST..=LATEST).contains(&seconds) {
            return None;
        }
        let micros = u32::try_from(nanos.rem_euclid(NS_PER_SECOND) / 1000).ok()?;
        OffsetDateTime::from_unix_timestamp(seconds).ok()?.replace_microsecond(micros).ok()
    }

    /// As a duration cut, towards zero, to microseconds; `None` if that does not fit.
    pub(super) fn to_micros(self) -> Option<i64> {
        i64::try_from(self.total_ns() / 1000).ok()
    }
}

/// Reads what Go's `time.Time` writes: RFC 3339 with any number of fractional digits, those after
/// the ninth ignored, and `Z` or an offset.
pub(super) fn parse_time(text: &str) -> Option<Moment> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(10)?;
    let (clock, rest) = rest.split_at_checked(9)?;
    if date[4] != b'-'
        || date[7] != b'-'
        || clock[0] != b'T'
        || clock[3] != b':'
        || clock[6] != b':'
    {
        return None;
    }
    let month = Month::try_from(u8::try_from(digits(&date[5..7])?).ok()?).ok()?;
    let year = i32::try_from(digits(&date[..4])?).ok()?;
    let day = u8::try_from(digits(&date[8..])?).ok()?;
    let date = Date::from_calendar_date(year, month, day).ok()?;
    let (hour, minute) = (digits(&clock[1..3])?, digits(&clock[4..6])?);
    let second = digits(&clock[7..])?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, zone) = fraction(rest)?;
    let days = i64::from(date.to_julian_day()) - EPOCH_JULIAN_DAY;
    let local = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
    Some(Moment { seconds: local - offset(zone)?, nanos })
}

/// Unsigned decimal digits and nothing else.
fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0i64, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
    })
}

/// Nanoseconds of `.123…`, if any, and what follows.
fn fraction(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let Some((b'.', rest)) = bytes.split_first() else { return Some((0, bytes)) };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (decimals, zone) = rest.split_at(count);
    if decimals.is_empty() {
        return None;
    }
    let nanos = (0..9).fold(0, |value, place| {
        value * 10 + decimals.get(place).map_or(0, |byte| i32::from(byte - b'0'))
    });
    Some((nanos, zone))
}

/// Seconds east of UTC of `Z` or `+01:00`.
fn offset(zone: &[u8]) -> Option<i64> {
    let &[sign, h1, h2, b':', m1, m2] = zone else {
        return (zone == b"Z").then_some(0);
    };
    let (hours, minutes) = (digits(&[h1, h2])?, digits(&[m1, m2])?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3600 + minutes * 60;
    match sign {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

/// Why a duration could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DurationError {
    /// Not Go's notation.
    Syntax,
    /// Beyond 64 bits of nanoseconds.
    Overflow,
}

/// Units of Go's notation in nanoseconds; both micro signs of Unicode count.
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

/// Decimals of a number with a unit that count. Those after them are below a nanosecond, and this
/// many times an hour in nanoseconds still fits 128 bits.
const MAX_DECIMALS: usize = 25;

/// Reads what Go's `time.ParseDuration` reads, such as `1m30.5s`; the result is in nanoseconds.
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

/// One number with its unit, in nanoseconds, and what follows.
fn duration_part(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = split_digits(text);
    let (decimals, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && decimals.is_empty() {
        return Err(DurationError::Syntax);
    }
    // Go takes everything up to the next digit or point for the unit.
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
