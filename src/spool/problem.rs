//! Reports problems of the spool in the log and in the health.

use crate::telemetry::Health;

/// Characters by which problems are compared. The numbers later in the text grow while the problem
/// stays the same.
const COMPARED: usize = 32;

/// Reports a problem. It is logged once, until it ends or another one follows.
pub(super) fn report(health: &Health, problem: String) {
    let beginning = |text: &str| text.chars().take(COMPARED).collect::<String>();
    let known = health.read(|s| Some(beginning(s.spool.as_ref()?.problem.as_deref()?)));
    if known != Some(beginning(&problem)) {
        tracing::error!(
            error = problem,
            "the spool cannot write messages; holding them unacknowledged"
        );
    }
    health.update(|snapshot| snapshot.spool.get_or_insert_default().problem = Some(problem));
}

/// Returns true if a problem is reported.
pub(super) fn is_reported(health: &Health) -> bool {
    health.read(|s| s.spool.as_ref().is_some_and(|s| s.problem.is_some()))
}

/// Reports the end of a problem, if there was one.
pub(super) fn clear(health: &Health) {
    if is_reported(health) {
        tracing::info!("the spool accepts messages again");
        health.update(|s| s.spool.get_or_insert_default().problem = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_reported_until_cleared() {
        let health = Health::default();
        assert!(!is_reported(&health));
        clear(&health);
        report(&health, "the disk is full".into());
        assert!(is_reported(&health));
        clear(&health);
        assert!(!is_reported(&health));
    }
}
