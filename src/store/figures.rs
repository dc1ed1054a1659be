//! Figures of the last days, one row every five minutes, so that charts go on after a restart.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::Store;
use super::error::{DbError, StoreError};
use super::pg_timestamp::time_of;
use crate::telemetry::history::HistoryPoint;

impl Store {
    /// Stores a point, and deletes those of the client ID older than 30 days.
    pub async fn record_figures(
        &self,
        client_id: &str,
        point: &HistoryPoint,
    ) -> Result<(), StoreError> {
        const SQL: &str = "
            with expired as (
                delete from centiloc.service_figures
                 where client_id = $1 and at < $2::timestamptz - interval '30 days'
            )
            insert into centiloc.service_figures
                   (client_id, at, events_per_second, lag_seconds, unacked)
            values ($1, $2, $3, $4, $5)
            on conflict (client_id, at) do nothing";
        #[expect(clippy::cast_possible_truncation, reason = "a number of messages")]
        let unacked = point.unacked as i64;
        let insert = sqlx::query(SQL)
            .bind(client_id)
            .bind(point.at)
            .bind(point.rate)
            .bind(point.lag)
            .bind(unacked);
        Ok(self.with_db(async |db| db.query(|conn| insert.execute(conn)).await.map(drop)).await?)
    }

    /// Returns the points after `since`, oldest first.
    pub async fn figures_since(
        &self,
        client_id: &str,
        since: OffsetDateTime,
    ) -> Result<Vec<HistoryPoint>, StoreError> {
        const SQL: &str = "
            select at, events_per_second, lag_seconds, unacked
              from centiloc.service_figures
             where client_id = $1 and at > $2
             order by at
             limit 1000";
        let select = sqlx::query(SQL).bind(client_id).bind(since);
        let rows = self.with_db(async |db| db.query(|conn| select.fetch_all(conn)).await).await?;
        Ok(rows.iter().map(point).collect::<Result<_, DbError>>()?)
    }
}

fn point(row: &PgRow) -> Result<HistoryPoint, DbError> {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(HistoryPoint {
        at: time_of(row, "at")?,
        rate: row.try_get("events_per_second")?,
        lag: row.try_get("lag_seconds")?,
        unacked: row.try_get::<i64, _>("unacked")? as f64,
    })
}
