//! The database side of the running bridge: outages, poolers, the single-writer lock, and stored rows.

mod database_faults;
mod dead_letters;
mod events;
mod future_events;
mod outages;
pub mod poolers;
mod restore;
mod single_writer;
