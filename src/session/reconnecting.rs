//! Decides what follows a connection that ended, and an attempt that failed.

use std::time::Duration;

use rand::Rng as _;

use super::choice::AfterRefusal;
use super::connection::{DisconnectReason, Disconnected};
use super::failure::{Context, Failure, FailureKind};
use super::{PROTOCOL_MAX_PACKET, Session};
use crate::telemetry::health::SessionPhase;
use crate::telemetry::metrics::ReasonLabel;

/// What to do after a connection ended.
pub(super) enum Next {
    End,
    Reconnect(Duration),
}

impl Session {
    pub(super) fn after(&mut self, ended: &Disconnected) -> Next {
        let uptime = Some(ended.uptime);
        let failure = match &ended.reason {
            DisconnectReason::Stopped | DisconnectReason::PipelineClosed => return Next::End,
            DisconnectReason::StandBy => {
                self.announce_closed(ended, &ended.reason.to_string());
                return Next::Reconnect(Duration::ZERO);
            }
            DisconnectReason::Renewed => {
                self.announce_closed(ended, &ended.reason.to_string());
                tracing::info!("reconnecting with renewed credentials; the session is kept");
                return Next::Reconnect(Duration::ZERO);
            }
            DisconnectReason::Overloaded(bound) => {
                self.context(uptime).overloaded(&self.shared.name_of(*bound))
            }
            DisconnectReason::PacketIdReused(id) => self.context(uptime).packet_id_reused(*id),
            DisconnectReason::UnclearRepeat => self.context(uptime).unclear_repeat(),
            DisconnectReason::NotAuthorized(problem) => {
                Failure::new(FailureKind::NotAuthorized, problem)
            }
            DisconnectReason::Protocol(problem) => Failure::new(FailureKind::Protocol, problem),
            DisconnectReason::Failed(error) => self.context(uptime).explain(error),
        };
        let failure = self.consider_idle_timeout(failure, ended.idle);
        let failure = match self.takeover.lost(failure.kind, uptime) {
            Some(losses) => self.context(uptime).takeover(losses),
            None => failure,
        };
        self.announce_closed(ended, &format!("{}: {}", failure.label(), failure.sentence));
        if matches!(failure.kind, FailureKind::PacketTooLarge(_))
            && self.max_packet_size < PROTOCOL_MAX_PACKET
        {
            self.max_packet_size = PROTOCOL_MAX_PACKET;
            tracing::warn!(
                problem = failure.sentence,
                "reconnecting with the protocol's packet limit, to set the message aside"
            );
            return Next::Reconnect(Duration::ZERO);
        }
        self.fail(&failure)
    }

    /// A close after a silence is no other client's doing. PINGREQ is sent so often from now on that
    /// no such silence comes again. Where it was not the silence after all, the next connections
    /// end without one.
    fn consider_idle_timeout(&mut self, failure: Failure, idle: Option<Duration>) -> Failure {
        let Some(silence) = idle else { return failure };
        let failure = match failure.kind {
            FailureKind::ClosedByBroker => self.context(None).idle_timeout(silence),
            FailureKind::KeepAliveLost => failure,
            _ => return failure,
        };
        self.ping_interval = self.ping_interval.min(silence / 2);
        let interval = self.ping_interval;
        tracing::info!(
            ?interval,
            "sending PINGREQ more often, after a connection ended in silence"
        );
        failure
    }

    fn announce_closed(&self, ended: &Disconnected, reason: &str) {
        if let Some(intake) = &self.intake {
            self.shared.announce_closed(intake, ended.id, reason);
        }
    }

    pub(super) fn fail(&mut self, failure: &Failure) -> Next {
        let reason = failure.label();
        self.shared.metrics.reconnects.get_or_create(&ReasonLabel { reason }).inc();
        let problem = &failure.sentence;
        let fall_back = failure.kind.blames_credentials() && self.fall_back(problem);
        let wait = if failure.needs_a_person() && !fall_back {
            self.backoff.longest()
        } else {
            self.backoff.next(self.rng.random())
        };
        let retry_in = format!("{:.1}s", wait.as_secs_f64());
        if failure.needs_a_person() {
            tracing::error!(reason, problem, retry_in, "no connection to the broker");
        } else {
            tracing::warn!(reason, problem, retry_in, "no connection to the broker");
        }
        self.shared.enter(SessionPhase::Connecting, Some(problem.clone()));
        Next::Reconnect(wait)
    }

    /// The broker refused the credentials: whether there are earlier ones that it accepted.
    fn fall_back(&mut self, problem: &str) -> bool {
        let Some(choice) = &mut self.choice else { return false };
        if choice.refused() == AfterRefusal::Wait {
            return false;
        }
        tracing::error!(
            problem,
            "the renewed credentials do not work; using the earlier ones, until the files change \
             again"
        );
        self.shared.health.update(|s| s.credentials.refused = Some(problem.to_owned()));
        true
    }

    pub(super) fn context(&self, uptime: Option<Duration>) -> Context<'_> {
        let mut context =
            Context::new(&self.shared.tenant, &self.shared.mqtt, self.shared.now_utc());
        if let Some(uptime) = uptime {
            context = context.up_for(uptime);
        }
        let tls = self.choice.as_ref().and_then(|choice| choice.current().tls.as_ref());
        if let Some(tls) = tls {
            context = context.with_tls(tls);
        }
        context
    }
}
