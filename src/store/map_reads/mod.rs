//! Reads for the map of the admin endpoint, on a connection of their own that nothing else waits for.
//!
//! A whole read returns every item that lies on a board. Later reads return the tags that changed
//! since, by their positions in `recent_change` and `stay_pending`. Each read sees one snapshot of the
//! database, so that no change is missed between its statements.

mod rows;

use std::time::Duration;

use sqlx::Row as _;

use super::Store;
use super::connection::connector::Connector;
use super::connection::pool::ConnectionPool;
use super::error::{DbError, StoreError};
use super::query::Db;
pub use rows::{
    ItemHistory, LayoutArea, LayoutBoard, LayoutFurniture, LayoutShelf, PastMove, PastStay,
    PlacedItem, ReportedBoard, ShelfPlace, SiteLayout, TagPlace,
};
use rows::{
    layout_area, layout_board, layout_furniture, layout_shelf, past_move, past_stay,
    reported_board, tag_place,
};

const CHANGES: &str = include_str!("../sql/map_changes.sql");
const BOARDS: &str = include_str!("../sql/map_boards.sql");

/// Bound of one statement. A page must not keep the database busy.
const STATEMENT_TIMEOUT: &str = "5s";

/// Bound on one exchange with the server, longer than that of the statement.
const ANSWER_WITHIN: Duration = Duration::from_secs(7);

/// Most stays and most moves of [`ItemHistory`].
const HISTORY: i64 = 20;

/// The position up to which a read saw changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangePosition {
    /// Newest row of `recent_change`, 0 if there was none.
    recent: i64,
    /// Newest row of `stay_pending` seen so far.
    pending: i64,
}

/// Everything that the map shows, at one moment.
#[derive(Debug)]
pub struct WholeRead {
    /// Position for the next read of changes.
    pub position: ChangePosition,
    /// Items on boards, by momentum.
    pub items: Vec<TagPlace>,
    /// Boards by serial number.
    pub boards: Vec<ReportedBoard>,
    /// The imported layout, empty if there is none.
    pub layout: SiteLayout,
}

/// Changes since a position.
#[derive(Debug)]
pub struct ChangeRead {
    /// Position for the next read.
    pub position: ChangePosition,
    /// Tags with new events, by momentum.
    pub items: Vec<TagPlace>,
    /// All boards by serial number.
    pub boards: Vec<ReportedBoard>,
}

impl Store {
    /// Reads everything that the map shows.
    pub async fn read_map(&self, tenant: &str) -> Result<WholeRead, StoreError> {
        const ITEMS: &str = "
            select uid, board_sn, x_mm, y_mm, product_reference, loc_reference, momentum,
                   entered_at, shelf_sn, furniture_sn, floor
              from centiloc.board_content
             where tenant = $1
             order by momentum, uid";
        self.in_map_snapshot(async |db| {
            let start = ChangePosition::default();
            let (position, _) = position_after(db, start).await?;
            let query = sqlx::query(ITEMS).bind(tenant);
            let items = db.query(|conn| query.fetch_all(conn)).await?;
            Ok(WholeRead {
                position,
                items: items.iter().map(tag_place).collect::<Result<_, _>>()?,
                boards: boards(db, tenant, true).await?,
                layout: layout(db, tenant).await?,
            })
        })
        .await
    }

    /// Reads the changes since a position. `None` if its row is gone: everything must be read.
    pub async fn read_map_changes(
        &self,
        tenant: &str,
        since: ChangePosition,
    ) -> Result<Option<ChangeRead>, StoreError> {
        self.in_map_snapshot(async |db| {
            let (position, is_known) = position_after(db, since).await?;
            if !is_known {
                return Ok(None);
            }
            let changes = sqlx::query(CHANGES).bind(since.recent).bind(since.pending).bind(tenant);
            let items = db.query(|conn| changes.fetch_all(conn)).await?;
            Ok(Some(ChangeRead {
                position,
                items: items.iter().map(tag_place).collect::<Result<_, _>>()?,
                boards: boards(db, tenant, false).await?,
            }))
        })
        .await
    }

    /// Reads the newest stays and moves of a tag.
    pub async fn read_item_history(
        &self,
        tenant: &str,
        uid: &str,
    ) -> Result<ItemHistory, StoreError> {
        const STAYS: &str = "
            select nullif(board_sn, '') as board_sn, entered_at, left_at
              from centiloc.stay
             where tenant = $1
               and uid = $2
             order by entered_at desc, entered_id desc
             limit $3";
        const MOVES: &str = "
            select momentum, board_sn, is_in, x_mm, y_mm
              from centiloc.item_event
             where uid = $2
               and tenant = $1
             order by momentum desc, event_id desc
             limit $3";
        self.in_map_snapshot(async |db| {
            let bound = |sql| sqlx::query(sql).bind(tenant).bind(uid).bind(HISTORY);
            let stays = db.query(|conn| bound(STAYS).fetch_all(conn)).await?;
            let moves = db.query(|conn| bound(MOVES).fetch_all(conn)).await?;
            Ok(ItemHistory {
                stays: stays.iter().map(past_stay).collect::<Result<_, _>>()?,
                moves: moves.iter().map(past_move).collect::<Result<_, _>>()?,
            })
        })
        .await
    }

    /// Closes the connection of the map while nobody looks at it.
    pub fn close_map_connection(&self) {
        self.map_pool.close_idle();
    }

    /// Runs `work` on the connection of the map, in one snapshot that cannot write.
    async fn in_map_snapshot<T>(
        &self,
        work: impl AsyncFnOnce(&mut Db) -> Result<T, DbError>,
    ) -> Result<T, StoreError> {
        let mut db = self.map_pool.acquire().await?;
        let result = db
            .transaction(async |db| {
                db.execute("set transaction isolation level repeatable read, read only").await?;
                work(db).await
            })
            .await;
        Ok(db.finish(result)?)
    }
}

/// Returns the pool with the only connection of the map.
pub(super) fn pool(connector: &Connector) -> ConnectionPool {
    let mut connector = connector.with_settings([
        ("statement_timeout", STATEMENT_TIMEOUT),
        // A plan that was made while the tables were small would read them for every tag.
        ("plan_cache_mode", "force_custom_plan"),
        ("enable_seqscan", "off"),
    ]);
    connector.answer_within = ANSWER_WITHIN;
    ConnectionPool::new(connector, 1)
}

/// Returns the newest position, and true if the rows after `since` are all there.
async fn position_after(
    db: &mut Db,
    since: ChangePosition,
) -> Result<(ChangePosition, bool), DbError> {
    const SQL: &str = "
        select coalesce((select max(id) from centiloc.recent_change), 0) as recent,
               coalesce((select max(id) from centiloc.stay_pending), 0) as pending,
               $1 = 0 or exists (select from centiloc.recent_change where id = $1) as is_known";
    let query = sqlx::query(SQL).bind(since.recent);
    let row = db.query(|conn| query.fetch_one(conn)).await?;
    let pending = row.try_get::<i64, _>("pending")?.max(since.pending);
    let position = ChangePosition { recent: row.try_get("recent")?, pending };
    Ok((position, row.try_get("is_known")?))
}

async fn boards(
    db: &mut Db,
    tenant: &str,
    with_place: bool,
) -> Result<Vec<ReportedBoard>, DbError> {
    let query = sqlx::query(BOARDS).bind(tenant).bind(with_place);
    let rows = db.query(|conn| query.fetch_all(conn)).await?;
    rows.iter().map(reported_board).collect()
}

async fn layout(db: &mut Db, tenant: &str) -> Result<SiteLayout, DbError> {
    const FURNITURE: &str = "
        select furniture_sn as sn, name, floor as storey, x_mm, y_mm
          from centiloc.layout_furniture where tenant = $1 order by sn";
    const SHELVES: &str = "
        select shelf_sn as sn, furniture_sn, name, floor, width_mm, depth_mm
          from centiloc.layout_shelf where tenant = $1 order by sn";
    const BOARDS: &str = "
        select board_sn as sn, shelf_sn, x_mm, y_mm, z_rotation, width_mm, depth_mm
          from centiloc.layout_board where tenant = $1 order by sn";
    const AREAS: &str = "
        select loc_reference, shelf_sn, x_mm, y_mm, width_mm, depth_mm
          from centiloc.layout_location where tenant = $1 order by loc_reference, shelf_sn";
    let all = |sql| sqlx::query(sql).bind(tenant);
    let furniture = db.query(|conn| all(FURNITURE).fetch_all(conn)).await?;
    let shelves = db.query(|conn| all(SHELVES).fetch_all(conn)).await?;
    let boards = db.query(|conn| all(BOARDS).fetch_all(conn)).await?;
    let areas = db.query(|conn| all(AREAS).fetch_all(conn)).await?;
    Ok(SiteLayout {
        furniture: furniture.iter().map(layout_furniture).collect::<Result<_, _>>()?,
        shelves: shelves.iter().map(layout_shelf).collect::<Result<_, _>>()?,
        boards: boards.iter().map(layout_board).collect::<Result<_, _>>()?,
        locations: areas.iter().map(layout_area).collect::<Result<_, _>>()?,
    })
}
