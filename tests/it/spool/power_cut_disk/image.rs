//! The durable image of a folder, as `power.c` records it, and the folder's contents after a power
//! cut.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

use super::UnsyncedFate;

const SECTOR: usize = 512;

/// Number of state words that outlast a cut, the first of [`DiskImage::counters`].
const KEPT: usize = 5;

/// Contents by path below the root, `None` for a folder. Sorted, so that a folder comes before its
/// contents.
pub type FolderContents = BTreeMap<String, Option<Vec<u8>>>;

/// Paths of the folder and of its image.
pub struct DiskImage {
    pub root: PathBuf,
    pub folder: PathBuf,
}

/// An entry of the log.
#[derive(Debug, Clone)]
enum NameChange {
    /// Path and inode of a new file.
    Create(String, String),
    Folder(String),
    Unlink(String),
    Rename(String, String),
    Sync(String),
}

impl NameChange {
    fn parse(line: &str) -> Self {
        let mut words = line.split('\t').map(str::to_owned);
        let mut next = || words.next().expect("the log has three words in a line");
        match (next().as_str(), next(), next()) {
            ("create", path, inode) => Self::Create(path, inode),
            ("mkdir", path, _) => Self::Folder(path),
            ("unlink", path, _) => Self::Unlink(path),
            ("rename", from, to) => Self::Rename(from, to),
            ("sync", folder, _) => Self::Sync(folder),
            (other, ..) => panic!("{other} in the log"),
        }
    }

    fn folder(&self) -> &str {
        let (Self::Create(path, _)
        | Self::Folder(path)
        | Self::Unlink(path)
        | Self::Rename(path, _)
        | Self::Sync(path)) = self;
        parent(path)
    }

    /// Applies the entry to names with inodes, `None` for a folder.
    fn apply(self, names: &mut BTreeMap<String, Option<String>>) {
        match self {
            Self::Create(path, inode) => _ = names.insert(path, Some(inode)),
            Self::Folder(path) => _ = names.insert(path, None),
            Self::Unlink(path) => _ = names.remove(&path),
            Self::Rename(from, to) => {
                if let Some(what) = names.remove(&from) {
                    names.insert(to, what);
                }
            }
            Self::Sync(_) => {}
        }
    }
}

impl DiskImage {
    /// Replaces the folder's contents with these, all of them durable.
    pub fn begin(&self, names: &FolderContents) {
        let counters = self.counters();
        for folder in [&self.root, &self.folder] {
            if folder.exists() {
                fs::remove_dir_all(folder).unwrap();
            }
            fs::create_dir(folder).unwrap();
        }
        fs::create_dir(self.folder.join("live")).unwrap();
        fs::create_dir(self.folder.join("content")).unwrap();
        let bytes: Vec<u8> = counters.iter().flat_map(|number| number.to_ne_bytes()).collect();
        fs::write(self.folder.join("state"), bytes).unwrap();
        let mut log = String::new();
        for (path, content) in names {
            let place = self.root.join(path);
            if let Some(content) = content {
                let inode = self.write(&place, content);
                log += &line("create", path, &inode);
            } else {
                fs::create_dir(&place).unwrap();
                log += &line("mkdir", path, "");
            }
            log += &line("sync", parent(path), "");
        }
        fs::write(self.folder.join("log"), log).unwrap();
    }

    fn write(&self, place: &Path, content: &[u8]) -> String {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        fs::write(place, content).unwrap();
        let metadata = fs::metadata(place).unwrap();
        fs::set_permissions(place, fs::Permissions::from_mode(0o600)).unwrap();
        let inode = metadata.ino().to_string();
        fs::hard_link(place, self.folder.join("live").join(&inode)).unwrap();
        fs::write(self.folder.join("content").join(&inode), content).unwrap();
        inode
    }

    /// Selects the syncs that fail: the last word of [`DiskImage::counters`].
    pub fn set_failing(&self, number: u64) {
        use std::os::unix::fs::FileExt;
        let state = fs::File::options().write(true).open(self.folder.join("state")).unwrap();
        state.write_all_at(&number.to_ne_bytes(), (KEPT as u64 - 1) * 8).unwrap();
    }

    /// Returns the state words: syncs, failed ones, sectors lost by those, the state of the random
    /// numbers, and the syncs that fail.
    pub fn counters(&self) -> [u64; KEPT] {
        let state = fs::read(self.folder.join("state")).unwrap_or_default();
        let number = |place: usize| {
            let bytes = state.get(place * 8..place * 8 + 8);
            bytes.map_or(0, |bytes| u64::from_ne_bytes(bytes.try_into().unwrap()))
        };
        std::array::from_fn(number)
    }

    /// Returns the contents after a power cut at this moment.
    pub fn after_cut(&self, unsynced: UnsyncedFate, random: &mut StdRng) -> FolderContents {
        let names = self.names_after_cut(unsynced, random);
        let is_reachable = |path: &str| {
            let mut above = parent(path);
            while !above.is_empty() && names.get(above) == Some(&None) {
                above = parent(above);
            }
            above.is_empty()
        };
        let reachable = names.iter().filter(|(path, _)| is_reachable(path));
        reachable
            .map(|(path, inode)| {
                let content = inode.as_ref().map(|inode| self.content(inode, unsynced, random));
                (path.clone(), content)
            })
            .collect()
    }

    fn names_after_cut(
        &self,
        unsynced: UnsyncedFate,
        random: &mut StdRng,
    ) -> BTreeMap<String, Option<String>> {
        let log = fs::read_to_string(self.folder.join("log")).unwrap();
        let mut names = BTreeMap::new();
        let mut pending: Vec<NameChange> = Vec::new();
        // An unterminated line was being written when the program was killed.
        for line in log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let change = NameChange::parse(line);
            let NameChange::Sync(folder) = &change else {
                pending.push(change);
                continue;
            };
            for change in pending.extract_if(.., |change| change.folder() == folder) {
                change.apply(&mut names);
            }
        }
        pending.truncate(match unsynced {
            UnsyncedFate::Lost => 0,
            UnsyncedFate::Torn => random.random_range(0..=pending.len()),
            UnsyncedFate::Written => pending.len(),
        });
        for change in pending {
            change.apply(&mut names);
        }
        names
    }

    fn content(&self, inode: &str, unsynced: UnsyncedFate, random: &mut StdRng) -> Vec<u8> {
        let read = |of: &str| fs::read(self.folder.join(of).join(inode)).unwrap();
        let (mut durable, written) = (read("content"), read("live"));
        match unsynced {
            UnsyncedFate::Lost => return durable,
            UnsyncedFate::Written => return written,
            UnsyncedFate::Torn => {}
        }
        if random.random() {
            durable.resize(written.len(), 0);
        }
        for (old, new) in durable.chunks_mut(SECTOR).zip(written.chunks(SECTOR)) {
            let length = old.len().min(new.len());
            if old[..length] != new[..length] && random.random() {
                old[..length].copy_from_slice(&new[..length]);
            }
        }
        durable
    }
}

fn line(verb: &str, one: &str, other: &str) -> String {
    format!("{verb}\t{one}\t{other}\n")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}
