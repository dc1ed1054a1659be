//! The TLS side of the connection.
