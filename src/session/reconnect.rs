//! Decides the next step after a connection ended or an attempt failed.

use std::time::Duration;

use rand::Rng as _;

use super::connection::{DisconnectReason, Disconnected};
use super::credentials::AfterRefusal;
use super::failure::{ConnectionFailure, FailureContext, FailureKind};
use super::{MqttSession, PROTOCOL_MAX_PACKET};
use crate::telemetry::health::SessionPhase;
use crate::telemetry::metrics::ReasonLabel;

/// The next step after a connection ended.
pub(super) enum NextAction {
    End,
    Reconnect(Duration),
}

impl MqttSession {
    pub(super) fn after_disconnect(&mut self, ended: &Disconnected) -> NextAction {
        let uptime = Some(ended.uptime);
        let failure = match &ended.reason {
            DisconnectReason::Stopped | DisconnectReason::PipelineClosed => return NextAction::End,
            DisconnectReason::StandBy => {
                self.send_closed(ended, &ended.reason.to_string());
                return NextAction::Reconnect(Duration::ZERO);
            }
            DisconnectReason::Renewed => {
                self.send_closed(ended, &ended.reason.to_string());
                tracing::info!(
                    "reconnecting with renewed credentials; the durable session is kept"
                );
                return NextAction::Reconnect(Duration::ZERO);
            }
            DisconnectReason::Overloaded(bound) => {
                self.failure_context(uptime).overloaded(&self.context.bound_name(*bound))
            }
            DisconnectReason::PacketIdReused(id) => {
                self.failure_context(uptime).packet_id_reused(*id)
            }
            DisconnectReason::UnclearRepeat => self.failure_context(uptime).unclear_repeat(),
            DisconnectReason::NotAuthorized(problem) => {
                ConnectionFailure::new(FailureKind::NotAuthorized, problem)
            }
            DisconnectReason::Protocol(problem) => {
                ConnectionFailure::new(FailureKind::Protocol, problem)
            }
            DisconnectReason::Failed(error) => self.failure_context(uptime).explain(error),
        };
        let failure = self.consider_idle_timeout(failure, ended.idle);
        let failure = match self.takeover.record(failure.kind, uptime) {
            Some(losses) => self.failure_context(uptime).takeover(losses),
            None => failure,
        };
        self.send_closed(ended, &format!("{}: {}", failure.label(), failure.message));
        if matches!(failure.kind, FailureKind::PacketTooLarge(_))
            && self.max_packet_size < PROTOCOL_MAX_PACKET
        {
            self.max_packet_size = PROTOCOL_MAX_PACKET;
            tracing::warn!(
                error = failure.message,
                "message exceeds mqtt.max_packet_size; reconnecting with a larger limit to \
                 dead-letter it"
            );
            return NextAction::Reconnect(Duration::ZERO);
        }
        self.after_failure(&failure)
    }

    /// Explains a close after a silence as an idle timeout, which is no takeover by another client,
    /// and sends PINGREQ more often from now on, so that no such silence occurs again. If the
    /// silence was not the cause, the next connections end without one.
    fn consider_idle_timeout(
        &mut self,
        failure: ConnectionFailure,
        idle: Option<Duration>,
    ) -> ConnectionFailure {
        let Some(silence) = idle else { return failure };
        let failure = match failure.kind {
            FailureKind::ClosedByBroker => self.failure_context(None).idle_timeout(silence),
            FailureKind::KeepAliveLost => failure,
            _ => return failure,
        };
        self.ping_interval = self.ping_interval.min(silence / 2);
        let interval = self.ping_interval;
        tracing::info!(
            ?interval,
            "sending PINGREQ more often after a connection was closed while idle"
        );
        failure
    }

    fn send_closed(&self, ended: &Disconnected, reason: &str) {
        if let Some(intake) = &self.intake {
            self.context.send_closed(intake, ended.id, reason);
        }
    }

    pub(super) fn after_failure(&mut self, failure: &ConnectionFailure) -> NextAction {
        let reason = failure.label();
        self.context.metrics.reconnects.get_or_create(&ReasonLabel { reason }).inc();
        let problem = &failure.message;
        let fall_back = failure.kind.concerns_credentials() && self.fall_back(problem);
        let wait = if failure.needs_operator() && !fall_back {
            self.backoff.longest()
        } else {
            self.backoff.next(self.rng.random())
        };
        let retry_in = format!("{:.1}s", wait.as_secs_f64());
        if failure.needs_operator() {
            tracing::error!(
                reason,
                error = problem,
                retry_in,
                "broker connection failed; retrying"
            );
        } else {
            tracing::warn!(reason, error = problem, retry_in, "broker connection failed; retrying");
        }
        self.context.enter(SessionPhase::Connecting, Some(problem.clone()));
        let needs_action = failure.needs_operator();
        self.context.health.update(|snapshot| snapshot.session.needs_action = needs_action);
        NextAction::Reconnect(wait)
    }

    /// Switches to earlier credentials after the broker refused the newest. Returns false if it has
    /// accepted none before.
    fn fall_back(&mut self, problem: &str) -> bool {
        let Some(fallback) = &mut self.fallback else { return false };
        if fallback.refused() == AfterRefusal::Wait {
            return false;
        }
        tracing::error!(
            error = problem,
            "the broker refused the renewed credentials; using the earlier ones until the files change"
        );
        self.context.health.update(|s| s.credentials.refused = Some(problem.to_owned()));
        true
    }

    pub(super) fn failure_context(&self, uptime: Option<Duration>) -> FailureContext<'_> {
        let mut context =
            FailureContext::new(&self.context.tenant, &self.context.mqtt, self.context.now_utc());
        if let Some(uptime) = uptime {
            context = context.up_for(uptime);
        }
        let tls = self.fallback.as_ref().and_then(|fallback| fallback.current().tls.as_ref());
        if let Some(tls) = tls {
            context = context.with_tls(tls);
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::session::credentials::CredentialState;
    use crate::session::testing;

    #[test]
    fn closes_after_a_silence_shorten_the_pings() {
        let silence = Duration::from_secs(2);
        for (kind, explained) in [
            (FailureKind::ClosedByBroker, FailureKind::IdleTimeout),
            (FailureKind::KeepAliveLost, FailureKind::KeepAliveLost),
        ] {
            let unusable = watch::Sender::new(CredentialState::Unusable("none".into()));
            let mut session = testing::session(unusable.subscribe());
            let usual = session.ping_interval;
            let other = ConnectionFailure::new(FailureKind::Protocol, "other");
            session.consider_idle_timeout(other, Some(silence));
            let failure = ConnectionFailure::new(kind, "lost");
            session.consider_idle_timeout(failure.clone(), None);
            assert_eq!(session.ping_interval, usual);
            assert_eq!(session.consider_idle_timeout(failure, Some(silence)).kind, explained);
            assert_eq!(session.ping_interval, silence / 2);
        }
    }
}
