//! PUBLISH: what is let in, and what has to stay with the broker.

use std::time::Instant;

use rumqttc::{Publish, QoS};
use time::OffsetDateTime;

use super::{Connection, End};
use crate::message::{ConnectionNews, Gap, GapCause};
use crate::session::intake::{Gone, size_of};
use crate::session::ledger::{Answer, Receipt};

impl Connection<'_> {
    pub(super) fn apply_publish(&mut self, publish: Publish) -> Result<(), End> {
        let received_at = OffsetDateTime::now_utc();
        self.shared.count_received(&publish, received_at);
        let Some(door) = self.door.as_ref() else { return Ok(()) };
        let size = size_of(&publish);
        let answer = match publish.qos {
            QoS::AtMostOnce => return self.take_unacknowledged(publish, received_at),
            QoS::AtLeastOnce => Answer::Puback(publish.pkid),
            QoS::ExactlyOnce => Answer::Pubrec(publish.pkid),
        };
        if !self.ledger.is_sealed() && !door.has_room_for(size) {
            self.ledger.seal();
            self.no_room_for = Some(size);
            self.shared.warn_of_full_memory(self.id);
        }
        let (again, now) = (publish.dup, Instant::now());
        match self.ledger.receive(answer, now) {
            Receipt::New(token) => door.admit(publish, Some(token), received_at)?,
            Receipt::Repeated => return Ok(()),
            Receipt::Refused => self.refused += 1,
        }
        self.shared.memory().hold.received(self.unacked(), again, now);
        Ok(())
    }

    /// QoS 0: nobody repeats it, so it passes the ledger by.
    fn take_unacknowledged(
        &mut self,
        publish: Publish,
        received_at: OffsetDateTime,
    ) -> Result<(), End> {
        self.shared.warn_of_qos0(&publish.topic);
        match self.door.as_ref() {
            Some(door) if door.has_room_for(size_of(&publish)) => {
                door.admit(publish, None, received_at)?;
            }
            _ => self.dropped_qos0.get_or_insert((received_at, 0)).1 += 1,
        }
        Ok(())
    }

    /// Announces what was dropped, once `size` bytes have room again.
    pub(super) fn write_down_dropped_qos0(&mut self, size: usize) -> Result<(), Gone> {
        let Some(door) = self.door.as_ref().filter(|door| door.has_recovered_for(size)) else {
            return Ok(());
        };
        let Some((started_at, count)) = self.dropped_qos0.take() else { return Ok(()) };
        door.announce(ConnectionNews::Gap(Gap {
            client_id: self.shared.mqtt.client_id.clone(),
            started_at,
            ended_at: Some(OffsetDateTime::now_utc()),
            cause: GapCause::Backpressure,
            detail: format!("{count} QoS-0 messages were dropped: mqtt.max_unacked was reached"),
        }))
    }
}
