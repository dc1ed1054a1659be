//! JSON as Go's `encoding/json` writes it, with its escapes, floats and times. The decoder is
//! tested against these details, so that they are written here instead of by serde.

use std::fmt::Write as _;

use time::{OffsetDateTime, UtcOffset};

/// Text that Go writes for an unset `time.Time`.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A writer of one object, key by key in the order of the Go struct.
#[derive(Debug)]
pub struct GoObject<'a> {
    out: &'a mut String,
    empty: bool,
}

impl<'a> GoObject<'a> {
    /// Starts an object at the end of `out`.
    pub fn new(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    /// Ends the object with its brace.
    pub fn close(self) {
        self.out.push('}');
    }

    /// Writes a Go `string`.
    pub fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        push_string(self.out, value);
    }

    /// Writes a Go `bool`.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.push_str(if value { "true" } else { "false" });
    }

    /// Writes an integer of any type, such as `time.Duration`.
    pub fn int(&mut self, key: &str, value: i64) {
        self.key(key);
        push_display(self.out, value);
    }

    /// Writes a Go `float32`.
    pub fn float32(&mut self, key: &str, value: f32) {
        self.key(key);
        push_float32(self.out, value);
    }

    /// Writes a `time.Time` given in nanoseconds since the Unix epoch. `None` is the zero time.
    pub fn time(&mut self, key: &str, unix_ns: Option<i64>, offset_minutes: i16) {
        self.key(key);
        self.out.push('"');
        match unix_ns {
            Some(ns) => push_time(self.out, ns, offset_minutes),
            None => self.out.push_str(ZERO_TIME),
        }
        self.out.push('"');
    }

    /// Writes a Go `[]int32`. `None` is a nil slice.
    pub fn ints(&mut self, key: &str, values: Option<&[i32]>) {
        self.list(key, values, |out, value| push_display(out, *value));
    }

    /// Writes a Go `[]string`. `None` is a nil slice.
    pub fn strings(&mut self, key: &str, values: Option<&[String]>) {
        self.list(key, values, |out, value| push_string(out, value));
    }

    fn list<T>(&mut self, key: &str, values: Option<&[T]>, push: impl Fn(&mut String, &T)) {
        self.key(key);
        let Some(values) = values else {
            self.out.push_str("null");
            return;
        };
        self.out.push('[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            push(self.out, value);
        }
        self.out.push(']');
    }

    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
    }
}

fn push_display(out: &mut String, value: impl std::fmt::Display) {
    // Unwrap safety: writing to a String does not fail.
    write!(out, "{value}").expect("a String takes everything");
}

/// Writes a quoted string. Go also escapes `<`, `>` and `&`, and the two line separators that are
/// invalid in JavaScript strings.
fn push_string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                push_display(out, format_args!("\\u{:04x}", u32::from(c)));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// Writes the shortest digits that parse to the same `float32`, with an exponent only outside
/// `1e-6..1e21`.
fn push_float32(out: &mut String, value: f32) {
    let size = value.abs();
    if size != 0.0 && size < 1e-6 {
        push_display(out, format_args!("{value:e}"));
    } else if size >= 1e21 {
        out.push_str(&format!("{value:e}").replace('e', "e+"));
    } else {
        push_display(out, value);
    }
}

/// Writes RFC 3339 with up to nine fractional digits, without trailing zeros.
fn push_time(out: &mut String, unix_ns: i64, offset_minutes: i16) {
    let offset = UtcOffset::from_whole_seconds(i32::from(offset_minutes) * 60);
    // Unwrap safety: the range of 64-bit nanoseconds ends in the year 2262.
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ns))
        .expect("within the years a date can have")
        .to_offset(offset.unwrap_or(UtcOffset::UTC));
    push_display(
        out,
        format_args!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
        ),
    );
    if time.nanosecond() != 0 {
        push_display(out, format_args!(".{:09}", time.nanosecond()));
        out.truncate(out.trim_end_matches('0').len());
    }
    let (hours, minutes, _) = time.offset().as_hms();
    if (hours, minutes) == (0, 0) {
        out.push('Z');
    } else {
        let sign = if time.offset().is_negative() { '-' } else { '+' };
        push_display(
            out,
            format_args!("{sign}{:02}:{:02}", hours.unsigned_abs(), minutes.unsigned_abs()),
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn written(write: impl FnOnce(&mut GoObject<'_>)) -> String {
        let mut out = String::new();
        let mut object = GoObject::new(&mut out);
        write(&mut object);
        object.close();
        out
    }

    #[test]
    fn times_keep_only_the_digits_they_need() {
        let ns = 1_760_000_000_000_000_000;
        let time = |ns, offset| written(|o| o.time("t", Some(ns), offset));
        assert_eq!(time(ns, 0), r#"{"t":"2025-10-09T08:53:20Z"}"#);
        assert_eq!(time(ns + 41_005_043, 0), r#"{"t":"2025-10-09T08:53:20.041005043Z"}"#);
        assert_eq!(time(ns + 500_000_000, 120), r#"{"t":"2025-10-09T10:53:20.5+02:00"}"#);
        assert_eq!(time(ns, -210), r#"{"t":"2025-10-09T05:23:20-03:30"}"#);
        assert_eq!(written(|o| o.time("t", None, 60)), r#"{"t":"0001-01-01T00:00:00Z"}"#);
    }

    #[test]
    fn floats_have_no_needless_point_or_exponent() {
        let float = |value| written(|o| o.float32("f", value));
        assert_eq!(float(0.0), r#"{"f":0}"#);
        assert_eq!(float(1.0), r#"{"f":1}"#);
        assert_eq!(float(0.560_447), r#"{"f":0.560447}"#);
        assert_eq!(float(0.000_001), r#"{"f":0.000001}"#);
        assert_eq!(float(1e-7), r#"{"f":1e-7}"#);
        assert_eq!(float(1e21), r#"{"f":1e+21}"#);
    }

    #[test]
    fn nil_and_empty_lists_differ() {
        assert_eq!(written(|o| o.ints("l", None)), r#"{"l":null}"#);
        assert_eq!(written(|o| o.ints("l", Some(&[]))), r#"{"l":[]}"#);
        assert_eq!(written(|o| o.ints("l", Some(&[1, -2]))), r#"{"l":[1,-2]}"#);
        let labels = ["a".to_owned(), "b".to_owned()];
        assert_eq!(written(|o| o.strings("l", Some(&labels))), r#"{"l":["a","b"]}"#);
    }

    #[test]
    fn strings_are_escaped_the_way_go_does() {
        let text = written(|o| o.string("s", "<a>&\u{2028}\u{1}\"\\\n\u{8}é"));
        assert_eq!(text, "{\"s\":\"\\u003ca\\u003e\\u0026\\u2028\\u0001\\\"\\\\\\n\\bé\"}");
    }

    proptest! {
        #[test]
        fn any_string_and_float_reads_back(text: String, value in prop::num::f32::NORMAL) {
            let json = written(|o| { o.string("s", &text); o.float32("f", value); });
            let back: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
            prop_assert_eq!(back["s"].as_str(), Some(text.as_str()));
            let digits = json[json.rfind(':').expect("a key") + 1..json.len() - 1].to_owned();
            let back: f32 = digits.parse().expect("a float");
            prop_assert_eq!(back.to_bits(), value.to_bits());
        }

        #[test]
        fn any_time_reads_back_to_the_nanosecond(ns in 0i64.., offset in -720i16..=720) {
            let json = written(|o| o.time("t", Some(ns), offset));
            let back: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
            let time = OffsetDateTime::parse(back["t"].as_str().expect("text"), &Rfc3339);
            prop_assert_eq!(time.expect("RFC 3339").unix_timestamp_nanos(), i128::from(ns));
        }
    }
}
