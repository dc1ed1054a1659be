//! Unusual names that TOML allows.

use super::*;

#[test]
fn an_empty_name_is_refused_by_a_name() {
    let text = problem(load_text(&format!("\"\" = 1\n{MINIMAL}"), &[]));
    assert!(text.starts_with("\\\"\\\" (config.toml:1): found an unknown key"), "{text}");
    let text = problem(load_text(&MINIMAL.replace("[mqtt.tls]", "[mqtt.\"\"]\n[mqtt.tls]"), &[]));
    assert!(text.starts_with("mqtt.\\\"\\\" (config.toml:2): found an unknown section"), "{text}");
}

#[test]
fn quoted_names_with_dots_are_no_sections() {
    let twice = format!("{MINIMAL}[\"mqtt.tls\"]\ncert_file = \"other.crt\"\n");
    let text = problem(load_text(&twice, &[]));
    assert!(text.contains("found an unknown section"), "{text}");
    assert!(text.contains("did you mean [mqtt.tls]?"), "{text}");
}

#[test]
fn control_characters_in_paths_are_escaped() {
    let file = "[mqtt]\nusername = \"u\"\npassword_file = \"a\\u001b[31m\\nb\"\n[mqtt.tls]";
    let text = problem(load_text(&MINIMAL.replace("[mqtt.tls]", file), &[]));
    assert!(text.contains("a\\u{1b}[31m\\nb cannot be read"), "{text}");
}
