//! Sets a damaged file aside, and puts a new one with its readable rows in its place. The new file gets
//! its name only when it is complete, so that a crash at any point loses no readable row.

use std::fs;
use std::io;
use std::path::Path;

use time::OffsetDateTime;

use super::error::SpoolError;
use super::file::{SpoolFile, path_in};
use super::folder::{sync_folder_of, with_suffix};
use super::row::{SpoolRow, time};
use super::storage::{LastSeenChange, SpoolChanges, StorageFile as _};
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::gap::{Gap, GapCause};

/// Name of the new file while it is being written.
const IN_WORK: &str = "spool.db.salvage";
/// Name of the new file once it is complete.
const COMPLETE: &str = "spool.db.salvaged";
/// Prefix of the new name of the damaged file.
pub(super) const ASIDE: &str = "spool.db.damaged-";

/// Rows read at once, and ids tried one by one if that fails.
const CHUNK: u64 = 1000;
/// Approximate payload bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024 * 1024;
/// Upper bound of the ids searched.
const END: u64 = 1 << 62;

/// Counts of the readable and the missing rows.
#[derive(Debug, Default)]
struct SalvageCounts {
    rows: u64,
    first: Option<u64>,
    last: u64,
    /// Rows before the first or after the last readable one are also lost, and their number is unknown.
    uncounted: bool,
    /// Time of receipt of the last row before the first missing one.
    hole_after: Option<i64>,
    newest: Option<i64>,
}

impl SalvageCounts {
    fn note(&mut self, rows: &[(u64, SpoolRow<'_>)]) {
        for (id, row) in rows {
            let expected = if self.first.is_some() { self.last + 1 } else { *id };
            if *id != expected && self.hole_after.is_none() {
                self.hole_after = self.newest;
            }
            self.first.get_or_insert(*id);
            self.rows += 1;
            self.last = *id;
            self.newest = Some(row.received_at);
        }
    }

    /// Returns the number of missing rows: ids are contiguous, so each missing id is a damaged row.
    fn missing(&self, last_id: u64) -> Option<u64> {
        Some((last_id.max(self.last) + 1).saturating_sub(self.first? + self.rows))
    }
}

/// Sets the damaged file of this folder aside. A row of the new file reports the possible loss as a gap.
/// Its id is after `last_known`, since rows up to there may be forwarded already.
pub(super) async fn salvage(
    dir: &Path,
    client_id: &str,
    problem: &str,
    last_known: u64,
) -> Result<(), SpoolError> {
    let work = dir.join(IN_WORK);
    remove(&work)?;
    let mut new = SpoolFile::open(&work).await?;
    let (found, last_id) = match SpoolFile::connect(&path_in(dir), false).await {
        Ok(mut old) => {
            let copied = copy(&mut old, &mut new).await?;
            // Closed before the rename: SQLite removes the files next to it by name.
            let _ = old.close().await;
            copied
        }
        Err(SpoolError::Damaged(_)) => (SalvageCounts::default(), None),
        Err(error) => return Err(error),
    };
    let gap = gap(dir, client_id, problem, &found, last_id);
    tracing::error!(error = gap.detail, "the spool was damaged; kept the readable rows");
    let row = SpoolRow::from_event(&ConnectionEvent::Gap(gap), OffsetDateTime::now_utc());
    let next = last_id.unwrap_or(0).max(found.last).max(last_known) + 1;
    new.write(&SpoolChanges { append: &[(next, row)], ..SpoolChanges::default() }).await?;
    new.settle().await?;
    new.close().await?;
    rename(&work, &dir.join(COMPLETE))?;
    // Durable before the damaged file is renamed.
    sync_folder_of(&work)?;
    finish(dir)
}

/// Replaces the file by a completed salvage, if there is one.
pub(super) fn finish(dir: &Path) -> Result<(), SpoolError> {
    let (complete, place) = (dir.join(COMPLETE), path_in(dir));
    if !complete.exists() {
        return Ok(());
    }
    if place.exists() {
        let aside = dir.join(format!("{ASIDE}{}", OffsetDateTime::now_utc().unix_timestamp()));
        for suffix in ["-wal", ""] {
            rename(&with_suffix(&place, suffix), &with_suffix(&aside, suffix))?;
        }
        remove(&place)?;
        // Otherwise SQLite could use the log of the old file for the new one.
        sync_folder_of(&place)?;
    }
    rename(&complete, &place)?;
    sync_folder_of(&place)
}

/// Copies every readable row. Returns the counts, and the last id if it can be read.
async fn copy(
    old: &mut SpoolFile,
    new: &mut SpoolFile,
) -> Result<(SalvageCounts, Option<u64>), SpoolError> {
    let last_id = old.last_id().await.ok();
    if let Ok(Some(seen)) = old.last_seen().await {
        let last_seen = LastSeenChange::Set(seen);
        new.write(&SpoolChanges { last_seen, ..SpoolChanges::default() }).await?;
    }
    let mut found = SalvageCounts { uncounted: last_id.is_none(), ..SalvageCounts::default() };
    let mut cursor = 0;
    loop {
        if last_id.is_some_and(|last| cursor >= last) {
            return Ok((found, last_id));
        }
        let rows = if let Ok(rows) = old.read(cursor, CHUNK.cast_signed(), CHUNK_BYTES).await {
            if rows.is_empty() {
                return Ok((found, last_id));
            }
            cursor = rows.last().map_or(cursor, |(id, _)| *id);
            rows
        } else {
            match old.id_after(cursor).await {
                Ok(None) => return Ok((found, last_id)),
                Ok(Some(id)) => {
                    cursor = id - 1 + CHUNK;
                    one_by_one(old, id - 1).await
                }
                Err(_) => {
                    found.uncounted |= found.first.is_none();
                    match behind_the_damage(old, cursor).await {
                        Some(behind) => cursor = behind,
                        None => return Ok((found, last_id)),
                    }
                    continue;
                }
            }
        };
        found.note(&rows);
        new.write(&SpoolChanges { append: &rows, ..SpoolChanges::default() }).await?;
    }
}

/// Returns the smallest id after which the next row can be found, if it cannot be found after `cursor`.
/// This is the end of a damaged page. Returns `None` if there is no such id.
async fn behind_the_damage(old: &mut SpoolFile, cursor: u64) -> Option<u64> {
    let (mut bad, mut step) = (cursor, 1);
    while old.id_after(cursor + step).await.is_err() {
        bad = cursor + step;
        step *= 2;
        if cursor + step > END {
            return None;
        }
    }
    let mut good = cursor + step;
    while bad + 1 < good {
        let middle = bad + (good - bad) / 2;
        if old.id_after(middle).await.is_err() { bad = middle } else { good = middle }
    }
    Some(good)
}

async fn one_by_one(old: &mut SpoolFile, after: u64) -> Vec<(u64, SpoolRow<'static>)> {
    let mut rows = Vec::new();
    for id in after + 1..=after + CHUNK {
        if let Ok(Some(row)) = old.read_one(id).await {
            rows.push((id, row));
        }
    }
    rows
}

fn gap(
    dir: &Path,
    client_id: &str,
    problem: &str,
    found: &SalvageCounts,
    last_id: Option<u64>,
) -> Gap {
    let detail = match found.missing(last_id.unwrap_or(0)) {
        Some(0) if !found.uncounted => {
            format!("all {} rows of it could be read", found.rows)
        }
        Some(missing) if found.uncounted => {
            format!("{} rows of it could be read, {missing} or more not", found.rows)
        }
        Some(missing) => format!("{} rows of it could be read, {missing} not", found.rows),
        None => "nothing of it could be read".to_owned(),
    };
    let started_at = found.hole_after.or(found.newest).map_or_else(|| made_at(dir), time);
    Gap {
        client_id: client_id.to_owned(),
        started_at,
        ended_at: Some(OffsetDateTime::now_utc()),
        cause: GapCause::SpoolDamaged,
        detail: format!("{problem}; {detail}; the damaged file is kept in {}", dir.display()),
    }
}

/// Returns the time at which the file was made, or modified if the file system does not record that.
fn made_at(dir: &Path) -> OffsetDateTime {
    let metadata = fs::metadata(path_in(dir)).ok();
    let made = metadata.and_then(|m| m.created().or_else(|_| m.modified()).ok());
    made.map_or_else(OffsetDateTime::now_utc, Into::into)
}

fn rename(from: &Path, to: &Path) -> Result<(), SpoolError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SpoolError::io(from, &error)),
        _ => Ok(()),
    }
}

/// Removes a file with those that `SQLite` keeps next to it. Until the folder is synced, a power cut may
/// restore it.
pub(super) fn remove(path: &Path) -> Result<(), SpoolError> {
    for suffix in ["-wal", "-shm", ""] {
        let path = with_suffix(path, suffix);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SpoolError::io(&path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(ids: &[u64]) -> SalvageCounts {
        let mut found = SalvageCounts::default();
        for id in ids {
            let row = SpoolRow {
                received_at: id.cast_signed() * 10,
                topic: None,
                payload: Vec::new().into(),
                qos: 0,
                retain: false,
            };
            found.note(&[(*id, row)]);
        }
        found
    }

    #[test]
    fn first_hole_is_dated_by_the_row_before() {
        assert_eq!(counts(&[5, 6, 7]).hole_after, None);
        assert_eq!(counts(&[5, 6, 9, 10, 20]).hole_after, Some(60));
        assert_eq!(counts(&[5, 6, 9, 10, 20]).newest, Some(200));
    }

    #[test]
    fn every_missing_id_is_a_lost_row() {
        assert_eq!(counts(&[5, 6, 9]).missing(0), Some(2), "the last id is unknown");
        assert_eq!(counts(&[5, 6, 9]).missing(9), Some(2));
        assert_eq!(counts(&[5, 6, 9]).missing(3), Some(2), "an id below the last is damaged");
        assert_eq!(counts(&[5, 6]).missing(9), Some(3));
        assert_eq!(counts(&[]).missing(9), None);
    }

    #[test]
    fn gaps_tell_how_much_was_lost() {
        let detail = |found: &SalvageCounts, last| {
            gap(Path::new("/nowhere"), "acme-bridge", "torn", found, last).detail
        };
        let before = SalvageCounts { uncounted: true, ..counts(&[5, 6, 9]) };
        let whole = SalvageCounts { uncounted: true, ..counts(&[5, 6]) };
        for (found, last, expected) in [
            (counts(&[5, 6]), 6, "all 2 rows of it could be read;"),
            (whole, 6, "2 rows of it could be read, 0 or more not;"),
            (before, 9, "3 rows of it could be read, 2 or more not;"),
            (counts(&[5, 6, 9]), 9, "3 rows of it could be read, 2 not;"),
            (counts(&[]), 9, "nothing of it could be read;"),
        ] {
            let detail = detail(&found, Some(last));
            assert!(detail.starts_with(&format!("torn; {expected}")), "{detail}");
        }
    }

    #[test]
    fn only_missing_files_may_be_moved_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("file"), dir.path().join("file-wal"));
        rename(&file, &log).unwrap();
        remove(&file).unwrap();
        fs::write(&file, b"").unwrap();
        assert!(rename(&file, dir.path()).is_err(), "a folder is in its place");
        assert!(remove(dir.path()).is_err(), "a folder is no file");
        fs::write(&log, b"").unwrap();
        remove(&file).unwrap();
        assert!(!file.exists() && !log.exists());
    }
}
