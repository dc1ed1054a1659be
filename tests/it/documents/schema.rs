//! `docs/schema.md` shows the comments of the database. `make schema-docs` writes it.

use std::fmt::Write as _;

use sqlx::Row as _;

use super::root;
use crate::support::database::Database;
use crate::support::store::StoreFixture;

const PAGE: &str = "docs/schema.md";

/// Writes the page in place of comparing it.
const WRITE: &str = "WRITE_SCHEMA_DOCS";

const HEAD: &str = "# Schema

The tables, views and functions of schema `centiloc`, from the comments in the database. `make schema-docs` writes this page.
[database.md](database.md) describes roles, and [README](../README.md#queries) has queries to start with.

Only the layout has foreign keys, because events arrive in any order. The lines show which columns have the same values.

<!-- not run: a diagram, which viewers of Markdown draw -->
```mermaid
erDiagram
";

/// Lines of the diagram: a table, its relation to another table, and the columns they share.
const RELATIONS: [(&str, &str, &str, &str); 14] = [
    ("item_state", "||--o{", "item_event", "tenant, uid, board_sn"),
    ("item_board", "||--o{", "item_state", "tenant, uid"),
    ("item_board", "||--o{", "stay", "tenant, uid"),
    ("item_event", "|o--o|", "stay", "event_id is entered_id"),
    ("board_state", "||--o{", "board_event", "tenant, board_sn"),
    ("board_state", "|o--o{", "item_state", "tenant, board_sn"),
    ("board_state", "|o--o|", "board_activity", "tenant, board_sn"),
    ("board_activity", "||--o|", "board_usual_interval", "tenant, board_sn"),
    ("board_activity", "||--o{", "board_hour", "tenant, board_sn"),
    ("layout_furniture", "|o--o{", "layout_shelf", "tenant, furniture_sn"),
    ("layout_shelf", "||--o{", "layout_board", "tenant, shelf_sn"),
    ("layout_shelf", "||--o{", "layout_location", "tenant, shelf_sn"),
    ("layout_board", "|o--o|", "board_state", "tenant, board_sn"),
    ("connection", "}o--o{", "gap", "client_id"),
];

/// Tables and views with their comments. Partitions are no tables of their own.
const RELATIONS_SQL: &str = "
    select c.relname::text, c.relkind = 'v', obj_description(c.oid, 'pg_class')
      from pg_class c
     where c.relnamespace = 'centiloc'::regnamespace
       and c.relkind in ('r', 'p', 'v')
       and not c.relispartition
       and c.relname <> '_sqlx_migrations'
     order by 1";

/// Columns with their types and comments. A column of a view without a comment has that of a table.
const COLUMNS_SQL: &str = "
    select c.relname::text, a.attname::text, replace(format_type(a.atttypid, a.atttypmod), 'timestamp with time zone', 'timestamptz'),
           coalesce(k.indisprimary, false),
           coalesce(col_description(c.oid, a.attnum), known.comment, '')
      from pg_class c
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      left join pg_index k on k.indrelid = c.oid and k.indisprimary and a.attnum = any (k.indkey)
      left join lateral (
           select col_description(t.oid, b.attnum) as comment
             from unnest(array['item_state', 'board_state', 'gap']) with ordinality as base (name, place)
             join pg_class t on t.oid = format('centiloc.%s', base.name)::regclass
             join pg_attribute b on b.attrelid = t.oid and b.attname = a.attname
            where c.relkind = 'v'
            order by base.place
            limit 1) known on true
     where c.relnamespace = 'centiloc'::regnamespace
     order by a.attnum";

const FUNCTIONS_SQL: &str = "
    select format('%s(%s)', p.proname, pg_get_function_arguments(p.oid)),
           pg_get_function_result(p.oid), obj_description(p.oid, 'pg_proc')
      from pg_proc p
     where p.pronamespace = 'centiloc'::regnamespace
     order by 1";

struct Column {
    table: String,
    name: String,
    kind: String,
    is_key: bool,
    comment: String,
}

async fn columns(db: &Database) -> Vec<Column> {
    let rows = db.rows(COLUMNS_SQL).await.unwrap();
    let column = |row: &sqlx::postgres::PgRow| Column {
        table: row.get(0),
        name: row.get(1),
        kind: row.get(2),
        is_key: row.get(3),
        comment: row.get(4),
    };
    rows.iter().map(column).collect()
}

fn diagram(columns: &[Column]) -> String {
    let mut text = String::new();
    for (one, relation, other, shared) in RELATIONS {
        for table in [one, other] {
            assert!(columns.iter().any(|c| c.table == table), "{table} of the diagram is missing");
        }
        writeln!(text, "    {one} {relation} {other} : \"{shared}\"").unwrap();
    }
    let mut tables: Vec<&str> = RELATIONS.iter().flat_map(|r| [r.0, r.2]).collect();
    tables.sort_unstable();
    tables.dedup();
    for table in tables {
        writeln!(text, "    {table} {{").unwrap();
        for column in columns.iter().filter(|c| c.table == table && c.is_key) {
            let kind = column.kind.replace(' ', "_");
            writeln!(text, "        {kind} {} PK", column.name).unwrap();
        }
        text.push_str("    }\n");
    }
    text + "```\n"
}

fn section(text: &mut String, name: &str, comment: &str, columns: &[Column]) {
    write!(text, "\n### {name}\n\n{comment}\n\n| column | type | |\n|---|---|---|\n").unwrap();
    for column in columns.iter().filter(|column| column.table == name) {
        let Column { name, kind, is_key, comment, .. } = column;
        let key = if *is_key { " (key)" } else { "" };
        writeln!(text, "| `{name}`{key} | {kind} | {comment} |").unwrap();
    }
}

async fn page(db: &Database) -> String {
    let columns = columns(db).await;
    let relations = db.rows(RELATIONS_SQL).await.unwrap();
    let mut text = HEAD.to_owned() + &diagram(&columns);
    for (title, wanted) in [("Tables", false), ("Views", true)] {
        write!(text, "\n## {title}\n").unwrap();
        for row in relations.iter().filter(|row| row.get::<bool, _>(1) == wanted) {
            section(&mut text, row.get(0), row.get(2), &columns);
        }
    }
    text.push_str("\n## Functions\n");
    for row in db.rows(FUNCTIONS_SQL).await.unwrap() {
        let (call, result): (String, String) = (row.get(0), row.get(1));
        let comment: Option<String> = row.get(2);
        let comment = comment.unwrap_or_else(|| panic!("{call} has no comment"));
        write!(text, "\n### {}\n\n{comment}\n\n", call.split('(').next().unwrap()).unwrap();
        writeln!(text, "- Call: `{call}`\n- Result: `{result}`").unwrap();
    }
    text
}

#[tokio::test]
async fn schema_page_shows_comments_of_database() {
    let fixture = StoreFixture::new().await;
    let page = page(&fixture.db).await;
    let file = root().join(PAGE);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "{PAGE} is not current: run `make schema-docs`");
}
