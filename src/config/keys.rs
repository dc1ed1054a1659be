//! Lookup of keys by name, and the known key that an unknown name was meant to be. The keys
//! themselves are listed in [`KEYS`].

use super::key::leaf;

pub use super::key::{ConfigKey, DefaultValue, ENV_PREFIX, ENV_SEPARATOR, ValueForm, env_name};
pub use super::table::{KEYS, VENDOR_HOST};

/// Finds the key of this dotted name.
pub fn find(name: &str) -> Option<&'static ConfigKey> {
    KEYS.iter().find(|key| key.name == name)
}

/// Returns true if this dotted name is a section.
pub fn is_section(name: &str) -> bool {
    sections().any(|section| section == name)
}

/// Lists every section, parents included, each at least once.
fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter().flat_map(|key| key.name.match_indices('.').map(|(at, _)| &key.name[..at]))
}

/// Least similarity of a name that is suggested, from 0 to 1.
const LEAST_SIMILARITY: f64 = 0.5;
/// Weight of the last part of a name, so that a key in the wrong section is suggested after a
/// misspelt one.
const WRONG_SECTION: f64 = 0.9;

/// Returns the known key (or, for `tables`, section) most similar to an unknown name.
pub fn nearest(unknown: &str, tables: bool) -> Option<&'static str> {
    let similarity = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(unknown, known);
        let last = strsim::normalized_damerau_levenshtein(leaf(unknown), leaf(known));
        whole.max(last * WRONG_SECTION)
    };
    let candidates: Vec<&'static str> =
        if tables { sections().collect() } else { KEYS.iter().map(|key| key.name).collect() };
    candidates
        .into_iter()
        .map(|known| (similarity(known), known))
        .filter(|(similarity, _)| *similarity >= LEAST_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_sections_contiguous() {
        let mut seen = Vec::new();
        for key in KEYS.iter() {
            assert!(
                KEYS.iter().filter(|other| other.name == key.name).count() == 1,
                "{}",
                key.name
            );
            if seen.last() != Some(&key.section()) {
                assert!(!seen.contains(&key.section()), "section {} is split", key.section());
                seen.push(key.section());
            }
        }
    }

    #[test]
    fn no_section_is_also_a_key() {
        assert!(sections().all(|section| find(section).is_none()));
    }

    #[test]
    fn typos_and_wrong_sections_find_the_nearest_key() {
        assert_eq!(nearest("mqtt.prot", false), Some("mqtt.port"));
        assert_eq!(nearest("tennant", false), Some("tenant"));
        assert_eq!(nearest("mqtt_host", false), Some("mqtt.host"));
        assert_eq!(nearest("cert_file", false), Some("mqtt.tls.cert_file"));
        assert_eq!(nearest("mqtt.level", false), Some("log.level"));
        assert_eq!(nearest("mqt", true), Some("mqtt"));
        assert_eq!(nearest("tls", true), Some("mqtt.tls"));
        assert_eq!(nearest("zzzzzzzzzzzzzzzz", false), None);
    }
}
