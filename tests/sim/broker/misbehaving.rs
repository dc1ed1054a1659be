//! Faults of brokers and networks that affect a connection or a session.

use super::{MessageLoss, ModelBroker};

impl ModelBroker {
    /// Ends the connection, if there is one.
    pub fn cut(&self, orderly: bool) {
        if let Some(link) = self.lock().link.take() {
            link.close(orderly);
        }
    }

    /// Loses the connection without notice to the bridge.
    pub fn half_open(&self) {
        if let Some(link) = self.lock().link.take() {
            link.silence();
        }
    }

    /// Stops or resumes reading packets of the bridge.
    pub fn stall(&self, stalled: bool) {
        if let Some(link) = &self.lock().link {
            link.stall(stalled);
        }
    }

    /// Ends a connection whose client was silent for too long (MQTT-3.1.2-24).
    pub fn enforce_keep_alive(&self) {
        let state = self.lock();
        let Some(link) = &state.link else { return };
        let silent =
            link.is_idle() && link.heard().elapsed() > state.behavior.keep_alive.mul_f64(1.5);
        drop(state);
        if silent {
            self.world.fault("broker misses PINGREQ");
            self.cut(false);
        }
    }

    /// Gives the session to another client with the same id for a moment. That client receives some
    /// messages and answers none.
    pub fn foreign_takeover(&self) {
        self.cut(true);
        let mut guard = self.lock();
        let state = &mut *guard;
        let few = self.world.draw(0..=3);
        let behavior = state.behavior.clone();
        let Some(session) = &mut state.session else { return };
        for _ in 0..few {
            if session.is_full(&behavior) || session.start_next(&behavior, true).is_none() {
                break;
            }
        }
        session.in_flight.retain(|e| state.messages[e.message].qos > 0);
    }

    /// Forgets the session with everything in it.
    pub fn forget_session(&self) {
        self.cut(false);
        let mut state = self.lock();
        let Some(session) = state.session.take() else { return };
        let number = state.losses.len() as u64 + 1;
        // A first session that was never seen may be mistaken for one that always existed.
        let excused = state.first_unseen && state.losses.is_empty();
        state.losses.push(MessageLoss { number, of_session: true, excused });
        state.unannounced = true;
        let held = session.queue.into_iter().chain(session.in_flight.iter().map(|e| e.message));
        for message in held {
            state.messages[message].lost = Some(number);
        }
        drop(state);
        self.world.fault("session lost");
    }
}
