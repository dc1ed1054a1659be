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
            && (self.state.ledger.outstanding() == 0 || since.elapsed() > RENEWAL_WAIT)
        {
            self.begin_disconnect(DisconnectReason::Renewed);
        } else if let Some(since) = self.unclear_since
            && self.state.intake.is_some()
            && self.unacked() == 0
            && since.elapsed() > self.state.context.mqtt.keep_alive
        {
            self.begin_disconnect(DisconnectReason::UnclearRepeat);
        }
        Ok(())
    }

    pub(super) fn begin_disconnect(&mut self, reason: DisconnectReason) {
        self.disconnecting.get_or_insert(reason);
    }
}
