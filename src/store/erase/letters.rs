//! `dead_letter`: only the bytes of a message show its event.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::sql::AuditColumn;
use super::statement::{SqlParameter, SqlStatement};
use super::{EraseMode, Eraser, count, no_row};
use crate::erase::RawMatcher;
use crate::store::StoreError;
use crate::store::error::DbError;
use crate::store::pg_timestamp::time_of;

/// The next dead letters: at most 500, and not many more than 16 MiB of payload.
const NEXT: &str = "
    select id, received_at, topic, detail, payload
      from (select l.*, row_number() over (order by id) as place,
                   sum(octet_length(payload)) over (order by id) as bytes
              from (select id, received_at, topic, detail, payload
                      from centiloc.dead_letter where id > $1 order by id limit 500) l) sized
     where bytes <= 16777216 or place = 1
     order by id";

impl Eraser<'_> {
    /// Removes the dead letters that belong to the trace.
    pub async fn dead_letters(&mut self, matcher: &RawMatcher<'_>) -> Result<(), StoreError> {
        let mut last = 0;
        loop {
            let next = SqlStatement::new(NEXT).bind(SqlParameter::Number(last));
            let letters = self.run(&[next]).await?;
            let Some(newest) = letters.last() else { return Ok(()) };
            last = newest.try_get("id").map_err(DbError::from)?;
            let mut found = Vec::new();
            for letter in &letters {
                found.extend(matching(letter, matcher)?);
            }
            self.delete_letters(found).await?;
        }
    }

    async fn delete_letters(&mut self, ids: Vec<i64>) -> Result<(), DbError> {
        if ids.is_empty() {
            return Ok(());
        }
        let column = AuditColumn::DeadLetters;
        let rows = match self.mode {
            EraseMode::Count => ids.len() as u64,
            EraseMode::Erase => {
                let audit = column.audit(self.erasure);
                let delete = SqlStatement::new(format!(
                    "with gone as (delete from centiloc.dead_letter where id = any ($1)
                                   returning id), {audit}
                     select count(*) as rows from gone"
                ));
                let deleted = self.run(&[delete.bind(SqlParameter::Numbers(ids))]).await?.pop();
                count(&deleted.ok_or_else(no_row)?, "rows")?
            }
        };
        *column.of(&mut self.counts) += rows;
        Ok(())
    }
}

/// Returns its id if it belongs to the trace.
fn matching(letter: &PgRow, matcher: &RawMatcher<'_>) -> Result<Option<i64>, DbError> {
    let payload: Vec<u8> = letter.try_get("payload")?;
    let (topic, detail): (String, String) = (letter.try_get("topic")?, letter.try_get("detail")?);
    let received_at = time_of(letter, "received_at")?;
    let is_match = matcher.matches(&topic, &Bytes::from(payload), received_at);
    Ok((is_match || matcher.is_named_in(&detail)).then_some(letter.try_get("id")?))
}
