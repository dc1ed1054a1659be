//! The end of a schedule: after all faults are over, everything comes to rest, and then every rule
//! must hold.

use std::time::Duration;

use centiloc_bridge::service::leadership::Leadership;
use centiloc_bridge::stream::gap::GapCause;

use super::FaultSchedule;
use crate::broker::{ConnectResponse, DurableState as _, IdPolicy};
use crate::database::ServerMood;
use crate::message::MessageKind;
use crate::spool::DiskMood;

/// Paused time within which everything must be stored once all faults have ended. The longest wait
/// of the bridge is a minute, and a few may follow each other.
const REST_WITHIN: Duration = Duration::from_secs(900);

/// Consecutive checks that must find everything at rest, because an event may be between two
/// stages.
const QUIET_LOOKS: u32 = 5;

/// The same after processes shared a record of possible losses, which is unreliable then.
const QUIET_LOOKS_AFTER_HANDOVER: u32 = 500;

impl FaultSchedule {
    pub(super) async fn come_to_rest(&mut self) {
        self.broker.set_door(ConnectResponse::Open);
        self.broker.stall(false);
        self.broker.change(|b| {
            b.ids = if b.ids == IdPolicy::Blind { IdPolicy::InTurn } else { b.ids };
            b.overflows_after = None;
        });
        self.database.set_mood(ServerMood::Well);
        self.around.spool.set_mood(DiskMood::Well);
        for (index, process) in self.processes.iter().enumerate() {
            if index == 0 { process.lead(Leadership::Held) } else { process.stand_by() }
        }
        let started = tokio::time::Instant::now();
        let mut quiet_looks = 0;
        let enough = if self.handovers { QUIET_LOOKS_AFTER_HANDOVER } else { QUIET_LOOKS };
        loop {
            self.broker.deliver(self.world.draw(1..=40));
            self.receive();
            self.broker.enforce_keep_alive();
            self.check_processes();
            if self.world.is_broken() {
                return;
            }
            let unrest = self.unrest();
            quiet_looks = if unrest.is_none() { quiet_looks + 1 } else { 0 };
            if quiet_looks == enough {
                return;
            }
            if let Some(unrest) = unrest
                && started.elapsed() > REST_WITHIN
            {
                self.world.violated(format_args!("no rest after {REST_WITHIN:?}: {unrest}"));
                return;
            }
            // Fine steps at first, then coarse ones, because most of the time is spent waiting for
            // a backoff.
            let step = if started.elapsed() < Duration::from_secs(2) { 10 } else { 250 };
            self.world.sleep(1..=step).await;
        }
    }

    fn unrest(&self) -> Option<String> {
        let counts = self.processes[0].accounting().counts();
        let held = (counts.in_pipeline > 0).then(|| format!("in the pipeline: {counts:?}"));
        let untold = (!self.handovers && !self.around.disk.is_clean())
            .then(|| "a possible loss waits for the database".to_owned());
        let spooled = (self.around.spool.rows() > 0)
            .then(|| format!("{} rows are in the spool", self.around.spool.rows()));
        let shown = self.processes[0].shown_unrest();
        self.broker.unrest().or(held).or(spooled).or(untold).or(shown)
    }

    pub(super) fn check_rows(&self) {
        for (message, loss) in self.broker.messages() {
            if self.world.is_broken() {
                return;
            }
            let copies = self.database.copies(message.event);
            let (_, kind) = &self.payloads[&message.event];
            if copies > 1 {
                self.world.violated(format_args!("event {} is stored twice", message.event));
            }
            if copies == 1
                && self.database.is_dead_letter(message.event) == (*kind == MessageKind::Good)
            {
                self.world.violated(format_args!("event {} is in the wrong table", message.event));
            }
            if copies > 0 || message.qos == 0 || message.retain {
                continue;
            }
            let damaged = self.around.spool.lost(message.event)
                && self.database.gaps(GapCause::SpoolDamaged) > 0;
            if !damaged && !loss.is_some_and(|loss| self.around.covers(&loss)) {
                self.world.violated(format_args!(
                    "event {} is not stored, and no gap covers it (loss {loss:?})",
                    message.event
                ));
            }
        }
        let open = self.database.open_connections();
        let undamaged = self.database.gaps(GapCause::SpoolDamaged) == 0;
        if !self.unclean_ends && undamaged && open != 1 {
            self.world.violated(format_args!("{open} connections are recorded as open"));
        }
        let (lost, reported) =
            (self.broker.lost_sessions(), self.database.gaps(GapCause::SessionLost));
        if reported > lost {
            self.world.violated(format_args!("{lost} sessions were lost, and {reported} reported"));
        }
    }
}
