//! The layout of a site in its tables.

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Postgres, Row as _};

use super::Store;
use super::error::{DbError, StoreError};
use super::query::Db;
use crate::layout::changes::{LayoutChange, compare};
use crate::layout::{
    LayoutBoard, LayoutFindings, LayoutFurniture, LayoutLocation, LayoutPlace, LayoutShelf,
    SiteLayout,
};

/// The result of an import.
#[derive(Debug, Clone, PartialEq)]
pub enum LayoutImport {
    /// The files are imported.
    Done {
        /// The layout of the tenant afterwards.
        layout: SiteLayout,
        /// The rows that differ from before.
        changes: Vec<LayoutChange>,
    },
    /// Nothing was changed, because boards are also on shelves that the files do not name.
    Refused(Vec<BoardElsewhere>),
}

/// A board of the files that the database has on a shelf that the files do not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardElsewhere {
    /// The board.
    pub board_sn: String,
    /// Its shelf in the database.
    pub shelf_sn: String,
}

impl Store {
    /// Replaces the furniture and shelves that files name, with their boards and locations, in one
    /// transaction. With `dry_run`, nothing is changed.
    pub async fn import_layout(
        &self,
        tenant: &str,
        findings: &LayoutFindings,
        dry_run: bool,
    ) -> Result<LayoutImport, StoreError> {
        let import = async |db: &mut Db| {
            // Another import waits, and readers do not.
            db.execute(
                "lock table centiloc.layout_furniture, centiloc.layout_shelf
                         in share row exclusive mode; savepoint import",
            )
            .await?;
            let before = layout(db, tenant).await?;
            remove(db, tenant, findings).await?;
            let elsewhere = boards_elsewhere(db, tenant, &findings.layout).await?;
            if !elsewhere.is_empty() {
                db.execute("rollback to savepoint import").await?;
                return Ok(LayoutImport::Refused(elsewhere));
            }
            insert(db, tenant, &findings.layout).await?;
            let layout = layout(db, tenant).await?;
            if dry_run {
                db.execute("rollback to savepoint import").await?;
            }
            let changes = compare(&before, &layout);
            Ok(LayoutImport::Done { layout, changes })
        };
        Ok(self.with_db(async |db| db.transaction(import).await).await?)
    }

    /// Returns the layout of a tenant.
    pub async fn layout(&self, tenant: &str) -> Result<SiteLayout, StoreError> {
        Ok(self.with_db(async |db| layout(db, tenant).await).await?)
    }
}

type Bound = Query<'static, Postgres, PgArguments>;

fn statement(sql: String) -> Bound {
    sqlx::query(AssertSqlSafe(sql))
}

async fn run(db: &mut Db, query: Bound) -> Result<(), DbError> {
    db.query(|conn| query.execute(conn)).await.map(drop)
}

/// Deletes what the files replace. Boards and locations go with their shelf.
async fn remove(db: &mut Db, tenant: &str, findings: &LayoutFindings) -> Result<(), DbError> {
    const FURNITURE: &str =
        "delete from centiloc.layout_furniture where tenant = $1 and furniture_sn = any($2)";
    const SHELVES: &str = "
        delete from centiloc.layout_shelf
         where tenant = $1
           and (shelf_sn = any($2) or furniture_sn = any($3))";
    let layout = &findings.layout;
    let furniture: Vec<String> = layout.furniture.iter().map(|f| f.furniture_sn.clone()).collect();
    let shelves: Vec<String> = layout.shelves.iter().map(|s| s.shelf_sn.clone()).collect();
    let complete: Vec<String> = findings.complete_furniture.iter().cloned().collect();
    run(db, sqlx::query(FURNITURE).bind(tenant.to_owned()).bind(furniture)).await?;
    run(db, sqlx::query(SHELVES).bind(tenant.to_owned()).bind(shelves).bind(complete)).await
}

async fn boards_elsewhere(
    db: &mut Db,
    tenant: &str,
    layout: &SiteLayout,
) -> Result<Vec<BoardElsewhere>, DbError> {
    const SQL: &str = "
        select board_sn, shelf_sn
          from centiloc.layout_board
         where tenant = $1
           and board_sn = any($2)
         order by board_sn";
    let boards: Vec<&str> = layout.boards.iter().map(|board| board.board_sn.as_str()).collect();
    let query = sqlx::query_as(SQL).bind(tenant).bind(boards);
    let rows: Vec<(String, String)> = db.query(|conn| query.fetch_all(conn)).await?;
    let elsewhere = rows.into_iter();
    Ok(elsewhere.map(|(board_sn, shelf_sn)| BoardElsewhere { board_sn, shelf_sn }).collect())
}

async fn insert(db: &mut Db, tenant: &str, layout: &SiteLayout) -> Result<(), DbError> {
    insert_rows(db, tenant, &layout.furniture).await?;
    insert_rows(db, tenant, &layout.shelves).await?;
    insert_rows(db, tenant, &layout.boards).await?;
    insert_rows(db, tenant, &layout.locations).await
}

async fn layout(db: &mut Db, tenant: &str) -> Result<SiteLayout, DbError> {
    Ok(SiteLayout {
        furniture: rows(db, tenant).await?,
        shelves: rows(db, tenant).await?,
        boards: rows(db, tenant).await?,
        locations: rows(db, tenant).await?,
    })
}

/// A type of rows, with the columns that are its fields. The first ones are the key.
trait LayoutTable: Serialize + Sized {
    const TABLE: &'static str;
    const COLUMNS: &'static str;
    fn of_row(row: &PgRow) -> Result<Self, sqlx::Error>;
}

async fn insert_rows<T: LayoutTable>(db: &mut Db, tenant: &str, rows: &[T]) -> Result<(), DbError> {
    let (table, columns) = (T::TABLE, T::COLUMNS);
    let sql = format!(
        "insert into centiloc.{table} (tenant, {columns})
         select $1, {columns} from jsonb_populate_recordset(null::centiloc.{table}, $2)"
    );
    let rows = serde_json::to_value(rows)
        .map_err(|error| DbError::stop(format!("the layout is no JSON: {error}")))?;
    run(db, statement(sql).bind(tenant.to_owned()).bind(Json(rows))).await
}

async fn rows<T: LayoutTable>(db: &mut Db, tenant: &str) -> Result<Vec<T>, DbError> {
    let (table, columns) = (T::TABLE, T::COLUMNS);
    let sql =
        format!("select {columns} from centiloc.{table} where tenant = $1 order by {columns}");
    let query = statement(sql).bind(tenant.to_owned());
    let rows = db.query(|conn| query.fetch_all(conn)).await?;
    Ok(rows.iter().map(T::of_row).collect::<Result<_, _>>()?)
}

impl LayoutTable for LayoutFurniture {
    const TABLE: &'static str = "layout_furniture";
    const COLUMNS: &'static str = "furniture_sn, name, floor, x_mm, y_mm, z_mm, x_rotation, \
                                   y_rotation, z_rotation, width_mm, depth_mm, height_mm, extra";

    fn of_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            furniture_sn: row.try_get("furniture_sn")?,
            name: row.try_get("name")?,
            floor: row.try_get("floor")?,
            place: place(row)?,
            extra: extra(row)?,
        })
    }
}

impl LayoutTable for LayoutShelf {
    const TABLE: &'static str = "layout_shelf";
    const COLUMNS: &'static str = "shelf_sn, furniture_sn, name, floor, x_mm, y_mm, z_mm, \
                                   x_rotation, y_rotation, z_rotation, width_mm, depth_mm, \
                                   height_mm, led_strips, extra";

    fn of_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            shelf_sn: row.try_get("shelf_sn")?,
            furniture_sn: row.try_get("furniture_sn")?,
            name: row.try_get("name")?,
            floor: row.try_get("floor")?,
            place: place(row)?,
            led_strips: row.try_get("led_strips")?,
            extra: extra(row)?,
        })
    }
}

impl LayoutTable for LayoutBoard {
    const TABLE: &'static str = "layout_board";
    const COLUMNS: &'static str =
        "board_sn, shelf_sn, x_mm, y_mm, z_rotation, width_mm, depth_mm, extra";

    fn of_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            board_sn: row.try_get("board_sn")?,
            shelf_sn: row.try_get("shelf_sn")?,
            x_mm: row.try_get("x_mm")?,
            y_mm: row.try_get("y_mm")?,
            z_rotation: row.try_get("z_rotation")?,
            width_mm: row.try_get("width_mm")?,
            depth_mm: row.try_get("depth_mm")?,
            extra: extra(row)?,
        })
    }
}

impl LayoutTable for LayoutLocation {
    const TABLE: &'static str = "layout_location";
    const COLUMNS: &'static str =
        "loc_reference, shelf_sn, weight, x_mm, y_mm, width_mm, depth_mm, labels, extra";

    fn of_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            loc_reference: row.try_get("loc_reference")?,
            shelf_sn: row.try_get("shelf_sn")?,
            weight: row.try_get("weight")?,
            x_mm: row.try_get("x_mm")?,
            y_mm: row.try_get("y_mm")?,
            width_mm: row.try_get("width_mm")?,
            depth_mm: row.try_get("depth_mm")?,
            labels: row.try_get("labels")?,
            extra: extra(row)?,
        })
    }
}

fn place(row: &PgRow) -> Result<LayoutPlace, sqlx::Error> {
    Ok(LayoutPlace {
        x_mm: row.try_get("x_mm")?,
        y_mm: row.try_get("y_mm")?,
        z_mm: row.try_get("z_mm")?,
        x_rotation: row.try_get("x_rotation")?,
        y_rotation: row.try_get("y_rotation")?,
        z_rotation: row.try_get("z_rotation")?,
        width_mm: row.try_get("width_mm")?,
        depth_mm: row.try_get("depth_mm")?,
        height_mm: row.try_get("height_mm")?,
    })
}

fn extra(row: &PgRow) -> Result<Option<Map<String, Value>>, sqlx::Error> {
    let extra: Option<Json<Map<String, Value>>> = row.try_get("extra")?;
    Ok(extra.map(|extra| extra.0))
}
