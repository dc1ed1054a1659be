//! Check of the protobuf schema: it loads, and defines the events that are subscribed to.

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::config::Config;
use crate::decode::Decoder;
use crate::topic::EventKind;

const VENDOR_SCHEMA: &str =
    "the .proto that Centiloc gives to subscribers, or its FileDescriptorSet";

/// Returns one line, or one for each kind of event that the schema lacks.
pub(super) fn checks(config: &Config) -> Vec<CheckLine> {
    let (file, decode) = (config.decode.proto_file.as_deref(), &config.decode);
    let decoder = match Decoder::new(decode, &config.tenant) {
        Ok(decoder) => decoder,
        Err(error) => {
            let remedy = "name another file in decode.proto_file";
            let sentence = error.to_string();
            return vec![CheckLine::from_sentence_or(
                names::PROTOBUF_SCHEMA,
                CheckStatus::Failed,
                &sentence,
                VENDOR_SCHEMA,
                remedy,
            )];
        }
    };
    let (items, boards) = (config.mqtt.items.protobuf(), config.mqtt.boards.protobuf());
    let wanted: Vec<EventKind> = [(items, EventKind::Item), (boards, EventKind::Board)]
        .iter()
        .filter(|w| w.0)
        .map(|w| w.1)
        .collect();
    if wanted.is_empty() {
        return vec![CheckLine::ok(
            names::PROTOBUF_SCHEMA,
            "not needed: only JSON is subscribed to",
        )];
    }
    let Some(file) = file else { return vec![assumed_numbers()] };
    let lacking = wanted.iter().filter(|kind| !decoder.covers(**kind));
    let lacking: Vec<_> =
        lacking.map(|kind| missing_message(&file.display().to_string(), *kind)).collect();
    if lacking.is_empty() {
        return vec![CheckLine::ok(
            names::PROTOBUF_SCHEMA,
            format!("{} covers the subscribed events", file.display()),
        )];
    }
    lacking
}

fn assumed_numbers() -> CheckLine {
    CheckLine::problem(
        names::PROTOBUF_SCHEMA,
        CheckStatus::Warning,
        "protobuf is subscribed to, and its field numbers are assumed",
        VENDOR_SCHEMA,
        "set decode.proto_file to it; or use JSON: mqtt.items and mqtt.boards = \"json\"",
    )
}

fn missing_message(file: &str, kind: EventKind) -> CheckLine {
    let (kind, key) = match kind {
        EventKind::Item => ("item", "mqtt.items"),
        EventKind::Board => ("board", "mqtt.boards"),
    };
    CheckLine::problem(
        names::PROTOBUF_SCHEMA,
        CheckStatus::Failed,
        format!("{file} has no {kind} message, and {key} subscribes to protobuf"),
        VENDOR_SCHEMA,
        format!(
            "name the file that defines both events in decode.proto_file, or set {key} to json"
        ),
    )
}
