//! The tiles below the sentence: one for each part of the service, with its state, a value and the time
//! of its last event. Pure: the time is an argument.

use serde::Serialize;
use time::OffsetDateTime;

use super::moment::{count, relative, span};
use super::shell::Glance;
use super::summary::{Situation, Summary, Verdict};
use crate::store::overview::MOST_COUNTED;
use crate::telemetry::health::SessionPhase;

/// A part of the service at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tile {
    /// Part, as in the findings.
    pub part: &'static str,
    /// Heading.
    pub title: &'static str,
    /// State at a glance.
    pub state: Glance,
    /// Word for the state.
    pub word: &'static str,
    /// The most important value.
    pub value: String,
    /// Further facts.
    pub detail: String,
    /// Meaning of `at`, such as "last commit". Empty without a time.
    pub label: &'static str,
    /// A time that belongs to the part.
    #[serde(serialize_with = "crate::timestamp::option::serialize")]
    pub at: Option<OffsetDateTime>,
}

impl Tile {
    fn new(part: &'static str, title: &'static str, value: impl Into<String>) -> Self {
        Self {
            part,
            title,
            state: Glance::Good,
            word: "ok",
            value: value.into(),
            detail: String::new(),
            label: "",
            at: None,
        }
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    fn at(mut self, label: &'static str, at: Option<OffsetDateTime>) -> Self {
        (self.label, self.at) = if at.is_some() { (label, at) } else { ("", None) };
        self
    }

    fn idle(mut self, word: &'static str) -> Self {
        (self.state, self.word) = (Glance::Idle, word);
        self
    }
}

/// Returns the tiles in their order. A tile is as urgent as the findings of its part.
pub fn tiles(situation: &Situation<'_>, summary: &Summary) -> Vec<Tile> {
    let mut tiles = vec![
        session(situation),
        database(situation),
        spool(situation),
        certificate(situation),
        gaps(situation),
        dead_letters(situation),
        stays(situation),
    ];
    for tile in &mut tiles {
        let of_part = summary.findings.iter().filter(|finding| finding.part == tile.part);
        match of_part.map(|finding| finding.verdict).max() {
            Some(Verdict::NeedsYou) => (tile.state, tile.word) = (Glance::Bad, "act"),
            Some(Verdict::Degraded) => (tile.state, tile.word) = (Glance::Warn, "watch"),
            Some(Verdict::Well) | None => {}
        }
    }
    tiles
}

fn session(situation: &Situation<'_>) -> Tile {
    let session = &situation.parts.session;
    let value = match session.phase {
        SessionPhase::Starting => "Starting",
        SessionPhase::Standby => "Standing by",
        SessionPhase::Connecting => "Connecting",
        SessionPhase::Subscribed => "Subscribed",
        SessionPhase::Stopping => "Stopping",
    };
    let since = session.since.map(|since| {
        let seconds = (situation.now - since).as_seconds_f64();
        format!("for {}", span(seconds.max(0.0)))
    });
    Tile::new("session", "Session", value)
        .detail(since.unwrap_or_default())
        .at("last message", session.last_message_at)
}

fn database(situation: &Situation<'_>) -> Tile {
    let database = &situation.parts.database;
    let value = if database.up { "Answers" } else { "No answer" };
    let down =
        database.down_since.map(|since| format!("down since {}", relative(since, situation.now)));
    Tile::new("database", "Database", value)
        .detail(down.unwrap_or_default())
        .at("last commit", database.last_commit_at)
}

fn spool(situation: &Situation<'_>) -> Tile {
    let Some(spool) = &situation.parts.spool else {
        return Tile::new("spool", "Spool", "Off").detail("the broker buffers").idle("off");
    };
    if spool.events == 0 {
        return Tile::new("spool", "Spool", "Empty");
    }
    let size = bytesize::ByteSize(spool.bytes);
    let detail = match situation.spool_max_bytes {
        Some(most) => format!("{size} of {}", bytesize::ByteSize(most)),
        None => size.to_string(),
    };
    Tile::new("spool", "Spool", format!("{} waiting", count(spool.events)))
        .detail(detail)
        .at("oldest", spool.oldest_at)
}

fn certificate(situation: &Situation<'_>) -> Tile {
    let Some(certificate) = &situation.parts.certificate else {
        return Tile::new("certificate", "Certificate", "None").detail("without TLS").idle("off");
    };
    let left = certificate.not_after - situation.now;
    // Whole days, as everywhere else.
    let value = match left.whole_days() {
        days @ 2.. => format!("{days} days left"),
        _ if left.is_positive() => format!("{} left", span(left.as_seconds_f64())),
        _ => "Expired".to_owned(),
    };
    let until = format!("valid until {}", certificate.not_after.date());
    Tile::new("certificate", "Certificate", value).detail(until)
}

fn gaps(situation: &Situation<'_>) -> Tile {
    let Some(overview) = situation.overview else {
        return Tile::new("gaps", "Gaps", "Unknown").detail("not read yet").idle("unknown");
    };
    let value = match overview.open_gaps {
        0 => "None open".to_owned(),
        number => format!("{} open", count(number.unsigned_abs())),
    };
    let newest = overview.gaps.first().map(|gap| gap.started_at);
    Tile::new("gaps", "Gaps", value).at("newest", newest)
}

fn dead_letters(situation: &Situation<'_>) -> Tile {
    let Some(overview) = situation.overview else {
        let tile = Tile::new("dead_letters", "Dead letters", "Unknown");
        return tile.detail("not read yet").idle("unknown");
    };
    let value = match overview.dead_letter_count {
        0 => "None".to_owned(),
        MOST_COUNTED.. => format!("{} or more", count(MOST_COUNTED.unsigned_abs())),
        number => count(number.unsigned_abs()),
    };
    let newest = overview.dead_letters.first().map(|letter| letter.last_seen_at);
    Tile::new("dead_letters", "Dead letters", value).at("newest", newest)
}

fn stays(situation: &Situation<'_>) -> Tile {
    match situation.stays_lag_seconds {
        None => Tile::new("stays", "Stays", "Unknown").detail("not computed yet").idle("unknown"),
        Some(lag) if lag < 1.0 => Tile::new("stays", "Stays", "Current"),
        Some(lag) => Tile::new("stays", "Stays", format!("{} behind", span(lag))),
    }
}
