//! The command line: one module a command.

pub mod config;
pub mod csr;
