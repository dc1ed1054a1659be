//! `centiloc-bridge` keeps a tenant's durable QoS-1 session to the Centiloc User-MQTT broker and
//! stores every event in PostgreSQL. A message is acknowledged only after it is durable.
//!
//! One event passes the modules in this order:
//!
//! ```text
//! session  --StreamItem-->  decode  --DecodedItem-->  store  --Feedback-->  session
//!    ^ MQTT                                      | COMMIT              | PUBACK
//! ```
//!
//! With `spool.dir` set, [`spool`] is between session and decode, and on the way back.
//!
//! [`service`] is the composition root, the only module that names more than one stage.

pub mod admin;
pub mod archive;
pub mod backoff;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod decode;
pub mod encoding;
pub mod erase;
pub mod event;
pub mod exit;
pub mod files;
pub mod layout;
pub mod progress;
pub mod race;
pub mod service;
pub mod session;
pub mod simulate;
pub mod spool;
pub mod state_file;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod timestamp;
pub mod topic;
pub mod version;
