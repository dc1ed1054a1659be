//! Faults of the configuration and of the files that it names.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{CheckFixture, FAILED, FaultCase, WARNING, assert_table, check};
use crate::support::certs::{CertificateAuthority, CertificateValidity, CertifiedKey};
use crate::support::config::Config;
use crate::support::mosquitto::{PASSWORD, TENANT};
use crate::support::process::{background, run};

fn set_path(config: Config, key: &str, path: &Path) -> Config {
    config.set(key, path.to_str().unwrap())
}

fn with_file(config: Config, key: &str, content: impl AsRef<[u8]>) -> Config {
    let path = config.file(&format!("{}.txt", key.replace('.', "-")), content);
    set_path(config, key, &path)
}

fn with_identity(config: Config, identity: &CertifiedKey) -> Config {
    let config = with_file(config, "mqtt.tls.cert_file", &identity.cert);
    with_file(config, "mqtt.tls.key_file", &identity.key_sec1)
}

fn with_password_file(config: Config, content: &str) -> Config {
    with_file(config.without("mqtt.password"), "mqtt.password_file", content)
}

fn open_to_others(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

#[tokio::test]
async fn each_configuration_fault_fails_on_its_line() {
    let fixture = CheckFixture::new().await;
    let several = fixture.config().set("mqtt.keep_alife", "60s").set("batch.max_events", "many");
    let prefix = fixture.config().set("mqtt.client_id", "other-bridge");
    assert_table(vec![
        FaultCase {
            what: "an unknown key and a value of the wrong type",
            config: several,
            lines: &[
                ("configuration", FAILED, "batch.max_events (config.toml:"),
                ("configuration", FAILED, "mqtt.keep_alife (config.toml:"),
            ],
        },
        FaultCase {
            what: "client id without the tenant's prefix",
            config: prefix,
            lines: &[("configuration", FAILED, "mqtt.client_id (config.toml:")],
        },
    ])
    .await;
    let refused = check(&fixture.config().set("mqtt.port", 0)).await;
    assert_eq!(refused.exit, 1);
    assert!(refused.not_checked().contains(&"broker_login"), "{refused:#?}");
    assert!(!refused.not_checked().contains(&"configuration"));
}

#[tokio::test]
async fn password_file_may_end_in_one_newline() {
    let fixture = CheckFixture::new().await;
    let one = with_password_file(fixture.config(), &format!("{PASSWORD}\n"));
    assert_eq!(check(&one).await.troubles(), []);
    let open = with_password_file(fixture.config(), PASSWORD);
    open_to_others(&open.folder().join("mqtt-password_file.txt"));
    assert_table(vec![
        FaultCase {
            what: "password file with a second line end",
            config: with_password_file(fixture.config(), &format!("{PASSWORD}\n\n")),
            lines: &[
                ("configuration", WARNING, "begins or ends with white space"),
                ("broker_login", FAILED, "does not authorize this connection"),
            ],
        },
        FaultCase {
            what: "password file with a space before the password",
            config: with_password_file(fixture.config(), &format!(" {PASSWORD}")),
            lines: &[
                ("configuration", WARNING, "mqtt.password_file (config.toml:"),
                ("broker_login", FAILED, "does not authorize this connection"),
            ],
        },
        FaultCase {
            what: "password file that others can read",
            config: open,
            lines: &[("secret_file_mode", WARNING, "open to every user of this machine")],
        },
    ])
    .await;
}

#[tokio::test]
async fn each_key_fault_fails_on_its_line() {
    let fixture = CheckFixture::new().await;
    let (config, client) = (|| fixture.config(), fixture.broker.client());
    let authority = fixture.broker.authority();
    let stranger = CertificateAuthority::new("Test Root CA").client(TENANT);
    let rsa = run("openssl", ["genrsa", "-traditional", "2048"]);
    let swapped = with_file(config(), "mqtt.tls.cert_file", &client.key_sec1);
    let not_its_key = with_file(config(), "mqtt.tls.key_file", &stranger.key_sec1);
    let open = with_identity(config(), client);
    open_to_others(&open.folder().join("mqtt-tls-key_file.txt"));
    assert_table(vec![
        FaultCase {
            what: "key and certificate files swapped",
            config: with_file(swapped, "mqtt.tls.key_file", &client.cert),
            lines: &[
                ("client_certificate", FAILED, "are swapped"),
                ("broker_tls", FAILED, "are swapped"),
            ],
        },
        FaultCase {
            what: "key of another certificate",
            config: not_its_key,
            lines: &[
                ("key_fits_certificate", FAILED, "does not belong to it"),
                ("broker_tls", FAILED, "does not belong to it"),
            ],
        },
        FaultCase {
            what: "RSA key",
            config: with_file(config(), "mqtt.tls.key_file", rsa),
            lines: &[("private_key", FAILED, "an RSA key"), ("broker_tls", FAILED, "an RSA key")],
        },
        FaultCase {
            what: "key readable by others",
            config: open,
            lines: &[("key_file_mode", WARNING, "open to every user of this machine")],
        },
        FaultCase {
            what: "chain with the authority first",
            config: with_file(
                config(),
                "mqtt.tls.cert_file",
                format!("{}{}", authority.pem(), client.cert),
            ),
            lines: &[("certificate_chain", WARNING, "the certificates are not in order")],
        },
        FaultCase {
            what: "the server's own kind of certificate as trust anchor",
            config: with_file(config(), "mqtt.tls.ca_file", &client.cert),
            lines: &[
                ("trust_anchor", FAILED, "a server's own certificate"),
                ("broker_tls", FAILED, "a server's own certificate"),
            ],
        },
    ])
    .await;
}

#[tokio::test]
async fn each_certificate_fault_fails_on_its_line() {
    let fixture = CheckFixture::new().await;
    let authority = fixture.broker.authority();
    let with = |identity: &CertifiedKey| with_identity(fixture.config(), identity);
    let valid = |validity| with(&authority.client_valid(TENANT, validity));
    assert_table(vec![
        FaultCase {
            what: "certificate of another tenant",
            config: with(&authority.client("globex")),
            lines: &[("certificate_tenant", FAILED, "common name is \"globex\"")],
        },
        FaultCase {
            what: "common name that differs only in case",
            config: with(&authority.client("ACME")),
            lines: &[("certificate_tenant", FAILED, "common name is \"ACME\"")],
        },
        FaultCase {
            what: "X.509 version 1",
            config: with(&authority.client_v1(TENANT)),
            lines: &[("certificate_version", WARNING, "X.509 version 1")],
        },
        FaultCase {
            what: "20 days left",
            config: valid(CertificateValidity::Days(20)),
            lines: &[("certificate_validity", WARNING, "expires in 19 days")],
        },
        FaultCase {
            what: "expired certificate",
            config: valid(CertificateValidity::Expired),
            lines: &[
                ("certificate_validity", FAILED, "the certificate expired on"),
                ("broker_login", FAILED, "the certificate expired on"),
            ],
        },
        FaultCase {
            what: "certificate not yet valid, or a clock that is slow",
            config: valid(CertificateValidity::NotYet),
            lines: &[
                ("certificate_validity", FAILED, "is not valid before"),
                ("broker_login", FAILED, "is not valid before"),
            ],
        },
    ])
    .await;
    let case = check(&with(&authority.client("ACME"))).await;
    let line = case.checks().iter().find(|check| check["name"] == "certificate_tenant").unwrap();
    assert!(line["what_to_do"].as_str().unwrap().contains("case-sensitive"), "{line:#}");
}

#[tokio::test]
async fn schema_spool_and_admin_address_are_tried() {
    let fixture = CheckFixture::new().await;
    let items_only = "syntax = \"proto3\";\nimport \"google/protobuf/timestamp.proto\";\n\
         message Item { google.protobuf.Timestamp momentum = 4; string uid = 9; }\n";
    let proto = |content: &str| with_file(fixture.config(), "decode.proto_file", content);
    let spool = set_path(fixture.config(), "spool.dir", &fixture.config().folder().join("spool"));
    let in_a_file = fixture.config();
    let in_a_file = set_path(in_a_file, "spool.dir", &fixture.broker.ca_file().join("spool"));
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let held = holder.local_addr().unwrap().to_string();
    check(&spool).await.ok("spool");
    let listening = background().spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = holder.accept().await {
            // Closing with the request unread would reset the connection and lose the answer.
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        }
    });
    assert_table(vec![
        FaultCase {
            what: "protobuf without decode.proto_file",
            config: fixture.config().without("decode"),
            lines: &[("protobuf_schema", WARNING, "its field numbers are assumed")],
        },
        FaultCase {
            what: "a proto_file that does not compile",
            config: proto("syntax = \"proto3\"; message"),
            lines: &[("protobuf_schema", FAILED, "could not compile it")],
        },
        FaultCase {
            what: "a proto_file without the board message",
            config: proto(items_only),
            lines: &[("protobuf_schema", FAILED, "has no board message")],
        },
        FaultCase {
            what: "spool.dir that cannot be made",
            config: in_a_file,
            lines: &[("spool", FAILED, "is not writable")],
        },
        FaultCase {
            what: "admin.listen held by another program",
            config: fixture.config().set("admin.listen", held),
            lines: &[("admin_listen", FAILED, "something other than centiloc-bridge")],
        },
    ])
    .await;
    listening.abort();
}
