//! The JSON form of an event: the columns of its row, as `centiloc-bridge decode` prints them.
//! Only values whose form differs from that of their type need a function here.

use bytes::Bytes;
use serde::Serializer;

/// Serializes microseconds in the form of an interval of PostgreSQL, or null.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
pub(super) fn interval<S: Serializer>(
    micros: &Option<i64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match micros {
        Some(micros) => serializer.serialize_some(&interval_text(*micros)),
        None => serializer.serialize_none(),
    }
}

/// Serializes the size of a kept payload, or null. The bytes are the input of `decode`.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
pub(super) fn payload_size<S: Serializer>(
    payload: &Option<Bytes>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match payload {
        Some(payload) => serializer.serialize_some(&format!("kept, {} bytes", payload.len())),
        None => serializer.serialize_none(),
    }
}

/// Formats microseconds as PostgreSQL writes an interval: `00:11:28.909075`.
fn interval_text(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let text = format!("{sign}{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if fraction == 0 {
        return text;
    }
    format!("{text}.{fraction:06}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_postgresql_writes_them() {
        for (micros, text) in [
            (0, "00:00:00"),
            (688_909_075, "00:11:28.909075"),
            (90_500_000, "00:01:30.5"),
            (-1, "-00:00:00.000001"),
            (360_000_000_000, "100:00:00"),
        ] {
            assert_eq!(interval_text(micros), text);
        }
    }
}
