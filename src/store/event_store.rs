//! The operations of the database that the writer needs: PostgreSQL in the service, a model in the
//! fault simulator.

use std::time::Duration;

use super::batch::rows::DecodedMessage;
use super::error::StoreError;
use super::journal::JournalOutcome;
use super::schema::MigrationError;
use super::{CommitOutcome, Store};
use crate::stream::connection_event::{ConnectionEvent, ConnectionName};

/// The operations of the database that the writer needs.
pub trait EventStore: Send + Sync {
    /// See [`Store::prepare_schema`].
    fn prepare_schema(
        &self,
        migrate: bool,
    ) -> impl Future<Output = Result<(), MigrationError>> + Send;

    /// See [`Store::commit`].
    fn commit(
        &self,
        batch: &[DecodedMessage],
    ) -> impl Future<Output = Result<CommitOutcome, StoreError>> + Send;

    /// See [`Store::note`].
    fn note(
        &self,
        session_expiry: Duration,
        standing: Option<&ConnectionName>,
        news: &ConnectionEvent,
    ) -> impl Future<Output = Result<JournalOutcome, StoreError>> + Send;
}

impl EventStore for Store {
    async fn prepare_schema(&self, migrate: bool) -> Result<(), MigrationError> {
        self.prepare_schema(migrate).await
    }

    async fn commit(&self, batch: &[DecodedMessage]) -> Result<CommitOutcome, StoreError> {
        self.commit(batch).await
    }

    async fn note(
        &self,
        session_expiry: Duration,
        standing: Option<&ConnectionName>,
        news: &ConnectionEvent,
    ) -> Result<JournalOutcome, StoreError> {
        self.note(session_expiry, standing, news).await
    }
}
