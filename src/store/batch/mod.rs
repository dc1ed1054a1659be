//! Writing a batch of decoded messages: its size, its rows by table, the statements, and the
//! bisection that finds the rows PostgreSQL refuses.

mod bisect;
pub(in crate::store) mod commit;
pub(in crate::store) mod failure_history;
mod refusals;
pub(in crate::store) mod rows;
pub mod sizing;
pub(in crate::store) mod write;
