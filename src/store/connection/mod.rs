//! Connections to PostgreSQL: where the server is, how a connection is opened and configured, and
//! who holds one.

pub(in crate::store) mod connector;
pub mod limits;
mod options;
pub(in crate::store) mod pool;
mod relay;
pub(in crate::store) mod route;
pub(in crate::store) mod session_proof;
pub(in crate::store) mod writer_lease;
