//! The connection that all of the stream is written over, one statement after the other.

use tokio::sync::{Mutex, MutexGuard};

use crate::store::connection::connector::Connector;
use crate::store::error::{DbError, StoreError};
use crate::store::query::Db;

/// Holds the connection between uses. It is empty while in use: if the use is given up half-way
/// (a time limit, a dropped future), the connection goes with it and is never used in an unknown
/// state.
#[derive(Debug)]
pub(in crate::store) struct WriterSlot {
    link: Connector,
    idle: Mutex<Option<Db<'static>>>,
}

impl WriterSlot {
    pub fn new(link: Connector) -> Self {
        Self { link, idle: Mutex::new(None) }
    }

    /// The connection, newly opened if there is none.
    pub async fn take(&self) -> Result<WriterLease<'_>, DbError> {
        let mut slot = self.idle.lock().await;
        let conn = match slot.take() {
            Some(conn) => conn,
            None => self.link.open().await?.into(),
        };
        Ok(WriterLease { slot, conn })
    }
}

/// The right to write.
#[derive(Debug)]
pub(in crate::store) struct WriterLease<'s> {
    slot: MutexGuard<'s, Option<Db<'static>>>,
    conn: Db<'static>,
}

impl WriterLease<'_> {
    pub fn conn(&mut self) -> &mut Db<'static> {
        &mut self.conn
    }

    /// Keeps the connection for the next use, unless the failure may have spoilt it.
    pub fn finish<T>(mut self, result: Result<T, DbError>) -> Result<T, StoreError> {
        if self.conn.is_reusable_after(&result) {
            *self.slot = Some(self.conn);
        }
        result.map_err(StoreError::from)
    }
}
