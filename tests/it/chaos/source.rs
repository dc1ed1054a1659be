//! Generates the load: tags that move between boards, boards that change status, and the
//! irregularities of a real feed: repetitions, two forms of one event, late events, and garbage.

use std::collections::{HashMap, HashSet};

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::expected::{BoardRow, ExpectedRow, ItemRow};
use crate::support::event::{ItemEvent, board_protobuf, board_topic};
use crate::support::mosquitto::TENANT;

/// Number of tags. Few, so that each has a history.
const TAGS: usize = 60;
const BOARDS: usize = 6;

/// Names of the enum in the order of its numbers.
const STATUSES: [&str; 5] = ["CONNECTED", "DISCONNECTED", "ONERROR", "MAINTENANCE", "DEGRADED"];

/// Number of messages kept for a much later repetition.
const REMEMBERED: usize = 500;

/// A message to publish, with the row that it must become.
#[derive(Debug, Clone)]
pub struct SourceMessage {
    pub topic: String,
    pub payload: Vec<u8>,
    /// The row that it must become.
    pub meaning: ExpectedRow,
}

/// A generator of messages.
pub struct MessageSource {
    rng: StdRng,
    /// The board of each tag. `None` is no board.
    tags: Vec<Option<usize>>,
    /// The momentum of the newest event of each tag and board.
    last: HashMap<String, OffsetDateTime>,
    remembered: Vec<SourceMessage>,
    /// Event ids in use. A second event of one id with other content would leave the stored one
    /// undetermined.
    ids: HashSet<Uuid>,
    garbage: u64,
}

impl MessageSource {
    /// Creates a generator whose tags are on no board yet.
    pub fn new(rng: StdRng) -> Self {
        Self {
            rng,
            tags: vec![None; TAGS],
            last: HashMap::new(),
            remembered: Vec::new(),
            ids: HashSet::new(),
            garbage: 0,
        }
    }

    /// Generates the next event of the feed, as a few messages.
    pub fn happening(&mut self) -> Vec<SourceMessage> {
        let mut messages = match self.rng.random_range(0..100) {
            0..=1 => vec![self.garbage()],
            2..=6 => self.status(),
            _ => self.movement(),
        };
        for index in 0..messages.len() {
            if self.rng.random_bool(0.05) {
                messages.push(messages[index].clone());
            }
        }
        if self.rng.random_bool(0.02) && !self.remembered.is_empty() {
            messages.push(self.remembered[self.rng.random_range(0..self.remembered.len())].clone());
        }
        self.remember(&messages);
        messages
    }

    fn remember(&mut self, messages: &[SourceMessage]) {
        for message in messages {
            if self.remembered.len() < REMEMBERED {
                self.remembered.push(message.clone());
            } else {
                let place = self.rng.random_range(0..REMEMBERED);
                self.remembered[place] = message.clone();
            }
        }
    }

    fn movement(&mut self) -> Vec<SourceMessage> {
        let tag = self.rng.random_range(0..TAGS);
        let elsewhere = self.rng.random_range(0..BOARDS);
        let mut events = match (self.tags[tag], self.rng.random_range(0..10)) {
            (Some(board), 0..=3) => vec![self.event(tag, board, true)],
            (Some(board), 4..=5) => {
                self.tags[tag] = None;
                vec![self.event(tag, board, false)]
            }
            (Some(board), _) if board != elsewhere => {
                self.tags[tag] = Some(elsewhere);
                vec![self.event(tag, board, false), self.event(tag, elsewhere, true)]
            }
            _ => {
                self.tags[tag] = Some(elsewhere);
                vec![self.event(tag, elsewhere, true)]
            }
        };
        if self.rng.random() {
            events.reverse();
        }
        events.retain(|event| self.ids.insert(ItemRow::of(event).event_id));
        events.iter().flat_map(|event| self.forms(event)).collect()
    }

    fn event(&mut self, tag: usize, board: usize, is_in: bool) -> ItemEvent {
        // Rarely a board message lacks the serial number.
        let board = if self.rng.random_bool(0.01) { String::new() } else { format!("B-{board}") };
        let uid = format!("E004{tag:012X}");
        let momentum = self.momentum(&uid);
        let mut event = ItemEvent::new(TENANT, &uid, &board, momentum);
        event.is_in = is_in;
        event.pos_mm = vec![self.rng.random_range(0..600), self.rng.random_range(-20..400)];
        event
    }

    /// Draws a momentum: mostly now, at times late, at times within the same microsecond as the
    /// last.
    fn momentum(&mut self, whose: &str) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc();
        let last = *self.last.entry(whose.to_owned()).or_insert(now);
        match self.rng.random_range(0..100) {
            0..=9 => now - time::Duration::nanoseconds(self.rng.random_range(0..60_000_000_000)),
            10..=19 => {
                let microsecond = last.nanosecond() / 1_000 * 1_000;
                last.replace_nanosecond(microsecond + self.rng.random_range(0..1_000)).unwrap()
            }
            _ => {
                self.last.insert(whose.to_owned(), now);
                now
            }
        }
    }

    /// Encodes an event, nearly always in one form. The two forms of one event must become one row.
    fn forms(&mut self, event: &ItemEvent) -> Vec<SourceMessage> {
        let meaning = ExpectedRow::Item(ItemRow::of(event));
        let json = SourceMessage {
            topic: event.json_topic(),
            payload: event.json().to_string().into_bytes(),
            meaning: meaning.clone(),
        };
        let protobuf =
            SourceMessage { topic: event.protobuf_topic(), payload: event.protobuf(), meaning };
        match self.rng.random_range(0..20) {
            0..=8 => vec![json],
            9..=17 => vec![protobuf],
            18 => vec![json, protobuf],
            _ => vec![protobuf, json],
        }
    }

    fn status(&mut self) -> Vec<SourceMessage> {
        let board_sn = format!("B-{}", self.rng.random_range(0..BOARDS));
        let momentum = self.momentum(&board_sn);
        let number = self.rng.random_range(0..STATUSES.len());
        let board = BoardRow::new(TENANT, &board_sn, momentum, STATUSES[number]);
        if !self.ids.insert(board.event_id) {
            return Vec::new();
        }
        let meaning = ExpectedRow::Board(board);
        vec![if self.rng.random() {
            let payload = board_protobuf(&board_sn, momentum, number as u64);
            SourceMessage { topic: board_topic(TENANT), payload, meaning }
        } else {
            let topic = format!("centiloc/{TENANT}/json/board/v1/update");
            let payload = board_json(&board_sn, momentum, STATUSES[number]);
            SourceMessage { topic, payload, meaning }
        }]
    }

    /// Generates an undecodable message, each one different.
    fn garbage(&mut self) -> SourceMessage {
        self.garbage += 1;
        let number = self.garbage;
        let json_topic = format!("centiloc/{TENANT}/json/item/v1/update");
        let (topic, payload, reason) = match self.rng.random_range(0..3) {
            0 => (json_topic, format!("{{\"uid\": \"{number}").into_bytes(), "malformed"),
            1 => {
                let momentum = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
                let text = json!({ "momentum": momentum, "nb_hits": number }).to_string();
                (json_topic, text.into_bytes(), "missing_field")
            }
            // A string whose length exceeds the message.
            _ => {
                let payload = [b"\x12\x7f", number.to_string().as_bytes()].concat();
                (format!("centiloc/{TENANT}"), payload, "malformed")
            }
        };
        SourceMessage { topic, payload, meaning: ExpectedRow::Garbage(reason) }
    }
}

fn board_json(board_sn: &str, momentum: OffsetDateTime, status: &str) -> Vec<u8> {
    let unset = "0001-01-01T00:00:00Z";
    let event = json!({
        "Momentum": momentum.format(&Rfc3339).unwrap(),
        "BoardSN": board_sn,
        "Status": format!("BOARDSTATUS_{status}"),
        "FwVersion": "",
        "LastConnectionDate": unset,
        "LastDisconnectionDate": unset,
        "LastErrorDate": unset,
    });
    event.to_string().into_bytes()
}
