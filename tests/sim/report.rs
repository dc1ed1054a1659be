//! Runs many schedules and reports their statistics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// Duration after which a schedule is stuck, on a busy machine too.
const HANGS_AFTER: Duration = Duration::from_secs(60);

use crate::schedule;
use crate::world::ScheduleResult;

/// Number of last trace lines printed, unless `SIM_LINES` sets another.
const SHOWN: u64 = 400;

/// Sums over many schedules.
#[derive(Debug, Default)]
struct ScheduleSums {
    schedules: u64,
    steps: u64,
    lines: u64,
    faults: BTreeMap<&'static str, u64>,
}

/// Runs the schedules of `seeds` until `limit` is over, on all cores. Each seed is run twice.
/// Returns the first seed that broke a rule.
fn explore(seeds: std::ops::Range<u64>, limit: Duration) -> (ScheduleSums, Option<u64>) {
    let next = AtomicU64::new(seeds.start);
    let sums = Mutex::new(ScheduleSums::default());
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
                    let (ended, steps) = run_watched(seed);
                    let (again, _) = run_watched(seed);
                    let same = ended.trace.digest() == again.trace.digest();
                    if !same {
                        first_difference(seed, &ended, &again);
                    }
                    let mut sums = sums.lock().unwrap();
                    sums.schedules += 1;
                    sums.steps += steps;
                    sums.lines += ended.trace.text.len() as u64;
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

/// Runs a schedule. One that never ends, with paused time standing still, ends the whole process.
fn run_watched(seed: u64) -> (ScheduleResult, u64) {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let result = schedule::run(seed);
        let _ = done.send(result);
    });
    ended.recv_timeout(HANGS_AFTER).unwrap_or_else(|error| {
        eprintln!("seed {seed}: the schedule does not end or has panicked ({error})");
        std::process::exit(101);
    })
}

/// Prints the first difference between two runs of one seed.
fn first_difference(seed: u64, one: &ScheduleResult, other: &ScheduleResult) {
    let (one, other) = (&one.trace.text, &other.trace.text);
    let place = one.iter().zip(other).position(|(a, b)| a != b).unwrap_or(0);
    let shown = place.saturating_sub(20)..(place + 3);
    for (name, lines) in [("one run", one), ("the other", other)] {
        let lines = lines.get(shown.clone()).unwrap_or_default().join("\n");
        eprintln!("seed {seed} is not deterministic; {name}:\n{lines}");
    }
}

fn show(seed: u64) -> String {
    let (ended, _) = schedule::run(seed);
    let lines = ended.trace.text;
    let shown = usize::try_from(number("SIM_LINES").unwrap_or(SHOWN)).unwrap();
    let from = lines.len().saturating_sub(shown);
    format!("{}\nseed {seed}: {:?}", lines[from..].join("\n"), ended.violation)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs the requested number of schedules, prints their statistics, and panics with the trace of
/// one that broke a rule.
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

#[test]
fn seeds_that_failed_once_pass() {
    // 60012669: an equal message, sent with DUP under an id that was answered before, was never
    // answered. 7003121: a clock that was set back hid the loss of a state file. 7004567: messages that
    // were read after a pause hid a full window. The others were faults of the model.
    for seed in [7_003_121, 7_004_567, 50_005_228, 60_012_669, 81_005_657, 1_795_812_963_415] {
        explore_and_print(seed..seed + 1, Duration::from_secs(60));
    }
}
