//! Store-and-forward on disk: between the session and decoding, so that a database that is away for
//! hours costs nothing although a broker keeps only about 1,000 messages.
//!
//! ```text
//! session --StreamItem--> writer --COMMIT, fsync--> file --read--> reader --StreamItem--> decode
//!    ^                       |                       ^                                      |
//!    +----- Committed -------+                       +----- delete <--- acks <--- Feedback
//! ```
//!
//! Everything passes through the file, raw and in order, before it is decoded. [`append`] takes what
//! has come while the last fsync ran, writes it in one transaction and passes on the right to
//! acknowledge it; [`forward`] reads behind it, at the pace of the database; [`route`] learns from
//! the store what is committed and may be deleted. [`stage`] holds them together, with [`salvage`] for
//! a damaged file, [`clean`] for a file closed in order, and [`folder`] for what a power cut leaves; [`leftover`] is what remains of it while the
//! spool is switched off. [`storage`] is all that these need of the disk.

mod acks;
mod close_mark;
mod cursors;
pub mod drain;
pub mod erase;
mod error;
mod file;
mod folder;
mod last_seen;
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
