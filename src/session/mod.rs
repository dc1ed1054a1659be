//! The MQTT session: connections, subscriptions, acknowledgements.

pub mod failure;
pub mod tls;
