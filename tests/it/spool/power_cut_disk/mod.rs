//! A disk for one program alone that loses unsynced content and names at a power cut. The library
//! in `power.c` is preloaded into the program and keeps an image of the durable state. A cut
//! restores the folder from it. Some syncs may fail, and lose their pending writes.

mod image;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::OnceCell;

use self::image::{DiskImage, FolderContents};
use crate::support::bridge::CommandSetup;
use crate::support::preload::compile;
use crate::support::process::ScratchFolder;

/// The fate of unsynced writes at a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsyncedFate {
    /// All are lost.
    Lost,
    /// Any sectors of 512 bytes may be on disk, and any prefix of the changes of names.
    Torn,
    /// All are on disk, because the system wrote them in its own time.
    Written,
}

/// The syncs that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailingSyncs<'a> {
    /// The configured rate.
    AsUsual,
    /// Every sync.
    All,
    /// Every sync of this file or folder.
    Of(&'a str),
}

/// Counters of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskCounters {
    /// Syncs requested.
    pub syncs: u64,
    /// Syncs failed.
    pub failed: u64,
    /// Sectors of 512 bytes that the failed syncs should have written.
    pub lost_sectors: u64,
}

/// A disk that loses unsynced data.
pub struct PowerCutDisk {
    library: PathBuf,
    scratch: ScratchFolder,
    fail_one_in: u64,
    seed: u64,
    random: Mutex<StdRng>,
}

impl PowerCutDisk {
    /// Creates an empty disk that fails one sync in that many, or none if that is 0.
    pub async fn new(fail_one_in: u64, seed: u64) -> Self {
        static LIBRARY: OnceCell<ScratchFolder> = OnceCell::const_new();
        let built = LIBRARY.get_or_init(|| async {
            tokio::task::spawn_blocking(|| compile("power", include_str!("power.c")))
                .await
                .expect("could not build the disk's library")
        });
        let library = built.await.join("power.so");
        let scratch = ScratchFolder::new("power");
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        let disk = Self { library, scratch, fail_one_in, seed, random };
        disk.image().begin(&FolderContents::new());
        disk
    }

    /// Returns the folder on this disk.
    pub fn root(&self) -> PathBuf {
        self.image().root
    }

    /// Makes a program use this disk.
    pub fn govern(&self, command: &mut Command) {
        let image = self.image();
        command
            .env("LD_PRELOAD", &self.library)
            .env("POWER_ROOT", image.root)
            .env("POWER_IMAGE", image.folder)
            .env("POWER_FAIL_ONE_IN", self.fail_one_in.to_string())
            .env("POWER_SEED", self.seed.to_string());
    }

    /// Returns surroundings in which the bridge uses this disk, also for its state directory.
    pub fn surroundings(self: &Arc<Self>) -> CommandSetup {
        let disk = Arc::clone(self);
        Arc::new(move |command| {
            disk.govern(command);
            command.env("STATE_DIRECTORY", disk.root());
        })
    }

    /// Cuts the power: the folder holds the durable contents. The programs on it must be killed
    /// first.
    pub fn cut(&self, unsynced: UnsyncedFate) {
        let image = self.image();
        let mut random = self.random.lock().unwrap();
        let left = image.after_cut(unsynced, &mut random);
        image.begin(&left);
    }

    /// Changes a file on disk after everything is written, as a bad disk does. The programs on it
    /// must be killed first.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let image = self.image();
        let mut names = image.after_cut(UnsyncedFate::Written, &mut self.random.lock().unwrap());
        change(names.get_mut(path).and_then(Option::as_mut).expect("there is such a file"));
        image.begin(&names);
    }

    /// Makes these syncs fail from now on.
    pub fn fail(&self, failing: FailingSyncs<'_>) {
        use std::os::unix::fs::MetadataExt;
        self.image().set_failing(match failing {
            FailingSyncs::AsUsual => 0,
            FailingSyncs::All => 1,
            FailingSyncs::Of(path) => self.root().join(path).metadata().unwrap().ino(),
        });
    }

    /// Returns its counters.
    pub fn figures(&self) -> DiskCounters {
        let [syncs, failed, lost_sectors, ..] = self.image().counters();
        DiskCounters { syncs, failed, lost_sectors }
    }

    fn image(&self) -> DiskImage {
        let path = |name: &str| canonical(self.scratch.path()).join(name);
        DiskImage { root: path("disk"), folder: path("image") }
    }
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().expect("the scratch folder is there")
}
