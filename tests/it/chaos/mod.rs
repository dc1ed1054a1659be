//! Random faults of every component under a known load. Afterwards every event is stored, once.
//!
//! `CHAOS_SECONDS`, `CHAOS_SEED` and `CHAOS_MODE` (`direct`, `spool`, `broker-kill`) come from the
//! environment: see `make chaos`. The seed determines the faults and the load. Their timing on a
//! machine is never quite the same again.

mod actual;
mod environment;
mod expected;
mod fault_log;
mod faults;
mod plan;
mod publisher;
mod report;
mod source;
mod verify;

use std::env;
use std::time::Duration;

use self::environment::ChaosEnvironment;
use self::plan::{ChaosMode, ChaosPlan, DRAIN, Phase};
use self::report::ChaosReport;
use self::verify::RunVerdict;

/// Duration without `CHAOS_SECONDS`, backlogs not included.
const SHORT: Duration = Duration::from_secs(18);

/// Parameters of a run.
#[derive(Debug, Clone, Copy)]
pub struct ChaosSettings {
    mode: ChaosMode,
    seed: u64,
    lasts: Duration,
}

impl ChaosSettings {
    /// Returns the settings of a mode. `None` if another mode is asked for.
    fn of(mode: ChaosMode) -> Option<Self> {
        let read = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name: &str| {
            read(name).map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v:?} is no number")))
        };
        if let Some(wanted) = read("CHAOS_MODE") {
            let known = ChaosMode::ALL.map(|mode| mode.to_string());
            assert!(known.contains(&wanted), "CHAOS_MODE={wanted:?} is none of {known:?}");
            if wanted != mode.to_string() {
                return None;
            }
        }
        let seed = number("CHAOS_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let short = if mode == ChaosMode::BrokerKill { SHORT } else { SHORT + DRAIN };
        let lasts = number("CHAOS_SECONDS").map_or(short, Duration::from_secs);
        Some(Self { mode, seed, lasts })
    }
}

/// Executes the phases. On a slow machine they take longer than planned, and then there are fewer
/// storms.
async fn play(
    environment: &mut ChaosEnvironment,
    phases: &[Phase],
    lasts: Duration,
) -> Result<(), String> {
    for phase in phases {
        let late = environment.fault_log.started().elapsed() > lasts;
        if !(late && matches!(phase, Phase::Storm(_) | Phase::Calm(_))) {
            environment.play(phase).await?;
        }
    }
    environment.settle().await
}

async fn run(mode: ChaosMode) {
    let Some(settings) = ChaosSettings::of(mode) else { return };
    let ChaosSettings { seed, lasts, .. } = settings;
    println!("chaos, {mode}: seed {seed}, {} s", lasts.as_secs());
    let ChaosPlan(phases) = ChaosPlan::new(mode, seed, lasts);
    let mut report = ChaosReport::new(settings, ChaosEnvironment::set(mode, seed).await);
    let played = play(&mut report.environment, &phases, lasts).await;
    let mut verdict = RunVerdict::on(&report.environment).await;
    verdict.complain("", played.err().into_iter().collect());
    let complaints = verdict.complaints.join("\n");
    report.verdict = Some(verdict);
    assert!(complaints.is_empty(), "seed {seed}, {mode}:\n{complaints}");
}

#[tokio::test]
async fn every_event_becomes_one_row() {
    run(ChaosMode::Direct).await;
}

#[tokio::test]
async fn every_spooled_event_becomes_one_row() {
    run(ChaosMode::Spool).await;
}

#[tokio::test]
async fn killed_broker_loses_only_unsaved_messages() {
    run(ChaosMode::BrokerKill).await;
}
