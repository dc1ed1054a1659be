use time::macros::datetime;
use tokio::sync::mpsc;

use super::*;

const ROWS: &str = "a,b\n1,\"x\ny\"\n2,\n";

fn written(folder: &Path, text: &str) -> WrittenFile {
    let (chunks, mut received) = mpsc::channel(8);
    for chunk in text.as_bytes().chunks(3) {
        chunks.try_send(Bytes::copy_from_slice(chunk)).unwrap();
    }
    drop(chunks);
    write(folder, "t", &mut received).unwrap()
}

fn described(written: &WrittenFile) -> ArchiveDescription {
    ArchiveDescription {
        file: String::new(),
        table: "t".to_owned(),
        from: datetime!(2025-03-01 0:00 UTC),
        until: datetime!(2025-04-01 0:00 UTC),
        rows: written.content.rows,
        sha256: written.content.digits(),
        written_at: datetime!(2026-01-01 0:00 UTC),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn equal_content_is_published_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for text in [ROWS, ROWS, "a,b\n3,\n"] {
        let file = written(folder, text);
        publish(folder, "t", &file, described(&file)).unwrap();
    }
    let expected = ["t.csv.gz", "t.csv.gz.json", "t_2.csv.gz", "t_2.csv.gz.json"];
    assert_eq!(names(folder), expected);
    let path = folder.join("t.csv.gz");
    let there = description(&path).unwrap().unwrap();
    assert_eq!((there.rows, &*there.file), (2, "t.csv.gz"));
    verify(&path, &there, &mut |_| ()).unwrap();
}

#[test]
fn reserved_name_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("t.csv.gz"), "").unwrap();
    fs::write(folder.join(".t.1234.part"), "left by a kill").unwrap();
    let file = written(folder, ROWS);
    assert_eq!(publish(folder, "t", &file, described(&file)).unwrap().file, "t.csv.gz");
    assert_eq!(names(folder), ["t.csv.gz", "t.csv.gz.json"]);
}

#[test]
fn damaged_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = written(folder, ROWS);
    let description = publish(folder, "t", &file, described(&file)).unwrap();
    let path = folder.join("t.csv.gz");
    let whole = fs::read(&path).unwrap();
    for length in [0, 5, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        verify(&path, &description, &mut |_| ()).unwrap_err();
    }
    for at in [12, whole.len() - 5] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).unwrap();
        let error = verify(&path, &description, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("take the file from a backup"), "{error}");
    }
}

#[test]
fn folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    check_folder(folder.path()).unwrap();
    assert!(names(folder.path()).is_empty());
    let missing = check_folder(&folder.path().join("x")).unwrap_err().to_string();
    assert!(missing.contains("/x: ") && missing.contains("create the folder"), "{missing}");
}
