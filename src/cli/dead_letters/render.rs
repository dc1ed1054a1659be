//! Formats dead letters as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::output::printable;
use crate::store::dead_letters::DeadLetterSummary;
use crate::timestamp::shown;

/// Most bytes of a payload in a hex dump. `--raw` prints the whole payload.
const MAX_DUMP: usize = 4096;

/// Formats two lines per dead letter.
pub(super) fn list(letters: &[DeadLetterSummary]) -> anyhow::Result<String> {
    let mut out = String::new();
    if letters.is_empty() {
        writeln!(out, "no dead letters")?;
    }
    for letter in letters {
        let received = shown(letter.received_at);
        let seen = if letter.seen > 1 { format!(", {} times", letter.seen) } else { String::new() };
        let replayed = if letter.replayed_at.is_some() { ", replayed" } else { "" };
        writeln!(
            out,
            "{:6}  {received}  {}  {} bytes{seen}{replayed}\n        {}: {}",
            letter.id,
            printable(&letter.topic),
            letter.size,
            letter.reason,
            printable(&letter.detail)
        )?;
    }
    Ok(out)
}

/// Formats all columns of one dead letter, with a hex dump of its payload.
pub(super) fn one(letter: &DeadLetterSummary, payload: &[u8]) -> anyhow::Result<String> {
    let mut out = String::new();
    writeln!(out, "id          {}", letter.id)?;
    writeln!(out, "topic       {}", printable(&letter.topic))?;
    writeln!(out, "received    {}", shown(letter.received_at))?;
    writeln!(out, "last seen   {}", shown(letter.last_seen_at))?;
    writeln!(out, "seen        {}", letter.seen)?;
    writeln!(out, "reason      {}", letter.reason)?;
    writeln!(out, "detail      {}", printable(&letter.detail))?;
    if let Some(code) = &letter.sqlstate {
        writeln!(out, "SQLSTATE    {code}")?;
    }
    writeln!(out, "replayed    {}", letter.replayed_at.map_or_else(|| "no".to_owned(), shown))?;
    writeln!(out, "payload     {} bytes", payload.len())?;
    out.push_str(&dump(&payload[..payload.len().min(MAX_DUMP)]));
    if payload.len() > MAX_DUMP {
        writeln!(out, "… {} more bytes: --raw prints all of them", payload.len() - MAX_DUMP)?;
    }
    Ok(out)
}

/// Returns a dead letter as JSON, with its payload in hexadecimal and, if it is UTF-8, as text.
pub(super) fn document(letter: &DeadLetterSummary, payload: &[u8]) -> anyhow::Result<Value> {
    let mut document = serde_json::to_value(letter)?;
    document["payload_hex"] = hex(payload).into();
    document["payload_text"] = json!(std::str::from_utf8(payload).ok());
    Ok(document)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Formats sixteen bytes per line, in hexadecimal and as text.
fn dump(bytes: &[u8]) -> String {
    let line = |(number, line): (usize, &[u8])| {
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let text: String = line
            .iter()
            .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' })
            .collect();
        format!("{:08x}  {:<47}  {text}\n", number * 16, hex.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetterSummary {
        let at = time::macros::datetime!(2026-11-01 12:00 UTC);
        DeadLetterSummary {
            id: 7,
            received_at: at,
            last_seen_at: at,
            topic: "centiloc/T\u{1b}[2J".into(),
            size: 3,
            reason: "malformed".into(),
            detail: "not a protobuf message".into(),
            sqlstate: None,
            seen: 4,
            replayed_at: None,
        }
    }

    #[test]
    fn control_characters_in_a_list_are_escaped() {
        let text = list(&[letter()]).unwrap();
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(
            text.contains("     7  2026-11-01T12:00:00Z") && text.contains("4 times"),
            "{text}"
        );
    }

    #[test]
    fn payload_is_dumped_in_hex_and_text() {
        assert_eq!(
            dump(b"\0abcdefghijklmnopq"),
            "00000000  00 61 62 63 64 65 66 67 68 69 6a 6b 6c 6d 6e 6f  .abcdefghijklmno\n\
             00000010  70 71                                            pq\n"
        );
    }
}
