//! `migrate`: applies pending database migrations, or lists them.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::progress_bar::ProgressBar;
use super::{ConfigFileArgs, output};
use crate::exit;
use crate::store::Store;
use crate::store::schema::{MigrationError, MigrationStatus};
use crate::telemetry::stderr;
use crate::timestamp::shown;

/// Command-line arguments of `migrate`.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Only list the migrations and when they were applied
    #[arg(long)]
    status: bool,
    /// Print one JSON document, for programs
    #[arg(long)]
    json: bool,
}

/// Runs the command. Returns exit code 78 for a schema that this program cannot use, and 1 if the
/// database fails.
pub async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?.config;
    let store = Store::new(&config.database, config.retention.partition)?;
    let steps = if args.status { store.schema_status().await } else { apply(&store).await };
    let mut out = std::io::stdout().lock();
    match steps {
        Ok(steps) if args.json => out.write_all(document(&steps, args.status)?.as_bytes())?,
        Ok(steps) if args.status => list(&steps, &mut out)?,
        Ok(steps) => report(&steps, &mut out)?,
        Err(error @ (MigrationError::Newer { .. } | MigrationError::Changed { .. })) => {
            stderr::line(format_args!("centiloc-bridge: {error}"));
            return Ok(ExitCode::from(exit::CONFIG));
        }
        Err(error) => return Err(error).context("could not migrate the database"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn apply(store: &Store) -> Result<Vec<MigrationStatus>, MigrationError> {
    let bar = ProgressBar::steps();
    let mut begins = |step: &MigrationStatus| {
        bar.step(format!("migration {}: {}", step.version, step.description));
    };
    store.migrate_reporting(&mut begins).await
}

fn list(steps: &[MigrationStatus], out: &mut impl Write) -> anyhow::Result<()> {
    for step in steps {
        let applied = step.applied_at.map(shown);
        let applied = applied.map_or_else(|| "pending".to_owned(), |at| format!("applied {at}"));
        writeln!(out, "{:4}  {:<12}  {applied}", step.version, step.description)?;
    }
    Ok(())
}

/// Formats `{"migrations": […]}` for the status, or `{"applied": […]}` for the migrations that this
/// run applied.
fn document(steps: &[MigrationStatus], status: bool) -> anyhow::Result<String> {
    let step = |step: &MigrationStatus| {
        Ok(json!({
            "version": step.version,
            "description": step.description,
            "applied_at": step.applied_at.map(shown),
        }))
    };
    let steps: Vec<Value> = steps.iter().map(step).collect::<anyhow::Result<_>>()?;
    let name = if status { "migrations" } else { "applied" };
    output::json(&json!({ name: steps }))
}

fn report(applied: &[MigrationStatus], out: &mut impl Write) -> anyhow::Result<()> {
    for step in applied {
        writeln!(out, "applied migration {}: {}", step.version, step.description)?;
    }
    if applied.is_empty() {
        writeln!(out, "the database schema is up to date")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_shows_applied_and_pending_migrations() {
        let at = time::macros::datetime!(2026-11-01 12:00 UTC);
        let steps = [
            MigrationStatus { version: 1, description: "events", applied_at: Some(at) },
            MigrationStatus { version: 2, description: "states", applied_at: None },
        ];
        let mut out = Vec::new();
        list(&steps, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "   1  events        applied 2026-11-01T12:00:00Z\n   2  states        pending\n"
        );
    }

    #[test]
    fn up_to_date_schema_is_reported() {
        let mut out = Vec::new();
        report(&[], &mut out).unwrap();
        assert_eq!(out, b"the database schema is up to date\n");
    }
}
