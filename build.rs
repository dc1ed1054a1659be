//! Compiles `proto/transtream.proto`, without protoc, into what `decode` embeds: the descriptors
//! that drive its reader, and the structs that encode messages.

use std::error::Error;
use std::path::{Path, PathBuf};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/transtream.proto");
    // sqlx::migrate! embeds the folder; without this line a new migration would not be noticed.
    // Only while it exists: cargo takes a missing path for one that always changed.
    if Path::new("migrations").exists() {
        println!("cargo:rerun-if-changed=migrations");
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .open_file("transtream.proto")?
        .file_descriptor_set();
    std::fs::write(out.join("transtream.binpb"), descriptors.encode_to_vec())?;
    prost_build::Config::new().out_dir(out).compile_fds(descriptors)?;
    Ok(())
}
