//! The seeds of the fuzz targets, run without a fuzzer. Their invariants hold, and each seed is
//! still accepted or refused, as its name states.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{configuration, json, protobuf, vendor_message, vendor_schema};

/// Prefix of the names of seeds that are refused. The others are accepted.
const REFUSED: &str = "refused-";

type FuzzTarget = (&'static str, fn(&[u8]) -> bool);

const TARGETS: [FuzzTarget; 5] = [
    ("configuration", configuration),
    ("json", json),
    ("protobuf", protobuf),
    ("vendor_message", vendor_message),
    ("vendor_schema", vendor_schema),
];

/// Returns the folder `fuzz`, or `None` in a package of the sources, which leaves it out.
fn fuzz() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    folder.exists().then_some(folder)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn every_seed_matches_its_name() {
    let Some(fuzz) = fuzz() else { return };
    for (target, run) in TARGETS {
        let seeds = entries(&fuzz.join("seeds").join(target));
        let outcomes: BTreeSet<_> = seeds
            .iter()
            .map(|seed| {
                let accepted = run(&std::fs::read(seed).unwrap());
                assert_eq!(accepted, !stem(seed).starts_with(REFUSED), "{}", seed.display());
                accepted
            })
            .collect();
        assert_eq!(outcomes.len(), 2, "{target} has seeds of both outcomes");
    }
}

#[test]
fn every_fuzz_target_has_seeds() {
    let Some(fuzz) = fuzz() else { return };
    let here: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for folder in ["fuzz_targets", "seeds"] {
        let there: BTreeSet<_> =
            entries(&fuzz.join(folder)).iter().map(|entry| stem(entry)).collect();
        assert_eq!(here, there, "{folder}");
    }
}
