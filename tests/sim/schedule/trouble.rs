//! The faults of a schedule and their application.

use std::sync::Arc;
use std::time::Duration;

use centiloc_bridge::service::leadership::Leadership;

use super::{FaultSchedule, ScheduleFault};
use crate::bridge::ModelProcess;
use crate::broker::ConnectResponse;

impl FaultSchedule {
    pub(super) async fn make(&mut self, fault: ScheduleFault) {
        let world = Arc::clone(&self.world);
        match fault {
            ScheduleFault::Cut => {
                world.fault("connection cut");
                self.broker.cut(world.chance(300));
            }
            ScheduleFault::HalfOpen => {
                world.fault("connection half-open");
                self.broker.half_open();
            }
            ScheduleFault::StalledWrites => {
                world.fault("broker reads nothing");
                self.broker.stall(world.chance(700));
            }
            ScheduleFault::LiveRetry => self.broker.retry_live(),
            ScheduleFault::BrokerDoor => {
                world.fault("broker refuses");
                let doors = [
                    ConnectResponse::Refused,
                    ConnectResponse::Silent,
                    ConnectResponse::NotAuthorized,
                    ConnectResponse::NoSubscription,
                ];
                self.broker.set_door(world.pick(&doors));
                self.broker.cut(false);
                self.wait_busy(world.draw(0..=20_000)).await;
                self.broker.set_door(ConnectResponse::Open);
            }
            ScheduleFault::SessionLost => self.broker.forget_session(),
            ScheduleFault::ForeignTakeover => {
                world.fault("takeover by a foreign client");
                self.broker.foreign_takeover();
            }
            ScheduleFault::WindowChanged => {
                world.fault("window changed");
                let window = usize::try_from(world.draw(1..=50)).unwrap();
                self.broker.change(|b| b.window = Some(window));
            }
            ScheduleFault::Database => self.database.change_mood(),
            ScheduleFault::ClockJump => {
                world.fault("clock jump");
                world.jump_clock();
            }
            ScheduleFault::Kill => {
                world.fault("process killed");
                self.unclean_ends = true;
                world.step_aside(0..=30).await;
                self.replace(|process| Box::pin(process.kill())).await;
            }
            ScheduleFault::Stop => {
                world.fault("process stopped");
                let grace = Duration::from_millis(world.draw(0..=20_000));
                self.stop(grace).await;
            }
            ScheduleFault::Rebuild => {
                world.fault("pipeline rebuilt");
                self.unclean_ends = true;
                world.step_aside(0..=30).await;
                self.processes[0].rebuild().await;
            }
            // Each process needs a spool of its own, which the model does not have.
            ScheduleFault::SecondProcess if self.around.settings.spool.is_some() => {}
            ScheduleFault::SecondProcess => self.contend().await,
            ScheduleFault::Renewal => {
                world.fault("credentials renewed");
                self.processes[0].renew_credentials();
                if world.chance(300) {
                    self.processes[0].reload();
                }
            }
            ScheduleFault::SpoolDisk | ScheduleFault::SpoolDamage
                if self.around.settings.spool.is_none() => {}
            ScheduleFault::SpoolDisk => self.around.spool.change_mood(),
            ScheduleFault::SpoolDamage => self.around.spool.damage(),
            ScheduleFault::LongWait => {
                world.fault("long wait");
                self.wait_busy(world.draw(5_000..=90_000)).await;
            }
        }
        // Losses are numbered when they occur. Gap rows follow them.
        self.database.after_loss(self.broker.losses());
    }

    async fn replace(
        &mut self,
        end: impl FnOnce(ModelProcess) -> std::pin::Pin<Box<dyn Future<Output = ()>>>,
    ) {
        let process = self.processes.remove(0);
        end(process).await;
        if self.world.takes_news_with_it() {
            self.broker.excuse_losses();
        }
        if self.world.chance(500) {
            self.wait_busy(self.world.draw(0..=5_000)).await;
        }
        self.promote();
    }

    async fn stop(&mut self, grace: Duration) {
        let process = self.processes.remove(0);
        let stopping = process.stop(grace);
        tokio::pin!(stopping);
        // The broker goes on meanwhile.
        loop {
            tokio::select! {
                biased;
                clean = &mut stopping => {
                    self.unclean_ends |= !clean;
                    if !clean && self.world.takes_news_with_it() {
                        self.broker.excuse_losses();
                    }
                    break;
                }
                () = self.world.sleep(1..=50) => {
                    self.broker.deliver(self.world.draw(0..=10));
                    self.receive();
                }
            }
        }
        self.promote();
    }

    /// Gives the session to the next process, or starts one.
    fn promote(&mut self) {
        match self.processes.first() {
            Some(next) => next.lead(Leadership::Held),
            None => self.start_process(),
        }
    }

    /// Starts a second process on standby, or lets it take over from the first.
    async fn contend(&mut self) {
        if self.processes.len() == 1 {
            self.world.fault("second process");
            let second = ModelProcess::start(&self.around);
            second.stand_by();
            self.processes.push(second);
        } else {
            self.world.fault("lock moves");
            (self.unclean_ends, self.handovers) = (true, true);
            self.processes.swap(0, 1);
            // They share one record of possible losses, which only one may write.
            self.processes[1].stand_by();
            self.world.sleep(5..=500).await;
            self.processes[0].lead(Leadership::Held);
        }
    }
}
