//! The log of the service on stderr, as text lines or JSON objects.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::str::FromStr as _;
use std::sync::Arc;

use time::OffsetDateTime;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::stderr::StderrWriter;
use crate::config::{LogConfig, LogFormat};
use crate::timestamp;

/// Libraries that log too much for an operator at the level of the service.
const LIBRARIES: [&str; 4] = ["rumqttc", "rustls", "sqlx", "hyper"];

/// Error of setting up or changing the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The value of `log.level` is not a level.
    #[error(
        "log.level {level:?} is not understood ({detail}); give error, warn, info, debug or \
         trace, or directives such as \"info,centiloc_bridge::store=debug\""
    )]
    Level {
        /// Refused value of `log.level`.
        level: String,
        /// Error of the parser.
        detail: String,
    },
    /// The process already has a log.
    #[error("could not set up logging: {0}")]
    Taken(#[from] TryInitError),
    /// The subscriber no longer exists.
    #[error("could not change the log level: {0}")]
    Gone(#[from] reload::Error),
}

type FilterSetter = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

/// A handle that changes the level of the log.
#[derive(Clone)]
pub struct LogHandle {
    set: Arc<FilterSetter>,
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogHandle").finish_non_exhaustive()
    }
}

impl LogHandle {
    /// Sets the level or directives of the log. Libraries that log through `log` (rumqttc, rustls)
    /// never get more verbose than at the start of the process.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        Ok((self.set)(filter(level)?)?)
    }
}

/// Sets up the log of the process. Must be called only once.
pub fn init(log: &LogConfig) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    subscriber(filter, log.format, TextStyle::of_stderr(), || StderrWriter).try_init()?;
    Ok(LogHandle { set: Arc::new(move |filter| handle.reload(filter)) })
}

/// Returns a subscriber whose filter holds for all of it. A filter of the layer alone keeps the answer to
/// `tracing::enabled!` on the thread, and the next line is lost if the answer was no.
fn subscriber<W>(
    filter: reload::Layer<EnvFilter, Registry>,
    format: LogFormat,
    style: TextStyle,
    writer: W,
) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::registry().with(filter).with(layer(format, style, writer))
}

/// Checks a value of `log.level`, for the configuration.
pub fn check_level(level: &str) -> Result<(), LogError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let refused = |detail: String| LogError::Level { level: level.to_owned(), detail };
    // The parser takes a misspelt level for a target, which would silence all other targets.
    let is_level = |word: &str| !word.is_empty() && LevelFilter::from_str(word).is_ok();
    if let Some(word) = bare_words(level).find(|word| !is_level(word)) {
        return Err(refused(format!("{word:?} is no level")));
    }
    EnvFilter::try_new(directives(level)).map_err(|e| refused(e.to_string()))
}

/// Returns the parts of `log.level` that name a level without a target.
fn bare_words(level: &str) -> impl Iterator<Item = &str> {
    level.split(',').map(str::trim).filter(|part| !part.contains(['=', '[']))
}

/// Returns the directives for a value of `log.level`. Libraries log at `warn` with `info` and at
/// `info` with `debug`. Explicit directives take precedence, because later directives override
/// earlier ones.
fn directives(level: &str) -> String {
    let quiet = match bare_words(level).last().map(str::to_ascii_lowercase).as_deref() {
        Some("info") => "warn",
        Some("debug") => "info",
        _ => return level.to_owned(),
    };
    let mut parts = LIBRARIES.map(|name| format!("{name}={quiet}")).to_vec();
    parts.push(level.to_owned());
    parts.join(",")
}

/// The style of text lines: colours and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TextStyle {
    colour: bool,
    time: bool,
}

impl TextStyle {
    fn of_stderr() -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let journal = std::env::var("JOURNAL_STREAM").ok();
        Self {
            colour: std::io::stderr().is_terminal() && !no_colour,
            time: !is_journal(journal.as_deref(), device_and_inode_of_stderr()),
        }
    }
}

/// Returns true if stderr is the journal. systemd names the device and inode of the stream that it
/// connected. A child whose stderr was redirected inherits the variable, but not the stream.
fn is_journal(variable: Option<&str>, stderr: Option<(u64, u64)>) -> bool {
    let named = variable
        .and_then(|text| text.split_once(':'))
        .and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    named.is_some() && named == stderr
}

fn device_and_inode_of_stderr() -> Option<(u64, u64)> {
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().ok()?;
    let metadata = std::fs::File::from(stderr).metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// A timer that writes the time of a line in UTC.
struct UtcTimer;

impl FormatTime for UtcTimer {
    fn format_time(&self, writer: &mut fmt::format::Writer<'_>) -> std::fmt::Result {
        writer.write_str(&timestamp::aligned(OffsetDateTime::now_utc()))
    }
}

fn layer<S, W>(format: LogFormat, style: TextStyle, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_timer(UtcTimer);
    match format {
        LogFormat::Json => {
            Box::new(layer.json().flatten_event(true).with_current_span(false).with_ansi(false))
        }
        LogFormat::Text if style.time => Box::new(layer.with_ansi(style.colour)),
        LogFormat::Text => Box::new(layer.with_ansi(style.colour).without_time()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct LogBuffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for LogBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, style: TextStyle, level: &str, log: impl FnOnce()) -> String {
        let buffer = LogBuffer::default();
        let writer = {
            let buffer = buffer.clone();
            move || buffer.clone()
        };
        let (filter, _) = reload::Layer::new(filter(level).expect("a level"));
        tracing::subscriber::with_default(subscriber(filter, format, style, writer), log);
        let bytes = buffer.0.lock().expect("unpoisoned").clone();
        String::from_utf8(bytes).expect("text")
    }

    const PLAIN: TextStyle = TextStyle { colour: false, time: false };

    #[test]
    fn text_under_journald_has_no_time() {
        let line = written(LogFormat::Text, PLAIN, "info", || {
            tracing::info!(rows = 3, "batch committed");
        });
        assert_eq!(
            line.trim_start(),
            "INFO centiloc_bridge::telemetry::logging::tests: batch committed rows=3\n"
        );
    }

    #[test]
    fn text_elsewhere_begins_with_the_time() {
        let style = TextStyle { colour: false, time: true };
        let line = written(LogFormat::Text, style, "info", || tracing::info!("started"));
        let time = line.split_whitespace().next().expect("a word");
        time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339)
            .expect("RFC 3339");
        assert_eq!(time.len(), "2026-11-27T06:24:12.963Z".len(), "to the millisecond: {time}");
        assert!(!line.contains('\u{1b}'));
        let style = TextStyle { colour: true, time: true };
        assert!(written(LogFormat::Text, style, "info", || tracing::info!("x")).contains('\u{1b}'));
    }

    #[test]
    fn json_is_one_flat_object_per_line() {
        let text = written(LogFormat::Json, TextStyle { colour: true, time: true }, "info", || {
            tracing::warn!(topic = "a\nb", "message set aside");
            tracing::info!("second");
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["message"], "message set aside");
        assert_eq!(lines[0]["topic"], "a\nb");
        assert!(lines[0]["timestamp"].is_string());
    }

    #[test]
    fn libraries_are_quieter_unless_named() {
        let both = || {
            tracing::info!(target: "rumqttc::state", "library");
            tracing::info!("ours");
        };
        let at = |level| written(LogFormat::Text, PLAIN, level, both);
        assert!(at("info").contains("ours") && !at("info").contains("library"));
        assert!(!at("warn").contains("ours"));
        assert!(at("info,rumqttc=info").contains("library"));
        assert!(at("trace").contains("library"));
        let warnings = written(LogFormat::Text, PLAIN, "info", || {
            tracing::warn!(target: "sqlx::query", "slow");
        });
        assert!(warnings.contains("slow"));
    }

    #[test]
    fn disabled_line_swallows_no_other() {
        let text = written(LogFormat::Text, PLAIN, "info", || {
            for number in 0..3 {
                // As `log::log_enabled!` of a library asks.
                let asked = tracing::callsite! {
                    name: "question",
                    kind: tracing::metadata::Kind::EVENT,
                    target: "rumqttc",
                    level: tracing::Level::DEBUG,
                    fields: number
                };
                let metadata = tracing::Callsite::metadata(asked);
                tracing::dispatcher::get_default(|dispatch| dispatch.enabled(metadata));
                tracing::info!(number, "ours");
            }
        });
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn unknown_level_is_refused() {
        let error = check_level("info,centiloc_bridge=loud").expect_err("no level").to_string();
        assert!(
            error.starts_with("log.level \"info,centiloc_bridge=loud\" is not understood"),
            "{error}"
        );
        for misspelt in ["loud", "", "info,,", "warn,inof"] {
            let error = check_level(misspelt).expect_err("no level").to_string();
            assert!(error.contains("is no level"), "{error}");
        }
        check_level("info,centiloc_bridge::store=debug").expect("directives");
        check_level("INFO").expect("a level");
    }

    #[test]
    fn level_can_change_while_running() {
        let buffer = LogBuffer::default();
        let writer = {
            let buffer = buffer.clone();
            move || buffer.clone()
        };
        let (filter, handle) = reload::Layer::new(filter("warn").expect("a level"));
        let handle = LogHandle { set: Arc::new(move |filter| handle.reload(filter)) };
        let subscriber = subscriber(filter, LogFormat::Text, PLAIN, writer);
        tracing::subscriber::with_default(subscriber, || {
            let log = |word: &str| tracing::info!(word, "logged");
            log("before");
            handle.set_level("info").expect("reloaded");
            log("after");
            handle.set_level("l0ud=x").expect_err("no level");
        });
        let text = String::from_utf8(buffer.0.lock().expect("unpoisoned").clone()).expect("text");
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }

    #[test]
    fn only_the_stream_named_by_systemd_is_journal() {
        assert!(is_journal(Some("8:1234"), Some((8, 1234))));
        assert!(!is_journal(Some("8:1234"), Some((8, 1235))));
        assert!(!is_journal(Some("rubbish"), Some((8, 1234))));
        assert!(!is_journal(Some("8:1234"), None));
        assert!(!is_journal(None, None));
        assert!(device_and_inode_of_stderr().is_some());
    }
}
