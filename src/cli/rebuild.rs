//! `rebuild`: computes derived tables again.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::json;

use super::progress_bar::ProgressBar;
use super::{ConfigFileArgs, output};
use crate::store::Store;
use crate::store::rebuild::{RebuildProgress, RebuildTarget};
use crate::telemetry::stderr;

/// Command-line arguments of `rebuild`.
#[derive(Debug, clap::Args)]
pub struct RebuildArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Tables to compute again from the events
    #[arg(value_enum)]
    tables: RebuiltTables,
    /// Print one JSON document, for programs
    #[arg(long)]
    json: bool,
}

/// Tables that can be computed again.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RebuiltTables {
    /// Stays of tags on boards, and the board of each tag
    Stays,
    /// Sums by hour and day
    Rollups,
}

/// Runs the command. A run that was interrupted is continued.
pub async fn run(args: RebuildArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?.config;
    let store = Store::new(&config.database, config.retention.partition)?;
    let (target, things) = match args.tables {
        RebuiltTables::Stays => (RebuildTarget::Stays, "tags"),
        RebuiltTables::Rollups => (RebuildTarget::Rollups, "hours and days"),
    };
    let name = target.as_str();
    let bar = ProgressBar::counting(&format!("rebuilding {name}"), things, 0);
    let mut is_first = true;
    let mut report = |progress: RebuildProgress| {
        if is_first && progress.continued {
            stderr::line("continuing the rebuild that was interrupted");
        }
        is_first = false;
        bar.set_of(progress.done, progress.total);
    };
    let rebuilt = store.rebuild(target, &mut report).await.with_context(|| {
        format!(
            "the rebuild of {name} is not complete; what is left is queued, and a running bridge or \
             the same command computes it"
        )
    })?;
    drop(bar);
    let text = if args.json {
        let continued = rebuilt.continued;
        output::json(&json!({ "rebuilt": name, "total": rebuilt.total, "continued": continued }))?
    } else {
        format!("rebuilt {name}: {} {things}\n", rebuilt.total)
    };
    std::io::stdout().lock().write_all(text.as_bytes()).context("could not write to stdout")?;
    Ok(ExitCode::SUCCESS)
}
