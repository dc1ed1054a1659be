//! The broker side: sessions, acknowledgements, TLS, and brokers and networks that misbehave.

mod ack_protocol;
mod acks;
mod backpressure;
mod connection_errors;
mod credential_renewal;
mod drain;
mod gaps;
mod memory_bounds;
mod network_faults;
mod qos;
mod session;
mod subscriptions;
mod tls;
mod unresponsive_broker;
