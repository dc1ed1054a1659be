//! `docs/guarantees.md` names the tests that attack each promise. Each of them must exist under
//! that name.

use std::path::Path;

use super::root;

/// Returns every name in backticks that contains `::`.
fn named_tests(document: &str) -> Vec<&str> {
    document.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect()
}

/// Returns the text of all Rust files in a folder and the folders below it.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    text
}

/// Returns the text of the module at this path below a folder, with its submodules.
fn module(folder: &Path, path: &[&str]) -> Option<String> {
    let place = path.iter().fold(folder.to_owned(), |place, part| place.join(part));
    let file = place.with_extension("rs");
    if file.exists() { std::fs::read_to_string(file).ok() } else { None }
        .or_else(|| place.is_dir().then(|| sources(&place)))
}

/// True if the path is a module below the folder, or a function in one.
fn exists(folder: &Path, name: &str) -> bool {
    let path: Vec<&str> = name.split("::").collect();
    let [before @ .., last] = &path[..] else { return false };
    let function = format!("fn {last}(");
    module(folder, &path).is_some()
        || module(folder, before).is_some_and(|text| text.contains(&function))
}

#[test]
fn guarantees_name_existing_tests() {
    let document = std::fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let folders = ["tests/it", "tests/it/support", "src"].map(|folder| root().join(folder));
    let names = named_tests(&document);
    assert!(names.len() > 30, "{names:?}");
    let absent: Vec<_> =
        names.iter().filter(|name| !folders.iter().any(|folder| exists(folder, name))).collect();
    assert!(absent.is_empty(), "docs/guarantees.md names absent tests: {absent:?}");
}
