//! `gaps`: lists and acknowledges the periods in which messages may have been lost.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use serde_json::json;

use super::ConfigFileArgs;
use super::output::{self, printable};
use crate::exit;
use crate::store::Store;
use crate::store::gaps::RecordedGap;
use crate::timestamp::shown;

/// Command-line arguments of `gaps`.
#[derive(Debug, clap::Args)]
pub struct GapsArgs {
    #[command(subcommand)]
    action: GapsCommand,
}

#[derive(Debug, Subcommand)]
enum GapsCommand {
    /// List unacknowledged gaps, newest first
    List {
        #[command(flatten)]
        config: ConfigFileArgs,
        /// Include gaps that are acknowledged
        #[arg(long)]
        all: bool,
        /// Print at most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
        /// Print one JSON document, for programs
        #[arg(long)]
        json: bool,
    },
    /// Acknowledge gaps after reviewing them
    #[command(visible_alias = "ack")]
    Acknowledge {
        #[command(flatten)]
        config: ConfigFileArgs,
        /// IDs of the gaps
        #[arg(required = true)]
        ids: Vec<i64>,
        /// Conclusion of the review, for example "nothing missing", shown in the view `data_gap`
        #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
        note: String,
        /// Print one JSON document, for programs
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command. Returns exit code 1 if a gap does not exist.
pub async fn run(args: GapsArgs) -> anyhow::Result<ExitCode> {
    let (GapsCommand::List { config, .. } | GapsCommand::Acknowledge { config, .. }) = &args.action;
    let config = config.load()?.config;
    let store = Store::new(&config.database, config.retention.partition)?;
    let (text, complete) = match args.action {
        GapsCommand::List { all, limit, json, .. } => {
            let gaps = store.gaps(all, limit).await?;
            (if json { output::json(&gaps)? } else { list(&gaps)? }, true)
        }
        GapsCommand::Acknowledge { ids, note, json, .. } => {
            let mut found = store.acknowledge_gaps(&ids, &note).await?;
            found.sort_unstable();
            let unknown: Vec<i64> = ids.into_iter().filter(|id| !found.contains(id)).collect();
            (acknowledged(&found, &unknown, json)?, unknown.is_empty())
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

/// Formats two lines per gap, and a third line for its note.
fn list(gaps: &[RecordedGap]) -> anyhow::Result<String> {
    let mut text = String::new();
    if gaps.is_empty() {
        writeln!(text, "no gaps")?;
    }
    for gap in gaps {
        let start = shown(gap.started_at);
        let end = gap.ended_at.map_or_else(|| "now".to_owned(), shown);
        writeln!(text, "{:6}  {start} to {end}  {}  {}", gap.id, gap.cause, gap.client_id)?;
        writeln!(text, "        {}", printable(&gap.detail))?;
        if let Some(at) = gap.acknowledged_at.map(shown) {
            let note = gap.note.as_deref().unwrap_or_default();
            writeln!(text, "        acknowledged {at}: {}", printable(note))?;
        }
    }
    Ok(text)
}

fn acknowledged(found: &[i64], unknown: &[i64], json: bool) -> anyhow::Result<String> {
    if json {
        return output::json(&json!({ "acknowledged": found, "unknown": unknown }));
    }
    let mut text = String::new();
    for id in found {
        writeln!(text, "acknowledged gap {id}")?;
    }
    for id in unknown {
        writeln!(text, "there is no gap {id}")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_shows_extent_cause_and_note() {
        let at = time::macros::datetime!(2026-11-01 12:00 UTC);
        let gap = RecordedGap {
            id: 7,
            client_id: "acme-bridge".into(),
            started_at: at,
            ended_at: Some(at + time::Duration::HOUR),
            cause: "absence".into(),
            detail: "away\u{1b}".into(),
            acknowledged_at: Some(at + time::Duration::DAY),
            note: Some("nothing missing".into()),
        };
        assert_eq!(
            list(&[gap]).unwrap(),
            "     7  2026-11-01T12:00:00Z to 2026-11-01T13:00:00Z  absence  acme-bridge\n        \
             away\\u{1b}\n        acknowledged 2026-11-02T12:00:00Z: nothing missing\n"
        );
        assert_eq!(list(&[]).unwrap(), "no gaps\n");
    }
}
