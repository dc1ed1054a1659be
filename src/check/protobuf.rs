//! Check of the protobuf schema: it loads, and defines the events that are subscribed to.

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::config::Config;
use crate::decode::Decoder;
use crate::event::EventKind;

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
    let is_wanted = |kind: &EventKind| config.mqtt.formats[*kind].protobuf();
    let wanted: Vec<EventKind> = EventKind::ALL.into_iter().filter(is_wanted).collect();
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
        format!(
            "set decode.proto_file to it; or use JSON: {} = \"json\"",
            EventKind::all_formats_keys()
        ),
    )
}

fn missing_message(file: &str, kind: EventKind) -> CheckLine {
    let (kind, key) = (kind.as_str(), kind.formats_key());
    CheckLine::problem(
        names::PROTOBUF_SCHEMA,
        CheckStatus::Failed,
        format!("{file} has no {kind} message, and {key} subscribes to protobuf"),
        VENDOR_SCHEMA,
        format!("name the file that defines all events in decode.proto_file, or set {key} to json"),
    )
}
