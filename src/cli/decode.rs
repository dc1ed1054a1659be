//! `decode`: decodes one payload and prints its row, or the reason for its rejection.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use time::OffsetDateTime;

use crate::config;
use crate::decode::{ClockTrust, Decoder};
use crate::event::{Event, EventKind, Reject};
use crate::exit;
use crate::telemetry::stderr;
use crate::topic::EventEncoding;

/// Tenant in the row if neither the topic nor a configuration names one.
const NO_TENANT: &str = "unknown";

/// Command-line arguments of `decode`.
#[derive(Debug, clap::Args)]
pub struct DecodeArgs {
    /// Topic of the payload, needed if it could be an event of more than one kind
    #[arg(long)]
    pub topic: Option<String>,
    /// Vendor's .proto or compiled descriptors, instead of the configured ones
    #[arg(long, value_name = "FILE")]
    pub proto_file: Option<PathBuf>,
    /// File with the payload, standard input if absent or `-`
    pub file: Option<PathBuf>,
}

/// Decodes one payload and writes its row to standard output as JSON, and everything else to
/// standard error. `settings` and `tenant` come from the configuration if there is one.
pub fn run(
    args: &DecodeArgs,
    settings: &config::DecodeConfig,
    tenant: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let payload = Bytes::from(read(args.file.as_deref())?);
    let mut settings = settings.clone();
    if args.proto_file.is_some() {
        settings.proto_file.clone_from(&args.proto_file);
    }
    let tenant = args.topic.as_deref().and_then(tenant_of).or(tenant).unwrap_or(NO_TENANT);
    let decoder = Decoder::new(&settings, tenant)?;
    let now = OffsetDateTime::now_utc();
    let clock = ClockTrust::Agree(now);
    if let Some(topic) = &args.topic {
        return report(&decoder.decode(topic, &payload, now, clock));
    }
    let fitting = fitting(&decoder, &payload, now);
    match &fitting[..] {
        [(kind, encoding)] => {
            let name = name(*kind, *encoding);
            stderr::line(format_args!("read as {name}, the only kind that fits"));
            report(&decoder.decode_as(*kind, *encoding, &payload, now, clock))
        }
        [] => Ok(refuse(&decoder, &payload, now)),
        several => {
            let names = several.iter().map(|(kind, encoding)| name(*kind, *encoding));
            let names = names.collect::<Vec<_>>().join(" and as ");
            stderr::line(format_args!(
                "the payload can be read as {names}: name its topic with --topic"
            ));
            Ok(ExitCode::from(exit::USAGE))
        }
    }
}

/// Prints the reason for each kind of event why the payload is not of that kind.
fn refuse(decoder: &Decoder, payload: &Bytes, now: OffsetDateTime) -> ExitCode {
    let encoding = format(payload);
    for kind in EventKind::ALL {
        if let Err(reject) = decoder.decode_as(kind, encoding, payload, now, ClockTrust::Agree(now))
        {
            stderr::line(format_args!("not {}: {reject}", name(kind, encoding)));
        }
    }
    ExitCode::FAILURE
}

/// Returns all combinations of kind and encoding, in the order in which they are tried.
fn combinations() -> impl Iterator<Item = (EventKind, EventEncoding)> {
    let encodings = [EventEncoding::Json, EventEncoding::Protobuf].into_iter();
    encodings.flat_map(|encoding| EventKind::ALL.map(|kind| (kind, encoding)))
}

fn name(kind: EventKind, encoding: EventEncoding) -> String {
    format!("a {} {} event", encoding.as_str(), kind.as_str())
}

fn report(result: &Result<Event, Reject>) -> anyhow::Result<ExitCode> {
    match result {
        Ok(event) => {
            writeln!(std::io::stdout(), "{}", row(event)?).context("could not write the row")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(reject) => {
            stderr::line(format_args!("not an event: {reject}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn read(file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    if let Some(file) = file.filter(|file| *file != Path::new("-")) {
        return std::fs::read(file).with_context(|| format!("could not read {}", file.display()));
    }
    let mut payload = Vec::new();
    std::io::stdin()
        .read_to_end(&mut payload)
        .context("could not read the payload from standard input")?;
    Ok(payload)
}

/// Returns the tenant in a topic.
fn tenant_of(topic: &str) -> Option<&str> {
    topic.strip_prefix("centiloc/")?.split('/').next().filter(|tenant| !tenant.is_empty())
}

/// Returns all kinds and encodings that the payload decodes as. The first fields of the
/// protobuf messages are alike, so that some payloads are valid as several kinds.
pub fn fitting(
    decoder: &Decoder,
    payload: &Bytes,
    now: OffsetDateTime,
) -> Vec<(EventKind, EventEncoding)> {
    let fits = |(kind, encoding): &(EventKind, EventEncoding)| {
        decoder.decode_as(*kind, *encoding, payload, now, ClockTrust::Unknown).is_ok()
    };
    combinations().filter(fits).collect()
}

/// Guesses the encoding of a payload, to report only the errors of that encoding.
fn format(payload: &[u8]) -> EventEncoding {
    if payload.trim_ascii_start().starts_with(b"{") {
        EventEncoding::Json
    } else {
        EventEncoding::Protobuf
    }
}

/// Formats an event as JSON with all columns of its row, null ones included.
pub fn row(event: &Event) -> serde_json::Result<String> {
    serde_json::to_string_pretty(event)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::Timestamp;
    use time::macros::datetime;

    use super::*;
    use crate::decode::pb;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    fn decoder() -> Decoder {
        let keep_payload = config::KeepPayload::Unknown;
        Decoder::new(&config::DecodeConfig::new(None, keep_payload), "acme").unwrap()
    }

    fn sample(name: &str) -> Bytes {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
        std::fs::read(folder.join(name)).unwrap().into()
    }

    #[test]
    fn every_sample_decodes_as_its_own_kind() {
        for (name, kind, encoding) in [
            ("item-0.pb", EventKind::Item, EventEncoding::Protobuf),
            ("item-unknown-field.pb", EventKind::Item, EventEncoding::Protobuf),
            ("item-masked.pb", EventKind::Item, EventEncoding::Protobuf),
            ("item-0.json", EventKind::Item, EventEncoding::Json),
            ("item-unknown-field.json", EventKind::Item, EventEncoding::Json),
            ("board.pb", EventKind::Board, EventEncoding::Protobuf),
            ("board.json", EventKind::Board, EventEncoding::Json),
        ] {
            let fitting = fitting(&decoder(), &sample(name), NOW);
            assert!(fitting.contains(&(kind, encoding)), "{name}: {fitting:?}");
            assert!(fitting.iter().all(|fits| fits.1 == encoding), "{name}: {fitting:?}");
        }
    }

    #[test]
    fn ambiguous_payload_decodes_as_several_kinds() {
        let item = pb::ItemEvent {
            momentum: Some(Timestamp { seconds: 1_760_000_000, nanos: 0 }),
            uid: "E1".into(),
            ..Default::default()
        };
        let payload = Bytes::from(item.encode_to_vec());
        let both = [
            (EventKind::Item, EventEncoding::Protobuf),
            (EventKind::Board, EventEncoding::Protobuf),
        ];
        let fitting = fitting(&decoder(), &payload, NOW);
        assert!(both.iter().all(|kind| fitting.contains(kind)), "{fitting:?}");
    }

    #[test]
    fn row_shows_every_column_in_order() {
        let event = decoder()
            .decode("centiloc/acme", &sample("item-masked.pb"), NOW, ClockTrust::Agree(NOW))
            .unwrap();
        let text = row(&event).unwrap();
        let first: Vec<_> = text.lines().skip(1).take(3).collect();
        assert_eq!(
            first,
            [
                r#"  "table": "item_event","#,
                r#"  "event_id": "42157ecd-52d0-4fde-b34d-8951ac819e93","#,
                r#"  "momentum": "2025-10-09T08:53:20Z","#,
            ]
        );
        assert!(text.contains(r#""x_mm": null"#) && text.contains(r#""hold_time": null"#));
    }

    #[test]
    fn tenant_is_read_from_the_topic() {
        assert_eq!(tenant_of("centiloc/acme"), Some("acme"));
        assert_eq!(tenant_of("centiloc/acme/json/item/v1/update"), Some("acme"));
        assert_eq!(tenant_of("centiloc/"), None);
        assert_eq!(tenant_of("other/acme"), None);
    }
}
