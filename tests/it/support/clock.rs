//! A clock for one program alone, set forward and back while it runs. A library preloaded into the
//! program adds an offset to the time of day and to nothing else. The monotonic clock goes on, as
//! it does when an administrator or NTP sets a host's clock.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use tokio::sync::OnceCell;

use super::process::{ScratchFolder, run_command};

/// Source of the library. It reads the offset in seconds from the file that [`OFFSET`] names, at
/// each call.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset;

__attribute__((constructor)) static void map_offset(void) {
    int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY | O_CLOEXEC);
    void *memory = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) abort();
    offset = memory;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && offset) now->tv_sec += *offset;
    return (int)failed;
}
"#;

/// Environment variable that names the file with the offset.
const OFFSET: &str = "CLOCK_OFFSET_FILE";

/// The clock of a program under test.
pub struct Clock {
    library: PathBuf,
    offset: File,
    folder: ScratchFolder,
}

impl Clock {
    /// Creates a clock that agrees with the host's. Builds the library with the C compiler that
    /// Rust links with.
    pub async fn new() -> Self {
        static LIBRARY: OnceCell<ScratchFolder> = OnceCell::const_new();
        let built = LIBRARY.get_or_init(|| async {
            tokio::task::spawn_blocking(build).await.expect("could not build the clock's library")
        });
        let library = built.await.join("clock.so");
        let folder = ScratchFolder::new("clock");
        folder.write("offset", 0i64.to_ne_bytes());
        let offset = File::options().write(true).open(folder.join("offset")).unwrap();
        Self { library, offset, folder }
    }

    /// Sets the clock that far ahead of the host's, or behind it if negative, immediately.
    pub fn set_ahead(&self, by: time::Duration) {
        self.offset.write_all_at(&by.whole_seconds().to_ne_bytes(), 0).unwrap();
    }

    /// Makes a program use this clock.
    pub fn govern(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env(OFFSET, self.folder.join("offset"));
    }
}

fn build() -> ScratchFolder {
    let folder = ScratchFolder::new("clock-library");
    let (source, library) = (folder.write("clock.c", SOURCE), folder.join("clock.so"));
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-o"]).args([library, source]);
    run_command(&mut compiler);
    folder
}
