//! The spool's folder: can it be written to?

use std::io;
use std::path::Path;

use crate::config::Spool;
use crate::credentials::files::{NewFile, PRIVATE};
use crate::credentials::preflight::{Check, Status};

const NAME: &str = "spool";

/// Nothing where the spool is off.
pub(super) fn check(spool: Option<&Spool>) -> Option<Check> {
    let dir = &spool?.dir;
    let there = dir.ancestors().find(|path| path.exists()).unwrap_or(dir);
    Some(match write_to(there) {
        Ok(()) if there == dir => Check::ok(NAME, format!("{} can be written to", dir.display())),
        Ok(()) => Check::ok(
            NAME,
            format!("{} will be made: {} can be written to", dir.display(), there.display()),
        ),
        Err(error) => Check::trouble(
            NAME,
            Status::Failed,
            format!(
                "spool.dir {}: {} cannot be written to: {error}",
                dir.display(),
                there.display()
            ),
            "a folder that this user may write to",
            "make it and give it to the user the service runs as, and run check as that user",
        ),
    })
}

/// Makes a file and removes it again.
fn write_to(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        return Err(io::Error::other("it is not a folder"));
    }
    let name = format!(".check-{:016x}", rand::random::<u64>());
    NewFile::create(&folder.join(name), PRIVATE)?.write(b"check")
}
