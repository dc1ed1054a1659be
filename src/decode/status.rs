//! One canonical form of a board's status, whichever way it is written.

/// The enum's name as documented; its values carry it as a prefix.
pub(super) const ENUM: &str = "BoardStatus";

/// The documented values.
const KNOWN: [&str; 5] = ["CONNECTED", "DISCONNECTED", "ONERROR", "MAINTENANCE", "DEGRADED"];

/// The documented values in upper case, others as sent; both without the enum's prefix.
pub(super) fn canonical(sent: &str) -> &str {
    let bare = without_prefix(sent, ENUM);
    KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(bare)).unwrap_or(bare)
}

/// Strips the enum's name and an underscore, whatever the case and the underscores inside it
/// (`BOARDSTATUS_X`, `BOARD_STATUS_X`), unless nothing would remain.
pub(super) fn without_prefix<'a>(value: &'a str, enum_name: &str) -> &'a str {
    let mut rest = value;
    for expected in enum_name.bytes().filter(|byte| *byte != b'_') {
        rest = rest.trim_start_matches('_');
        match rest.as_bytes().first() {
            Some(byte) if byte.eq_ignore_ascii_case(&expected) => rest = &rest[1..],
            _ => return value,
        }
    }
    match rest.strip_prefix('_') {
        Some(bare) if !bare.is_empty() => bare,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_values_have_one_form() {
        for known in KNOWN {
            for sent in [
                known.to_owned(),
                known.to_lowercase(),
                format!("BOARDSTATUS_{known}"),
                format!("boardstatus_{known}"),
                format!("BOARD_STATUS_{known}"),
            ] {
                assert_eq!(canonical(&sent), known, "{sent}");
            }
        }
    }

    #[test]
    fn other_values_stay_as_sent_without_the_prefix() {
        for (sent, expected) in [
            ("Sleeping", "Sleeping"),
            ("BOARDSTATUS_Sleeping", "Sleeping"),
            ("BoardStatus_SLEEP_DEEP", "SLEEP_DEEP"),
            ("BOARDSTATUS_", "BOARDSTATUS_"),
            ("BOARDSTATUS", "BOARDSTATUS"),
            ("BOARDSTATUSCONNECTED", "BOARDSTATUSCONNECTED"),
            ("", ""),
            ("é_CONNECTED", "é_CONNECTED"),
            ("7", "7"),
        ] {
            assert_eq!(canonical(sent), expected);
        }
    }
}
