//! Parsers of single values: numbers, durations, sizes, words, names. They are pure, and no error
//! quotes the text.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use tracing_subscriber::EnvFilter;
use url::Host;

use super::error::InvalidValue;

/// A parsed value, or the reason why the text is invalid.
pub(super) type ParseResult<T> = Result<T, InvalidValue>;

/// Most bytes of an MQTT text, which carries a 16-bit length (MQTT-1.5.3).
pub(super) const MAX_MQTT_TEXT: usize = 65_535;
/// Most bytes of a tenant or share group. It is far longer than any tenantID, and every topic and
/// filter made of two such names stays well within [`MAX_MQTT_TEXT`].
pub(super) const MAX_NAME: usize = 1024;

/// Seconds of a year as `humantime` counts them, so that it writes a bound in whole years.
pub(super) const YEAR: u64 = 31_557_600;
/// Shortest wait: timers have no use for less, and `PostgreSQL` counts its statement timeout in
/// milliseconds.
const LEAST_WAIT: Duration = Duration::from_millis(1);
/// Longest wait: more is a typing error, and `PostgreSQL`'s statement timeout ends at 24 days.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
/// Bounds of a duration that a timer waits for.
pub(super) const WAITS: RangeInclusive<Duration> = LEAST_WAIT..=LONGEST_WAIT;

/// Parses a whole number within `range`, which must fit `T`.
pub(super) fn integer<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> ParseResult<T> {
    let invalid = || {
        let (least, most) = (range.start(), range.end());
        InvalidValue::new(
            format!("a whole number from {least} to {most}"),
            "write a number in this range",
        )
    };
    let number = text.parse().map_err(|_| invalid())?;
    if !range.contains(&number) {
        return Err(invalid());
    }
    T::try_from(number).map_err(|_| invalid())
}

/// Parses `true` or `false`.
pub(super) fn flag(text: &str) -> ParseResult<bool> {
    text.parse()
        .map_err(|_| InvalidValue::new("true or false", "write one of the two, in lower case"))
}

/// Parses one of `words`, each paired with its value.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> ParseResult<T> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let similarity = |word: &&&str| strsim::damerau_levenshtein(word, text);
    let nearest = all.iter().min_by_key(similarity).copied().unwrap_or_default();
    Err(InvalidValue::new(
        format!("one of {}", all.join(", ")),
        format!("write \"{nearest}\", for example"),
    ))
}

/// Parses a duration with units, within `range`.
pub(super) fn duration(text: &str, range: &RangeInclusive<Duration>) -> ParseResult<Duration> {
    let expected = || {
        let (least, most) = (*range.start(), *range.end());
        let written = humantime::format_duration;
        format!("a duration from {} to {}", written(least), written(most))
    };
    if is_bare_number(text) {
        return Err(InvalidValue::new(expected(), unit_missing(text)));
    }
    let unreadable = |_| {
        InvalidValue::new(
            expected(),
            "write a number and ms, s, m, h or d, such as \"500ms\" or \"2h\"",
        )
    };
    let value = humantime::parse_duration(text).map_err(unreadable)?;
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(InvalidValue::new(expected(), "write a duration within these bounds"))
    }
}

/// Returns the hint for a duration without a unit.
pub(super) fn unit_missing(number: &str) -> String {
    format!("add a unit, as in \"{number}s\" for seconds or \"{number}d\" for days")
}

/// Parses a size with a unit, in bytes, within `range`, which must fit `T`.
pub(super) fn size<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> ParseResult<T> {
    let expected =
        || format!("a size from {} to {}", size_text(*range.start()), size_text(*range.end()));
    if is_bare_number(text) {
        return Err(InvalidValue::new(expected(), format!("add a unit, as in \"{text}B\"")));
    }
    let unreadable = |_| {
        InvalidValue::new(expected(), "write a number and B, KiB, MiB or GiB, such as \"16MiB\"")
    };
    let ByteSize(bytes) = text.parse().map_err(unreadable)?;
    let outside = || InvalidValue::new(expected(), "write a size within these bounds");
    if !range.contains(&bytes) {
        return Err(outside());
    }
    T::try_from(bytes).map_err(|_| outside())
}

fn is_bare_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Writes a size exactly. The `Display` of `bytesize` rounds.
fn size_text(bytes: u64) -> String {
    let units = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    units
        .into_iter()
        .find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// Parses a part of a topic: a tenant or the group of a share name.
pub(super) fn topic_part(text: &str) -> ParseResult<String> {
    let bad = |c: char| "+#/".contains(c) || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > MAX_NAME || text.contains(bad) {
        let expected =
            format!("1 to {MAX_NAME} bytes without + # /, white space and control characters");
        return Err(InvalidValue::new(
            expected,
            "copy it as Centiloc gave it, without any slashes",
        ));
    }
    Ok(text.to_owned())
}

/// Parses a text sent in CONNECT: no control characters, at most 65,535 bytes.
pub(super) fn mqtt_text(text: &str) -> ParseResult<String> {
    if text.is_empty() || text.len() > MAX_MQTT_TEXT || text.contains(char::is_control) {
        let expected = format!("1 to {MAX_MQTT_TEXT} bytes without control characters");
        return Err(InvalidValue::new(expected, "remove line ends, tabs and the like"));
    }
    Ok(text.to_owned())
}

/// Parses a client identifier, which begins with `tenant`.
pub(super) fn client_id(text: &str, tenant: &str) -> ParseResult<String> {
    let text = mqtt_text(text)?;
    if text.starts_with(tenant) {
        return Ok(text);
    }
    let hint = format!("write \"{tenant}-bridge\", for example, or omit it");
    Err(InvalidValue::new(format!("a name that begins with the tenant, {tenant}"), hint))
}

/// Parses a host name or address without scheme, port or brackets.
pub(super) fn host(text: &str) -> ParseResult<String> {
    let address = text.parse::<IpAddr>().is_ok();
    if address || (!text.starts_with('[') && Host::parse(text).is_ok()) {
        return Ok(text.to_owned());
    }
    let hint = "write the name alone, without scheme and port";
    Err(InvalidValue::new("a host name or an IP address", hint))
}

/// Returns true if connections to this host never leave this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Parses a name that a server certificate can contain.
pub(super) fn server_name(text: &str) -> ParseResult<String> {
    let invalid =
        |_| InvalidValue::new("a DNS name or an IP address", "write the name in the certificate");
    rustls_pki_types::ServerName::try_from(text).map_err(invalid)?;
    Ok(text.to_owned())
}

/// Parses an address and port to listen on.
pub(super) fn listen(text: &str) -> ParseResult<SocketAddr> {
    text.parse().map_err(|_| {
        let hint = "write for example \"127.0.0.1:9464\" or \"[::]:9464\", or \"\" to turn it off";
        InvalidValue::new("an IP address and a port", hint)
    })
}

/// The words for log levels.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Parses a level, or directives for `tracing_subscriber`. It refuses a lone word that is not a level:
/// `tracing_subscriber` would accept it as a target, and turn everything else off.
pub(super) fn log_level(text: &str) -> ParseResult<String> {
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let clear = |part: &str| part.contains(['=', '[']) || is_level(part.trim());
    // The parser of directives panics on characters of several bytes.
    let filter = || EnvFilter::builder().parse(text);
    if text.is_ascii() && text.split(',').all(clear) && filter().is_ok() {
        return Ok(text.to_owned());
    }
    let mut expected = "a level (".to_owned();
    // Unwrap safety: writing to a String never fails.
    let _ = write!(expected, "{}) or directives target=level", LEVELS.join(", "));
    Err(InvalidValue::new(
        expected,
        "write for example \"info\" or \"info,centiloc_bridge::store=debug\"",
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400 * 365);

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms", &ANY).unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2h", &ANY).unwrap(), Duration::from_secs(7200));
        assert_eq!(duration("60", &ANY).unwrap_err().hint, unit_missing("60"));
        assert_eq!(duration("0", &ANY).unwrap_err().hint, unit_missing("0"));
        for bad in ["", "s", "-5s", "5 parsecs", "99999999999999999999s"] {
            assert!(duration(bad, &ANY).is_err(), "{bad}");
        }
        let outside = duration("2h", &(Duration::ZERO..=Duration::from_secs(60))).unwrap_err();
        assert_eq!(outside.expected, "a duration from 0s to 1m");
    }

    #[test]
    fn sizes_need_a_unit_and_stay_within_bounds() {
        assert_eq!(size::<u64>("16MiB", 0..=1 << 30).unwrap(), 16 << 20);
        assert_eq!(size::<usize>("1.5KiB", 0..=1 << 30).unwrap(), 1536);
        assert_eq!(size::<u64>("16", 0..=1 << 30).unwrap_err().hint, "add a unit, as in \"16B\"");
        assert_eq!(
            size::<u64>("2GiB", 1024..=268_435_460).unwrap_err().expected,
            "a size from 1KiB to 268435460B"
        );
        for bad in ["", "MiB", "-1MiB", "1e3MiB", "16 bananas", "99999999999EiB"] {
            assert!(size::<u64>(bad, 0..=1 << 30).is_err(), "{bad}");
        }
    }

    #[test]
    fn tenants_and_groups_cannot_break_a_topic() {
        assert!(topic_part("acme-0012_é").is_ok());
        for bad in ["", "a/b", "a+", "#", "a b", "a\0", "a\n", "a\u{a0}b"] {
            assert!(topic_part(bad).is_err(), "{bad:?}");
        }
        assert!(topic_part(&"x".repeat(MAX_NAME + 1)).is_err());
    }

    #[test]
    fn client_ids_begin_with_the_tenant() {
        assert!(client_id("acme-1", "acme").is_ok());
        assert!(client_id("other", "acme").unwrap_err().hint.contains("acme-bridge"));
        assert!(client_id("acme\u{7}", "acme").is_err());
        assert!(client_id(&format!("acme{}", "x".repeat(MAX_MQTT_TEXT)), "acme").is_err());
    }

    #[test]
    fn hosts_are_bare_names_or_addresses() {
        for good in ["mqtt-client.centiloc.com", "127.0.0.1", "::1", "my_host", "localhost"] {
            assert!(host(good).is_ok(), "{good}");
        }
        for bad in ["", "mqtts://x", "x:8883", "[::1]", "a b", "x/y", "u@x"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_address() {
        assert!(
            ["localhost", "LOCALHOST", "127.0.0.2", "::1", "[::1]"].into_iter().all(is_loopback)
        );
        assert!(!["localhost.example.com", "10.0.0.1", "::", ""].into_iter().any(is_loopback));
    }

    #[test]
    fn a_misspelt_level_is_no_target() {
        for good in ["info", "WARN", "off", "info,centiloc_bridge::store=debug"] {
            assert!(log_level(good).is_ok(), "{good}");
        }
        for bad in
            ["", "inof", "info,", "centiloc_bridge=loud", "info,store", "a=b=c", "é{\u{617ba}=info"]
        {
            assert!(log_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn invalid_words_are_answered_with_the_valid_ones() {
        let words = [("protobuf", 1), ("json", 2)];
        assert_eq!(choice("json", &words).unwrap(), 2);
        let invalid = choice("jsno", &words).unwrap_err();
        assert_eq!(invalid.expected, "one of protobuf, json");
        assert_eq!(invalid.hint, "write \"json\", for example");
    }

    proptest! {
        #[test]
        fn sizes_and_durations_parse_back(
            bytes in 0..=i64::MAX as u64, millis in 0u64..=86_400_000
        ) {
            prop_assert_eq!(size::<u64>(&size_text(bytes), 0..=u64::MAX).unwrap(), bytes);
            let span = Duration::from_millis(millis);
            let text = humantime::format_duration(span).to_string();
            prop_assert_eq!(duration(&text, &ANY).unwrap(), span);
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,64}") {
            let _ = (duration(&text, &ANY), size::<u64>(&text, 0..=9));
            let _ = integer::<u64>(&text, 0..=9);
            let _ = (host(&text), server_name(&text), listen(&text));
            let _ = (log_level(&text), topic_part(&text), mqtt_text(&text));
        }
    }
}
