//! Exit codes of the program. Scripts depend on them.

/// A check failed, a command could not finish, or the drain missed its deadline.
pub const FAILED: u8 = 1;
/// The arguments are wrong.
pub const USAGE: u8 = 64;
/// The program has an internal error.
pub const INTERNAL: u8 = 70;
/// The configuration is refused, or the database schema is newer than the program.
pub const CONFIG: u8 = 78;
