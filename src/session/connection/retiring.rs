//! The connection of a session that is to end for good.

use tokio::time::Instant;

use super::{Connection, DisconnectReason};
use crate::session::retirement::Due;
use crate::session::transport::Outgoing;

impl Connection<'_> {
    /// Goes on with the end of the session, if it is to end.
    pub(super) fn retire(&mut self, now: Instant) -> Result<(), DisconnectReason> {
        let (unacked, filters) = (self.unacked(), self.unsubscribing.len());
        let patience = self.state.shared.mqtt.connect_timeout;
        let Some(retirement) = &mut self.retirement else { return Ok(()) };
        match retirement.next(now, unacked, filters, patience) {
            Due::Nothing => {}
            Due::Unsubscribe => {
                tracing::info!("the broker's queue is drained; unsubscribing from every filter");
                self.send_unsubscribe(self.state.shared.filters.clone());
            }
            Due::Ask => self.outgoing.push(Outgoing::PingReq),
            Due::GiveUp => {
                return Err(DisconnectReason::Protocol(
                    "the broker did not answer UNSUBSCRIBE in time".into(),
                ));
            }
        }
        Ok(())
    }
}
