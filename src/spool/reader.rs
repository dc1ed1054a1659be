//! Reads behind the writer and hands rows to the next stage, at its pace.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::cursors::SpoolCursors;
use super::error::SpoolError;
use super::storage::{SpoolDepth, StorageFile};
use crate::connection_event::ConnectionEvent;
use crate::in_flight::InFlight;
use crate::message::StreamItem;
use crate::progress::{DISK, during, idle};

/// Rows read at once: as many as a batch holds by default.
const ROWS: i64 = 1000;

/// Payload bytes held in memory between disk and database, about: what one batch may hold.
const READ_AHEAD: usize = 16 * 1024 * 1024;

/// The reading part.
#[derive(Debug)]
pub(super) struct SpoolReader {
    decode: mpsc::Sender<StreamItem>,
    client_id: String,
    in_flight: Arc<InFlight>,
}

impl SpoolReader {
    /// `client_id` names the client in the gap of an event that cannot be read.
    pub fn new(decode: mpsc::Sender<StreamItem>, client_id: String) -> Self {
        Self { decode, client_id, in_flight: Arc::default() }
    }

    /// Forwards for ever, or until the file cannot be read. May be dropped at any point: what was
    /// not counted as forwarded is read again.
    pub async fn run(
        &self,
        file: &mut impl StorageFile,
        progress: &SpoolCursors,
    ) -> Result<Infallible, SpoolError> {
        let mut appended = progress.appended.subscribe();
        loop {
            // The sender lives as long as the stage.
            let _ = idle(appended.wait_for(|last| *last > progress.forwarded())).await;
            self.forward_batch(file, progress).await?;
        }
    }

    /// Forwards what a file holds, and returns.
    pub async fn forward_remaining(
        &self,
        file: &mut impl StorageFile,
        progress: &SpoolCursors,
    ) -> Result<(), SpoolError> {
        while !progress.has_caught_up() {
            self.forward_batch(file, progress).await?;
        }
        Ok(())
    }

    /// Says something that is in no row, behind what was forwarded.
    pub async fn send_event(&self, news: ConnectionEvent) {
        // A stage that is gone is being taken down.
        let _ = idle(self.decode.send(StreamItem::Connection(news, None))).await;
    }

    async fn forward_batch(
        &self,
        file: &mut impl StorageFile,
        progress: &SpoolCursors,
    ) -> Result<(), SpoolError> {
        let last = *progress.appended.borrow();
        let read = file.read(progress.forwarded(), ROWS, READ_AHEAD);
        let rows = during(DISK, read).await?;
        if rows.is_empty() {
            progress.skip_to(last);
        }
        for (id, row) in rows {
            let size = row.size();
            let depth = SpoolDepth::of(&row);
            idle(self.in_flight.wait_for_room(size, READ_AHEAD)).await;
            let permit = self.in_flight.acquire(size);
            let intake = row.into_item(id, Some(permit), &self.client_id);
            if idle(self.decode.send(intake)).await.is_err() {
                // The pipeline is being taken down, and this part with it.
                idle(std::future::pending::<()>()).await;
            }
            progress.forward(id, depth);
        }
        Ok(())
    }
}
