//! The `centiloc-bridge` program, a wrapper around the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    centiloc_bridge::cli::main()
}
