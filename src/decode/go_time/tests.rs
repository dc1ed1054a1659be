//! Tests of times and durations against other parsers and writers.

use std::fmt::Write;

use proptest::prelude::*;
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
fn texts_other_than_rfc3339_are_refused() {
    for text in [
        "",
        "2025-10-09",
        "2025-10-09T08:53:20",
        "2025-10-09 08:53:20Z",
        "2025-10-09t08:53:20z",
        "2025-10-09t08:53:20Z",
        "2025-10-09T08:53:20z",
        "2016-12-31T23:59:60Z",
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
        ("9223372036854775808ns", Err(DurationError::Overflow)),
        ("340282366920938463463374607431768211455h", Err(DurationError::Overflow)),
        ("340282366920938463463374607431768211455.9ns", Err(DurationError::Overflow)),
        ("99999999999999999999999999999999999999999s", Err(DurationError::Overflow)),
        ("", Err(DurationError::Syntax)),
        ("-", Err(DurationError::Syntax)),
        ("3", Err(DurationError::Syntax)),
        (".s", Err(DurationError::Syntax)),
        ("1d", Err(DurationError::Syntax)),
        ("1 s", Err(DurationError::Syntax)),
        ("1s-1s", Err(DurationError::Syntax)),
        ("s", Err(DurationError::Syntax)),
        ("1.2.3s", Err(DurationError::Syntax)),
        ("é", Err(DurationError::Syntax)),
    ] {
        assert_eq!(parse_duration(text), expected, "{text}");
    }
}

/// Small and large ones alike, both ways.
fn any_ns() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        (any::<i64>(), 0u32..63).prop_map(|(ns, bits)| ns >> bits),
        (-100i64..100, 0u32..13).prop_map(|(ns, zeros)| ns * 10i64.pow(zeros)),
        Just(i64::MIN),
    ]
}

/// Go's `time.Duration.String`, from its documentation: hours, minutes and seconds, leading zero
/// units left out. A value below a second has one smaller unit. Fractions have no trailing zeros.
fn go_duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    let decimal = |unit: u64, width: usize| {
        let fraction = format!("{:0width$}", ns % unit);
        let text = format!("{}.{fraction}", ns / unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let size = match ns {
        0 => "0s".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}\u{b5}s", decimal(1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(1_000_000, 6)),
        _ => {
            let (minutes, below) = (ns / 60_000_000_000, ns % 60_000_000_000);
            let text = format!("{}.{:09}", below / 1_000_000_000, below % 1_000_000_000);
            let seconds = text.trim_end_matches('0').trim_end_matches('.');
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{size}")
}

#[test]
fn go_durations_are_spelled_as_in_its_documentation() {
    for (ns, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1\u{b5}s"),
        (2_200_000, "2.2ms"),
        (100_000_000, "100ms"),
        (3_300_000_000, "3.3s"),
        (245_000_000_000, "4m5s"),
        (245_001_000_000, "4m5.001s"),
        (18_367_001_000_000, "5h6m7.001s"),
        (480_000_000_001, "8m0.000000001s"),
        (i64::MAX, "2562047h47m16.854775807s"),
        (i64::MIN, "-2562047h47m16.854775808s"),
    ] {
        assert_eq!(go_duration(ns), text);
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
        let model = i64::try_from(total).map_err(|_| DurationError::Overflow);
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

    #[test]
    fn go_durations_are_read_back(ns in any_ns()) {
        prop_assert_eq!(parse_duration(&go_duration(ns)), Ok(ns), "{}", go_duration(ns));
    }

    #[test]
    fn times_round_down_and_durations_towards_zero(
        seconds in prop_oneof![any::<i64>(), EARLIEST - 3..EARLIEST + 3, LATEST - 3..LATEST + 3, -9i64..9],
        nanos in prop_oneof![any::<i32>(), -2_000i32..2_000],
    ) {
        let moment = Moment { seconds, nanos };
        let ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let in_calendar = (i128::from(EARLIEST)..=i128::from(LATEST))
            .contains(&ns.div_euclid(1_000_000_000));
        let past = in_calendar.then(|| ns.div_euclid(1000) * 1000);
        prop_assert_eq!(moment.to_utc().map(OffsetDateTime::unix_timestamp_nanos), past);
        prop_assert_eq!(moment.to_micros().map(i128::from), i64::try_from(ns / 1000).ok().map(i128::from));
    }
}
