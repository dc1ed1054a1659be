//! The connection that the stream is written over, one statement after the other.

use tokio::sync::{Mutex, MutexGuard};

use super::connector::Connector;
use crate::store::error::{DbError, StoreError};
use crate::store::query::Db;

/// Holds the connection between uses.
///
/// It is empty while in use. If the use ends half-way (a time limit, a dropped future), the
/// connection is dropped with it and never used in an unknown state.
#[derive(Debug)]
pub(in crate::store) struct WriterSlot {
    connector: Connector,
    idle: Mutex<Option<Db>>,
}

impl WriterSlot {
    pub fn new(connector: Connector) -> Self {
        Self { connector, idle: Mutex::new(None) }
    }

    /// Waits for the connection, and opens it if there is none.
    pub async fn take(&self) -> Result<WriterLease<'_>, DbError> {
        let mut slot = self.idle.lock().await;
        let db = match slot.take() {
            Some(db) => db,
            None => self.connector.open().await?,
        };
        Ok(WriterLease { slot, db })
    }
}

/// The right to write, held by one user at a time.
#[derive(Debug)]
pub(in crate::store) struct WriterLease<'s> {
    slot: MutexGuard<'s, Option<Db>>,
    db: Db,
}

impl WriterLease<'_> {
    /// Returns the connection.
    pub fn db(&mut self) -> &mut Db {
        &mut self.db
    }

    /// Keeps the connection for the next use, unless the failure may have damaged it.
    pub fn finish<T>(mut self, result: Result<T, DbError>) -> Result<T, StoreError> {
        if self.db.is_reusable_after(&result) {
            *self.slot = Some(self.db);
        }
        result.map_err(StoreError::from)
    }
}
