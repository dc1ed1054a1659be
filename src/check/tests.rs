//! Checks of servers and clocks that the machine of the tests does not have.

use std::path::Path;

use time::macros::datetime;

use super::database::{clock, of_server};
use super::schema::partitions;
use super::*;
use crate::credentials::testing::{LeafSpec, TestFiles, TestPki};
use crate::store::inspect::{PartitionCoverage, RolePrivileges, ServerInfo, ServerLocation};

fn server() -> ServerInfo {
    ServerInfo {
        database: "centiloc".into(),
        role: "bridge".into(),
        version: "15.4".into(),
        version_number: 150_004,
        encoding: "UTF8".into(),
        in_recovery: false,
        read_only: false,
        fsync: true,
        tls: Some(("TLSv1.3".into(), "TLS_AES_256_GCM_SHA384".into())),
    }
}

fn remote() -> ServerLocation {
    ServerLocation::Remote("db.example.com:5432".into())
}

/// Names and statuses of the lines that did not pass. Each of them must have a remedy.
pub(super) fn troubles(checks: &[CheckLine]) -> Vec<(&'static str, CheckStatus)> {
    for check in checks {
        let has_remedy = !check.what_to_do.is_empty() && !check.expected.is_empty();
        assert_eq!(
            has_remedy,
            check.status != CheckStatus::Ok,
            "a line that did not pass has a remedy: {check:?}"
        );
    }
    let bad = checks.iter().filter(|check| check.status != CheckStatus::Ok);
    bad.map(|check| (check.name, check.status)).collect()
}

#[test]
fn every_name_is_its_own_and_documented() {
    let page = include_str!("../../docs/check.md");
    for (place, name) in NAMES.iter().enumerate() {
        assert!(!NAMES[..place].contains(name), "{name} twice");
        assert!(page.contains(&format!("| `{name}` |")), "docs/check.md lacks {name}");
    }
    assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), NAMES.len());
}

#[test]
fn suitable_servers_pass_everywhere() {
    for place in
        [ServerLocation::Socket, ServerLocation::Loopback("localhost:5432".into()), remote()]
    {
        assert_eq!(troubles(&of_server(&server(), &place)), []);
        let plain = ServerInfo { tls: None, ..server() };
        let expected: &[_] =
            if place == remote() { &[("database_tls", CheckStatus::Warning)] } else { &[] };
        assert_eq!(troubles(&of_server(&plain, &place)), expected, "{place:?}");
    }
}

#[test]
fn unsuitable_servers_fail_for_each_reason() {
    use CheckStatus::{Failed, Warning};
    let cases = [
        (ServerInfo { version_number: 130_012, ..server() }, "database_version", Failed),
        (ServerInfo { encoding: "SQL_ASCII".into(), ..server() }, "database_encoding", Failed),
        (
            ServerInfo { in_recovery: true, read_only: true, ..server() },
            "database_writable",
            Failed,
        ),
        (ServerInfo { read_only: true, ..server() }, "database_writable", Failed),
        (ServerInfo { fsync: false, ..server() }, "database_durability", Warning),
    ];
    for (server, name, status) in cases {
        assert_eq!(troubles(&of_server(&server, &ServerLocation::Socket)), [(name, status)]);
    }
}

#[test]
fn clock_skew_above_a_minute_warns() {
    assert_eq!(troubles(&[clock(59.0), clock(-59.0)]), []);
    let (fast, slow) = (clock(3600.0), clock(-3600.0));
    assert!(fast.found.contains("3600.0 s ahead of the database's"), "{}", fast.found);
    assert!(slow.found.contains("3600.0 s behind the database's"), "{}", slow.found);
    let warned = ("database_clock", CheckStatus::Warning);
    assert_eq!(troubles(&[fast, slow]), [warned, warned]);
}

#[test]
fn a_clock_of_1970_fails() {
    let lost = super::clock::check(datetime!(1970-01-01 00:05 UTC));
    assert_eq!(troubles(&[lost]), [("system_clock", CheckStatus::Failed)]);
    assert_eq!(troubles(&[super::clock::check(datetime!(2026-11-22 12:00 UTC))]), []);
}

#[test]
fn missing_partitions_warn_without_create_rights() {
    let until = Some(datetime!(2027-01-01 00:00 UTC));
    let owner = RolePrivileges { make_partitions: true, ..RolePrivileges::default() };
    let warned = [("database_partitions", CheckStatus::Warning)];
    for until in [until, None] {
        let coverage = PartitionCoverage { until, in_default: 0 };
        assert_eq!(troubles(&[partitions(&coverage, &owner)]), []);
        assert_eq!(troubles(&[partitions(&coverage, &RolePrivileges::default())]), warned);
    }
    let many = partitions(&PartitionCoverage { until, in_default: 1000 }, &owner);
    assert!(many.found.starts_with("1000 or more events"), "{}", many.found);
    assert_eq!(troubles(&[many]), warned);
}

#[test]
fn every_sentence_gets_a_remedy() {
    let line = |sentence| {
        CheckLine::from_sentence_or("spool", CheckStatus::Failed, sentence, "x", "see the log")
    };
    let colon = line("the broker refuses it: ask Centiloc support: it knows");
    assert_eq!(colon.found, "the broker refuses it");
    assert_eq!(colon.what_to_do, "ask Centiloc support: it knows");
    assert_eq!(line("it broke; mend it: check it").what_to_do, "mend it: check it");
    assert_eq!(line("it broke").what_to_do, "see the log");
}

fn load(folder: &Path, text: &str) -> LoadedConfig {
    let file = folder.join("config.toml");
    std::fs::write(&file, text).unwrap();
    crate::config::load(Some(&file), []).unwrap()
}

#[tokio::test]
async fn configuration_warnings_have_expected_values() {
    let files = TestFiles::new();
    let issued = TestPki::new().issue(&LeafSpec::client("acme"));
    files.write("tls-cert.pem", &issued.pem);
    files.write("private-key.pem", issued.key.to_sec1_pem().as_str());
    files.write("password", "two line ends\n\n");
    let text = "tenant = \"acme\"\nadmin.listen = \"0.0.0.0:0\"\n\
         [mqtt]\nhost = \"broker.example.com\"\nusername = \"u\"\npassword_file = \"password\"\n\
         [mqtt.tls]\nenabled = false\nallow_plaintext = true\n\
         [database]\nurl = \"postgres://u:p@db.example.com/d\"\n";
    let loaded = load(files.dir(), text);
    let checks = configuration::accepted(&loaded);
    let remarks: Vec<_> = checks.iter().filter(|c| c.name == "configuration").collect();
    assert_eq!(remarks.len(), loaded.warnings.len() - 1, "all but the schema's: {remarks:#?}");
    for remark in remarks {
        assert_eq!(remark.status, CheckStatus::Warning);
        assert_ne!(remark.expected, "nothing to remark on", "{remark:?}");
        assert_ne!(remark.what_to_do, "see docs/configuration.md", "{remark:?}");
    }
}

#[test]
fn only_modes_of_secret_files_are_checked() {
    use std::os::unix::fs::PermissionsExt;
    let files = TestFiles::new();
    files.write("password", "secret");
    let tls = "[mqtt.tls]\ncert_file = \"c\"\nkey_file = \"k\"\n";
    let modes = |text: String, open: &str| {
        let loaded = load(files.dir(), &text);
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(files.path(open), mode).unwrap();
        let checks = configuration::accepted(&loaded).into_iter();
        checks.filter(|c| c.name == "secret_file_mode").map(|c| (c.found, c.status)).collect()
    };
    let named = format!(
        "tenant = \"acme\"\n[mqtt]\nusername = \"u\"\npassword_file = \"password\"\n{tls}\
         [database]\nurl = \"postgres://u@localhost/d\"\n"
    );
    let found: Vec<_> = modes(named, "password");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0.contains("password is open to every user"), "{found:?}");
    assert_eq!(found[0].1, CheckStatus::Warning);
    let in_place = format!(
        "tenant = \"acme\"\n[mqtt]\nusername = \"u\"\npassword = \"p\"\n{tls}\
         [database]\nurl = \"postgres://u:p@localhost/d\"\n"
    );
    let found: Vec<_> = modes(in_place, "config.toml");
    assert_eq!(found.len(), 1, "one file, one line: {found:?}");
    assert!(found[0].0.contains("config.toml is open to every user"), "{found:?}");
    let none = format!("tenant = \"acme\"\n{tls}[database]\nurl = \"postgres://u@localhost/d\"\n");
    assert_eq!(modes(none, "config.toml"), Vec::<(String, CheckStatus)>::new());
}
