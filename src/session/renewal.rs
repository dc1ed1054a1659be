//! Renewal without a restart: looks at the credential files every few seconds, and passes new ones
//! on to the session once they are known to be good. Bad ones are said and kept out.
//!
//! Looking at contents works on every file system and for every way of replacing a file; watching
//! for events does not see through the symbolic links that Kubernetes swaps, nor over NFS.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::credentials::{Credentials, Fingerprint, Material, Sources};
use crate::credentials::expiry::{self, Expiry, Notice};
use crate::credentials::identity::validity_note;
use crate::telemetry::{Health, Metrics};

/// Between two looks. A change counts once two looks in a row found it alike, so that a file is not
/// taken up while it is being written.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where credentials come from and where they go.
#[derive(Debug)]
pub struct RenewalParts {
    /// Settings and files. Sending them again, changed or not, demands a look at once.
    pub sources: watch::Receiver<Sources>,
    /// To the session.
    pub material: watch::Sender<Material>,
    /// State.
    pub health: Arc<Health>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Loads the credentials for the start. Anything that can be presented will do: whether it is good
/// enough, the broker decides.
pub fn first(sources: &Sources) -> Material {
    match sources.load() {
        Ok(credentials) => Material::Ready(Arc::new(credentials)),
        Err(problem) => Material::Unusable(problem),
    }
}

/// Looks until `stop`.
pub async fn run(parts: RenewalParts) {
    let stop = parts.stop.clone();
    let mut watcher = Watcher::new(parts);
    tokio::select! {
        () = stop.cancelled() => {}
        () = watcher.run() => {}
    }
}

/// When to look, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Routine,
    /// Someone says that the files are complete.
    Demand,
}

struct Watcher {
    parts: RenewalParts,
    /// What the last look found.
    last: Option<Fingerprint>,
    /// The complaint made last.
    said: Option<String>,
    expiry: Expiry,
}

impl Watcher {
    fn new(parts: RenewalParts) -> Self {
        let watcher = Self { parts, last: None, said: None, expiry: Expiry::default() };
        if let Material::Ready(credentials) = &*watcher.parts.material.borrow() {
            warn_of(credentials);
        }
        watcher
    }

    async fn run(&mut self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let occasion = tokio::select! {
                _ = tick.tick() => Occasion::Routine,
                changed = self.parts.sources.changed() => match changed {
                    Ok(()) => Occasion::Demand,
                    Err(_) => std::future::pending().await,
                },
            };
            self.look(occasion, OffsetDateTime::now_utc());
            self.mind_the_end(OffsetDateTime::now_utc());
        }
    }

    fn look(&mut self, occasion: Occasion, now: OffsetDateTime) {
        let sources = self.parts.sources.borrow().clone();
        let found = sources.fingerprint();
        let settled = occasion == Occasion::Demand || self.last == Some(found);
        self.last = Some(found);
        if self.in_use().is_some_and(|in_use| in_use.made_from() == found) {
            self.mended();
        } else if settled {
            match self.load(&sources, now) {
                Ok(new) if new.made_from() == found && sources.fingerprint() == found => {
                    self.take_up(new);
                }
                // Changed while it was read: the next look tells.
                Ok(_) => {}
                Err(problem) => self.refuse(problem),
            }
        }
    }

    fn in_use(&self) -> Option<Arc<Credentials>> {
        match &*self.parts.material.borrow() {
            Material::Ready(credentials) => Some(Arc::clone(credentials)),
            Material::Unusable(_) => None,
        }
    }

    fn load(&self, sources: &Sources, now: OffsetDateTime) -> Result<Credentials, String> {
        let new = sources.load()?;
        if let Some(old) = self.in_use() {
            sources.judge(&new, &old, now)?;
        }
        Ok(new)
    }

    fn take_up(&mut self, credentials: Credentials) {
        self.mended();
        self.expiry = Expiry::default();
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
        self.parts.material.send_replace(Material::Ready(Arc::new(credentials)));
    }

    fn refuse(&mut self, problem: String) {
        if self.said.as_ref() == Some(&problem) {
            return;
        }
        if self.in_use().is_some() {
            tracing::error!(
                problem,
                "the credential files changed and cannot be used; the earlier ones stay in use"
            );
        } else {
            self.parts.material.send_if_modified(|material| match material {
                Material::Unusable(known) if *known == problem => false,
                material => {
                    *material = Material::Unusable(problem.clone());
                    true
                }
            });
        }
        self.parts.health.update(|s| s.credentials.problem = Some(problem.clone()));
        self.said = Some(problem);
    }

    fn mended(&mut self) {
        if self.said.take().is_some() {
            tracing::info!("the credential files are good");
            self.parts.health.update(|s| s.credentials.problem = None);
        }
    }

    /// Lets the time left run, and says when it becomes short.
    fn mind_the_end(&mut self, now: OffsetDateTime) {
        let not_after = self.parts.health.read(|s| s.certificate.as_ref().map(|c| c.not_after));
        if let Some(not_after) = not_after {
            self.parts.metrics.certificate_expiry_seconds.set((not_after - now).as_seconds_f64());
        }
        let Some(credentials) = self.in_use() else { return };
        let (Some(facts), Some(key)) = (credentials.certificate(), credentials.key_file()) else {
            return;
        };
        let Some(notice) = self.expiry.due(facts, now) else { return };
        let sentence = expiry::in_words(notice, facts);
        let advice = expiry::advice(facts, &self.parts.sources.borrow().tenant, key);
        if notice == Notice::Expired {
            tracing::error!(problem = sentence, advice, "the client certificate has expired");
        } else {
            tracing::warn!(problem = sentence, advice, "the client certificate expires soon");
        }
        self.parts.health.update(|snapshot| {
            snapshot.credentials.renewal = Some(format!("{sentence}; {advice}"));
        });
    }
}

/// Says what works for now but wants attention. The end of validity is told by itself.
fn warn_of(credentials: &Credentials) {
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
