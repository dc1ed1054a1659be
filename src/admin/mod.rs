//! The admin endpoint.
