//! Archived partitions: no row is lost between its table and its file, whatever happens on the way.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::event::{BoardEvent, EventKind, ItemEvent};
use centiloc_bridge::store::archive::ArchiveOutcome;
use serde_json::json;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::support::postgres::Database;
use crate::support::process::{ScratchFolder, run};
use crate::support::small_disk::SmallDisk;
use crate::support::store::{StoreFixture, arrives, board, item, leaves, of_board};

const SIXTY_DAYS: Duration = Duration::from_secs(60 * 86_400);

const NOW: OffsetDateTime = datetime!(2025-07-15 12:00 UTC);

const ITEMS: &str = "select to_jsonb(e)::text from centiloc.item_event e order by 1";

const BOARDS: &str = "select to_jsonb(e)::text from centiloc.board_event e order by 1";

/// Events with every kind of value, in three months.
fn events() -> Vec<ItemEvent> {
    let mut full = arrives("quotes \" , \\ \n é", "A", 1);
    full.extra = json!({ "a": [1, "x\ny,\"z\""], "b": null }).as_object().cloned();
    full.loc_labels = Some(vec!["{}".into(), "a b".into(), "\\N".into()]);
    full.payload = Some(Bytes::from((0..=255).collect::<Vec<u8>>()));
    full.fill_ratio = Some(0.1);
    let mut bare = ItemEvent::bare("T", "NULL", full.momentum, "", false);
    bare.board_sn = None;
    let mut events = vec![full, bare, leaves("U", "A", 5)];
    events.extend((0..2).map(|month| {
        item("U", "B", datetime!(2025-04-10 0:00 UTC) + time::Duration::days(30 * month), true)
    }));
    events
}

async fn filled(span: PartitionSpan) -> StoreFixture {
    let fixture = StoreFixture::with_span(span).await;
    fixture.items(&events()).await;
    fixture.db.execute("update centiloc.item_event set shelf_sn = '' where uid = 'NULL'").await;
    let with_payload =
        BoardEvent { payload: Some(Bytes::from_static(b"\0raw")), ..board("A", 1, "CONNECTED") };
    fixture.commit(&[of_board(with_payload), of_board(board("A", 2, "ONERROR"))]).await;
    fixture.store.compute_all_stays().await.unwrap();
    fixture.store.compute_all_rollups().await.unwrap();
    // It belongs to the default partition.
    fixture.items(&[item("old", "A", datetime!(1999-01-01 0:00 UTC), false)]).await;
    fixture
}

async fn archive(fixture: &StoreFixture, folder: &Path) -> ArchiveOutcome {
    fixture.store.archive_expired(SIXTY_DAYS, folder, NOW).await.unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| !name.contains(".json"));
    names.sort();
    names
}

/// Rows of all tables and of all recorded files.
async fn rows_anywhere(db: &Database) -> i64 {
    let held = "select held_in from centiloc.archive_file where held_in is not null";
    let mut rows = db.count("centiloc.item_event").await + db.count("centiloc.board_event").await;
    for table in db.column::<String>(held).await {
        rows += db.count(&table).await;
    }
    rows + db.value::<i64>("select coalesce(sum(rows), 0)::bigint from centiloc.archive_file").await
}

async fn restore(fixture: &StoreFixture, folder: &Path) -> u64 {
    let mut inserted = 0;
    for name in files(folder) {
        inserted += fixture.store.restore(&folder.join(name), &mut |_| ()).await.unwrap().inserted;
    }
    inserted
}

#[tokio::test]
async fn archived_rows_are_restored_exactly() {
    let fixture = filled(PartitionSpan::Month).await;
    let folder = ScratchFolder::new("archive");
    let dump = async |sql: &str| fixture.db.column::<String>(sql).await;
    let before = (dump(ITEMS).await, dump(BOARDS).await);
    let derived = "select to_jsonb(s)::text from centiloc.stay s
                    union all select to_jsonb(h)::text from centiloc.board_hour h order by 1";
    let computed = dump(derived).await;
    let outcome = archive(&fixture, folder.path()).await;
    assert_eq!(outcome.problems, Vec::<String>::new());
    assert_eq!((outcome.files, outcome.rows), (4, 7));
    let names = [
        "board_event_2025-03-10_2025-05-01.csv.gz",
        "item_event_1999-01-01_2025-05-01.csv.gz",
        "item_event_2025-03-01_2025-04-01.csv.gz",
        "item_event_2025-04-01_2025-05-01.csv.gz",
    ];
    assert_eq!(files(folder.path()), names);
    assert_eq!((dump(ITEMS).await.len(), dump(BOARDS).await.len()), (1, 0));
    assert_eq!(restore(&fixture, folder.path()).await, 7);
    assert_eq!((dump(ITEMS).await, dump(BOARDS).await), before);
    assert_eq!(restore(&fixture, folder.path()).await, 0, "all rows are there");
    assert_eq!(dump(derived).await, computed);
    // Retention leaves restored rows, with and without an archive.
    fixture.store.delete_expired(Some(SIXTY_DAYS), NOW).await.unwrap();
    assert_eq!(archive(&fixture, folder.path()).await.files, 0);
    assert_eq!(dump(ITEMS).await, before.0);
    for name in names {
        assert!(fixture.store.release(name).await.unwrap());
    }
    archive(&fixture, folder.path()).await;
    assert_eq!(files(folder.path()), names, "equal content has one file");
    assert_eq!(fixture.db.count("centiloc.archive_file").await, 4);
    assert_eq!((dump(ITEMS).await.len(), dump(BOARDS).await.len()), (1, 0));
    assert_eq!(fixture.db.count("pg_class where relname like '%to_archive%'").await, 0);
}

#[tokio::test]
async fn files_are_read_without_the_program() {
    let fixture = filled(PartitionSpan::Month).await;
    let before = "select to_jsonb(e)::text from centiloc.item_event e
                   where momentum between '2025-03-01' and '2025-04-01' order by 1";
    let before = fixture.db.column::<String>(before).await;
    let folder = ScratchFolder::new("archive");
    archive(&fixture, folder.path()).await;
    let file = folder.join("item_event_2025-03-01_2025-04-01.csv.gz");
    let sql = format!(
        "create table public.march (like centiloc.item_event);
         \\copy public.march from program 'zcat {}' with (format csv, header)",
        file.display()
    );
    crate::support::postgres::Postgres::shared()
        .await
        .psql("postgres", fixture.db.name(), &sql)
        .unwrap();
    let march = "select to_jsonb(m)::text from public.march m order by 1";
    assert_eq!(fixture.db.column::<String>(march).await, before);
    let header = run("sh", ["-c", &format!("zcat {} | head -1", file.display())]);
    assert!(header.starts_with("momentum,event_id,received_at,tenant,uid,is_in"), "{header}");
}

/// Polls a future some times and drops it, as a kill ends it. Returns true if it ended by itself.
async fn dropped_after(polls: usize, future: impl Future) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return std::task::Poll::Ready(false);
        }
        left -= 1;
        future.as_mut().poll(context).map(|_| true)
    })
    .await
}

#[tokio::test]
async fn interruption_at_any_point_loses_no_row() {
    let fixture = filled(PartitionSpan::Day).await;
    let total = rows_anywhere(&fixture.db).await;
    let folder = ScratchFolder::new("archive");
    let mut polls = 1;
    loop {
        let store = fixture.another_store(PartitionSpan::Day);
        let ended =
            dropped_after(polls, Box::pin(store.archive_expired(SIXTY_DAYS, folder.path(), NOW)))
                .await;
        assert_eq!(rows_anywhere(&fixture.db).await, total, "after {polls} polls");
        if ended && archive(&fixture, folder.path()).await.problems.is_empty() {
            break;
        }
        polls += 1 + polls / 8;
    }
    assert_eq!(fixture.db.count("centiloc.archive_file where held_in is not null").await, 0);
    assert_eq!(fixture.db.count("centiloc.item_event").await, 0);
    assert_eq!(restore(&fixture, folder.path()).await, 8);
    assert_eq!(rows_anywhere(&fixture.db).await, 2 * total, "in files and in tables");
}

#[tokio::test]
async fn unusable_folder_keeps_every_row() {
    let fixture = filled(PartitionSpan::Month).await;
    let folder = ScratchFolder::new("archive");
    let file = folder.write("file", "in place of a folder");
    for broken in [file, folder.join("missing")] {
        let outcome = archive(&fixture, &broken).await;
        let [problem] = &outcome.problems[..] else { panic!("{outcome:?}") };
        assert!(problem.contains(broken.to_str().unwrap()) && problem.contains("; "), "{problem}");
        assert!(outcome.overdue > Duration::from_secs(86_400), "{outcome:?}");
        assert_eq!(fixture.db.count("centiloc.item_event").await, 6, "nothing was taken out");
    }
}

#[tokio::test]
async fn full_disk_keeps_rows_and_late_events() {
    let Some(disk) = SmallDisk::mount(1) else { return };
    let fixture = filled(PartitionSpan::Month).await;
    disk.fill();
    let outcome = archive(&fixture, disk.path()).await;
    assert!(outcome.problems[0].contains("make room there"), "{outcome:?}");
    assert_eq!(fixture.db.count("centiloc.archive_file").await, 0, "nothing was taken out");
    disk.free();
    // More than the disk holds, and it cannot be compressed.
    let large = "update centiloc.item_event
                    set payload = (select string_agg(uuid_send(gen_random_uuid()), '')
                                     from generate_series(1, 120000))
                  where uid = 'NULL'";
    fixture.db.execute(large).await;
    let total = rows_anywhere(&fixture.db).await;
    let outcome = archive(&fixture, disk.path()).await;
    assert!(outcome.problems[0].contains("make room there"), "{outcome:?}");
    assert_eq!(files(disk.path()), Vec::<String>::new(), "the part is removed");
    assert_eq!(fixture.db.count("centiloc.archive_file where held_in is not null").await, 1);
    let late = fixture.items(&[arrives("late", "A", 77)]).await;
    assert_eq!((late.of(EventKind::Item).inserted, late.default_partition_rows), (1, 0));
    assert_eq!(rows_anywhere(&fixture.db).await, total + 1);
    let warned = fixture.store.delete_expired(None, NOW).await.unwrap();
    assert_eq!(warned.problems, Vec::<String>::new());
    let folder = ScratchFolder::new("archive");
    let outcome = archive(&fixture, folder.path()).await;
    assert_eq!(outcome.problems, Vec::<String>::new());
    assert!(files(folder.path()).contains(&"item_event_2025-03-01_2025-04-01_2.csv.gz".to_owned()));
    assert_eq!(rows_anywhere(&fixture.db).await, total + 1);
}

#[tokio::test]
async fn damaged_file_restores_nothing() {
    let fixture = filled(PartitionSpan::Month).await;
    let folder = ScratchFolder::new("archive");
    archive(&fixture, folder.path()).await;
    let path = folder.join("item_event_2025-03-01_2025-04-01.csv.gz");
    let whole = fs::read(&path).unwrap();
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 4;
    fs::write(&path, changed).unwrap();
    let rows = fixture.db.count("centiloc.item_event").await;
    let file = path.to_str().unwrap();
    let report = fixture.run_json(&["archive", "restore", file], 1).await;
    let problem = report["files"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("take the file from a backup"), "{problem}");
    assert_eq!(fixture.db.count("centiloc.item_event").await, rows);
    fs::write(&path, whole).unwrap();
    // The database knows the checksum where the description is missing.
    fs::remove_file(format!("{file}.json")).unwrap();
    let output = fixture.run(&["archive", "restore", file]).await;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{file}: 3 rows restored, 0 were there\n")
    );
    let listed = fixture.run_json(&["archive", "list"], 0).await;
    let listed = listed["files"].as_array().unwrap();
    assert_eq!(listed.iter().filter(|file| !file["restored_at"].is_null()).count(), 1);
    let missing = fixture.run(&["archive", "restore", &format!("{file}.old")]).await;
    assert!(String::from_utf8_lossy(&missing.stderr).contains("there is no such file"));
    fixture.db.execute("delete from centiloc.archive_file").await;
    let unknown = fixture.run(&["archive", "restore", file]).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("its checksum is unknown"));
    assert_eq!(
        fixture.run(&["archive", "restore", "--release", file]).await.status.code(),
        Some(1)
    );
}

#[tokio::test]
async fn reader_delays_archive_but_no_commit() {
    let fixture = filled(PartitionSpan::Day).await;
    let folder = ScratchFolder::new("archive");
    let mut reader = fixture.db.connect().await.unwrap();
    let hold = "begin; select count(*) from centiloc.item_event";
    sqlx::raw_sql(hold).execute(&mut reader).await.unwrap();
    let done = AtomicBool::new(false);
    let archiving = async {
        let outcome = archive(&fixture, folder.path()).await;
        assert!(outcome.problems.len() > 2 && outcome.overdue > Duration::ZERO, "{outcome:?}");
        sqlx::raw_sql("rollback").execute(&mut reader).await.unwrap();
        let outcome = archive(&fixture, folder.path()).await;
        assert_eq!(outcome.problems, Vec::<String>::new());
        done.store(true, Ordering::Relaxed);
    };
    let stream = async {
        let (mut commits, mut worst) = (0, Duration::ZERO);
        while !done.load(Ordering::Relaxed) {
            let started = Instant::now();
            let event = item(&format!("V{commits}"), "A", NOW, true);
            assert_eq!(fixture.items(&[event]).await.of(EventKind::Item).inserted, 1);
            (commits, worst) = (commits + 1, worst.max(started.elapsed()));
        }
        (commits, worst)
    };
    let ((), (commits, worst)) = tokio::join!(archiving, stream);
    println!("{commits} commits while events were archived, the slowest in {worst:?}");
    assert!(worst < Duration::from_secs(2), "a commit waited {worst:?}");
}
