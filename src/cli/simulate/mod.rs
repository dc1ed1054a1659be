//! `simulate`: boards and items that behave like real ones, published to a broker of yours.

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
use super::{ConfigFileArgs, UsageError};
use crate::config::{Log, LogFormat};
use crate::simulate::encode::FormatChoice;
use crate::simulate::history::EventHistory;
use crate::simulate::ledger::PublishReport;
use crate::simulate::publish::publish;
use crate::simulate::source::{MessageSource, MomentumClock, SourceSettings};
use crate::simulate::world::WorldSettings;
use crate::telemetry::{logging, stderr};

/// Events a second where nothing else is asked for: a busy shop.
const RATE: u64 = 10;
/// The same for history. More might overflow the broker's queue for a bridge that is slower.
const HISTORY_RATE: u64 = 1000;
/// Events of an item on a day of the past where no count is given: it stays about a day.
const EVENTS_AN_ITEM_A_DAY: u64 = 6;
/// A history is at least and at most so long.
const HISTORY: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(3650 * 86_400);
/// Exit code of a second SIGINT: 128 and its number.
const INTERRUPTED: u8 = 130;
/// Exit code of a second SIGTERM: 128 and its number.
const TERMINATED: u8 = 143;

/// Arguments of `simulate`.
#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// Take broker, tenant, user, TLS and format from this configuration; the options below win.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Broker host name or address [default: 127.0.0.1].
    #[arg(long)]
    host: Option<String>,
    /// Broker port [default: 1883, or 8883 with TLS].
    #[arg(long)]
    port: Option<u16>,
    /// Tenant in topics and events [default: demo].
    #[arg(long, value_parser = tenant)]
    tenant: Option<String>,
    /// MQTT client id [default: <tenant>-simulator-<random>].
    #[arg(long)]
    client_id: Option<String>,
    /// Trust anchors, PEM; turns TLS on.
    #[arg(long, value_name = "FILE", requires = "cert")]
    ca: Option<PathBuf>,
    /// Client certificate, PEM; turns TLS on.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of the client certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// User name at the broker.
    #[arg(long, requires = "password_file")]
    username: Option<String>,
    /// File with the password; one trailing newline is stripped.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// Distinct events a second; 0 is as fast as the broker acknowledges [default: 10, or
    /// 1000 with --over].
    #[arg(long)]
    rate: Option<u64>,
    /// Make history: spread the events over so long a time before now, such as 30d, by day and by
    /// night; boards change status too. Ends with the present.
    #[arg(long, value_name = "DURATION", value_parser = over, conflicts_with = "start")]
    over: Option<Duration>,
    /// Distinct events in all [default: until Ctrl-C; with --over, 6 an item and day].
    #[arg(long)]
    count: Option<u64>,
    /// Boards.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999_999))]
    boards: u32,
    /// Items.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    items: u32,
    /// Format of the events; `both` publishes each in both [default: protobuf].
    #[arg(long, value_enum)]
    format: Option<FormatChoice>,
    /// The same seed makes the same boards, items and moves.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Boards change status too.
    #[arg(long)]
    board_events: bool,
    /// Time of the first event, RFC 3339; makes a run repeatable to the byte [default: now].
    #[arg(long, value_name = "TIME", value_parser = start)]
    start: Option<OffsetDateTime>,
    /// Share of the messages that are sent a second time, 0 to 1.
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    duplicates: f64,
    /// Most messages waiting for the broker's acknowledgement.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    max_inflight: u16,
}

/// Publishes, tells progress on stderr, and ends with one line on stdout.
pub async fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    // Lost connections are told as warnings.
    let _log = logging::init(&Log { format: LogFormat::Text, level: "warn".to_owned() })?;
    let target = PublishTarget::of(&args)?;
    let broker = target.broker(&args)?;
    let source = MessageSource::new(source_settings(&args, &target, OffsetDateTime::now_utc()));
    let stop = CancellationToken::new();
    stderr::line(format_args!(
        "publishing to {}:{} as {}",
        broker.host, broker.port, broker.client_id
    ));
    let publishing = publish(source, &broker, rate(&args), stop.clone(), |report| {
        stderr::line(format_args!("{report}"));
    });
    tokio::select! {
        report = publishing => print_last_line(report?)?,
        code = signalled_twice(&stop) => return Ok(ExitCode::from(code?)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The first signal stops the run in order; the second ends it with the exit code returned.
async fn signalled_twice(stop: &CancellationToken) -> anyhow::Result<u8> {
    let listen = |kind| signal(kind).context("could not listen to signals");
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

fn print_last_line(report: PublishReport) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{report}").and_then(|()| out.flush()).context("could not write to stdout")
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
        (None, Some(start)) => MomentumClock::invented(start, rate(args)),
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
    // Momenta are counted in 64 bits of nanoseconds, and a run goes on for years at most.
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
