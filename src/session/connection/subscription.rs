//! SUBSCRIBE and UNSUBSCRIBE, and the comparison of each SUBACK with its SUBSCRIBE.
//! `session_present` proves nothing about subscriptions, so the bridge subscribes on every
//! connection.

use std::time::Duration;

use tokio::time::Instant;

use super::{BrokerConnection, DisconnectReason};
use crate::session::intake_sender::PipelineClosed;
use crate::session::transport::OutgoingPacket;
use crate::stream::connection_event::ConnectionEvent;
use crate::telemetry::health::SessionPhase;

/// Filters of a SUBSCRIBE, grouped by the return codes of its SUBACK.
#[derive(Debug, PartialEq, Eq)]
pub struct SubscriptionGrants {
    /// Filters granted at QoS 1.
    pub granted: Vec<String>,
    /// Filters granted at QoS 0.
    pub lowered: Vec<String>,
    /// Filters refused with return code 0x80.
    pub refused: Vec<String>,
}

/// Error: the SUBACK does not have one return code per filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker answered a SUBSCRIBE of {filters} filters with {codes} return codes")]
pub struct SubackMismatch {
    filters: usize,
    codes: usize,
}

impl SubscriptionGrants {
    /// Groups the requested filters by the granted QoS, where `None` is a refusal. Fails if the
    /// SUBACK has another number of return codes.
    pub fn new(filters: &[String], codes: &[Option<u8>]) -> Result<Self, SubackMismatch> {
        if filters.len() != codes.len() {
            return Err(SubackMismatch { filters: filters.len(), codes: codes.len() });
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

    /// Returns the problem with its remedy, or `None` if every filter was granted at QoS 1.
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

/// Interval at which a partly refused SUBSCRIBE is repeated, because permissions may be granted
/// meanwhile.
const RESUBSCRIBE_EVERY: Duration = Duration::from_secs(60);

/// State of the subscription on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubscriptionState {
    Asked {
        packet_id: u16,
        since: Instant,
    },
    Granted,
    /// Some filters were not granted at QoS 1 at this time. SUBSCRIBE is repeated periodically.
    Partial(Instant),
}

impl SubscriptionState {
    /// Returns true if SUBSCRIBE was not answered for longer than `limit`.
    pub fn is_unanswered(self, limit: Duration, now: Instant) -> bool {
        matches!(self, Self::Asked { since, .. } if now - since > limit)
    }

    /// Returns true if SUBSCRIBE is to be repeated.
    pub fn is_repeat_due(self, now: Instant) -> bool {
        matches!(self, Self::Partial(since) if now - since > RESUBSCRIBE_EVERY)
    }
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
        let grants = SubscriptionGrants::new(&context.filters, codes)
            .map_err(|error| DisconnectReason::Protocol(error.to_string()))?;
        let problem = grants.problem();
        if grants.granted.is_empty() && grants.lowered.is_empty() {
            return Err(DisconnectReason::NotAuthorized(problem.unwrap_or_default()));
        }
        self.granted = true;
        if let Some(problem) = &problem {
            self.subscription = SubscriptionState::Partial(Instant::now());
            tracing::error!(
                error = problem,
                "the broker did not grant every subscription at QoS 1"
            );
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
        tracing::info!(filter, "unsubscribed from a filter that is no longer configured");
        self.send_event(ConnectionEvent::Unsubscribed {
            connection: self.state.context.name(self.id),
            filters: vec![filter],
        })
    }

    /// Unsubscribes from filters that an earlier process subscribed to. The list may contain
    /// configured filters if it was made while an earlier configuration was stored.
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
    fn subscriptions_are_answered_in_time_or_repeated() {
        let since = Instant::now();
        let limit = Duration::from_secs(10);
        let asked = SubscriptionState::Asked { packet_id: 1, since };
        assert!(!asked.is_unanswered(limit, since + limit));
        assert!(asked.is_unanswered(limit, since + limit + Duration::from_millis(1)));
        let partial = SubscriptionState::Partial(since);
        assert!(!partial.is_repeat_due(since + RESUBSCRIBE_EVERY));
        assert!(partial.is_repeat_due(since + RESUBSCRIBE_EVERY + Duration::from_millis(1)));
        let later = since + 2 * RESUBSCRIBE_EVERY;
        assert!(!asked.is_repeat_due(later) && !partial.is_unanswered(limit, later));
        assert!(!SubscriptionState::Granted.is_repeat_due(later));
    }

    #[test]
    fn ungranted_filters_are_named_with_a_remedy() {
        let codes = [None, Some(0)];
        let problem = SubscriptionGrants::new(&filters(), &codes).unwrap().problem().unwrap();
        assert!(problem.contains("refuses the subscription to centiloc/acme:"), "{problem}");
        assert!(problem.contains("QoS 0 for centiloc/acme/proto/board/v1/update"), "{problem}");
    }

    #[test]
    fn suback_of_another_length_is_an_error() {
        let codes = [Some(1)];
        assert!(SubscriptionGrants::new(&filters(), &codes).is_err());
    }

    #[test]
    fn full_grant_is_no_problem() {
        let codes = [Some(1); 2];
        assert_eq!(SubscriptionGrants::new(&filters(), &codes).unwrap().problem(), None);
    }
}
