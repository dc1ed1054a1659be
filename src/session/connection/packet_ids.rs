//! Packet ids of the bridge's SUBSCRIBE and UNSUBSCRIBE packets (MQTT-2.3.1-2).

/// Allocates packet ids from 1 to 65,535 in turn.
#[derive(Debug, Default)]
pub(super) struct PacketIds(u16);

impl PacketIds {
    /// Returns an id that is not in use.
    pub fn next(&mut self, in_use: impl Fn(u16) -> bool) -> u16 {
        // Only a few ids are ever in use, so this terminates.
        loop {
            self.0 = self.0.checked_add(1).unwrap_or(1);
            if !in_use(self.0) {
                return self.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_never_zero() {
        let mut ids = PacketIds::default();
        assert_eq!([ids.next(|_| false), ids.next(|_| false)], [1, 2]);
        let mut ids = PacketIds(u16::MAX);
        assert_eq!(ids.next(|id| id == 1), 2);
    }
}
