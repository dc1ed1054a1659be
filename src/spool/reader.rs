//! Reads rows behind the writer and sends them to the next stage, at the pace of that stage.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::cursors::SpoolCursors;
use super::error::SpoolError;
use super::storage::{SpoolDepth, StorageFile};
use crate::progress::{DISK, during, idle};
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::in_flight::InFlight;
use crate::stream::message::StreamItem;

/// Rows read at once, the number that a batch holds by default.
const ROWS: i64 = 1000;

/// Payload bytes in memory between disk and database, about the bytes that one batch may hold.
const READ_AHEAD: usize = 16 * 1024 * 1024;

/// The part of the stage that reads.
#[derive(Debug)]
pub(super) struct SpoolReader {
    decode: mpsc::Sender<StreamItem>,
    client_id: String,
    in_flight: Arc<InFlight>,
}

impl SpoolReader {
    /// Makes a reader. `client_id` is the client of the gap that replaces an unreadable event.
    pub fn new(decode: mpsc::Sender<StreamItem>, client_id: String) -> Self {
        Self { decode, client_id, in_flight: Arc::default() }
    }

    /// Forwards rows until the file cannot be read. May be dropped at any point: rows that were not
    /// counted as forwarded are read again.
    pub async fn run(
        &self,
        file: &mut impl StorageFile,
        cursors: &SpoolCursors,
    ) -> Result<Infallible, SpoolError> {
        let mut appended = cursors.appended.subscribe();
        loop {
            // The sender lives as long as the stage.
            let _ = idle(appended.wait_for(|last| *last > cursors.forwarded())).await;
            self.forward_batch(file, cursors).await?;
        }
    }

    /// Forwards the remaining rows of a file.
    pub async fn forward_remaining(
        &self,
        file: &mut impl StorageFile,
        cursors: &SpoolCursors,
    ) -> Result<(), SpoolError> {
        while !cursors.has_caught_up() {
            self.forward_batch(file, cursors).await?;
        }
        Ok(())
    }

    /// Sends an event that is in no row, after the rows forwarded so far.
    pub async fn send_event(&self, event: ConnectionEvent) {
        // Decoding has ended only if the pipeline is shutting down.
        let _ = idle(self.decode.send(StreamItem::Connection(event, None))).await;
    }

    async fn forward_batch(
        &self,
        file: &mut impl StorageFile,
        cursors: &SpoolCursors,
    ) -> Result<(), SpoolError> {
        let last = *cursors.appended.borrow();
        let read = file.read(cursors.forwarded(), ROWS, READ_AHEAD);
        let rows = during(DISK, read).await?;
        if rows.is_empty() {
            cursors.skip_to(last);
        }
        let count = rows.len();
        for (id, row) in rows {
            let size = row.size();
            let depth = SpoolDepth::of(&row);
            idle(self.in_flight.wait_for_room(size, READ_AHEAD)).await;
            let permit = self.in_flight.acquire(size);
            let item = row.into_item(id, Some(permit), &self.client_id);
            if idle(self.decode.send(item)).await.is_err() {
                // The pipeline is shutting down, and drops this future.
                idle(std::future::pending::<()>()).await;
            }
            cursors.forward(id, depth);
        }
        tracing::debug!(rows = count, last = cursors.forwarded(), "forwarded rows from the spool");
        Ok(())
    }
}
