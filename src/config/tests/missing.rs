//! Loading without a configuration file.

use super::*;

#[test]
fn an_absent_default_file_is_reported_as_missing() {
    let file = Path::new("/nonexistent/config.toml");
    let nothing = load_from(file, false, vars(&[])).unwrap_err();
    assert_eq!(nothing.problems.len(), 1, "its settings are not missing one by one: {nothing}");
    assert!(nothing.to_string().contains("/nonexistent/config.toml: found no such file"));
    let env = [("CENTILOC_BRIDGE__TENANT", "acme")];
    let incomplete = load_from(file, false, vars(&env)).unwrap_err().to_string();
    for part in ["/nonexistent/config.toml: found no such file", "database.url: found nothing"] {
        assert!(incomplete.contains(part), "{incomplete}");
    }
}
