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
pub(super) enum DurationFlaw {
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
pub(super) fn parse_duration(text: &str) -> Result<i64, DurationFlaw> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(DurationFlaw::Syntax);
    }
    let mut total = 0u128;
    while !rest.is_empty() {
        let (part, after) = duration_part(rest)?;
        total = total.checked_add(part).ok_or(DurationFlaw::Overflow)?;
        rest = after;
    }
    let total = i128::try_from(total).map_err(|_| DurationFlaw::Overflow)?;
    i64::try_from(if negative { -total } else { total }).map_err(|_| DurationFlaw::Overflow)
}

/// One number with its unit, in nanoseconds, and what follows.
fn duration_part(text: &str) -> Result<(u128, &str), DurationFlaw> {
    let (whole, rest) = split_digits(text);
    let (decimals, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && decimals.is_empty() {
        return Err(DurationFlaw::Syntax);
    }
    // Go takes everything up to the next digit or point for the unit.
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let unit = UNITS.iter().find(|(unit, _)| *unit == name).ok_or(DurationFlaw::Syntax)?.1;
    let whole = if whole.is_empty() { "0" } else { whole };
    let whole: u128 = whole.parse().map_err(|_| DurationFlaw::Overflow)?;
    let below =
        decimals.bytes().take(MAX_DECIMALS).fold((0u128, 1u128), |(value, scale), digit| {
            (value * 10 + u128::from(digit - b'0'), scale * 10)
        });
    let below = below.0 * unit / below.1;
    let ns = whole.checked_mul(unit).and_then(|ns| ns.checked_add(below));
    Ok((ns.ok_or(DurationFlaw::Overflow)?, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;
    use time::format_description::well_known::Rfc3339;
    use time::macros::datetime;

    use super::*;

    fn ns(text: &str) -> Option<i128> {
        parse_time(text).map(Moment::total_ns)
    }

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:01.5Z", 1_500_000_000),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T18:30:00.000000001-05:30", 1),
            ("1969-12-31T23:59:59.999999999Z", -1),
            ("1970-01-01T00:00:00.1234567899999Z", 123_456_789),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000_000_000),
        ] {
            assert_eq!(ns(text), Some(expected), "{text}");
        }
        assert!(parse_time("0001-01-01T00:00:00Z").is_some_and(Moment::is_zero_time));
        assert!(parse_time("0001-01-01T01:00:00+01:00").is_some_and(Moment::is_zero_time));
    }

    #[test]
    fn what_is_no_rfc3339_time_is_refused() {
        for text in [
            "",
            "2025-10-09",
            "2025-10-09T08:53:20",
            "2025-10-09 08:53:20Z",
            "2025-10-09t08:53:20z",
            "2025-10-09T08:53:20,5Z",
            "2025-10-09T08:53:20.Z",
            "2025-10-09T08:53:60Z",
            "2025-10-09T24:00:00Z",
            "2025-02-29T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-10-09T08:53:20+0100",
            "2025-10-09T08:53:20+24:00",
            "2025-10-09T08:53:20ZZ",
            "+025-10-09T08:53:20Z",
            "2025-1-09T008:53:20Z",
            "20é5-10-09T08:53:20Z",
        ] {
            assert_eq!(ns(text), None, "{text}");
        }
    }

    #[test]
    fn years_of_four_digits_fit_and_no_others() {
        let utc = |text| parse_time(text).unwrap().to_utc();
        assert_eq!(
            utc("9999-12-31T23:59:59.9999999Z"),
            Some(datetime!(9999-12-31 23:59:59.999999 UTC))
        );
        assert_eq!(utc("9999-12-31T23:59:59-00:01"), None);
        assert_eq!(utc("0000-01-01T00:00:00Z"), Some(datetime!(0000-01-01 0:00 UTC)));
        for seconds in [i64::MIN, EARLIEST - 1, LATEST + 1, i64::MAX] {
            assert_eq!(Moment { seconds, nanos: 0 }.to_utc(), None);
        }
        assert_eq!(Moment { seconds: LATEST, nanos: 1_000_000_000 }.to_utc(), None);
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("+0", Ok(0)),
            ("1m30.5s", Ok(90_500_000_000)),
            ("-1.5h", Ok(-5_400_000_000_000)),
            ("1h2m3s4ms5us6\u{b5}s7\u{3bc}s8ns", Ok(3_723_004_018_008)),
            (".5s", Ok(500_000_000)),
            ("1.s", Ok(1_000_000_000)),
            ("+5s", Ok(5_000_000_000)),
            ("0.0000000009s", Ok(0)),
            ("0.3333333333333333333333333333333333333h", Ok(1_199_999_999_999)),
            ("9223372036854775807ns", Ok(i64::MAX)),
            ("-9223372036854775808ns", Ok(i64::MIN)),
            ("9223372036854775808ns", Err(DurationFlaw::Overflow)),
            ("340282366920938463463374607431768211455h", Err(DurationFlaw::Overflow)),
            ("340282366920938463463374607431768211455.9ns", Err(DurationFlaw::Overflow)),
            ("99999999999999999999999999999999999999999s", Err(DurationFlaw::Overflow)),
            ("", Err(DurationFlaw::Syntax)),
            ("-", Err(DurationFlaw::Syntax)),
            ("3", Err(DurationFlaw::Syntax)),
            (".s", Err(DurationFlaw::Syntax)),
            ("1d", Err(DurationFlaw::Syntax)),
            ("1 s", Err(DurationFlaw::Syntax)),
            ("1s-1s", Err(DurationFlaw::Syntax)),
            ("s", Err(DurationFlaw::Syntax)),
            ("1.2.3s", Err(DurationFlaw::Syntax)),
            ("é", Err(DurationFlaw::Syntax)),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn times_are_read_as_another_parser_reads_them(
            year in 0i32..10_000, month in 0u8..14, day in 0u8..33, hour in 0u8..25,
            minute in 0u8..61, second in 0u8..60, fraction in "(\\.[0-9]{1,9})?",
            zone in "Z|[+-][0-2][0-9]:[0-6][0-9]",
        ) {
            let text = format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}"
            );
            let model = OffsetDateTime::parse(&text, &Rfc3339).ok();
            prop_assert_eq!(ns(&text), model.map(OffsetDateTime::unix_timestamp_nanos), "{}", text);
        }

        #[test]
        fn go_durations_are_the_sum_of_their_parts(
            negative: bool, parts in prop::collection::vec((0u32..100_000, 0u32..1000, 0usize..8), 1..5)
        ) {
            let mut text = String::from(if negative { "-" } else { "" });
            let mut total = 0i128;
            for (whole, thousandths, unit) in parts {
                let (name, ns) = UNITS[unit];
                write!(text, "{whole}.{thousandths:03}{name}").unwrap();
                let ns = i128::try_from(ns).unwrap();
                total += i128::from(whole) * ns + i128::from(thousandths) * ns / 1000;
            }
            let total = if negative { -total } else { total };
            let model = i64::try_from(total).map_err(|_| DurationFlaw::Overflow);
            prop_assert_eq!(parse_duration(&text), model);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}", near in "[-+0-9.hmsnuµ:TZ]{0,40}") {
            for text in [text, near] {
                if let Some(moment) = parse_time(&text) {
                    prop_assert!(moment.nanos < 1_000_000_000);
                }
                if let Ok(ns) = parse_duration(&text) {
                    prop_assert!(ns == 0 || text.starts_with('-') == (ns < 0));
                }
            }
        }

        #[test]
        fn nanoseconds_survive(ns: i64) {
            prop_assert_eq!(Moment::from_ns(ns).total_ns(), i128::from(ns));
        }
    }
}
