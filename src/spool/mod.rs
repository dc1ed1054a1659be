//! Store-and-forward on disk, between the session and decoding: hours without the database lose no
//! message, although a broker keeps only about 1,000.
//!
//! ```text
//! session --StreamItem--> writer --COMMIT, fsync--> file --read--> reader --StreamItem--> decode
//!    ^                       |                       ^                                      |
//!    +----- Committed -------+                       +----- delete <--- acks <--- Feedback
//! ```
//!
//! Every message passes through the file, raw and in order, before it is decoded. [`writer`] collects
//! the items that arrive during one fsync, writes them in one transaction and acknowledges them.
//! [`reader`] reads behind it, at the pace of the database. [`acks`] receives from the store the rows
//! that are committed and may be deleted. [`cursors`] holds the three positions, and [`stage`] runs the
//! parts. [`drain`] empties the file of an earlier run while the spool is off.
//!
//! The file survives a crash, a power cut and damage: [`salvage`] keeps the readable rows of a damaged
//! file, [`close_mark`] saves the scan of a file that was closed cleanly, [`folder`] makes names and
//! the write-ahead log durable, and [`last_seen`] records the open connection. [`storage`] is the
//! interface to the disk, which the fault simulator replaces.
//!
//! # File format
//!
//! `spool.db` is a `SQLite` database. Table `entry` has one row for each message or connection event,
//! with a checksum, in the order of `id`. Table `life` has at most one row, the connection that is
//! open. Table `clean` has one row after a clean close, and none after the first change.

mod acks;
mod close_mark;
mod cursors;
pub mod drain;
pub mod erase;
mod error;
mod file;
mod folder;
mod last_seen;
mod problem;
mod reader;
mod row;
mod salvage;
pub mod sqlite;
pub mod stage;
pub mod storage;
#[cfg(test)]
mod tests;
mod writer;

pub use self::error::SpoolError;
pub use self::writer::SyncProof;
