//! Splits JSON objects and lists without parsing their values. Only as many parts as an event may have
//! take memory. The others are counted.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::bounded::MAX_KEYS;
use crate::event::Reject;

/// Documented events have at most 19 keys.
const USUAL_KEYS: usize = 24;

/// The keys of an object, with quotes and escapes, and its values, in order.
pub(super) struct ObjectPairs<'a> {
    /// The first [`MAX_KEYS`] pairs.
    pub(super) first: Vec<(&'a RawValue, &'a RawValue)>,
    /// The number of all pairs.
    pub(super) count: usize,
}

impl<'de> Deserialize<'de> for ObjectPairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = ObjectPairs<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = ObjectPairs { first: Vec::with_capacity(USUAL_KEYS), count: 0 };
        while let Some(pair) = map.next_entry()? {
            pairs.count += 1;
            if pairs.count <= MAX_KEYS {
                pairs.first.push(pair);
            }
        }
        Ok(pairs)
    }
}

/// Calls `take` with the text of each element of a list, until it refuses one. The outer error is that
/// of a text that is not a list.
pub(super) fn each<'a>(
    list: &'a str,
    take: impl FnMut(&'a str) -> Result<(), Reject>,
) -> serde_json::Result<Result<(), Reject>> {
    let mut deserializer = serde_json::Deserializer::from_str(list);
    ListElements(take).deserialize(&mut deserializer)
}

struct ListElements<F>(F);

impl<'de, F: FnMut(&'de str) -> Result<(), Reject>> DeserializeSeed<'de> for ListElements<F> {
    type Value = Result<(), Reject>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(&'de str) -> Result<(), Reject>> Visitor<'de> for ListElements<F> {
    type Value = Result<(), Reject>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut outcome = Ok(());
        while let Some(element) = list.next_element::<&RawValue>()? {
            // After a refusal the list is still read to its end, as the deserializer requires.
            if outcome.is_ok() {
                outcome = (self.0)(element.get());
            }
        }
        Ok(outcome)
    }
}
