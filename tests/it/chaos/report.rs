//! The summary of a run, printed however it ends.

use std::fmt;

use super::ChaosSettings;
use super::environment::ChaosEnvironment;
use super::expected::AckedPublication;
use super::verify::RunVerdict;

/// A report that prints itself when dropped, so also when a test panics.
pub struct ChaosReport {
    settings: ChaosSettings,
    pub environment: ChaosEnvironment,
    /// The result, once there is one.
    pub verdict: Option<RunVerdict>,
}

impl ChaosReport {
    /// Creates the report of a run that begins.
    pub fn new(settings: ChaosSettings, environment: ChaosEnvironment) -> Self {
        Self { settings, environment, verdict: None }
    }

    fn publishing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (publisher, tally) = (&self.environment.publisher, self.environment.tap.tally());
        let expected = publisher.expected();
        let [items, boards, letters] = expected.rows();
        let messages = expected.publications.len();
        writeln!(f, "  published   {} messages, {messages} acknowledged", publisher.attempts())?;
        writeln!(f, "  they mean   {items} item events, {boards} board events, {letters} garbage")?;
        writeln!(
            f,
            "  broker      {} deliveries, {} of them repeated (dup); {} PUBACKs",
            tally.deliveries, tally.repetitions, tally.pubacks
        )
    }

    fn judgement(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(verdict) = &self.verdict else {
            return writeln!(f, "  the run did not come to its end");
        };
        let [items, boards, letters] = verdict.rows;
        let gaps: Vec<_> = verdict.gaps.iter().map(|(cause, n)| format!("{cause} {n}")).collect();
        let gaps = if gaps.is_empty() { "none".to_owned() } else { gaps.join(", ") };
        writeln!(f, "  rows        {items} item events, {boards} board events")?;
        writeln!(f, "  dead letters {letters}")?;
        writeln!(f, "  gap rows    {gaps}")?;
        writeln!(
            f,
            "  losses {}, doubles {}, order violations {}",
            verdict.losses, verdict.doubles, verdict.violations
        )?;
        writeln!(
            f,
            "  forgotten by a broker that was killed: {} (of them {} under way to the bridge)",
            verdict.forgotten, verdict.forgotten_under_way
        )?;
        verdict.complaints.iter().try_for_each(|complaint| writeln!(f, "  WRONG {complaint}"))
    }

    /// Writes the log entries around the first losses, or the last entries.
    fn schedule(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost_at = self.verdict.as_ref().map_or(&[][..], |verdict| &verdict.lost_at);
        writeln!(f, "  the schedule around:\n{}", self.environment.fault_log.around(lost_at))?;
        let expected = self.environment.publisher.expected();
        let last = expected.publications.last().map(|p: &AckedPublication| p.acked_at);
        let last = last.map_or(0.0, |at| self.environment.fault_log.at(at));
        writeln!(f, "  the broker last took something over at {last:.3}")
    }
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChaosSettings { mode, seed, lasts } = self.settings;
        let fault_log = &self.environment.fault_log;
        let took = fault_log.started().elapsed().as_secs_f64();
        writeln!(
            f,
            "chaos, {mode}: seed {seed}, {} s planned, {took:.1} s taken",
            lasts.as_secs()
        )?;
        writeln!(f, "  faults      {}", fault_log.faults())?;
        self.publishing(f)?;
        self.judgement(f)?;
        let peak = fault_log.peak_memory().div_ceil(1024 * 1024);
        writeln!(f, "  peak memory of the bridge {peak} MiB")?;
        let well = self.verdict.as_ref().is_some_and(|verdict| verdict.complaints.is_empty());
        if well { Ok(()) } else { self.schedule(f) }
    }
}

impl Drop for ChaosReport {
    fn drop(&mut self) {
        println!("{self}");
    }
}
