//! The folder for state that a service manager creates.

use super::*;

#[test]
fn a_state_directory_turns_the_spool_on() {
    let state = [("STATE_DIRECTORY", "/var/lib/bridge:/var/lib/other")];
    let dir = |loaded: &LoadedConfig| loaded.config.spool.as_ref().map(|spool| spool.dir.clone());
    let loaded = load_text(MINIMAL, &state).unwrap();
    assert_eq!(dir(&loaded), Some("/var/lib/bridge/spool".into()));
    assert_eq!(setting(&loaded, "spool.dir"), ("\"/var/lib/bridge/spool\"", "STATE_DIRECTORY"));
    let given = format!("{MINIMAL}\n[spool]\ndir = \"/data\"\n");
    assert_eq!(dir(&load_text(&given, &state).unwrap()), Some("/data".into()));
    let off = format!("{MINIMAL}\n[spool]\ndir = \"\"\n");
    assert_eq!(dir(&load_text(&off, &state).unwrap()), None);
    assert_eq!(dir(&load_text(MINIMAL, &[("STATE_DIRECTORY", "")]).unwrap()), None);
    assert_eq!(dir(&load_text(MINIMAL, &[]).unwrap()), None);
}
