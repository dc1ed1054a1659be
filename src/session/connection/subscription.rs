//! What was asked of the broker and what it granted. `session_present` proves nothing about
//! subscriptions, so they are made on every connection and every SUBACK is compared.

use tokio::time::Instant;

use super::{BrokerConnection, DisconnectReason};
use crate::connection_event::ConnectionEvent;
use crate::session::intake_sender::PipelineClosed;
use crate::session::transport::OutgoingPacket;
use crate::telemetry::health::SessionPhase;

/// The SUBACK beside the SUBSCRIBE it answers.
#[derive(Debug, PartialEq, Eq)]
pub struct SubscriptionGrants {
    /// Filters granted at QoS 1.
    pub granted: Vec<String>,
    /// Filters granted at QoS 0.
    pub lowered: Vec<String>,
    /// Filters refused.
    pub refused: Vec<String>,
}

impl SubscriptionGrants {
    /// Compares the granted QoS of each filter, `None` for a refusal, with the filters asked for. `Err` where the SUBACK does not answer this SUBSCRIBE.
    pub fn new(filters: &[String], codes: &[Option<u8>]) -> Result<Self, String> {
        if filters.len() != codes.len() {
            return Err(format!(
                "the broker answered a SUBSCRIBE of {} filters with {} return codes",
                filters.len(),
                codes.len()
            ));
        }
        let mut grants = Self { granted: vec![], lowered: vec![], refused: vec![] };
        for (filter, code) in filters.iter().zip(codes) {
            let list = match code {
                None => &mut grants.refused,
                Some(0) => &mut grants.lowered,
                Some(_) => &mut grants.granted,
            };
            list.push(filter.clone());
        }
        Ok(grants)
    }

    /// What is wrong, with the cure; `None` where everything was granted at QoS 1.
    pub fn problem(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.refused.is_empty() {
            parts.push(format!(
                "the broker refuses the subscription to {}: ask Centiloc support whether this \
                 user may read these topics, and compare the tenant",
                self.refused.join(", ")
            ));
        }
        if !self.lowered.is_empty() {
            parts.push(format!(
                "the broker grants only QoS 0 for {}: messages sent during an outage will be \
                 lost; ask for QoS 1",
                self.lowered.join(", ")
            ));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// The broker's reaction to the SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubscriptionState {
    Asked {
        packet_id: u16,
        since: Instant,
    },
    Granted,
    /// Not everything was granted. Repeated from time to time.
    Partial(Instant),
}

impl BrokerConnection<'_> {
    fn next_packet_id(&mut self) -> u16 {
        let Self { packet_ids, unsubscribing, subscription, .. } = self;
        let asked = match *subscription {
            SubscriptionState::Asked { packet_id, .. } => Some(packet_id),
            _ => None,
        };
        packet_ids.next(|id| asked == Some(id) || unsubscribing.iter().any(|(used, _)| *used == id))
    }

    pub(super) fn subscribe(&mut self) {
        let packet_id = self.next_packet_id();
        self.subscription = SubscriptionState::Asked { packet_id, since: Instant::now() };
        let filters = self.state.context.filters.clone();
        self.outgoing.push(OutgoingPacket::Subscribe { packet_id, filters });
    }

    pub(super) fn apply_suback(
        &mut self,
        answered: u16,
        codes: &[Option<u8>],
    ) -> Result<(), DisconnectReason> {
        let asked = matches!(
            self.subscription,
            SubscriptionState::Asked { packet_id, .. } if packet_id == answered
        );
        if !asked {
            tracing::debug!(packet_id = answered, "ignored a SUBACK that answers no SUBSCRIBE");
            return Ok(());
        }
        let context = self.state.context;
        let grants =
            SubscriptionGrants::new(&context.filters, codes).map_err(DisconnectReason::Protocol)?;
        let problem = grants.problem();
        if grants.granted.is_empty() && grants.lowered.is_empty() {
            return Err(DisconnectReason::NotAuthorized(problem.unwrap_or_default()));
        }
        self.granted = true;
        if let Some(problem) = &problem {
            self.subscription = SubscriptionState::Partial(Instant::now());
            tracing::error!(problem, "not every subscription was granted at QoS 1");
        } else {
            self.subscription = SubscriptionState::Granted;
            tracing::info!(filters = ?grants.granted, "subscribed at QoS 1");
        }
        context.metrics.connected.set(i64::from(problem.is_none()));
        context.enter(SessionPhase::Subscribed, problem);
        context.health.update(|s| {
            s.session.filters = grants.granted.iter().chain(&grants.lowered).cloned().collect();
        });
        Ok(())
    }

    pub(super) fn apply_unsuback(&mut self, answered: u16) -> Result<(), PipelineClosed> {
        let place = self.unsubscribing.iter().position(|(packet_id, _)| *packet_id == answered);
        let Some(place) = place else { return Ok(()) };
        let (_, filter) = self.unsubscribing.remove(place);
        tracing::info!(filter, "unsubscribed from a filter that is no longer wanted");
        self.send_event(ConnectionEvent::Unsubscribed {
            connection: self.state.context.name(self.id),
            filters: vec![filter],
        })
    }

    /// Unsubscribes from filters that an earlier process subscribed to. Configured ones may be among
    /// them, where this was noticed while an earlier configuration was stored.
    pub(super) fn unsubscribe(&mut self, filters: Vec<String>) {
        let configured = &self.state.context.filters;
        let stale = filters.into_iter().filter(|filter| !configured.contains(filter));
        self.send_unsubscribe(stale.collect());
    }

    pub(super) fn send_unsubscribe(&mut self, filters: Vec<String>) {
        for filter in filters {
            let packet_id = self.next_packet_id();
            self.outgoing.push(OutgoingPacket::Unsubscribe { packet_id, filter: filter.clone() });
            self.unsubscribing.push((packet_id, filter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters() -> Vec<String> {
        vec!["centiloc/acme".to_owned(), "centiloc/acme/proto/board/v1/update".to_owned()]
    }

    #[test]
    fn a_refused_and_a_lowered_filter_are_named_with_the_cure() {
        let codes = [None, Some(0)];
        let problem = SubscriptionGrants::new(&filters(), &codes).unwrap().problem().unwrap();
        assert!(problem.contains("refuses the subscription to centiloc/acme:"), "{problem}");
        assert!(problem.contains("QoS 0 for centiloc/acme/proto/board/v1/update"), "{problem}");
    }

    #[test]
    fn a_suback_of_another_length_is_an_error() {
        let codes = [Some(1)];
        assert!(SubscriptionGrants::new(&filters(), &codes).is_err());
    }

    #[test]
    fn full_grants_are_no_problem() {
        let codes = [Some(1); 2];
        assert_eq!(SubscriptionGrants::new(&filters(), &codes).unwrap().problem(), None);
    }
}
