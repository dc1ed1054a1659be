//! `simulate`: publishes events of simulated boards and items to a test broker.

mod target;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::target::PublishTarget;
use super::progress_bar::ProgressBar;
use super::{ConfigFileArgs, UsageError};
use crate::config::{LogConfig, LogFormat};
use crate::simulate::catalog::SiteCatalog;
use crate::simulate::encode::FormatChoice;
use crate::simulate::history::EventHistory;
use crate::simulate::layout::CatalogLayout;
use crate::simulate::ledger::PublishReport;
use crate::simulate::publish::publish;
use crate::simulate::source::{MessageSource, MomentumClock, SourceSettings};
use crate::simulate::world::WorldSettings;
use crate::telemetry::{logging, stderr};

/// Default events per second: a busy shop.
const RATE: u64 = 10;
/// Default events per second with `--over`. A higher rate may overflow the broker's queue for a
/// slower bridge.
const HISTORY_RATE: u64 = 1000;
/// Default events per item and day with `--over`. An item then stays about a day.
const EVENTS_AN_ITEM_A_DAY: u64 = 6;
/// Shortest and longest period of `--over`.
const HISTORY: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(3650 * 86_400);
/// Interval between progress lines where no bar is shown.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Interval at which the bar is redrawn.
const REDRAW_EVERY: Duration = Duration::from_millis(250);
/// Exit code after a second SIGINT: 128 plus the signal number.
const INTERRUPTED: u8 = 130;
/// Exit code after a second SIGTERM: 128 plus the signal number.
const TERMINATED: u8 = 143;

/// Command-line arguments of `simulate`.
#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// Use broker, tenant, user, TLS and format of this configuration, unless overridden below
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Broker host name or address [default: 127.0.0.1]
    #[arg(long)]
    host: Option<String>,
    /// Broker port [default: 1883, or 8883 with TLS]
    #[arg(long)]
    port: Option<u16>,
    /// Tenant in topics and events [default: demo]
    #[arg(long, value_parser = tenant)]
    tenant: Option<String>,
    /// MQTT client id [default: <tenant>-simulator-<random>]
    #[arg(long)]
    client_id: Option<String>,
    /// Trust anchors, PEM (enables TLS)
    #[arg(long, value_name = "FILE", requires = "cert")]
    ca: Option<PathBuf>,
    /// Client certificate, PEM (enables TLS)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of the client certificate, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// User name at the broker
    #[arg(long, requires = "password_file")]
    username: Option<String>,
    /// File with the password (one trailing newline is ignored)
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// Distinct events per second (0: as fast as the broker acknowledges) [default: 10, or 1000
    /// with --over]
    #[arg(long)]
    rate: Option<u64>,
    /// Spread the events over this period before now, such as 30d, with busy days and quiet nights,
    /// board events included
    #[arg(long, value_name = "DURATION", value_parser = over, conflicts_with = "start")]
    over: Option<Duration>,
    /// Total of distinct events [default: unlimited, or 6 per item and day with --over]
    #[arg(long)]
    count: Option<u64>,
    /// Number of simulated boards
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999_999))]
    boards: u32,
    /// Number of simulated items
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    items: u32,
    /// Format of the events (`both` publishes each event in both formats) [default: protobuf]
    #[arg(long, value_enum)]
    format: Option<FormatChoice>,
    /// Seed of the random choices (the same seed gives the same boards, items and moves)
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also publish status changes of boards
    #[arg(long)]
    board_events: bool,
    /// Time of the first event, RFC 3339, for a run that is repeatable to the byte [default: now]
    #[arg(long, value_name = "TIME", value_parser = start)]
    start: Option<OffsetDateTime>,
    /// Print the layout of the simulated boards, for import-layout, without publishing anything
    #[arg(long)]
    print_layout: bool,
    /// Share of the messages that are sent a second time, 0 to 1
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    duplicates: f64,
    /// Maximum number of unacknowledged messages
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    max_inflight: u16,
}

/// Publishes the events, reports progress on stderr and prints one line on stdout at the end.
pub async fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    if args.print_layout {
        let catalog = SiteCatalog::new("", args.boards, 1, args.seed);
        print_stdout(CatalogLayout(&catalog))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Lost connections are logged as warnings.
    let _log = logging::init(&LogConfig { format: LogFormat::Text, level: "warn".to_owned() })?;
    let target = PublishTarget::new(&args)?;
    let broker = target.broker(&args)?;
    let settings = source_settings(&args, &target, OffsetDateTime::now_utc());
    let total = settings.count;
    let source = MessageSource::new(settings);
    let stop = CancellationToken::new();
    stderr::line(format_args!(
        "publishing to {}:{} as {}",
        broker.host, broker.port, broker.client_id
    ));
    let bar = match total {
        Some(total) => ProgressBar::counting("publishing", "events", total),
        None => ProgressBar::endless("publishing", "events"),
    };
    let every = if bar.is_hidden() { LINE_EVERY } else { REDRAW_EVERY };
    let show = |report: PublishReport| {
        bar.set(report.acknowledged);
        if bar.is_hidden() {
            stderr::line(format_args!("{report}"));
        }
    };
    let publishing = publish(source, &broker, rate(&args), stop.clone(), (every, show));
    tokio::select! {
        report = publishing => {
            drop(bar);
            print_stdout(format_args!("{}\n", report?))?;
        }
        code = signalled_twice(&stop) => return Ok(ExitCode::from(code?)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for two signals. The first stops the run in order. The second ends it with the returned
/// exit code.
async fn signalled_twice(stop: &CancellationToken) -> anyhow::Result<u8> {
    let listen = |kind| signal(kind).context("could not listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    loop {
        let code = tokio::select! {
            _ = interrupt.recv() => INTERRUPTED,
            _ = terminate.recv() => TERMINATED,
        };
        if stop.is_cancelled() {
            return Ok(code);
        }
        stderr::line(format_args!("stopping: waiting for the broker's acknowledgements"));
        stop.cancel();
    }
}

fn print_stdout(text: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).context("could not write to stdout")
}

fn rate(args: &SimulateArgs) -> u64 {
    args.rate.unwrap_or(if args.over.is_some() { HISTORY_RATE } else { RATE })
}

fn source_settings(
    args: &SimulateArgs,
    target: &PublishTarget,
    now: OffsetDateTime,
) -> SourceSettings {
    let count = match (args.count, args.over) {
        (None, Some(over)) => Some(usual_events(args.items, over)),
        (count, _) => count,
    };
    let clock = match (args.over, args.start) {
        (Some(over), _) => {
            let events = count.unwrap_or_default();
            MomentumClock::EventHistory(Arc::new(EventHistory::new(now, over, events, args.seed)))
        }
        (None, Some(start)) => MomentumClock::simulated(start, rate(args)),
        (None, None) => MomentumClock::Wall,
    };
    SourceSettings {
        tenant: target.tenant.clone(),
        world: WorldSettings {
            boards: args.boards,
            items: args.items,
            seed: args.seed,
            board_events: args.board_events || args.over.is_some(),
        },
        format: target.format,
        count,
        duplicates: args.duplicates,
        clock,
    }
}

fn usual_events(items: u32, over: Duration) -> u64 {
    let a_day = u64::from(items) * EVENTS_AN_ITEM_A_DAY;
    (a_day.saturating_mul(over.as_secs()) / 86_400).max(1)
}

fn over(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|over| HISTORY.contains(over))
        .ok_or_else(|| "expected a duration from 1h to 3650d, for example 30d".to_owned())
}

fn start(text: &str) -> Result<OffsetDateTime, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expected RFC 3339, for example 2026-03-01T10:00:00Z".to_owned())?;
    // A momentum is held as nanoseconds in 64 bits, and a run lasts years at most.
    if (1970..2200).contains(&time.year()) {
        Ok(time)
    } else {
        Err("expected a year from 1970 to 2199".to_owned())
    }
}

fn probability(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|p| (0.0..=1.0).contains(p))
        .ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

fn tenant(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_graphic() && !"+#/$".contains(c);
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("expected a word without blanks, '+', '#', '$' and '/': it is a topic level".to_owned())
    }
}
