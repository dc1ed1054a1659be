//! The stream that passes the stages: messages and connection events, the acknowledgement tokens of the
//! messages, and the accounting of both memory and outcomes.

pub mod accounting;
pub mod ack;
pub mod connection_event;
pub mod gap;
pub mod in_flight;
pub mod message;
