//! What is computed from item events: `stay`, `item_board`, `board_activity`, `known_value`, sums of
//! hours and days, and the tags in `stay_pending`. After events and states, so that nothing is computed from them again.

use super::statement::SqlStatement;
use super::{EraseMode, Eraser, count, no_row, sql};
use crate::erase::TraceSelector;
use crate::store::StoreError;
use crate::store::error::DbError;
use crate::store::stays::LOCK;

/// Deletes the stays of a tag and its pending computation, and has the events computed that arrived
/// meanwhile.
const OF_TAG: &str = "
    with stays as (delete from centiloc.stay where uid = $1),
         boards as (delete from centiloc.item_board where uid = $1),
         pending as (delete from centiloc.stay_pending where $1 = any (uids) returning *),
         others as (
             insert into centiloc.stay_pending (committed_at, is_batch, tenants, uids, momenta)
             select p.committed_at, p.is_batch, array_agg(t.tenant), array_agg(t.uid), array_agg(t.momentum)
               from pending p
              cross join lateral unnest(p.tenants, p.uids, p.momenta) as t (tenant, uid, momentum)
              where t.uid <> $1
              group by p.id, p.committed_at, p.is_batch),
         changes as (
             update centiloc.change_batch
                set (tenants, uids, momenta) = (
                    select coalesce(array_agg(t.tenant), '{}'), coalesce(array_agg(t.uid), '{}'),
                           coalesce(array_agg(t.momentum), '{}')
                      from unnest(tenants, uids, momenta) as t (tenant, uid, momentum)
                     where t.uid <> $1)
              where $1 = any (uids)),
         arrived as (
             insert into centiloc.stay_pending (tenants, uids, momenta)
             select array_agg(tenant), array_agg(uid), array_agg(momentum)
               from (select tenant, uid, min(momentum) as momentum
                       from centiloc.item_event
                      where uid = $1
                      group by tenant, uid) tag
             having count(*) > 0)
    select 0::bigint as rows";

/// Deletes stays that a condition takes, and has their tags computed again from a momentum on, with the
/// sums since then.
fn delete_stays(condition: &str, since: &str) -> String {
    let rows = sql::ROWS;
    format!(
        "with gone as (
             delete from centiloc.stay
              where (tenant, uid, entered_at, entered_id) in (
                    select tenant, uid, entered_at, entered_id
                      from centiloc.stay where {condition} limit {rows})
             returning tenant, uid, entered_at),
              again as (
             insert into centiloc.stay_pending (tenants, uids, momenta)
             select array_agg(tenant), array_agg(uid), array_agg({since}) from gone
             having count(*) > 0),
              marked as (
             insert into centiloc.rollup_pending (width, start)
             select w.width, start
               from (select greatest(min({since}), '2015-01-01',
                                     (select kept from centiloc.rollup_floor)) as since
                       from gone
                     having count(*) > 0) oldest
              cross join (values (interval '1 hour'), (interval '1 day')) as w (width)
              cross join lateral generate_series(
                        date_bin(w.width, since, timestamptz '2000-01-01 00:00+00'), now(),
                        make_interval(secs => extract(epoch from w.width))) as start
                 on conflict (width, start) do nothing)
         select count(*) as rows from gone"
    )
}

/// Has the hour and the day computed again whose beginnings are before a time.
const MARK_REST: &str = "
    with marked as (
        insert into centiloc.rollup_pending (width, start)
        select width, date_bin(width, $1, timestamptz '2000-01-01 00:00+00')
          from (values (interval '1 hour'), (interval '1 day')) as w (width)
         where $1 > (select kept from centiloc.rollup_floor)
           and $1 between '2015-01-01' and now()
        on conflict (width, start) do nothing
        returning 1)
    select count(*) as rows from marked";

/// Takes the boards whose item events are all gone.
const UNKNOWN_BOARD: &str =
    "(tenant, board_sn) not in (select tenant, board_sn from centiloc.board_activity)";

/// Has the tags computed again whose board has no state any more.
const WITHOUT_STATE: &str = "
    with gone as (
        delete from centiloc.item_board b
         where not exists (
               select
                 from centiloc.item_state s
                where s.tenant = b.tenant and s.uid = b.uid and s.board_sn = b.board_sn)
        returning tenant, uid),
         again as (
        insert into centiloc.stay_pending (tenants, uids, momenta)
        select array_agg(tenant), array_agg(uid), array_agg(timestamptz 'infinity') from gone
        having count(*) > 0)
    select count(*) as rows from gone";

/// Forgets the tags that changed lately. Readers that follow them read all tags again.
const RECENT: &str = "
    with gone as (delete from centiloc.recent_change returning 1)
    select count(*) as rows from gone";

impl Eraser<'_> {
    /// Removes what was computed from the events, and computes what is left of it.
    pub async fn stays(&mut self) -> Result<(), StoreError> {
        if self.mode == EraseMode::Count {
            return Ok(());
        }
        match self.selector {
            TraceSelector::Uid(_) => {
                self.locked(OF_TAG.to_owned()).await?;
            }
            TraceSelector::Board(_) => {
                self.until_none(&delete_stays("nullif(board_sn, '') = $1", "entered_at")).await?;
                self.locked(deletion("board_activity", "board_sn = $1")).await?;
                self.locked(deletion("board_hour", "board_sn = $1")).await?;
                self.locked(deletion("dwell_day", "by = 'board' and key = $1")).await?;
                self.locked(deletion("board_usual_interval", "board_sn = $1")).await?;
            }
            TraceSelector::Before(_) => {
                self.until_none(&delete_stays("entered_at < $1", "$1")).await?;
                self.locked(deletion("board_activity", "last_item_at < $1")).await?;
                self.locked(deletion("known_value", "last_seen_at < $1")).await?;
                self.locked(deletion("board_hour", "hour < $1")).await?;
                self.locked(deletion("location_hour", "hour < $1")).await?;
                self.locked(deletion("product_day", "day < $1")).await?;
                self.locked(deletion("dwell_day", "day < $1")).await?;
                self.locked(MARK_REST.to_owned()).await?;
                self.locked(deletion("change_batch", "committed_at < $1")).await?;
                self.run(&[SqlStatement::new(deletion("board_usual_interval", UNKNOWN_BOARD))])
                    .await?;
            }
        }
        let (boards, followers) = (SqlStatement::new(WITHOUT_STATE), SqlStatement::new(RECENT));
        self.run(&[SqlStatement::new(LOCK), boards, followers]).await?;
        self.store.compute_all_stays().await
    }

    async fn until_none(&mut self, sql: &str) -> Result<(), DbError> {
        while self.locked(sql.to_owned()).await? > 0 {}
        Ok(())
    }

    /// Runs a statement with the selector's value while no stays are computed. Returns its count.
    async fn locked(&mut self, sql: String) -> Result<u64, DbError> {
        let statement = SqlStatement::new(sql).bind(sql::value(self.selector));
        let row = self.run(&[SqlStatement::new(LOCK), statement]).await?.pop();
        count(&row.ok_or_else(no_row)?, "rows")
    }
}

fn deletion(table: &str, condition: &str) -> String {
    format!(
        "with gone as (delete from centiloc.{table} where {condition} returning 1)
         select count(*) as rows from gone"
    )
}
