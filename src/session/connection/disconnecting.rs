//! Planned disconnects: the commands and states that call for one, and the conditions it waits for.

use std::time::Duration;

use tokio::time::Instant;

use super::{BrokerConnection, DisconnectReason};
use crate::session::control::SessionCommand;
use crate::session::intake_sender::PipelineClosed;
use crate::telemetry::health::SessionPhase;

/// How long new credentials wait for a moment without un-acknowledged deliveries. After that, the
/// broker redelivers those messages, which adds no duplicate rows.
const RENEWAL_WAIT: Duration = Duration::from_secs(10);

impl BrokerConnection<'_> {
    pub(super) fn handle_command(
        &mut self,
        command: SessionCommand,
    ) -> Result<(), DisconnectReason> {
        match command {
            SessionCommand::Stop => self.begin_drain()?,
            // The broker delivers the un-acknowledged messages to the other process.
            SessionCommand::StandBy => self.begin_disconnect(DisconnectReason::StandBy),
            SessionCommand::Renew => _ = self.renewing.get_or_insert_with(Instant::now),
        }
        Ok(())
    }

    /// Closes the intake channel, so that the downstream stages drain and then close the feedback
    /// channel.
    fn begin_drain(&mut self) -> Result<(), PipelineClosed> {
        self.state.ledger.seal();
        self.end_drops()?;
        if let Some(intake) = self.state.intake.take() {
            self.state.context.send_closed(&intake, self.id, "stopped");
        }
        self.state.context.enter(SessionPhase::Stopping, None);
        Ok(())
    }

    /// Begins a disconnect if one is due and nothing that can be acknowledged remains.
    pub(super) fn disconnect_if_due(&mut self, drained: bool) -> Result<(), DisconnectReason> {
        let all_acks_sent = !self.state.ledger.has_releasable();
        if drained {
            self.begin_disconnect(DisconnectReason::Stopped);
        } else if let Some(bound) = self.refusing
            && all_acks_sent
            && self.state.ledger.has_recovered()
        {
            self.end_drops()?;
            self.begin_disconnect(DisconnectReason::Overloaded(bound));
        } else if let Some(since) = self.renewing
            && self.state.intake.is_some()
            && may_renew(self.state.ledger.outstanding(), since.elapsed())
        {
            self.begin_disconnect(DisconnectReason::Renewed);
        } else if let Some(since) = self.unclear_since
            && self.state.intake.is_some()
            && stays_unclear(self.unacked(), since.elapsed(), self.state.context.mqtt.keep_alive)
        {
            self.begin_disconnect(DisconnectReason::UnclearRepeat);
        }
        Ok(())
    }

    pub(super) fn begin_disconnect(&mut self, reason: DisconnectReason) {
        self.disconnecting.get_or_insert(reason);
    }
}

/// Returns true if new credentials that have waited this long may be used now.
fn may_renew(unacked: usize, waited: Duration) -> bool {
    unacked == 0 || waited > RENEWAL_WAIT
}

/// Returns true if a repeat that has been unclear for this long can no longer be explained by an
/// acknowledgement on its way.
fn stays_unclear(unacked: usize, unclear_for: Duration, keep_alive: Duration) -> bool {
    unacked == 0 && unclear_for > keep_alive
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn renewal_waits_for_acknowledgements_but_not_forever() {
        assert!(may_renew(0, Duration::ZERO));
        assert!(!may_renew(1, Duration::ZERO));
        assert!(!may_renew(1, RENEWAL_WAIT));
        assert!(may_renew(1, RENEWAL_WAIT + MOMENT));
    }

    #[test]
    fn repeats_stay_unclear_after_a_keep_alive() {
        let keep_alive = Duration::from_secs(30);
        assert!(!stays_unclear(0, Duration::ZERO, keep_alive));
        assert!(!stays_unclear(0, keep_alive, keep_alive));
        assert!(stays_unclear(0, keep_alive + MOMENT, keep_alive));
        assert!(!stays_unclear(1, keep_alive + MOMENT, keep_alive));
    }
}
