//! The commands other than `run`, and their exit codes.

mod check;
mod commands;
mod csr;
mod dead_letter_commands;
mod erase;
mod gap_commands;
mod import_layout;
mod retire;
mod secrets;
mod simulate;
mod status;
