//! Removes a trace everywhere: of a tag, of a board, or of everything before a date.
//!
//! [`run`] goes from the broker's side to the dashboards' side, so that nothing on its way is stored
//! behind its back: first the spool, then the dead letters, the events, and at last the states.

mod archived;
mod raw;
mod selector;
mod spooled;

use time::OffsetDateTime;

pub use self::raw::RawMatcher;
pub use self::selector::TraceSelector;
pub use self::spooled::SpoolEraseError;
use crate::config::Config;
use crate::decode::{Decoder, ProtoSchemaError};
use crate::store::erase::{EraseMode, ErasedCounts, Eraser};
use crate::store::{Store, StoreError};

/// Reason why a trace was not removed completely. Rows already removed stay removed.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// Messages in the decoded form of `decode.proto_file` cannot be recognised.
    #[error(transparent)]
    Schema(#[from] ProtoSchemaError),
    /// A spool holds messages that could not be read.
    #[error(transparent)]
    Spool(#[from] SpoolEraseError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Rows and messages that a run found or removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErasureReport {
    /// Rows and messages.
    pub counts: ErasedCounts,
    /// Places that hold or may hold a trace and were left alone, each with what to do.
    pub elsewhere: Vec<String>,
}

/// Removes what `selector` names, or with `dry_run` only counts it. Reports what it does through
/// `progress`. May be interrupted at any point and run again.
pub async fn run(
    config: &Config,
    store: &Store,
    selector: &TraceSelector,
    dry_run: bool,
    progress: &mut (dyn FnMut(&str, &ErasedCounts) + Send),
) -> Result<ErasureReport, EraseError> {
    let decoder = Decoder::new(&config.decode, &config.tenant)?;
    let matcher = RawMatcher::new(selector, &decoder);
    let mode = if dry_run { EraseMode::Count } else { EraseMode::Erase };
    let mut eraser = Eraser::begin(store, selector, mode).await?;
    let mut report = ErasureReport::default();
    let spools = spooled::find(config, store).await?;
    for dir in &spools.here {
        progress("spool", eraser.counts());
        let messages = spooled::clear(dir, &matcher, dry_run, OffsetDateTime::now_utc()).await?;
        eraser.spooled(messages).await?;
        report.elsewhere.extend(spooled::damaged_copies(dir));
    }
    report.elsewhere.extend(spools.elsewhere);
    progress("dead letters", eraser.counts());
    eraser.dead_letters(&matcher).await?;
    progress("events", eraser.counts());
    eraser.events(&mut |counts| progress("events", counts)).await?;
    progress("states", eraser.counts());
    eraser.states().await?;
    eraser.stays().await?;
    report.elsewhere.extend(eraser.foreign_partitions().await?);
    report.elsewhere.extend(archived::places(store, selector).await?);
    report.counts = eraser.finish().await?;
    Ok(report)
}
