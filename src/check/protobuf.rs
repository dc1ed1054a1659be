//! The schema that protobuf events are decoded by: does it load, and does it cover what is
//! subscribed to?

use crate::config::Config;
use crate::credentials::preflight::{Check, Status};
use crate::decode::Decoder;
use crate::topic::EventKind;

const NAME: &str = "protobuf_schema";
const VENDORS: &str = "the .proto that Centiloc hands to subscribers, or its FileDescriptorSet";

/// One line, or one for each kind of event that the schema lacks.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let (file, decode) = (config.decode.proto_file.as_deref(), &config.decode);
    let decoder = match Decoder::new(decode, &config.tenant) {
        Ok(decoder) => decoder,
        Err(error) => {
            let see = "name another file in decode.proto_file";
            let sentence = error.to_string();
            return vec![super::from_sentence(NAME, Status::Failed, &sentence, VENDORS, see)];
        }
    };
    let (items, boards) = (config.mqtt.items.protobuf(), config.mqtt.boards.protobuf());
    let wanted: Vec<EventKind> = [(items, EventKind::Item), (boards, EventKind::Board)]
        .iter()
        .filter(|w| w.0)
        .map(|w| w.1)
        .collect();
    if wanted.is_empty() {
        return vec![Check::ok(NAME, "not needed: only JSON is subscribed to")];
    }
    let Some(file) = file else { return vec![assumed()] };
    let lacking = wanted.iter().filter(|kind| !decoder.covers(**kind));
    let lacking: Vec<_> = lacking.map(|kind| lacks(&file.display().to_string(), *kind)).collect();
    if lacking.is_empty() {
        return vec![Check::ok(NAME, format!("{} covers what is subscribed to", file.display()))];
    }
    lacking
}

fn assumed() -> Check {
    Check::trouble(
        NAME,
        Status::Warning,
        "protobuf is subscribed to, and its field numbers are assumed ones",
        VENDORS,
        "set decode.proto_file to it; or take JSON: mqtt.items and mqtt.boards = \"json\"",
    )
}

fn lacks(file: &str, kind: EventKind) -> Check {
    let (kind, key) = match kind {
        EventKind::Item => ("item", "mqtt.items"),
        EventKind::Board => ("board", "mqtt.boards"),
    };
    Check::trouble(
        NAME,
        Status::Failed,
        format!("{file} has no {kind} message, and {key} subscribes to protobuf"),
        VENDORS,
        format!(
            "name the file that defines both events in decode.proto_file, or set {key} to json"
        ),
    )
}
