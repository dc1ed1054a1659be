//! `decode`: one payload to the row it would become, or why it would become none.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::serde::rfc3339;

use crate::config;
use crate::decode::{ClockTrust, Decoder};
use crate::event::{BoardEvent, Event, ItemEvent, Reject};
use crate::exit;
use crate::telemetry::stderr;
use crate::topic::{EventEncoding, EventKind};

/// The tenant shown where neither the topic nor a configuration names one.
const NO_TENANT: &str = "unknown";

/// Everything that a payload may be.
const KINDS: [(EventKind, EventEncoding); 4] = [
    (EventKind::Item, EventEncoding::Json),
    (EventKind::Board, EventEncoding::Json),
    (EventKind::Item, EventEncoding::Protobuf),
    (EventKind::Board, EventEncoding::Protobuf),
];

/// Arguments of `decode`.
#[derive(Debug, clap::Args)]
pub struct DecodeArgs {
    /// Topic the payload was published on; needed where it could be an event of either kind
    #[arg(long)]
    pub topic: Option<String>,
    /// The vendor's .proto or compiled descriptors, instead of the configured ones
    #[arg(long, value_name = "FILE")]
    pub proto_file: Option<PathBuf>,
    /// File that holds the payload; standard input without it, or with `-`
    pub file: Option<PathBuf>,
}

/// Decodes one payload: the row goes to standard output as JSON, everything else to standard
/// error. `settings` and `tenant` are the configuration's, where there is one.
pub fn run(
    args: &DecodeArgs,
    settings: &config::Decode,
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
            stderr::line(format_args!("read as {name}: nothing else fits"));
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

/// Says for each kind of event why the payload is none.
fn refuse(decoder: &Decoder, payload: &Bytes, now: OffsetDateTime) -> ExitCode {
    for (kind, encoding) in KINDS.into_iter().filter(|(_, encoding)| *encoding == format(payload)) {
        if let Err(reject) = decoder.decode_as(kind, encoding, payload, now, ClockTrust::Agree(now))
        {
            stderr::line(format_args!("not {}: {reject}", name(kind, encoding)));
        }
    }
    ExitCode::FAILURE
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

/// The tenant that a topic belongs to.
fn tenant_of(topic: &str) -> Option<&str> {
    topic.strip_prefix("centiloc/")?.split('/').next().filter(|tenant| !tenant.is_empty())
}

/// Returns everything that the payload can be read as. The two protobuf messages have their first
/// fields alike, so that some payloads are events of both kinds.
pub fn fitting(
    decoder: &Decoder,
    payload: &Bytes,
    now: OffsetDateTime,
) -> Vec<(EventKind, EventEncoding)> {
    let fits = |(kind, encoding): &(EventKind, EventEncoding)| {
        decoder.decode_as(*kind, *encoding, payload, now, ClockTrust::Unknown).is_ok()
    };
    KINDS.into_iter().filter(fits).collect()
}

/// Returns the format whose complaints are worth reading.
fn format(payload: &[u8]) -> EventEncoding {
    if payload.trim_ascii_start().starts_with(b"{") {
        EventEncoding::Json
    } else {
        EventEncoding::Protobuf
    }
}

/// An event as the columns of its row, null ones included.
pub fn row(event: &Event) -> serde_json::Result<String> {
    match event {
        Event::Item(item) => serde_json::to_string_pretty(&ItemRow::of(item)),
        Event::Board(board) => serde_json::to_string_pretty(&BoardRow::of(board)),
    }
}

#[derive(Serialize)]
struct ItemRow<'a> {
    table: &'static str,
    event_id: String,
    #[serde(with = "rfc3339")]
    momentum: OffsetDateTime,
    #[serde(with = "rfc3339")]
    received_at: OffsetDateTime,
    tenant: &'a str,
    uid: &'a str,
    is_in: bool,
    board_sn: Option<&'a str>,
    x_mm: Option<i32>,
    y_mm: Option<i32>,
    shelf_x_mm: Option<i32>,
    shelf_y_mm: Option<i32>,
    floor_x_mm: Option<i32>,
    floor_y_mm: Option<i32>,
    floor: Option<i32>,
    nb_hits: Option<i32>,
    hold_time: Option<String>,
    fill_ratio: Option<f32>,
    product_reference: Option<&'a str>,
    shelf_sn: Option<&'a str>,
    furniture_sn: Option<&'a str>,
    loc_reference: Option<&'a str>,
    loc_labels: Option<&'a [String]>,
    item_labels: Option<&'a [String]>,
    is_interpolated: Option<bool>,
    extra: Option<&'a Map<String, Value>>,
    payload: Option<String>,
}

impl<'a> ItemRow<'a> {
    fn of(item: &'a ItemEvent) -> Self {
        Self {
            table: "item_event",
            event_id: item.event_id.to_string(),
            momentum: item.momentum,
            received_at: item.received_at,
            tenant: &item.tenant,
            uid: &item.uid,
            is_in: item.is_in,
            board_sn: item.board_sn.as_deref(),
            x_mm: item.x_mm,
            y_mm: item.y_mm,
            shelf_x_mm: item.shelf_x_mm,
            shelf_y_mm: item.shelf_y_mm,
            floor_x_mm: item.floor_x_mm,
            floor_y_mm: item.floor_y_mm,
            floor: item.floor,
            nb_hits: item.nb_hits,
            hold_time: item.hold_time_us.map(interval),
            fill_ratio: item.fill_ratio,
            product_reference: item.product_reference.as_deref(),
            shelf_sn: item.shelf_sn.as_deref(),
            furniture_sn: item.furniture_sn.as_deref(),
            loc_reference: item.loc_reference.as_deref(),
            loc_labels: item.loc_labels.as_deref(),
            item_labels: item.item_labels.as_deref(),
            is_interpolated: item.is_interpolated,
            extra: item.extra.as_ref(),
            payload: item.payload.as_ref().map(size),
        }
    }
}

#[derive(Serialize)]
struct BoardRow<'a> {
    table: &'static str,
    event_id: String,
    #[serde(with = "rfc3339")]
    momentum: OffsetDateTime,
    #[serde(with = "rfc3339")]
    received_at: OffsetDateTime,
    tenant: &'a str,
    board_sn: &'a str,
    status: Option<&'a str>,
    fw_version: Option<&'a str>,
    #[serde(with = "rfc3339::option")]
    last_connection_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339::option")]
    last_disconnection_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339::option")]
    last_error_at: Option<OffsetDateTime>,
    extra: Option<&'a Map<String, Value>>,
    payload: Option<String>,
}

impl<'a> BoardRow<'a> {
    fn of(board: &'a BoardEvent) -> Self {
        Self {
            table: "board_event",
            event_id: board.event_id.to_string(),
            momentum: board.momentum,
            received_at: board.received_at,
            tenant: &board.tenant,
            board_sn: &board.board_sn,
            status: board.status.as_deref(),
            fw_version: board.fw_version.as_deref(),
            last_connection_at: board.last_connection_at,
            last_disconnection_at: board.last_disconnection_at,
            last_error_at: board.last_error_at,
            extra: board.extra.as_ref(),
            payload: board.payload.as_ref().map(size),
        }
    }
}

fn size(payload: &Bytes) -> String {
    format!("kept, {} bytes", payload.len())
}

/// Microseconds as the database writes an interval: `00:11:28.909075`.
fn interval(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let text = format!("{sign}{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if fraction == 0 {
        return text;
    }
    format!("{text}.{fraction:06}").trim_end_matches('0').to_owned()
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
        Decoder::new(&config::Decode { proto_file: None, keep_payload }, "acme").unwrap()
    }

    fn sample(name: &str) -> Bytes {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
        std::fs::read(folder.join(name)).unwrap().into()
    }

    #[test]
    fn every_sample_fits_what_it_is() {
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
    fn alike_messages_fit_both_kinds() {
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
        assert_eq!(fitting(&decoder(), &payload, NOW), both);
    }

    #[test]
    fn a_row_shows_every_column_in_order() {
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
    fn durations_are_written_as_postgresql_writes_them() {
        for (micros, text) in [
            (0, "00:00:00"),
            (688_909_075, "00:11:28.909075"),
            (90_500_000, "00:01:30.5"),
            (-1, "-00:00:00.000001"),
            (360_000_000_000, "100:00:00"),
        ] {
            assert_eq!(interval(micros), text);
        }
    }

    #[test]
    fn the_tenant_is_read_from_the_topic() {
        assert_eq!(tenant_of("centiloc/acme"), Some("acme"));
        assert_eq!(tenant_of("centiloc/acme/json/item/v1/update"), Some("acme"));
        assert_eq!(tenant_of("centiloc/"), None);
        assert_eq!(tenant_of("other/acme"), None);
    }
}
