//! The operations of the database that the writer needs: PostgreSQL in the service, a model in the
//! fault simulator.

use std::time::Duration;

use super::fault::StoreError;
use super::journal::Noted;
use super::rows::Entry;
use super::schema::SchemaError;
use super::{Outcome, Store};
use crate::connection_event::{ConnectionEvent, ConnectionName};

/// The operations of the database that the writer needs.
pub trait Database: Send + Sync {
    /// See [`Store::prepare_schema`].
    fn prepare_schema(&self, migrate: bool)
    -> impl Future<Output = Result<(), SchemaError>> + Send;

    /// See [`Store::commit`].
    fn commit(&self, batch: &[Entry]) -> impl Future<Output = Result<Outcome, StoreError>> + Send;

    /// See [`Store::note`].
    fn note(
        &self,
        session_expiry: Duration,
        standing: Option<&ConnectionName>,
        news: &ConnectionEvent,
    ) -> impl Future<Output = Result<Noted, StoreError>> + Send;
}

impl Database for Store {
    async fn prepare_schema(&self, migrate: bool) -> Result<(), SchemaError> {
        self.prepare_schema(migrate).await
    }

    async fn commit(&self, batch: &[Entry]) -> Result<Outcome, StoreError> {
        self.commit(batch).await
    }

    async fn note(
        &self,
        session_expiry: Duration,
        standing: Option<&ConnectionName>,
        news: &ConnectionEvent,
    ) -> Result<Noted, StoreError> {
        self.note(session_expiry, standing, news).await
    }
}
