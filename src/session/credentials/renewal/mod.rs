//! Renewal without a restart: looks at the credential files every few seconds, and passes new ones
//! on to the session once they are known to be good. Bad ones are said and kept out.
//!
//! Looking at contents works on every file system and for every way of replacing a file; watching
//! for events does not see through the symbolic links that Kubernetes swaps, nor over NFS.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{ClientCredentials, CredentialSource, CredentialState, SourceFingerprint};
use crate::backoff::Backoff;
use crate::config::BackoffBounds;
use crate::credentials::expiry::{self, ExpiryNotice, ExpiryReminder};
use crate::credentials::identity::validity_note;
use crate::files;
use crate::progress::{during, idle};
use crate::telemetry::{Health, Metrics};

/// Between two looks. A change counts once two looks in a row found it alike, so that a file is not
/// taken up while it is being written.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Bounds one look, at more files than there are.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// Bounds of the wait before a file that did not answer is read again. Each try may leave a thread
/// behind.
const RETRY: BackoffBounds =
    BackoffBounds { min: Duration::from_secs(5), max: Duration::from_secs(600) };

/// Where credentials come from and where they go.
#[derive(Debug)]
pub struct RenewalParts {
    /// Settings and files. Sending them again, changed or not, demands a look at once.
    pub sources: watch::Receiver<CredentialSource>,
    /// To the session.
    pub material: watch::Sender<CredentialState>,
    /// State.
    pub health: Arc<Health>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Loads the credentials for the start. Anything that can be presented will do: whether it is good
/// enough, the broker decides.
pub fn first(sources: &CredentialSource) -> CredentialState {
    match sources.load() {
        Ok(credentials) => CredentialState::Ready(Arc::new(credentials)),
        Err(problem) => CredentialState::Unusable(problem),
    }
}

/// Looks until `stop`.
pub async fn run(parts: RenewalParts) {
    let stop = parts.stop.clone();
    let mut watcher = CredentialWatcher::new(parts);
    tokio::select! {
        () = stop.cancelled() => {}
        () = watcher.run() => {}
    }
}

/// When to look, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckTrigger {
    Routine,
    /// Someone says that the files are complete.
    Demand,
}

/// One look at the files.
struct FileCheck {
    sources: CredentialSource,
    in_use: Option<Arc<ClientCredentials>>,
    last: Option<SourceFingerprint>,
    trigger: CheckTrigger,
    now: OffsetDateTime,
}

/// What a look found.
enum CheckResult {
    InUse(SourceFingerprint),
    /// Still being written: the next look tells.
    Changing(SourceFingerprint),
    Good(Box<ClientCredentials>),
    Bad(SourceFingerprint, String),
    NoAnswer(String),
}

impl FileCheck {
    fn inspect(&self) -> CheckResult {
        let found = match self.sources.fingerprint() {
            Ok(found) => found,
            Err(problem) => return CheckResult::NoAnswer(problem),
        };
        if self.in_use.as_ref().is_some_and(|in_use| in_use.fingerprint() == found) {
            return CheckResult::InUse(found);
        }
        if self.trigger == CheckTrigger::Routine && self.last != Some(found) {
            return CheckResult::Changing(found);
        }
        match self.load() {
            Ok(new) if new.fingerprint() == found && self.sources.fingerprint() == Ok(found) => {
                CheckResult::Good(Box::new(new))
            }
            Ok(_) => CheckResult::Changing(found),
            Err(problem) => CheckResult::Bad(found, problem),
        }
    }

    fn load(&self) -> Result<ClientCredentials, String> {
        let new = self.sources.load()?;
        if let Some(old) = &self.in_use {
            self.sources.judge(&new, old, self.now)?;
        }
        Ok(new)
    }
}

/// A file did not answer.
#[derive(Debug, Clone, Copy)]
struct UnresponsiveFile {
    /// When to try again.
    until: Instant,
    /// Reads that had been left behind then. One that ends is a reason to try at once.
    reads: usize,
}

impl UnresponsiveFile {
    fn is_over(self) -> bool {
        Instant::now() >= self.until || files::unanswered() < self.reads
    }
}

struct CredentialWatcher {
    parts: RenewalParts,
    /// What the last look found.
    last: Option<SourceFingerprint>,
    /// The complaint made last.
    said: Option<String>,
    unanswered: Option<UnresponsiveFile>,
    retry: Backoff,
    expiry: ExpiryReminder,
}

impl CredentialWatcher {
    fn new(parts: RenewalParts) -> Self {
        let watcher = Self {
            parts,
            last: None,
            said: None,
            unanswered: None,
            retry: Backoff::new(RETRY),
            expiry: ExpiryReminder::default(),
        };
        if let CredentialState::Ready(credentials) = &*watcher.parts.material.borrow() {
            warn_of(credentials);
        }
        watcher
    }

    async fn run(&mut self) {
        let mut tick = tokio::time::interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let trigger = tokio::select! {
                _ = idle(tick.tick()) => CheckTrigger::Routine,
                changed = self.parts.sources.changed() => match changed {
                    Ok(()) => CheckTrigger::Demand,
                    Err(_) => std::future::pending().await,
                },
            };
            if trigger == CheckTrigger::Demand
                || self.unanswered.is_none_or(UnresponsiveFile::is_over)
            {
                self.look(trigger, OffsetDateTime::now_utc()).await;
            }
            self.check_expiry(OffsetDateTime::now_utc());
        }
    }

    /// Looks on a thread of its own: the files may not answer.
    async fn look(&mut self, trigger: CheckTrigger, now: OffsetDateTime) {
        let look = self.next_check(trigger, now);
        let looked = files::apart(move || look.inspect());
        let limit = CHECK_TIMEOUT;
        match during(limit, timeout(limit, looked)).await {
            Ok(Ok(found)) => self.apply(found),
            Ok(Err(error)) => self.no_answer(format!("cannot look at the files: {error}")),
            Err(_) => self.no_answer(format!("the files did not answer within {limit:?}")),
        }
    }

    fn next_check(&self, trigger: CheckTrigger, now: OffsetDateTime) -> FileCheck {
        let sources = self.parts.sources.borrow().clone();
        FileCheck { sources, in_use: self.in_use(), last: self.last, trigger, now }
    }

    fn apply(&mut self, found: CheckResult) {
        if !matches!(found, CheckResult::NoAnswer(_)) {
            (self.unanswered, self.retry) = (None, Backoff::new(RETRY));
        }
        match found {
            CheckResult::InUse(found) => {
                self.last = Some(found);
                self.clear_problem();
            }
            CheckResult::Changing(found) => self.last = Some(found),
            CheckResult::Good(new) => {
                self.last = Some(new.fingerprint());
                self.adopt(*new);
            }
            CheckResult::Bad(found, problem) => {
                self.last = Some(found);
                self.refuse(problem, "the credential files changed and cannot be used");
            }
            CheckResult::NoAnswer(problem) => self.no_answer(problem),
        }
    }

    fn no_answer(&mut self, problem: String) {
        let until = Instant::now() + self.retry.next(1.0);
        self.unanswered = Some(UnresponsiveFile { until, reads: files::unanswered() });
        self.refuse(problem, "a credential file does not answer");
    }

    fn in_use(&self) -> Option<Arc<ClientCredentials>> {
        match &*self.parts.material.borrow() {
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
            "the credential files changed and are good: they are used from the next connection on"
        );
        warn_of(&credentials);
        self.parts.health.update(|snapshot| {
            snapshot.credentials.renewed_at = Some(OffsetDateTime::now_utc());
            snapshot.credentials.renewal = None;
            snapshot.credentials.refused = None;
        });
        self.parts.material.send_replace(CredentialState::Ready(Arc::new(credentials)));
    }

    fn refuse(&mut self, problem: String, what: &'static str) {
        if self.said.as_ref() == Some(&problem) {
            return;
        }
        if self.in_use().is_some() {
            tracing::error!(problem, "{what}; the earlier ones stay in use");
        } else {
            self.parts.material.send_if_modified(|material| match material {
                CredentialState::Unusable(known) if *known == problem => false,
                material => {
                    *material = CredentialState::Unusable(problem.clone());
                    true
                }
            });
        }
        self.parts.health.update(|s| s.credentials.problem = Some(problem.clone()));
        self.said = Some(problem);
    }

    fn clear_problem(&mut self) {
        if self.said.take().is_some() {
            tracing::info!("the credential files are good");
            self.parts.health.update(|s| s.credentials.problem = None);
        }
    }

    /// Lets the time left run, and says when it becomes short.
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
        let message = expiry::in_words(notice, facts);
        let advice = expiry::advice(facts, &self.parts.sources.borrow().tenant, key);
        if notice == ExpiryNotice::Expired {
            tracing::error!(problem = message, advice, "the client certificate has expired");
        } else {
            tracing::warn!(problem = message, advice, "the client certificate expires soon");
        }
        self.parts.health.update(|snapshot| {
            snapshot.credentials.renewal = Some(format!("{message}; {advice}"));
        });
    }
}

/// Says what works for now but wants attention. The end of validity is told by itself.
fn warn_of(credentials: &ClientCredentials) {
    let Some(tls) = &credentials.tls else { return };
    let validity = validity_note(&tls.certificate, OffsetDateTime::now_utc());
    for warning in &tls.warnings {
        if validity.as_ref().is_none_or(|note| !warning.ends_with(note)) {
            tracing::warn!(warning, "the TLS files want attention");
        }
    }
}

#[cfg(test)]
mod tests;
