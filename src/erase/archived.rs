//! Files of the archive. They are left alone, because they are never changed, and are named instead.

use super::TraceSelector;
use crate::event::EventKind;
use crate::store::archive::ArchiveRecord;
use crate::store::{Store, StoreError};

/// Names the files and waiting tables that may hold a trace, each with what to do.
pub(super) async fn places(
    store: &Store,
    selector: &TraceSelector,
) -> Result<Vec<String>, StoreError> {
    let files = store.archive_files().await?;
    Ok(files.iter().filter(|record| may_hold(record, selector)).map(place).collect())
}

fn may_hold(record: &ArchiveRecord, selector: &TraceSelector) -> bool {
    match selector {
        TraceSelector::Uid(_) => record.table_name.starts_with(EventKind::Item.as_str()),
        TraceSelector::Board(_) => true,
        TraceSelector::Before(before) => record.from_at < *before,
    }
}

fn place(record: &ArchiveRecord) -> String {
    match (&record.file, &record.held_in) {
        (Some(file), None) => format!(
            "the archive file {file} may hold it: delete the file and its row of archive_file, or \
             restore it, erase again, release it, and then delete it"
        ),
        (_, held) => format!(
            "the table {} waits to be archived and may hold it: delete the rows there",
            held.as_deref().unwrap_or_default()
        ),
    }
}
