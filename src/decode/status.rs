//! Converts the status of a board to one canonical form.

/// The documented name of the enum, which prefixes its values.
pub(super) const ENUM: &str = "BoardStatus";

/// The documented values of a status.
const KNOWN: [&str; 5] = ["CONNECTED", "DISCONNECTED", "ONERROR", "MAINTENANCE", "DEGRADED"];

/// Returns a status without the prefix of the enum. Documented values are in upper case, and others stay
/// as sent.
pub(super) fn canonical(sent: &str) -> &str {
    let bare = without_prefix(sent, ENUM);
    KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(bare)).unwrap_or(bare)
}

/// Strips the name of the enum and an underscore, in any case and with underscores inside it
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
    fn documented_values_have_one_form() {
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
    fn other_values_only_lose_the_prefix() {
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
