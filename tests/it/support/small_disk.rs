//! A disk that can be filled, for one database: a tablespace on a file system of a few MiB. The
//! server's own files stay on the large disk, so it refuses writes (SQLSTATE 53100) without ending,
//! as with a full data disk.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::database::Database;
use super::postgres::{Postgres, ROLE};
use super::process::{ScratchFolder, guard, run};

/// Bytes written at once while filling.
const BLOCK: usize = 8 * 1024;

/// A mounted file system with a tablespace. It must be dropped after its server.
pub struct SmallDisk {
    scratch: ScratchFolder,
}

impl SmallDisk {
    /// Mounts the disk, or prints the reason why that is not possible.
    pub fn mount(mib: u32) -> Option<Self> {
        Self::try_mount(mib).map_err(|reason| eprintln!("not shown here: {reason}")).ok()
    }

    /// Mounts the disk, which only root may do.
    fn try_mount(mib: u32) -> Result<Self, String> {
        if run("id", ["-u"]).trim() != "0" {
            return Err("only root may mount a small disk".to_owned());
        }
        let scratch = ScratchFolder::new("disk");
        let path = scratch.path().to_str().unwrap();
        let size = format!("size={mib}m");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs", path])
            .output()
            .map_err(|e| e.to_string())?;
        if !mount.status.success() {
            return Err(String::from_utf8_lossy(&mount.stderr).into_owned());
        }
        guard(&format!("mount {path}"));
        Ok(Self { scratch })
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Creates a database of this server on this disk, once per server.
    pub async fn database(&self, postgres: &Postgres) -> Database {
        let folder = self.scratch.join("tablespace");
        postgres.own_folder(&folder);
        let location = folder.display();
        postgres.execute(&format!("create tablespace small location '{location}'")).await;
        postgres.execute(&format!("grant create on tablespace small to {ROLE}")).await;
        postgres.database_with("tablespace small").await
    }

    /// Fills the disk to the last byte.
    pub fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        // The disk is to be full, so an error is expected here.
        while ballast.write_all(&[1; BLOCK]).is_ok() {}
        while ballast.write_all(&[1]).is_ok() {}
    }

    /// Frees the space that [`SmallDisk::fill`] took.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.scratch.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because the server may keep files open for a moment.
        run("umount", ["-l".as_ref(), self.scratch.path().as_os_str()]);
        guard(&format!("unmounted {}", self.scratch.path().display()));
    }
}
