//! Exit codes: part of the contract.

/// A check failed, a command could not finish, or the drain missed its deadline.
pub const FAILED: u8 = 1;
/// Wrong arguments.
pub const USAGE: u8 = 64;
/// Internal error.
pub const INTERNAL: u8 = 70;
/// Configuration refused, or a database schema newer than the program.
pub const CONFIG: u8 = 78;
