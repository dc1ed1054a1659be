//! Renewal of credentials without a restart: checks the files every two seconds and passes new
//! credentials to the session once they are valid. Invalid files are reported and rejected.
//!
//! Comparing contents works on every file system and for every way to replace a file. File system
//! events miss the symbolic links that Kubernetes swaps, and changes over NFS.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    ClientCredentials, CredentialSource, CredentialSourceError, CredentialState, SourceFingerprint,
};
use crate::backoff::Backoff;
use crate::config::BackoffBounds;
use crate::credentials::expiry::{self, ExpiryNotice, ExpiryReminder};
use crate::credentials::identity::validity_note;
use crate::files;
use crate::progress::{during, idle};
use crate::telemetry::{Health, Metrics};

/// Time between two checks. A change is adopted once two consecutive checks found the same content, so
/// that a file is not adopted while it is being written.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Limit of one check, which exceeds the time-outs of all its file reads together.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// Limits of the wait after reading a file timed out. Each attempt may leave a blocked thread behind.
const READ_BACKOFF: BackoffBounds =
    BackoffBounds { min: Duration::from_secs(5), max: Duration::from_secs(600) };

/// Inputs and outputs of the renewal task.
#[derive(Debug)]
pub struct RenewalParts {
    /// Settings and files. Sending them again, changed or not, requests an immediate check.
    pub source: watch::Receiver<CredentialSource>,
    /// Sends credentials to the session.
    pub state: watch::Sender<CredentialState>,
    /// State shown by the admin endpoints.
    pub health: Arc<Health>,
    /// Metrics, of which the expiry is set here.
    pub metrics: Arc<Metrics>,
    /// Cancelled to end the task.
    pub stop: CancellationToken,
}

/// Loads the credentials at the start of the process. Everything that can be presented is accepted
/// here, because the broker decides whether it is valid.
pub fn load_initial(source: &CredentialSource) -> CredentialState {
    match source.load() {
        Ok(credentials) => CredentialState::Ready(Arc::new(credentials)),
        Err(error) => CredentialState::Unusable(error.to_string()),
    }
}

/// Checks the files until `stop` is cancelled.
pub async fn run(parts: RenewalParts) {
    let stop = parts.stop.clone();
    let mut watcher = CredentialWatcher::new(parts);
    tokio::select! {
        () = stop.cancelled() => {}
        () = watcher.run() => {}
    }
}

/// Trigger of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckTrigger {
    /// The check interval has passed.
    Periodic,
    /// The operator requested it, so the files are complete.
    Requested,
}

impl CheckTrigger {
    /// Returns true if the check is due although a file may have been unresponsive.
    fn is_due(self, unanswered: Option<UnresponsiveFile>) -> bool {
        self == Self::Requested || unanswered.is_none_or(UnresponsiveFile::is_over)
    }
}

/// One check of the files.
struct FileCheck {
    source: CredentialSource,
    in_use: Option<Arc<ClientCredentials>>,
    last: Option<SourceFingerprint>,
    trigger: CheckTrigger,
    now: OffsetDateTime,
}

/// Result of a check.
enum CheckResult {
    /// The files hold the credentials in use.
    InUse(SourceFingerprint),
    /// The content has just changed and may be incomplete. The next check decides.
    Changing(SourceFingerprint),
    Valid(Box<ClientCredentials>),
    Invalid(SourceFingerprint, String),
    TimedOut(String),
}

impl FileCheck {
    fn inspect(&self) -> CheckResult {
        let found = match self.source.fingerprint() {
            Ok(found) => found,
            Err(error) => return CheckResult::TimedOut(error.to_string()),
        };
        if self.in_use.as_ref().is_some_and(|in_use| in_use.fingerprint() == found) {
            return CheckResult::InUse(found);
        }
        if self.trigger == CheckTrigger::Periodic && self.last != Some(found) {
            return CheckResult::Changing(found);
        }
        judge(found, self.load(), || self.source.fingerprint())
    }

    fn load(&self) -> Result<ClientCredentials, CredentialSourceError> {
        let new = self.source.load()?;
        if let Some(old) = &self.in_use {
            self.source.check_replacement(&new, old, self.now)?;
        }
        Ok(new)
    }
}

/// Judges what was loaded from files with the fingerprint `found`. `again` computes it once more, since
/// the files may change while they are loaded.
fn judge(
    found: SourceFingerprint,
    loaded: Result<ClientCredentials, CredentialSourceError>,
    again: impl FnOnce() -> Result<SourceFingerprint, CredentialSourceError>,
) -> CheckResult {
    match loaded {
        Ok(new) if new.fingerprint() == found && again().is_ok_and(|now| now == found) => {
            CheckResult::Valid(Box::new(new))
        }
        Ok(_) => CheckResult::Changing(found),
        Err(error) => CheckResult::Invalid(found, error.to_string()),
    }
}

/// Reason for a rejection of the credential files.
#[derive(Debug, Clone, Copy)]
enum RejectionReason {
    InvalidFiles,
    ReadTimeout,
}

/// A file whose read timed out.
#[derive(Debug, Clone, Copy)]
struct UnresponsiveFile {
    /// Time of the next attempt.
    until: Instant,
    /// Number of blocked reads at that moment. Once one of them ends, the next attempt is immediate.
    reads: usize,
}

impl UnresponsiveFile {
    fn is_over(self) -> bool {
        Instant::now() >= self.until || files::unanswered() < self.reads
    }
}

struct CredentialWatcher {
    parts: RenewalParts,
    /// Fingerprint found by the last check.
    last: Option<SourceFingerprint>,
    /// Problem reported most recently, so that it is logged once.
    reported: Option<String>,
    unanswered: Option<UnresponsiveFile>,
    retry: Backoff,
    expiry: ExpiryReminder,
}

impl CredentialWatcher {
    fn new(parts: RenewalParts) -> Self {
        let watcher = Self {
            parts,
            last: None,
            reported: None,
            unanswered: None,
            retry: Backoff::new(READ_BACKOFF),
            expiry: ExpiryReminder::default(),
        };
        if let CredentialState::Ready(credentials) = &*watcher.parts.state.borrow() {
            log_warnings(credentials);
        }
        watcher
    }

    async fn run(&mut self) {
        let mut tick = tokio::time::interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let trigger = tokio::select! {
                _ = idle(tick.tick()) => CheckTrigger::Periodic,
                changed = self.parts.source.changed() => match changed {
                    Ok(()) => CheckTrigger::Requested,
                    Err(_) => std::future::pending().await,
                },
            };
            if trigger.is_due(self.unanswered) {
                self.check(trigger, OffsetDateTime::now_utc()).await;
            }
            self.check_expiry(OffsetDateTime::now_utc());
        }
    }

    /// Checks the files on a separate thread, because reading them may block.
    async fn check(&mut self, trigger: CheckTrigger, now: OffsetDateTime) {
        let check = self.next_check(trigger, now);
        let checked = files::apart(move || check.inspect());
        let limit = CHECK_TIMEOUT;
        let problem = match during(limit, timeout(limit, checked)).await {
            Ok(Ok(found)) => return self.apply(found),
            Ok(Err(error)) => format!("the check of the credential files failed: {error}"),
            Err(_) => format!("reading the credential files took more than {limit:?}"),
        };
        self.read_timed_out(problem);
    }

    fn next_check(&self, trigger: CheckTrigger, now: OffsetDateTime) -> FileCheck {
        let source = self.parts.source.borrow().clone();
        FileCheck { source, in_use: self.in_use(), last: self.last, trigger, now }
    }

    fn apply(&mut self, found: CheckResult) {
        if !matches!(found, CheckResult::TimedOut(_)) {
            (self.unanswered, self.retry) = (None, Backoff::new(READ_BACKOFF));
        }
        match found {
            CheckResult::InUse(found) => {
                self.last = Some(found);
                self.clear_problem();
            }
            CheckResult::Changing(found) => self.last = Some(found),
            CheckResult::Valid(new) => {
                self.last = Some(new.fingerprint());
                self.adopt(*new);
            }
            CheckResult::Invalid(found, problem) => {
                self.last = Some(found);
                self.reject(problem, RejectionReason::InvalidFiles);
            }
            CheckResult::TimedOut(problem) => self.read_timed_out(problem),
        }
    }

    fn read_timed_out(&mut self, problem: String) {
        let until = Instant::now() + self.retry.next(1.0);
        self.unanswered = Some(UnresponsiveFile { until, reads: files::unanswered() });
        self.reject(problem, RejectionReason::ReadTimeout);
    }

    fn in_use(&self) -> Option<Arc<ClientCredentials>> {
        match &*self.parts.state.borrow() {
            CredentialState::Ready(credentials) => Some(Arc::clone(credentials)),
            CredentialState::Unusable(_) => None,
        }
    }

    fn adopt(&mut self, credentials: ClientCredentials) {
        self.clear_problem();
        self.expiry = ExpiryReminder::default();
        let certificate = credentials.certificate();
        tracing::info!(
            subject = certificate.map(|facts| facts.subject.as_str()),
            not_after = certificate.map(|facts| facts.not_after.to_string()),
            "loaded new client credentials; they take effect on the next connection"
        );
        log_warnings(&credentials);
        self.parts.health.update(|snapshot| {
            snapshot.credentials.renewed_at = Some(OffsetDateTime::now_utc());
            snapshot.credentials.renewal = None;
            snapshot.credentials.refused = None;
        });
        self.parts.state.send_replace(CredentialState::Ready(Arc::new(credentials)));
    }

    fn reject(&mut self, problem: String, rejection: RejectionReason) {
        if self.reported.as_ref() == Some(&problem) {
            return;
        }
        if self.in_use().is_some() {
            match rejection {
                RejectionReason::InvalidFiles => tracing::error!(
                    error = problem,
                    "the changed credential files are invalid; the earlier credentials stay in use"
                ),
                RejectionReason::ReadTimeout => tracing::error!(
                    error = problem,
                    "reading a credential file timed out; the earlier credentials stay in use"
                ),
            }
        } else {
            self.parts.state.send_if_modified(|state| match state {
                CredentialState::Unusable(known) if *known == problem => false,
                state => {
                    *state = CredentialState::Unusable(problem.clone());
                    true
                }
            });
        }
        self.parts.health.update(|s| s.credentials.problem = Some(problem.clone()));
        self.reported = Some(problem);
    }

    fn clear_problem(&mut self) {
        if self.reported.take().is_some() {
            tracing::info!("credential files are valid again");
            self.parts.health.update(|s| s.credentials.problem = None);
        }
    }

    /// Updates the time to expiry, and warns when it becomes short.
    fn check_expiry(&mut self, now: OffsetDateTime) {
        let not_after = self.parts.health.read(|s| s.certificate.as_ref().map(|c| c.not_after));
        if let Some(not_after) = not_after {
            self.parts.metrics.certificate_expiry_seconds.set((not_after - now).as_seconds_f64());
        }
        let Some(credentials) = self.in_use() else { return };
        let (Some(facts), Some(key)) = (credentials.certificate(), credentials.key_file()) else {
            return;
        };
        let Some(notice) = self.expiry.due(facts, now) else { return };
        let problem = expiry::in_words(notice, facts);
        let hint = expiry::advice(facts, &self.parts.source.borrow().tenant, key);
        if notice == ExpiryNotice::Expired {
            tracing::error!(error = problem, hint, "the client certificate has expired");
        } else {
            tracing::warn!(error = problem, hint, "the client certificate expires soon");
        }
        self.parts.health.update(|snapshot| {
            snapshot.credentials.renewal = Some(format!("{problem}; {hint}"));
        });
    }
}

/// Logs the warnings about the TLS files. The expiry has a warning of its own.
fn log_warnings(credentials: &ClientCredentials) {
    let Some(tls) = &credentials.tls else { return };
    let validity = validity_note(&tls.certificate, OffsetDateTime::now_utc());
    for warning in &tls.warnings {
        if validity.as_ref().is_none_or(|note| !warning.ends_with(note)) {
            tracing::warn!(error = warning, "TLS configuration warning");
        }
    }
}

#[cfg(test)]
mod tests;
