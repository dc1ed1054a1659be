//! Derives the problems from the facts, one function for each part of the service.

use time::OffsetDateTime;

use super::{Finding, Situation, Verdict};
use crate::admin::moment::{count, relative, span};
use crate::telemetry::health::SessionPhase;

/// A connection attempt or an outage that takes longer requires an operator, seconds.
const LASTING_SECONDS: f64 = 300.0;
/// Age of an unacknowledged message from which the delay is reported, seconds.
const SLOW_SECONDS: f64 = 60.0;
/// Difference of the clocks that is reported, seconds.
const SKEW_SECONDS: f64 = 60.0;
/// Delay of stays that is reported, seconds.
const STAYS_SECONDS: f64 = 300.0;
/// Time past `retention.events` that is reported, seconds.
const OVERDUE_SECONDS: f64 = 86_400.0;
/// Time left on the certificate from which renewal is urgent, days.
const URGENT_DAYS: i64 = 14;
/// A dead letter is reported for this long after its last receipt, seconds.
const NEW_LETTER_SECONDS: f64 = 3_600.0;

/// Returns the problems, in the order of the path of an event.
pub(super) fn of(situation: &Situation<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(stuck(situation));
    findings.extend(accounting(situation));
    findings.extend(session(situation));
    findings.extend(spool(situation));
    findings.extend(database(situation));
    findings.extend(slow(situation));
    findings.extend(tasks(situation));
    findings.extend(certificate(situation));
    findings.extend(credentials(situation));
    findings.extend(configuration(situation));
    findings.extend(gaps(situation));
    findings.extend(dead_letters(situation));
    findings.extend(stays(situation));
    findings.extend(clock(situation));
    findings.extend(retention(situation));
    findings
}

/// Texts of a finding that are the same each time it occurs.
struct FindingTexts {
    part: &'static str,
    problem: String,
    effect: String,
    /// Remedy for a cause without one of its own.
    remedy: &'static str,
}

impl FindingTexts {
    /// Makes the finding. `cause` is `cause; remedy`, as errors of this program are, or a cause.
    fn because(self, verdict: Verdict, cause: &str) -> Finding {
        let (cause, remedy) = cause_and_remedy(cause);
        self.with(verdict, cause, remedy)
    }

    /// Makes the finding from a cause and a remedy. An empty one is replaced.
    fn with(self, verdict: Verdict, cause: &str, remedy: &str) -> Finding {
        let or = |text: &str, otherwise: &str| {
            let text = text.trim();
            if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
        };
        Finding {
            part: self.part,
            verdict,
            problem: self.problem,
            effect: self.effect,
            cause: or(cause, "unknown, see the log"),
            remedy: or(remedy, if self.remedy.is_empty() { "see the log" } else { self.remedy }),
        }
    }
}

/// Splits `cause; remedy`. Without a remedy it is empty.
fn cause_and_remedy(text: &str) -> (&str, &str) {
    text.split_once("; ").unwrap_or((text, ""))
}

fn urgent_if(urgent: bool) -> Verdict {
    if urgent { Verdict::NeedsYou } else { Verdict::Degraded }
}

fn lasts(since: Option<OffsetDateTime>, now: OffsetDateTime) -> bool {
    since.is_some_and(|since| (now - since).as_seconds_f64() >= LASTING_SECONDS)
}

fn stuck(situation: &Situation<'_>) -> Option<Finding> {
    let task = situation.stuck.first()?;
    let texts = FindingTexts {
        part: "process",
        problem: format!("the task {} makes no progress", task.task),
        effect: "Events may be held up. None is acknowledged before it is stored.".into(),
        remedy: "",
    };
    let cause = format!(
        "it is {} past its deadline; see the log, and restart the service if this lasts",
        span(task.overdue_seconds)
    );
    Some(texts.because(Verdict::NeedsYou, &cause))
}

fn accounting(situation: &Situation<'_>) -> Option<Finding> {
    let number = situation.unaccounted.unsigned_abs();
    if number == 0 {
        return None;
    }
    let texts = FindingTexts {
        part: "accounting",
        problem: format!("{} received messages are unaccounted for", count(number)),
        effect: "They are not acknowledged, so that the broker has them still.".into(),
        remedy: "",
    };
    let cause = "a defect of the program; restart the service, so that the broker delivers them \
                 again, and report this";
    Some(texts.because(Verdict::NeedsYou, cause))
}

fn session(situation: &Situation<'_>) -> Option<Finding> {
    let session = &situation.parts.session;
    let texts = |problem: &str| FindingTexts {
        part: "session",
        problem: problem.to_owned(),
        effect: "The broker keeps messages for mqtt.session_expiry. After that they are lost."
            .into(),
        remedy: "see the log and mqtt.host",
    };
    let cause = session.problem.as_deref();
    let urgent = session.needs_action || lasts(session.since, situation.now);
    let finding = match session.phase {
        SessionPhase::Subscribed => {
            let texts = texts("the subscription is incomplete");
            texts.because(Verdict::NeedsYou, cause?)
        }
        SessionPhase::Standby => {
            let mut texts = texts("standing by for another process");
            texts.effect = "The other process stores the events.".into();
            texts.remedy = "stop the other process, or give this one its own mqtt.client_id";
            texts.because(Verdict::Degraded, cause.unwrap_or("it holds the client id"))
        }
        SessionPhase::Starting => {
            let cause = cause.unwrap_or("the service has just started; wait a moment");
            let urgent = situation.uptime_seconds > LASTING_SECONDS;
            texts("not connected to the broker yet").because(urgent_if(urgent), cause)
        }
        SessionPhase::Connecting => {
            let cause = cause.unwrap_or("connecting; if this lasts, see the log and mqtt.host");
            texts("not connected to the broker").because(urgent_if(urgent), cause)
        }
        SessionPhase::Stopping => {
            let mut texts = texts("the service is stopping");
            texts.effect = "Received events are stored and acknowledged first.".into();
            texts.because(Verdict::Degraded, "it was asked to stop; start it again when needed")
        }
    };
    Some(finding)
}

fn spool(situation: &Situation<'_>) -> Option<Finding> {
    let problem = situation.parts.spool.as_ref()?.problem.as_deref()?;
    let texts = FindingTexts {
        part: "spool",
        problem: "the spool accepts no messages".into(),
        effect: "The broker keeps messages for mqtt.session_expiry. After that they are lost."
            .into(),
        remedy: "free space on the disk of spool.dir",
    };
    Some(texts.because(Verdict::NeedsYou, problem))
}

fn database(situation: &Situation<'_>) -> Option<Finding> {
    let database = &situation.parts.database;
    if database.up {
        return None;
    }
    let effect = if situation.parts.spool.is_some() {
        "Messages are kept in the spool up to spool.max_size, then at the broker."
    } else {
        "The broker keeps messages for mqtt.session_expiry. After that they are lost."
    };
    let texts = FindingTexts {
        part: "database",
        problem: "events cannot be stored in PostgreSQL".into(),
        effect: effect.into(),
        remedy: "see that PostgreSQL runs and that database.url is right",
    };
    let is_lasting = lasts(database.down_since, situation.now)
        || database.down_since.is_none() && situation.uptime_seconds > LASTING_SECONDS;
    let cause = database.problem.as_deref();
    let cause = cause.unwrap_or("not connected yet; if this lasts, see the log and database.url");
    Some(texts.because(urgent_if(database.needs_action || is_lasting), cause))
}

/// Reports a delay that no outage explains.
fn slow(situation: &Situation<'_>) -> Option<Finding> {
    let age = situation.figures.oldest_unacked_seconds;
    if !situation.parts.database.up || age.is_nan() || age < SLOW_SECONDS {
        return None;
    }
    let texts = FindingTexts {
        part: "pipeline",
        problem: format!("the oldest message has waited for {}", span(age)),
        effect: "Events are stored late.".into(),
        remedy: "see the load of PostgreSQL and locks on the tables of events",
    };
    Some(texts.because(Verdict::Degraded, "more events arrive than PostgreSQL stores"))
}

fn tasks(situation: &Situation<'_>) -> Vec<Finding> {
    let finding = |down: &crate::telemetry::health::TaskDown| {
        let texts = FindingTexts {
            part: "task",
            problem: format!("the task {} failed and is restarted", down.task),
            effect: "The other tasks go on.".into(),
            remedy: "if this lasts, see the log",
        };
        texts.because(Verdict::Degraded, &down.problem)
    };
    situation.parts.tasks_down.iter().map(finding).collect()
}

fn certificate(situation: &Situation<'_>) -> Option<Finding> {
    let not_after = situation.parts.certificate.as_ref()?.not_after;
    let days = (not_after - situation.now).whole_days();
    let is_expired = not_after <= situation.now;
    let renewal = situation.parts.credentials.renewal.as_deref();
    if !is_expired && days >= URGENT_DAYS && renewal.is_none() {
        return None;
    }
    let verb = if is_expired { "expired" } else { "expires" };
    let texts = FindingTexts {
        part: "certificate",
        problem: match days {
            2.. => format!("the client certificate expires in {days} days"),
            _ => format!("the client certificate {verb} {}", relative(not_after, situation.now)),
        },
        effect: "The broker refuses connections with an expired certificate.".into(),
        remedy: "renew it: centiloc-bridge csr --key, then send the request to Centiloc",
    };
    let cause = format!("it is valid until {}", crate::timestamp::shown(not_after));
    // Its cause has the number of days of an earlier check.
    let (_, remedy) = cause_and_remedy(renewal.unwrap_or_default());
    Some(texts.with(urgent_if(days < URGENT_DAYS), &cause, remedy))
}

fn credentials(situation: &Situation<'_>) -> Vec<Finding> {
    let credentials = &situation.parts.credentials;
    let texts = |problem: &str| FindingTexts {
        part: "credentials",
        problem: problem.to_owned(),
        effect: "Earlier credentials are in use while they are valid.".into(),
        remedy: "check mqtt.tls.cert_file, mqtt.tls.key_file and the password",
    };
    let unusable = credentials.problem.as_deref().map(|problem| {
        texts("the new credential files cannot be used").because(Verdict::NeedsYou, problem)
    });
    let refused = credentials.refused.as_deref().map(|problem| {
        texts("the broker refused the new credentials").because(Verdict::NeedsYou, problem)
    });
    unusable.into_iter().chain(refused).collect()
}

fn configuration(situation: &Situation<'_>) -> Vec<Finding> {
    let configuration = &situation.parts.configuration;
    let texts = |problem: &str| FindingTexts {
        part: "configuration",
        problem: problem.to_owned(),
        effect: "The earlier configuration stays in force.".into(),
        remedy: "correct the file and reload the service",
    };
    let refused = configuration.problem.as_deref().map(|problem| {
        texts("the new configuration was refused").with(Verdict::Degraded, problem, "")
    });
    let restart = (!configuration.needs_restart.is_empty()).then(|| {
        let cause =
            format!("changed: {}; restart the service", configuration.needs_restart.join(", "));
        texts("new settings take effect only after a restart").because(Verdict::Degraded, &cause)
    });
    refused.into_iter().chain(restart).collect()
}

fn gaps(situation: &Situation<'_>) -> Option<Finding> {
    let overview = situation.overview.filter(|overview| overview.open_gaps > 0)?;
    let number = overview.open_gaps;
    let newest = overview.gaps.iter().find(|gap| !gap.acknowledged);
    let problem = if number == 1 {
        "one gap is not acknowledged".to_owned()
    } else {
        format!("{} gaps are not acknowledged", count(number.unsigned_abs()))
    };
    let texts = FindingTexts {
        part: "gaps",
        problem,
        effect: "Messages of these periods may be missing.".into(),
        remedy: "",
    };
    let cause = newest.map_or_else(String::new, |gap| {
        format!("{}, {}", gap.cause.replace('_', " "), relative(gap.started_at, situation.now))
    });
    let id = newest.map_or_else(|| "ID".to_owned(), |gap| gap.id.to_string());
    let remedy = format!(
        "find out whether events are missing, then: centiloc-bridge gaps acknowledge {id} --note \
         TEXT"
    );
    Some(texts.with(Verdict::Degraded, &cause, &remedy))
}

fn dead_letters(situation: &Situation<'_>) -> Option<Finding> {
    let overview = situation.overview?;
    let is_new = |at: OffsetDateTime| (situation.now - at).as_seconds_f64() < NEW_LETTER_SECONDS;
    let letter = overview.dead_letters.iter().find(|letter| is_new(letter.last_seen_at))?;
    let texts = FindingTexts {
        part: "dead_letters",
        problem: "messages of the last hour are dead letters".into(),
        effect: "Their bytes are kept. They are no events until they are replayed.".into(),
        remedy: "",
    };
    let cause = format!("{} on {}", letter.reason.replace('_', " "), letter.topic);
    let remedy = format!(
        "centiloc-bridge dead-letters show {}, then replay it once the reason is removed",
        letter.id
    );
    Some(texts.with(Verdict::Degraded, &cause, &remedy))
}

fn stays(situation: &Situation<'_>) -> Option<Finding> {
    let lag = situation.stays_lag_seconds.filter(|lag| *lag >= STAYS_SECONDS)?;
    let texts = FindingTexts {
        part: "stays",
        problem: format!("stays are computed {} late", span(lag)),
        effect: "Events are stored. item_stay and the sums by hour and day lag behind.".into(),
        remedy: "wait while a backlog is stored, else see the log and the load of PostgreSQL",
    };
    Some(texts.because(Verdict::Degraded, "more events were stored than computed"))
}

fn clock(situation: &Situation<'_>) -> Option<Finding> {
    let skew = situation.parts.database.clock_skew_seconds?;
    if skew.is_nan() || skew.abs() < SKEW_SECONDS {
        return None;
    }
    let direction = if skew > 0.0 { "ahead of" } else { "behind" };
    let texts = FindingTexts {
        part: "clock",
        problem: format!("this clock is {} {direction} that of PostgreSQL", span(skew)),
        effect: "Lag, retention and the check of times rely on both clocks.".into(),
        remedy: "synchronise both hosts with NTP",
    };
    Some(texts.because(Verdict::Degraded, "one of the hosts has the wrong time"))
}

fn retention(situation: &Situation<'_>) -> Option<Finding> {
    let overdue = situation.parts.database.retention_overdue_seconds;
    if overdue.is_nan() || overdue < OVERDUE_SECONDS {
        return None;
    }
    let texts = FindingTexts {
        part: "retention",
        problem: format!("events are kept {} too long", span(overdue)),
        effect: "The table grows beyond retention.events.".into(),
        remedy: "see the log: make room in retention.archive_dir, or end long queries on item_event",
    };
    Some(texts.because(Verdict::Degraded, "a partition could not be archived or dropped yet"))
}
