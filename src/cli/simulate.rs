//! `simulate`: boards and items that behave like real ones, published to a broker of yours.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rand::{RngCore as _, SeedableRng as _};
use secrecy::SecretString;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Log, LogFormat, Tls};
use crate::session::tls;
use crate::simulate::encode::FormatChoice;
use crate::simulate::ledger::Report;
use crate::simulate::publish::{Broker, publish};
use crate::simulate::source::{Clock, Source, SourceSettings};
use crate::simulate::world::WorldSettings;
use crate::telemetry::{logging, stderr};

/// Invented events have no business at the vendor's broker.
const VENDOR_DOMAIN: &str = "centiloc.com";
/// MQTT's usual ports, without and with TLS.
const PORTS: [u16; 2] = [1883, 8883];
/// Exit code of a second SIGINT: 128 and its number.
const INTERRUPTED: u8 = 130;
/// Exit code of a second SIGTERM: 128 and its number.
const TERMINATED: u8 = 143;

/// Arguments of `simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Broker host name or address.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Broker port [default: 1883, or 8883 with TLS].
    #[arg(long)]
    port: Option<u16>,
    /// Tenant in topics and events.
    #[arg(long, default_value = "demo", value_parser = tenant)]
    tenant: String,
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
    /// Distinct events a second; 0 is as fast as the broker acknowledges.
    #[arg(long, default_value_t = 10)]
    rate: u64,
    /// Distinct events in all [default: until Ctrl-C].
    #[arg(long)]
    count: Option<u64>,
    /// Boards.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999_999))]
    boards: u32,
    /// Items.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    items: u32,
    /// Format of the events; `both` publishes each in both.
    #[arg(long, value_enum, default_value_t = FormatChoice::Protobuf)]
    format: FormatChoice,
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
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Lost connections are told as warnings.
    let _log = logging::init(&Log { format: LogFormat::Text, level: "warn".to_owned() })?;
    let broker = broker(&args)?;
    let source = Source::new(source_settings(&args));
    let stop = CancellationToken::new();
    stderr::line(format_args!(
        "publishing to {}:{} as {}",
        broker.host, broker.port, broker.client_id
    ));
    let publishing = publish(source, &broker, args.rate, stop.clone(), |report| {
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

fn print_last_line(report: Report) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{report}").and_then(|()| out.flush()).context("could not write to stdout")
}

fn source_settings(args: &Args) -> SourceSettings {
    SourceSettings {
        tenant: args.tenant.clone(),
        world: WorldSettings {
            boards: args.boards,
            items: args.items,
            seed: args.seed,
            board_events: args.board_events,
        },
        format: args.format,
        count: args.count,
        duplicates: args.duplicates,
        clock: args.start.map_or(Clock::Wall, |start| Clock::invented(start, args.rate)),
    }
}

fn broker(args: &Args) -> anyhow::Result<Broker> {
    let host = args.host.trim_end_matches('.').to_ascii_lowercase();
    ensure!(
        host != VENDOR_DOMAIN && !host.ends_with(&format!(".{VENDOR_DOMAIN}")),
        "--host {} is the vendor's: invented events go to a broker of your own",
        args.host
    );
    let tls = match (&args.cert, &args.key) {
        (Some(cert_file), Some(key_file)) => Some(tls_config(args, cert_file, key_file)?),
        _ => None,
    };
    let credentials = match (&args.username, &args.password_file) {
        (Some(username), Some(file)) => Some((username.clone(), password(file)?)),
        _ => None,
    };
    let [plain_port, tls_port] = PORTS;
    Ok(Broker {
        host: args.host.clone(),
        port: args.port.unwrap_or(if tls.is_some() { tls_port } else { plain_port }),
        client_id: args.client_id.clone().unwrap_or_else(|| client_id(&args.tenant)),
        credentials,
        tls,
        max_inflight: args.max_inflight,
    })
}

fn tls_config(args: &Args, cert: &Path, key: &Path) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let tls = Tls {
        ca_file: args.ca.clone(),
        cert_file: cert.to_owned(),
        key_file: key.to_owned(),
        server_name: None,
    };
    let loaded = tls::client_config(&tls)?;
    for warning in &loaded.warnings {
        stderr::line(format_args!("warning: {warning}"));
    }
    Ok(loaded.config)
}

fn password(file: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("could not read the password from {}", file.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

fn client_id(tenant: &str) -> String {
    format!("{tenant}-simulator-{:08x}", rand::rngs::StdRng::from_os_rng().next_u32())
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("simulate").chain(line.split_whitespace());
        Command::try_parse_from(words).map(|c| c.args).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_given_is_a_small_site_on_this_host() {
        let args = parse("").expect("defaults");
        let broker = broker(&args).expect("a broker");
        assert_eq!((broker.host.as_str(), broker.port), ("127.0.0.1", 1883));
        assert!(broker.client_id.starts_with("demo-simulator-"));
        assert!(broker.tls.is_none() && broker.credentials.is_none());
        assert_eq!(source_settings(&args).clock, Clock::Wall);
    }

    #[test]
    fn the_vendors_broker_is_refused() {
        for host in ["mqtt-client.centiloc.com", "centiloc.com", "MQTT-client.Centiloc.com."] {
            let args = parse(&format!("--host {host}")).expect("parses");
            let error = broker(&args).expect_err("refused").to_string();
            assert!(error.contains("broker of your own"), "{error}");
        }
        broker(&parse("--host notcentiloc.com").expect("parses")).expect("another's domain");
    }

    #[test]
    fn half_given_credentials_are_refused() {
        for line in ["--cert a.pem", "--key a.pem", "--ca a.pem", "--username u"] {
            parse(line).expect_err(line);
        }
    }

    #[test]
    fn values_that_make_no_run_are_refused() {
        for line in [
            "--boards 0",
            "--items 0",
            "--max-inflight 0",
            "--duplicates 1.5",
            "--duplicates NaN",
            "--start yesterday",
            "--start 9999-01-01T00:00:00Z",
            "--tenant a/b",
            "--tenant #",
        ] {
            parse(line).expect_err(line);
        }
    }

    #[test]
    fn one_trailing_newline_of_the_password_is_stripped() {
        use secrecy::ExposeSecret as _;
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("password");
        for (text, expected) in
            [("pass\n", "pass"), ("pass\r\n", "pass"), (" pass \n\n", " pass \n")]
        {
            std::fs::write(&file, text).expect("written");
            assert_eq!(password(&file).expect("read").expose_secret(), expected);
        }
        let error = password(&dir.path().join("absent")).expect_err("absent").to_string();
        assert!(error.contains("absent"), "{error}");
    }
}
