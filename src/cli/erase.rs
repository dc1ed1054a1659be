//! `erase`: removes all data of a tag or board, or everything before a date.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, Time};

use super::ConfigFileArgs;
use super::status::printable;
use crate::erase::{self, ErasureReport, TraceSelector};
use crate::exit;
use crate::store::Store;
use crate::store::erase::ErasedCounts;
use crate::telemetry::stderr;

/// Interval between two progress lines of a long step.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Command-line arguments of `erase`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("selector").required(true)))]
pub struct EraseArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Erase all data of the tag with this uid, written as in the events
    #[arg(long, group = "selector", value_name = "UID", value_parser = name)]
    uid: Option<String>,
    /// Erase all data of the board with this serial number, including item events on it
    #[arg(long, group = "selector", value_name = "SN", value_parser = name)]
    board: Option<String>,
    /// Erase all events before this date (2026-01-31, midnight UTC) or time (RFC 3339)
    #[arg(long, group = "selector", value_name = "DATE", value_parser = cutoff)]
    before: Option<OffsetDateTime>,
    /// Only count the rows, without erasing them
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command. Returns exit code 1 if data remains: rows that could not be erased, or a place
/// that could not be reached.
pub async fn run(args: EraseArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?.config;
    let selector = match (args.uid, args.board, args.before) {
        (Some(uid), _, _) => TraceSelector::Uid(uid),
        (_, Some(board), _) => TraceSelector::Board(board),
        (_, _, Some(before)) => TraceSelector::Before(before),
        // Unwrap safety: the group of arguments is required.
        (None, None, None) => unreachable!("a selector is required"),
    };
    let store = Store::new(&config.database, config.retention.partition)?;
    let mut reported = (String::new(), Instant::now());
    let mut progress = |step: &str, counts: &ErasedCounts| {
        let begins = reported.0 != step;
        if begins || reported.1.elapsed() >= REPORT_EVERY {
            reported = (step.to_owned(), Instant::now());
            stderr::line(format_args!("{step}: {} rows so far", counts.total()));
        }
    };
    let report =
        erase::run(&config, &store, &selector, args.dry_run, &mut progress).await.context(
            "erasure is incomplete; erased rows stay erased, and running the command again continues",
        )?;
    let mut out = std::io::stdout().lock();
    out.write_all(text(&report, &selector, args.dry_run).as_bytes())
        .and_then(|()| out.flush())
        .context("could not write to stdout")?;
    let complete = report.elsewhere.is_empty();
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn text(report: &ErasureReport, selector: &TraceSelector, dry_run: bool) -> String {
    use std::fmt::Write as _;
    let counts = &report.counts;
    let mut text = String::new();
    let width = counts.by_place().map(|(place, _)| place.len() + 1).max().unwrap_or_default();
    for (place, number) in counts.by_place() {
        let _ = writeln!(text, "{place:<width$} {number:>10}");
    }
    let total = counts.total();
    let outcome = if dry_run {
        "would be erased; nothing was changed"
    } else {
        "erased; recorded in centiloc.erasure"
    };
    let _ = writeln!(text, "{total} {outcome}");
    if let (0, Some(reversed)) = (total, reversed(selector)) {
        let _ = writeln!(text, "a phone shows the bytes of a tag in reverse: try --uid {reversed}");
    }
    for place in &report.elsewhere {
        let _ = writeln!(text, "not erased: {}", printable(place));
    }
    text
}

/// Returns a uid of hex digits with its bytes in reverse order.
fn reversed(selector: &TraceSelector) -> Option<String> {
    const DIGITS: usize = 16;
    let TraceSelector::Uid(uid) = selector else { return None };
    let is_hex = uid.len() == DIGITS && uid.bytes().all(|b| b.is_ascii_hexdigit());
    let bytes = || uid.as_bytes().chunks(2).rev().flatten().map(|b| char::from(*b));
    is_hex.then(|| bytes().collect())
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected a text that is not empty".into()) } else { Ok(text.into()) }
}

fn cutoff(text: &str) -> Result<OffsetDateTime, String> {
    let date = Date::parse(text, format_description!("[year]-[month]-[day]"));
    let time = date
        .map(|date| date.with_time(Time::MIDNIGHT).assume_utc())
        .or_else(|_| OffsetDateTime::parse(text, &Rfc3339))
        .map_err(
            |_| "expected a date such as 2026-01-31, or a time such as 2026-01-31T08:00:00Z",
        )?;
    if time > OffsetDateTime::now_utc() {
        return Err("expected a date in the past".into());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use time::macros::datetime;

    use super::*;
    use crate::event::EventKind;

    #[derive(Debug, Parser)]
    struct EraseCommandLine {
        #[command(flatten)]
        args: EraseArgs,
    }

    fn parse(line: &str) -> Result<EraseArgs, String> {
        let words = std::iter::once("erase").chain(line.split_whitespace());
        EraseCommandLine::try_parse_from(words).map(|c| c.args).map_err(|e| e.to_string())
    }

    #[test]
    fn one_selector_is_required() {
        for line in ["", "--dry-run", "--uid A --board B", "--uid=", "--uid A --before 2026-01-01"]
        {
            parse(line).expect_err(line);
        }
        assert_eq!(parse("--uid A").expect("parses").uid.as_deref(), Some("A"));
    }

    #[test]
    fn a_date_is_midnight_utc_and_past() {
        let before = |line: &str| parse(line).map(|args| args.before.expect("a date"));
        assert_eq!(before("--before 2026-01-31").expect("a date"), datetime!(2026-01-31 0:00 UTC));
        let offset = before("--before 2026-01-31T01:00:00+01:00").expect("a time");
        assert_eq!(offset, datetime!(2026-01-31 0:00 UTC));
        for line in ["--before 31.01.2026", "--before 2026-02-30", "--before 9000-01-01"] {
            before(line).expect_err(line);
        }
    }

    #[test]
    fn report_counts_rows_and_names_places_left() {
        let mut counts = ErasedCounts { spooled: 3, ..ErasedCounts::default() };
        counts.events[EventKind::Item] = 12;
        let report = ErasureReport { counts, elsewhere: vec!["a\u{1b}[2J copy".into()] };
        let tag = TraceSelector::Uid("263aea3c080104e0".into());
        let dry = text(&report, &tag, true);
        assert!(dry.lines().any(|line| line.split_whitespace().eq(["item_event", "12"])), "{dry}");
        assert!(dry.contains("15 would be erased") && !dry.contains('\u{1b}'), "{dry}");
        assert!(!dry.contains("reverse"), "{dry}");
        assert!(text(&report, &tag, false).contains("15 erased"), "{dry}");
    }

    #[test]
    fn uid_read_by_a_phone_is_recognised() {
        let text =
            |uid: &str| text(&ErasureReport::default(), &TraceSelector::Uid(uid.into()), true);
        assert!(text("263aea3c080104e0").contains("try --uid e00401083cea3a26"));
        assert!(!text("a tag of our own").contains("try"));
    }
}
