//! SUBSCRIBE and UNSUBSCRIBE, and the broker's answers.

use tokio::time::Instant;

use super::{Connection, DisconnectReason, Subscription};
use crate::connection_event::ConnectionEvent;
use crate::session::intake_sender::PipelineClosed;
use crate::session::subscription::Verdict;
use crate::session::transport::Outgoing;
use crate::telemetry::health::SessionPhase;

impl Connection<'_> {
    fn next_packet_id(&mut self) -> u16 {
        let Self { packet_ids, unsubscribing, subscription, .. } = self;
        let asked = match *subscription {
            Subscription::Asked { packet_id, .. } => Some(packet_id),
            _ => None,
        };
        packet_ids.next(|id| asked == Some(id) || unsubscribing.iter().any(|(used, _)| *used == id))
    }

    pub(super) fn subscribe(&mut self) {
        let packet_id = self.next_packet_id();
        self.subscription = Subscription::Asked { packet_id, since: Instant::now() };
        let filters = self.state.shared.filters.clone();
        self.outgoing.push(Outgoing::Subscribe { packet_id, filters });
    }

    pub(super) fn apply_suback(
        &mut self,
        answered: u16,
        codes: &[Option<u8>],
    ) -> Result<(), DisconnectReason> {
        let asked = matches!(
            self.subscription,
            Subscription::Asked { packet_id, .. } if packet_id == answered
        );
        if !asked {
            tracing::debug!(packet_id = answered, "ignored a SUBACK that answers no SUBSCRIBE");
            return Ok(());
        }
        let shared = self.state.shared;
        let verdict = Verdict::new(&shared.filters, codes).map_err(DisconnectReason::Protocol)?;
        let problem = verdict.problem();
        if verdict.granted.is_empty() && verdict.lowered.is_empty() {
            return Err(DisconnectReason::NotAuthorized(problem.unwrap_or_default()));
        }
        self.granted = true;
        if let Some(problem) = &problem {
            self.subscription = Subscription::Partial(Instant::now());
            tracing::error!(problem, "not every subscription was granted at QoS 1");
        } else {
            self.subscription = Subscription::Granted;
            tracing::info!(filters = ?verdict.granted, "subscribed at QoS 1");
        }
        shared.metrics.connected.set(i64::from(problem.is_none()));
        shared.enter(SessionPhase::Subscribed, problem);
        shared.health.update(|s| {
            s.session.filters = verdict.granted.iter().chain(&verdict.lowered).cloned().collect();
        });
        Ok(())
    }

    pub(super) fn apply_unsuback(&mut self, answered: u16) -> Result<(), PipelineClosed> {
        let place = self.unsubscribing.iter().position(|(packet_id, _)| *packet_id == answered);
        let Some(place) = place else { return Ok(()) };
        let (_, filter) = self.unsubscribing.remove(place);
        tracing::info!(filter, "unsubscribed from a filter that is no longer wanted");
        self.send_event(ConnectionEvent::Unsubscribed {
            connection: self.state.shared.name(self.id),
            filters: vec![filter],
        })
    }

    /// Unsubscribes from filters that an earlier process subscribed to. Configured ones may be among
    /// them, where this was noticed while an earlier configuration was stored.
    pub(super) fn unsubscribe(&mut self, filters: Vec<String>) {
        let configured = &self.state.shared.filters;
        let stale = filters.into_iter().filter(|filter| !configured.contains(filter));
        self.send_unsubscribe(stale.collect());
    }

    pub(super) fn send_unsubscribe(&mut self, filters: Vec<String>) {
        for filter in filters {
            let packet_id = self.next_packet_id();
            self.outgoing.push(Outgoing::Unsubscribe { packet_id, filter: filter.clone() });
            self.unsubscribing.push((packet_id, filter));
        }
    }
}
