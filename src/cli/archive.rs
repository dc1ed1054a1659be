//! `archive`: lists the files of deleted events, and brings their rows back.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;

use super::ConfigFileArgs;
use super::output::{self, printable};
use super::progress_bar::ProgressBar;
use crate::exit;
use crate::store::Store;
use crate::store::archive::{ArchiveRecord, RestoreProgress};
use crate::telemetry::stderr;

/// Command-line arguments of `archive`.
#[derive(Debug, clap::Args)]
pub struct ArchiveArgs {
    #[command(subcommand)]
    action: ArchiveCommand,
}

#[derive(Debug, Subcommand)]
enum ArchiveCommand {
    /// List the files that retention wrote before it deleted events
    List {
        #[command(flatten)]
        common: CommonArchiveArgs,
    },
    /// Verify files and insert their rows again, which retention then keeps until they are released
    Restore {
        #[command(flatten)]
        common: CommonArchiveArgs,
        /// Let retention delete the rows of these files again, without restoring any
        #[arg(long)]
        release: bool,
        /// Files, by path or by name within the folder of the archive
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct CommonArchiveArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Print one JSON document, for programs
    #[arg(long)]
    json: bool,
}

/// Runs the command. Returns exit code 1 if a file could not be restored or released.
pub async fn run(args: ArchiveArgs) -> anyhow::Result<ExitCode> {
    let (ArchiveCommand::List { common } | ArchiveCommand::Restore { common, .. }) = &args.action;
    let config = common.config.load()?.config;
    let store = Store::new(&config.database, config.retention.partition)?;
    let (text, complete) = match &args.action {
        ArchiveCommand::List { common } => {
            let files = store.archive_files().await?;
            let json = common.json;
            (if json { output::json(&json!({ "files": files }))? } else { list(&files) }, true)
        }
        ArchiveCommand::Restore { common, release: true, files } => {
            release(&store, files, common.json).await?
        }
        ArchiveCommand::Restore { common, files, .. } => {
            let folder = config.retention.archive_dir.as_deref();
            restore(&store, folder, files, common.json).await?
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes()).context("could not write to stdout")?;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn list(files: &[ArchiveRecord]) -> String {
    if files.is_empty() {
        return "no files; retention writes them if retention.archive_dir is set\n".to_owned();
    }
    let mut text = String::new();
    for record in files {
        text += &line(record);
    }
    text
}

fn line(record: &ArchiveRecord) -> String {
    let date = |at: time::OffsetDateTime| at.to_offset(time::UtcOffset::UTC).date();
    let (from, until) = (date(record.from_at), date(record.until_at));
    let range = format!("{:12} {from} to {until}", record.table_name);
    match (&record.file, &record.held_in) {
        (Some(file), None) => {
            let bytes = u64::try_from(record.bytes.unwrap_or(0)).unwrap_or(0);
            let restored = if record.restored_at.is_some() { "  restored" } else { "" };
            let (rows, size) = (record.rows.unwrap_or(0), bytesize::ByteSize(bytes));
            format!("{range} {rows:>10} rows {size:>10}  {}{restored}\n", printable(file))
        }
        (_, held) => {
            let held = held.as_deref().unwrap_or_default();
            format!("{range} waits to be written: {}\n", printable(held))
        }
    }
}

async fn release(store: &Store, files: &[PathBuf], json: bool) -> anyhow::Result<(String, bool)> {
    let (mut released, mut unknown) = (Vec::new(), Vec::new());
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if store.release(&name).await? { released.push(name) } else { unknown.push(name) }
    }
    for name in &unknown {
        stderr::line(format_args!("{} is not restored", printable(name)));
    }
    let text = if json {
        output::json(&json!({ "released": released, "not_restored": unknown }))?
    } else {
        let line = |name: &String| format!("released {}\n", printable(name));
        released.iter().map(line).collect()
    };
    Ok((text, unknown.is_empty()))
}

async fn restore(
    store: &Store,
    folder: Option<&Path>,
    files: &[PathBuf],
    json: bool,
) -> anyhow::Result<(String, bool)> {
    let (mut restored, mut text, mut complete) = (Vec::new(), String::new(), true);
    for file in files {
        let path = located(folder, file);
        let mut bar: Option<(bool, ProgressBar)> = None;
        let name = printable(&file.display().to_string());
        let mut report = |step: RestoreProgress| {
            let (is_inserting, done, total) = match step {
                RestoreProgress::Verifying { done, total } => (false, done, total),
                RestoreProgress::Inserting { done, total } => (true, done, total),
            };
            if bar.as_ref().is_none_or(|(inserts, _)| *inserts != is_inserting) {
                let next = if is_inserting {
                    ProgressBar::counting(&format!("restoring {name}"), "rows", total)
                } else {
                    ProgressBar::bytes(&format!("verifying {name}"), total)
                };
                bar = Some((is_inserting, next));
            }
            if let Some((_, bar)) = &bar {
                bar.set(done);
            }
        };
        let outcome = store.restore(&path, &mut report).await;
        drop(bar);
        match outcome {
            Ok(done) => {
                let (rows, inserted) = (done.description.rows, done.inserted);
                let present = rows.saturating_sub(inserted);
                let _ = writeln!(text, "{name}: {inserted} rows restored, {present} were there");
                restored.push(json!({ "file": name, "rows": rows, "inserted": inserted }));
            }
            Err(error) => {
                complete = false;
                stderr::line(format_args!("centiloc-bridge: {error}"));
                restored.push(json!({ "file": name, "problem": error.to_string() }));
            }
        }
    }
    let text = if json { output::json(&json!({ "files": restored }))? } else { text };
    Ok((text, complete))
}

/// Returns the path of a file that may be named within the folder.
fn located(folder: Option<&Path>, file: &Path) -> PathBuf {
    match folder {
        Some(folder) if !file.exists() && file.file_name() == Some(file.as_os_str()) => {
            folder.join(file)
        }
        _ => file.to_owned(),
    }
}
