//! Runs many schedules and says what they were made of.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::schedule;

/// Last lines of a trace that are printed, unless `SIM_LINES` says otherwise.
const SHOWN: u64 = 400;

/// Sums over many schedules.
#[derive(Debug, Default)]
struct Sums {
    schedules: u64,
    steps: u64,
    lines: u64,
    faults: BTreeMap<&'static str, u64>,
}

/// Runs the schedules of `seeds` until `limit` is over, on all cores. Each seed is run twice.
/// Returns the first seed that broke a rule.
fn explore(seeds: std::ops::Range<u64>, limit: Duration) -> (Sums, Option<u64>) {
    let next = AtomicU64::new(seeds.start);
    let sums = Mutex::new(Sums::default());
    let failed = Mutex::new(None);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while started.elapsed() < limit && failed.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let (ended, steps) = schedule::run(seed, false);
                    let (again, _) = schedule::run(seed, false);
                    let same = ended.trace.digest() == again.trace.digest();
                    let mut sums = sums.lock().unwrap();
                    sums.schedules += 1;
                    sums.steps += steps;
                    sums.lines += ended.trace.digest().1;
                    for (kind, count) in ended.faults {
                        *sums.faults.entry(kind).or_default() += count;
                    }
                    if ended.violation.is_some() || !same {
                        failed.lock().unwrap().get_or_insert(seed);
                    }
                }
            });
        }
    });
    (sums.into_inner().unwrap(), failed.into_inner().unwrap())
}

fn show(seed: u64) -> String {
    let (ended, _) = schedule::run(seed, true);
    let (again, _) = schedule::run(seed, true);
    let lines = ended.trace.text.unwrap_or_default();
    let other = again.trace.text.unwrap_or_default();
    if let Some(place) = lines.iter().zip(&other).position(|(a, b)| a != b) {
        return format!("seed {seed} runs differently:\n{}\n{}", lines[place], other[place]);
    }
    let shown = usize::try_from(number("SIM_LINES").unwrap_or(SHOWN)).unwrap();
    let from = lines.len().saturating_sub(shown);
    format!("{}\nseed {seed}: {:?}", lines[from..].join("\n"), ended.violation)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs so many schedules as are asked for, prints what they were made of, and panics with the trace
/// of one that broke a rule.
fn explore_and_print(seeds: std::ops::Range<u64>, limit: Duration) {
    let started = Instant::now();
    let (sums, failed) = explore(seeds.clone(), limit);
    println!(
        "{} schedules from seed {}, each run twice, {} steps, {} trace lines, {:.1} s",
        sums.schedules,
        seeds.start,
        sums.steps,
        sums.lines,
        started.elapsed().as_secs_f64()
    );
    for (kind, count) in &sums.faults {
        println!("{count:>9}  {kind}");
    }
    if let Some(seed) = failed {
        panic!("{}", show(seed));
    }
}

#[test]
fn no_schedule_loses_or_doubles_an_event() {
    let first = number("SIM_FIRST").unwrap_or(1);
    let seeds = number("SIM_SEEDS").unwrap_or(if number("SIM_SECONDS").is_some() {
        u64::MAX - first
    } else {
        2_000
    });
    let limit = Duration::from_secs(number("SIM_SECONDS").unwrap_or(300));
    explore_and_print(first..first + seeds, limit);
}
