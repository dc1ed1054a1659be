//! Times in words relative to now.

use maud::{Markup, html};
use time::OffsetDateTime;

use crate::timestamp;

/// Renders a time relative to `now`, with the exact time on hover.
pub fn render(at: OffsetDateTime, now: OffsetDateTime) -> Markup {
    let exact = timestamp::shown(at);
    html! { time datetime=(exact) title=(exact) { (relative(at, now)) } }
}

/// Returns a time relative to `now`, such as `3 min ago` or `in 12 days`.
pub fn relative(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (now - at).as_seconds_f64();
    if seconds.abs() < 1.0 {
        "now".to_owned()
    } else if seconds > 0.0 {
        format!("{} ago", span(seconds))
    } else {
        format!("in {}", span(seconds))
    }
}

/// Returns a length of time in its largest unit, such as `45 s`, `3 min`, `5 h` or `12 days`.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.abs();
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1_000.0),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5_400.0 => format!("{:.0} min", s / 60.0),
        s if s < 129_600.0 => format!("{:.0} h", s / 3_600.0),
        s if s.is_finite() => format!("{:.0} days", s / 86_400.0),
        _ => "unknown".to_owned(),
    }
}

/// Returns a number with separators between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_relative_in_one_unit() {
        let now = datetime!(2026-11-27 12:00 UTC);
        let after = |seconds: i64| relative(now + time::Duration::seconds(seconds), now);
        for (seconds, text) in [
            (0, "now"),
            (-3, "3.0 s ago"),
            (-59, "59 s ago"),
            (-600, "10 min ago"),
            (-7_200, "2 h ago"),
            (-86_400 * 3, "3 days ago"),
            (86_400 * 241, "in 241 days"),
        ] {
            assert_eq!(after(seconds), text);
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(span(0.25), "250 ms");
        assert_eq!(span(f64::NAN), "unknown");
    }
}
