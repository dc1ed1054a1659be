//! The connection that all of the stream is written over, one statement after the other.

use tokio::sync::{Mutex, MutexGuard};

use super::connect::Link;
use super::fault::{Fault, StoreError};
use super::transaction::Conn;

/// Holds the connection between uses. It is empty while in use: if the use is given up half-way
/// (a time limit, a dropped future), the connection goes with it and is never used in an unknown
/// state.
#[derive(Debug)]
pub(super) struct WriterSlot {
    link: Link,
    idle: Mutex<Option<Conn<'static>>>,
}

impl WriterSlot {
    pub fn new(link: Link) -> Self {
        Self { link, idle: Mutex::new(None) }
    }

    /// The connection, newly opened if there is none.
    pub async fn take(&self) -> Result<Writer<'_>, Fault> {
        let mut slot = self.idle.lock().await;
        let conn = match slot.take() {
            Some(conn) => conn,
            None => self.link.open().await?.into(),
        };
        Ok(Writer { slot, conn })
    }
}

/// The right to write.
#[derive(Debug)]
pub(super) struct Writer<'s> {
    slot: MutexGuard<'s, Option<Conn<'static>>>,
    conn: Conn<'static>,
}

impl Writer<'_> {
    pub fn conn(&mut self) -> &mut Conn<'static> {
        &mut self.conn
    }

    /// Keeps the connection for the next use, unless the failure may have spoilt it.
    pub fn finish<T>(mut self, result: Result<T, Fault>) -> Result<T, StoreError> {
        if self.conn.is_reusable_after(&result) {
            *self.slot = Some(self.conn);
        }
        result.map_err(StoreError::from)
    }
}
