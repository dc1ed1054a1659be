//! C libraries that are preloaded into the program under test and replace system calls.

use std::process::Command;

use super::process::{ScratchFolder, run_command};

/// Builds `NAME.so` from C source in a folder of its own, with the C compiler that Rust links with.
pub fn compile(name: &str, source: &str) -> ScratchFolder {
    let folder = ScratchFolder::new(name);
    let source = folder.write(&format!("{name}.c"), source);
    let library = folder.join(format!("{name}.so"));
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-o"]).args([library, source]);
    run_command(&mut compiler);
    folder
}
