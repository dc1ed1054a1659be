//! The parts of a draft that a message can make arbitrarily large, each with a maximum. A decoded value
//! takes up to a hundred times its bytes on the wire: a coordinate of one byte becomes a JSON number of
//! 32, a label of two bytes a `String` of 24, and each brace of `{"":{"":0}}` a node of a map. Parts
//! beyond a maximum are counted and not kept, so that memory stays small and the refusal can state the
//! count.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::event::{Reject, RejectReason};

/// Most coordinates in one list. The documented lists have two. A whole track of positions fits.
pub(super) const MAX_POSITIONS: usize = 1_000;

/// Most labels in one list. Operators usually write a handful.
pub(super) const MAX_LABELS: usize = 1_000;

/// Most bytes of text in one list of labels: 64 for each of [`MAX_LABELS`].
pub(super) const MAX_LABEL_BYTES: usize = 64 * 1024;

/// Most bytes of a single text. Identifiers have about 20 bytes, and PostgreSQL indexes less than 3 KiB.
pub(super) const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Most keys of a JSON object: known, unknown and repeated ones. Documented events have 19.
pub(super) const MAX_KEYS: usize = 1_000;

/// Most bytes of JSON, keys and values, without a column of their own. This is a hundred times an event,
/// for fields that a later schema may add. The worst case, nested objects of one key, takes 8 MiB in
/// memory.
pub(super) const MAX_EXTRA_BYTES: usize = 64 * 1024;

/// Most bytes of a JSON string with escapes. A longer one exceeds every maximum of text, because an
/// escape of six bytes stands for at least one byte. It is refused without being parsed.
pub(super) const MAX_ESCAPED_BYTES: usize = 6 * MAX_TEXT_BYTES + 2;

/// Refuses a part named `what` that has more than `most` of a `unit`.
pub(super) fn check(what: &str, found: usize, unit: &str, most: usize) -> Result<(), Reject> {
    if found <= most { Ok(()) } else { Err(exceeded(what, found, unit, most)) }
}

/// Returns the refusal that [`check`] gives.
#[cold]
pub(super) fn exceeded(what: &str, found: usize, unit: &str, most: usize) -> Reject {
    let detail = format!("{what} has {found} {unit}, at most {most} are accepted");
    Reject::new(RejectReason::OutOfRange, detail)
}

/// A list of coordinates. The documented two take no allocation.
#[derive(Debug, Default)]
pub(super) struct Coordinates {
    pub(super) x: Option<i32>,
    pub(super) y: Option<i32>,
    /// Coordinates after the second.
    rest: Vec<i32>,
    /// Number of coordinates beyond [`MAX_POSITIONS`], which are not kept.
    beyond: usize,
}

impl Coordinates {
    pub(super) fn push(&mut self, value: i32) {
        if self.x.is_none() {
            self.x = Some(value);
        } else if self.y.is_none() {
            self.y = Some(value);
        } else if self.rest.len() + 2 < MAX_POSITIONS {
            self.rest.push(value);
        } else {
            self.beyond += 1;
        }
    }

    /// Returns the whole list if it is neither empty nor a pair.
    pub(super) fn odd(&self) -> Option<Vec<i32>> {
        if self.x.is_none() || (self.y.is_some() && self.rest.is_empty()) {
            return None;
        }
        Some(self.x.into_iter().chain(self.y).chain(self.rest.iter().copied()).collect())
    }

    /// Returns true if [`Self::check`] accepts the value.
    #[inline]
    pub(super) fn fits(&self) -> bool {
        self.beyond == 0
    }

    /// Refuses a list with too many coordinates.
    pub(super) fn check(&self, name: &str) -> Result<(), Reject> {
        let kept = [self.x, self.y].into_iter().flatten().count() + self.rest.len();
        check(name, kept + self.beyond, "elements", MAX_POSITIONS)
    }
}

/// A list of labels.
#[derive(Debug, Default)]
pub(super) struct LabelList {
    /// The first labels, as far as both maxima allow.
    kept: Vec<String>,
    count: usize,
    bytes: usize,
}

impl LabelList {
    pub(super) fn push(&mut self, label: Cow<str>) {
        self.count += 1;
        self.bytes += label.len();
        if self.fits() {
            self.kept.push(label.into_owned());
        }
    }

    /// Takes the labels for a column, in which an empty list is NULL.
    pub(super) fn take(&mut self) -> Option<Vec<String>> {
        let list = std::mem::take(&mut self.kept);
        (!list.is_empty()).then_some(list)
    }

    /// Returns true if [`Self::check`] accepts the value.
    #[inline]
    pub(super) fn fits(&self) -> bool {
        self.count <= MAX_LABELS && self.bytes <= MAX_LABEL_BYTES
    }

    /// Refuses a list with too many labels or too much text.
    pub(super) fn check(&self, name: &str) -> Result<(), Reject> {
        check(name, self.count, "elements", MAX_LABELS)?;
        check(name, self.bytes, "bytes of text", MAX_LABEL_BYTES)
    }
}

/// The keys of a JSON object that have no column, with their values.
#[derive(Debug, Default)]
pub(super) struct ExtraKeys {
    /// The first keys, as far as the maximum allows.
    kept: Map<String, Value>,
    bytes: usize,
}

impl ExtraKeys {
    /// Adds a key with the JSON text of its value. A value that is valid JSON but too large or too deep
    /// to be parsed is kept as text. Go's decoder skips such a value as well.
    pub(super) fn add(&mut self, key: Cow<str>, json: &str) {
        self.bytes += key.len() + json.len();
        if !self.fits() {
            return;
        }
        let value = serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned()));
        self.kept.insert(key.into_owned(), value);
    }

    pub(super) fn take(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.kept)
    }

    /// Returns true if [`Self::check`] accepts the value.
    #[inline]
    pub(super) fn fits(&self) -> bool {
        self.bytes <= MAX_EXTRA_BYTES
    }

    /// Refuses too many bytes.
    pub(super) fn check(&self) -> Result<(), Reject> {
        check("the set of unknown keys", self.bytes, "bytes of JSON", MAX_EXTRA_BYTES)
    }
}
