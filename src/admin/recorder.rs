//! Samples the figures for the charts while the endpoint is on, stores a point every five minutes, and
//! restores those of earlier processes.

use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};

use crate::store::Store;
use crate::telemetry::Metrics;
use crate::telemetry::history::{DAY, FigureHistory, HOUR_STEP, HistoryPoint};

/// Inputs and output of the recorder.
#[derive(Debug, Clone)]
pub(super) struct FigureRecorder {
    pub history: Arc<FigureHistory>,
    pub metrics: Arc<Metrics>,
    pub store: Arc<Store>,
    pub client_id: String,
}

impl FigureRecorder {
    /// Runs until dropped.
    pub async fn run(&self) {
        tokio::join!(self.sample(), self.restore());
    }

    async fn sample(&self) {
        let mut ticks = interval(HOUR_STEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let passed = now - std::mem::replace(&mut last, now);
            let totals = self.metrics.figure_totals();
            if let Some(point) = self.history.sample(OffsetDateTime::now_utc(), passed, totals) {
                self.store_point(&point).await;
            }
        }
    }

    async fn store_point(&self, point: &HistoryPoint) {
        if let Err(error) = self.store.record_figures(&self.client_id, point).await {
            // The outage itself is logged already, and the point is in memory.
            tracing::debug!(%error, "could not store the figures of the charts");
        }
    }

    /// Reads the points of the last day once the schema is known to be there.
    async fn restore(&self) {
        self.store.until_prepared().await;
        let now = OffsetDateTime::now_utc();
        match self.store.figures_since(&self.client_id, now - DAY).await {
            Ok(points) => self.history.restore(&points, now),
            Err(error) => tracing::debug!(%error, "could not read the figures of the charts"),
        }
    }
}
