//! `dead-letters`: lists dead letters, replays them after a fix, exports and purges them.

mod render;

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ConfigFileArgs;
use super::output::{self, printable};
use super::progress_bar::ProgressBar;
use crate::config::Config;
use crate::decode::{ClockTrust, Decoder};
use crate::event::RejectReason;
use crate::exit;
use crate::store::Store;
use crate::store::dead_letters::{DeadLetterFilter, ReplayOutcome};
use crate::telemetry::stderr;

/// Command-line arguments of `dead-letters`.
#[derive(Debug, clap::Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    action: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// List dead letters, newest first
    List {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// Include replayed dead letters
        #[arg(long)]
        all: bool,
        /// Print at most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
    },
    /// Show one dead letter with its payload
    Show {
        #[command(flatten)]
        common: CommonArgs,
        /// ID of the dead letter
        id: i64,
        /// Print only the payload, as it was received
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Decode dead letters again and store their events
    #[command(arg_required_else_help = true)]
    Replay {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        chosen: IdArgs,
        /// Replay all dead letters that were not replayed yet
        #[arg(long)]
        all: bool,
    },
    /// Write dead letters to a file, one JSON document per line, oldest first
    Export {
        #[command(flatten)]
        config: ConfigFileArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// Include replayed dead letters
        #[arg(long)]
        all: bool,
        /// File to create, readable only by its owner [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Delete dead letters for good (messages that were not replayed are lost)
    #[command(arg_required_else_help = true)]
    Purge {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        chosen: IdArgs,
        /// Include replayed dead letters (without a filter, delete all)
        #[arg(long)]
        all: bool,
        /// Only count the dead letters, without deleting them
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
struct IdArgs {
    /// IDs of the dead letters
    #[arg(required_unless_present_any = ["all", "reason", "topic", "since"])]
    #[arg(conflicts_with_all = ["all", "reason", "topic", "since"])]
    ids: Vec<i64>,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Print one JSON document, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Only dead letters with this reason
    #[arg(long, value_parser = PossibleValuesParser::new(RejectReason::ALL.map(RejectReason::as_str)))]
    reason: Option<String>,
    /// Only dead letters of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only dead letters received since this time: RFC 3339, or a duration before now such as 2h or
    /// 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<OffsetDateTime>,
}

impl FilterArgs {
    fn filter(&self, replayed: bool) -> DeadLetterFilter {
        DeadLetterFilter {
            replayed,
            reason: self.reason.clone(),
            topic: self.topic.clone(),
            since: self.since,
        }
    }
}

fn since(text: &str) -> Result<OffsetDateTime, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok();
    let before_now = || {
        let duration = humantime::parse_duration(text).ok()?;
        OffsetDateTime::now_utc().checked_sub(duration.try_into().ok()?)
    };
    time.or_else(before_now).ok_or_else(|| {
        "expected RFC 3339 such as 2026-03-01T10:00:00Z, or a duration such as 2h or 7d".to_owned()
    })
}

impl DeadLettersCommand {
    fn config(&self) -> &ConfigFileArgs {
        match self {
            Self::List { common, .. }
            | Self::Show { common, .. }
            | Self::Replay { common, .. }
            | Self::Purge { common, .. } => &common.config,
            Self::Export { config, .. } => config,
        }
    }
}

/// Runs the command. Returns exit code 1 if a dead letter does not exist or could not be stored.
pub async fn run(args: DeadLettersArgs) -> anyhow::Result<ExitCode> {
    let config = args.action.config().load()?.config;
    let store = Store::new(&config.database, config.retention.partition)?;
    let out = &mut std::io::stdout();
    let complete = match args.action {
        DeadLettersCommand::List { common, filter, all, limit } => {
            let letters = store.dead_letters(&filter.filter(all), limit).await?;
            let json = common.json;
            let text = if json { output::json(&letters)? } else { render::list(&letters)? };
            out.write_all(text.as_bytes())?;
            true
        }
        DeadLettersCommand::Show { common, id, raw } => {
            show(&store, id, raw, common.json, out).await?
        }
        DeadLettersCommand::Replay { common, filter, chosen: IdArgs { ids }, all: _ } => {
            let ids = chosen(&store, ids, &filter.filter(false)).await?;
            replay(&config, &store, &ids, common.json, out).await?
        }
        DeadLettersCommand::Export { filter, all, out: file, .. } => {
            let ids = store.dead_letter_ids(&filter.filter(all)).await?;
            export(&store, &ids, file.as_deref()).await?;
            true
        }
        DeadLettersCommand::Purge { common, filter, chosen: IdArgs { ids }, all, dry_run } => {
            let asked = ids.len();
            let ids = chosen(&store, ids, &filter.filter(all)).await?;
            let purged = purge(&store, &ids, dry_run, common.json, out).await?;
            // Dead letters given by ID must have existed.
            asked == 0 || dry_run || usize::try_from(purged) == Ok(asked)
        }
    };
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

/// Returns the given IDs, or those of all dead letters that match the filter.
async fn chosen(
    store: &Store,
    ids: Vec<i64>,
    filter: &DeadLetterFilter,
) -> anyhow::Result<Vec<i64>> {
    if ids.is_empty() { Ok(store.dead_letter_ids(filter).await?) } else { Ok(ids) }
}

/// Prints one dead letter. Returns false if it does not exist.
async fn show(
    store: &Store,
    id: i64,
    raw: bool,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let Some((letter, payload)) = store.dead_letter(id).await? else {
        stderr::line(format_args!("there is no dead letter {id}"));
        return Ok(false);
    };
    if raw {
        out.write_all(&payload)?;
    } else if json {
        out.write_all(output::json(&render::document(&letter, &payload)?)?.as_bytes())?;
    } else {
        out.write_all(render::one(&letter, &payload)?.as_bytes())?;
    }
    Ok(true)
}

/// Replays the dead letters. Returns false if some could not be stored.
async fn replay(
    config: &Config,
    store: &Store,
    ids: &[i64],
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let decoder = Decoder::new(&config.decode, &config.tenant)?;
    let (mut stored, mut left) = (0, Vec::new());
    let bar = ProgressBar::counting("replaying", "dead letters", ids.len() as u64);
    for (done, id) in ids.iter().enumerate() {
        bar.set(done as u64);
        // The checks use the time of receipt: only the schema may have been corrected since.
        let decode = |topic: &str, payload: &_, received_at| {
            decoder.decode(topic, payload, received_at, ClockTrust::Agree(received_at))
        };
        let replay = store.replay(*id, decode).await;
        let why = match replay.with_context(|| format!("could not replay dead letter {id}"))? {
            ReplayOutcome::Stored | ReplayOutcome::Duplicate => {
                stored += 1;
                continue;
            }
            ReplayOutcome::Rejected(reject) => reject.to_string(),
            ReplayOutcome::Refused(detail) => format!("refused_by_database: {detail}"),
            ReplayOutcome::Unknown => "it does not exist".to_owned(),
        };
        if !json {
            bar.hidden_while(|| writeln!(out, "{id:6}  {}", printable(&why)))?;
        }
        left.push(json!({ "id": id, "problem": why }));
    }
    drop(bar);
    let complete = left.is_empty();
    if json {
        out.write_all(output::json(&json!({ "stored": stored, "left": left }))?.as_bytes())?;
    } else {
        writeln!(out, "{stored} stored, {} left", left.len())?;
    }
    Ok(complete)
}

/// Writes one line per dead letter, with one in memory at a time.
async fn export(store: &Store, ids: &[i64], file: Option<&Path>) -> anyhow::Result<()> {
    let mut out: Box<dyn Write> = match file {
        Some(path) => {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Box::new(file.with_context(|| format!("could not create {}", path.display()))?)
        }
        None => Box::new(std::io::stdout()),
    };
    let mut lines = BufWriter::new(&mut out);
    let mut exported = 0;
    for id in ids {
        // A dead letter that was purged in the meantime is skipped.
        if let Some((letter, payload)) = store.dead_letter(*id).await? {
            serde_json::to_writer(&mut lines, &render::document(&letter, &payload)?)?;
            lines.write_all(b"\n").context("could not write the export")?;
            exported += 1;
        }
    }
    lines.flush().context("could not write the export")?;
    stderr::line(format_args!("{exported} exported"));
    Ok(())
}

/// Deletes the dead letters. Returns the number that were deleted, or would be with `dry_run`.
async fn purge(
    store: &Store,
    ids: &[i64],
    dry_run: bool,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<u64> {
    let count = if dry_run { ids.len() as u64 } else { store.purge_dead_letters(ids).await? };
    if json {
        let document = json!({ "purged": count, "dry_run": dry_run });
        out.write_all(output::json(&document)?.as_bytes())?;
    } else {
        writeln!(out, "{count} {}", if dry_run { "would be purged" } else { "purged" })?;
    }
    Ok(count)
}
