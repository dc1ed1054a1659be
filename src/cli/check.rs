//! `check`: validates everything that the service needs, before it starts.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;
use time::OffsetDateTime;

use super::ConfigFileArgs;
use super::status::printable;
use crate::check::{self, CheckLine, CheckReport, CheckStatus, NAMES, NotChecked};
use crate::config::{ConfigError, LoadedConfig};
use crate::exit;

/// Command-line arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Skip broker and database checks
    #[arg(long)]
    offline: bool,
    /// Print one JSON document, for programs
    #[arg(long)]
    json: bool,
}

/// Runs the checks. Returns exit code 0, or 1 if any check failed.
pub async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let mut output = CheckOutput::new(args.json);
    let mut report = CheckReport::default();
    match args.config.load() {
        Err(problems) => output.show(&mut report, of_refused(&problems))?,
        Ok(loaded) => of_accepted(&loaded, args.offline, &mut output, &mut report).await?,
    }
    output.finish(&report)?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn of_refused(problems: &ConfigError) -> CheckReport {
    let because = "the configuration is refused";
    let rest = NAMES.iter().filter(|name| **name != "configuration");
    let not_checked = rest.map(|name| NotChecked { name, because: because.to_owned() }).collect();
    CheckReport { checks: check::refused(problems), not_checked }
}

async fn of_accepted(
    loaded: &LoadedConfig,
    offline: bool,
    output: &mut CheckOutput,
    report: &mut CheckReport,
) -> anyhow::Result<()> {
    output.show(report, check::local(loaded, OffsetDateTime::now_utc()).await)?;
    let rest =
        if offline { check::offline(&loaded.config) } else { check::online(&loaded.config).await };
    output.show(report, rest)
}

/// The output of the checks: text lines at once, or one JSON document at the end.
struct CheckOutput {
    json: bool,
    colours: bool,
}

impl CheckOutput {
    fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, colours: !json && wanted && io::stdout().is_terminal() }
    }

    fn show(&mut self, report: &mut CheckReport, part: CheckReport) -> anyhow::Result<()> {
        if !self.json {
            let text: String = part.checks.iter().map(|check| lines(check, self.colours)).collect();
            print(&text)?;
        }
        report.append(part);
        Ok(())
    }

    fn finish(&self, report: &CheckReport) -> anyhow::Result<()> {
        if self.json { print(&document(report)?) } else { print(&summary(report)) }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("could not write to stdout")
}

fn document(report: &CheckReport) -> anyhow::Result<String> {
    let document = json!({
        "passed": report.passed(),
        "ok": report.count(CheckStatus::Ok),
        "warnings": report.count(CheckStatus::Warning),
        "failed": report.count(CheckStatus::Failed),
        "checks": report.checks,
        "not_checked": report.not_checked,
    });
    super::output::json(&document)
}

fn word(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Ok => "ok",
        CheckStatus::Warning => "warning",
        CheckStatus::Failed => "failed",
    }
}

/// Returns the ANSI code of green, yellow or red.
fn colour(status: CheckStatus) -> u8 {
    match status {
        CheckStatus::Ok => 32,
        CheckStatus::Warning => 33,
        CheckStatus::Failed => 31,
    }
}

/// Formats a check as one line. A warning or failure adds lines with the expectation and the
/// remedy.
fn lines(check: &CheckLine, colours: bool) -> String {
    const STATUS_WIDTH: usize = "warning".len();
    let name_width = NAMES.iter().map(|name| name.len()).max().unwrap_or_default();
    let indent = " ".repeat(STATUS_WIDTH + 2 + name_width + 2);
    let status = format!("{:<STATUS_WIDTH$}", word(check.status));
    let status =
        if colours { format!("\u{1b}[{}m{status}\u{1b}[0m", colour(check.status)) } else { status };
    let mut text = format!("{status}  {:<name_width$}  {}\n", check.name, printable(&check.found));
    for (label, words) in [("expected", &check.expected), ("to do", &check.what_to_do)] {
        if !words.is_empty() {
            let _ = writeln!(text, "{indent}{label}: {}", printable(words));
        }
    }
    text
}

fn summary(report: &CheckReport) -> String {
    let mut text = String::new();
    for group in report.not_checked.chunk_by(|a, b| a.because == b.because) {
        let names: Vec<_> = group.iter().map(|line| line.name).collect();
        let _ = writeln!(text, "not checked ({}): {}", group[0].because, names.join(", "));
    }
    let count = |status| report.count(status);
    let (ok, warnings, failed) =
        (count(CheckStatus::Ok), count(CheckStatus::Warning), count(CheckStatus::Failed));
    let _ = writeln!(text, "{ok} ok, {warnings} warnings, {failed} failed");
    text
}
