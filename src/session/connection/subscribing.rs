//! SUBSCRIBE and UNSUBSCRIBE, and what the broker makes of them.

use std::time::Instant;

use super::{Connection, End, Subscription};
use crate::message::ConnectionNews;
use crate::session::subscription::{Verdict, at_qos1};
use crate::telemetry::health::Phase;

impl Connection<'_> {
    pub(super) fn subscribe(&mut self) -> Result<(), End> {
        self.subscription = Subscription::Asked(Instant::now());
        self.client
            .try_subscribe_many(at_qos1(&self.shared.filters))
            .map_err(|error| End::Protocol(format!("SUBSCRIBE could not be sent: {error}")))
    }

    pub(super) fn apply_suback(
        &mut self,
        codes: &[rumqttc::SubscribeReasonCode],
    ) -> Result<(), End> {
        let verdict = Verdict::new(&self.shared.filters, codes).map_err(End::Protocol)?;
        let problem = verdict.problem();
        if verdict.granted.is_empty() && verdict.lowered.is_empty() {
            return Err(End::NotAuthorized(problem.unwrap_or_default()));
        }
        if let Some(problem) = &problem {
            self.subscription = Subscription::Partial(Instant::now());
            tracing::error!(problem, "not every subscription was granted at QoS 1");
        } else {
            self.subscription = Subscription::Granted;
            tracing::info!(filters = ?verdict.granted, "subscribed at QoS 1");
        }
        self.shared.metrics.connected.set(i64::from(problem.is_none()));
        self.shared.enter(Phase::Subscribed, problem);
        self.shared.health.update(|s| {
            s.session.filters = verdict.granted.iter().chain(&verdict.lowered).cloned().collect();
        });
        Ok(())
    }

    pub(super) fn apply_unsuback(&mut self) -> Result<(), End> {
        let Some(filter) = self.unsubscribing.pop_front() else { return Ok(()) };
        tracing::info!(filter, "unsubscribed from a filter that is no longer configured");
        if let Some(door) = self.door.as_ref() {
            door.announce(ConnectionNews::Unsubscribed {
                connection: self.shared.name(self.id),
                filters: vec![filter],
            })?;
        }
        Ok(())
    }

    /// Takes back filters that an earlier process subscribed to. What is wanted now may be among
    /// them, where this was noticed while an earlier configuration was written down.
    pub(super) fn unsubscribe(&mut self, filters: Vec<String>) {
        if self.opened.is_none() {
            return;
        }
        for filter in filters.into_iter().filter(|filter| !self.shared.filters.contains(filter)) {
            if self.client.try_unsubscribe(&filter).is_ok() {
                self.unsubscribing.push_back(filter);
            }
        }
    }
}
