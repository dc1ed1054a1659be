//! `dead-letters`: look at what was set aside, and try it again after a fix.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use super::ConfigArgs;
use crate::config::Config;
use crate::decode::{ClockTrust, Decoder};
use crate::exit;
use crate::store::Store;
use crate::store::dead_letters::{Replay, Summary};
use crate::telemetry::stderr;
use crate::timestamp::shown;

/// Bytes of a payload shown as a hex dump; the rest is told by `--raw`.
const SHOWN: usize = 4096;

/// Arguments of `dead-letters`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them, newest first
    List {
        #[command(flatten)]
        config: ConfigArgs,
        /// Also those that a replay has brought in
        #[arg(long)]
        all: bool,
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
    },
    /// Show one with its payload
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// Its number
        id: i64,
        /// Write the payload alone, as it was received
        #[arg(long)]
        raw: bool,
    },
    /// Decode and store them again
    #[command(arg_required_else_help = true)]
    Replay {
        #[command(flatten)]
        config: ConfigArgs,
        /// Their numbers
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<i64>,
        /// Everything that no replay has brought in yet
        #[arg(long)]
        all: bool,
    },
}

/// Exit code 1 if there is no such dead letter, or some could not be brought in.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (Action::List { config, .. } | Action::Show { config, .. } | Action::Replay { config, .. }) =
        &args.action;
    let config = config.load()?.config;
    let store = Store::new(&config.database, config.retention.partition)?;
    let out = &mut std::io::stdout();
    let complete = match args.action {
        Action::List { all, limit, .. } => {
            list(&store.dead_letters(all, limit).await?, out)?;
            true
        }
        Action::Show { id, raw, .. } => show(&store, id, raw, out).await?,
        Action::Replay { ids, all, .. } => {
            let ids = if all { store.unreplayed_dead_letters().await? } else { ids };
            replay(&config, &store, &ids, out).await?
        }
    };
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn list(letters: &[Summary], out: &mut impl Write) -> anyhow::Result<()> {
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
    Ok(())
}

/// False if there is none.
async fn show(store: &Store, id: i64, raw: bool, out: &mut impl Write) -> anyhow::Result<bool> {
    let Some((letter, payload)) = store.dead_letter(id).await? else {
        stderr::line(format_args!("there is no dead letter {id}"));
        return Ok(false);
    };
    if raw {
        out.write_all(&payload)?;
        return Ok(true);
    }
    writeln!(out, "number      {}", letter.id)?;
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
    out.write_all(dump(&payload[..payload.len().min(SHOWN)]).as_bytes())?;
    if payload.len() > SHOWN {
        writeln!(out, "… {} bytes more: --raw writes them all", payload.len() - SHOWN)?;
    }
    Ok(true)
}

/// False if some could not be brought in.
async fn replay(
    config: &Config,
    store: &Store,
    ids: &[i64],
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let decoder = Decoder::new(&config.decode, &config.tenant)?;
    let (mut stored, mut left) = (0, 0);
    for id in ids {
        // Judged as when it was received: only the schema may have become right since.
        let decode = |topic: &str, payload: &_, received_at| {
            decoder.decode(topic, payload, received_at, ClockTrust::Agree(received_at))
        };
        let replay = store.replay(*id, decode).await;
        let why = match replay.with_context(|| format!("could not replay dead letter {id}"))? {
            Replay::Stored | Replay::Duplicate => {
                stored += 1;
                continue;
            }
            Replay::Rejected(reject) => reject.to_string(),
            Replay::Refused(detail) => format!("refused_by_database: {detail}"),
            Replay::Unknown => "there is none with this number".to_owned(),
        };
        left += 1;
        writeln!(out, "{id:6}  {}", printable(&why))?;
    }
    writeln!(out, "{stored} brought in, {left} left")?;
    Ok(left == 0)
}

/// What came from outside must not command the terminal.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escape).collect()
}

/// Sixteen bytes a line, in hex and as text.
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

    fn letter() -> Summary {
        let at = time::macros::datetime!(2026-11-01 12:00 UTC);
        Summary {
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
    fn a_list_is_readable_and_cannot_command_the_terminal() {
        let mut out = Vec::new();
        list(&[letter()], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(
            text.contains("     7  2026-11-01T12:00:00Z") && text.contains("4 times"),
            "{text}"
        );
    }

    #[test]
    fn a_payload_is_dumped_in_hex_and_text() {
        assert_eq!(
            dump(b"\0abcdefghijklmnopq"),
            "00000000  00 61 62 63 64 65 66 67 68 69 6a 6b 6c 6d 6e 6f  .abcdefghijklmno\n\
             00000010  70 71                                            pq\n"
        );
    }
}
