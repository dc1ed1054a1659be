use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::super::urls::{proxy, proxy_shown};
use super::*;

fn parsed(text: &str) -> DatabaseUrl {
    DatabaseUrl::parse(text).unwrap_or_else(|invalid| panic!("{text}: {invalid:?}"))
}

fn places(text: &str) -> Vec<String> {
    let place = |endpoint: &DatabaseEndpoint| {
        let host = match &endpoint.host {
            DatabaseHost::Default => "default".to_owned(),
            DatabaseHost::Socket(folder) => folder.display().to_string(),
            DatabaseHost::Tcp(name) => name.clone(),
        };
        let address = endpoint.address.map(|ip| format!(" at {ip}")).unwrap_or_default();
        format!("{host}{address} {}", endpoint.port)
    };
    parsed(text).endpoints.iter().map(place).collect()
}

#[test]
fn hosts_are_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("postgres://u@[::1]:5433/db", &["::1 5433"][..]),
        ("postgres://db", &["db 5432"]),
        ("postgresql://u:p@a:1,b:2,[2001:db8::1]:3/x", &["a 1", "b 2", "2001:db8::1 3"]),
        ("postgres://a,b/x?port=6432", &["a 6432", "b 6432"]),
        ("postgres:///x?host=a,b&port=1,2", &["a 1", "b 2"]),
        ("postgres:///x?host=/run/postgresql&port=5433", &["/run/postgresql 5433"]),
        ("postgres://%2Frun%2Fpostgresql/x", &["/run/postgresql 5432"]),
        ("postgres://db/x?hostaddr=10.0.0.1", &["db at 10.0.0.1 5432"]),
        ("postgres:///x?hostaddr=10.0.0.1", &["10.0.0.1 at 10.0.0.1 5432"]),
        ("postgres:///x", &["default 5432"]),
    ] {
        assert_eq!(places(text), expected, "{text}");
    }
    for bad in
        ["postgres://a,b/x?port=1,2,3", "postgres://a/x?hostaddr=::1,::2", "postgres://a b/x"]
    {
        assert!(DatabaseUrl::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn strings_of_providers_are_accepted() {
    let url = parsed(
        "postgresql://app:s%40c@h.example:25060/defaultdb?sslmode=require&connect_timeout=15\
         &channel_binding=prefer&target_session_attrs=read-write&keepalives=1&keepalives_idle=40\
         &application_name=bridge&options=-c%20work_mem%3D8MB%20--lock-timeout%3D1s",
    );
    assert_eq!((url.user.as_deref(), url.database.as_deref()), (Some("app"), Some("defaultdb")));
    assert_eq!(url.password.as_ref().unwrap().expose_secret(), "s@c");
    assert_eq!(
        (url.tls.mode, url.connect_timeout),
        (SslMode::Require, Some(Duration::from_secs(15)))
    );
    assert!(url.writable);
    assert_eq!(url.application_name.as_deref(), Some("bridge"));
    let settings: Vec<_> = url.settings.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(settings, ["tcp_keepalives_idle=40", "work_mem=8MB", "lock_timeout=1s"]);
}

#[test]
fn unsupported_parameters_are_refused_by_name() {
    for (query, words) in [
        ("channel_binding=require", "channel_binding=require"),
        ("target_session_attrs=standby", "target_session_attrs"),
        ("service=x", "service"),
        ("passfile=/x", "database.url_file"),
        ("keepalives=0", "keepalives=0"),
        ("pgbouncer=true", "parameter pgbouncer"),
        ("ssl=true", "sslmode=verify-full"),
        ("options=endpoint%3Dx", "endpoint="),
        ("sslrootcert=system&sslmode=require", "sslmode=verify-full"),
        ("sslcert=/x", "sslkey"),
        ("connect_timeout=soon", "connect_timeout"),
    ] {
        let invalid = DatabaseUrl::parse(&format!("postgres://u@h/x?{query}")).unwrap_err();
        let text = format!("{} {}", invalid.expected, invalid.hint);
        assert!(text.contains(words), "{query}: {text}");
    }
}

#[test]
fn a_root_certificate_is_compared_with() {
    let tls = |query: &str| parsed(&format!("postgres://h/x?{query}")).tls;
    assert_eq!(tls("sslrootcert=/ca.pem&sslmode=require").mode, SslMode::VerifyCa);
    assert_eq!(tls("sslrootcert=system").mode, SslMode::VerifyFull);
    assert_eq!(tls("sslrootcert=system").root, RootCertificates::System);
    assert_eq!(tls("").mode, SslMode::Prefer);
}

#[test]
fn a_database_url_is_shown_without_its_password() {
    let shown = |text| DatabaseUrl::parse(text).unwrap().shown;
    assert_eq!(shown("postgres://u:p%40ss@db:5433/x"), "postgres://u:***@db:5433/x");
    assert_eq!(shown("postgres:///x?host=/run/postgresql"), "postgres:///x?host=/run/postgresql");
    assert_eq!(
        shown("postgresql://db/x?user=u&password=hunter2&options=-cfoo=hunter2"),
        "postgresql://db/x?user=u&password=***&options=***"
    );
}

#[test]
fn unencoded_passwords_are_refused_unshown() {
    for bad in [
        "postgres://u:12/34@db/x",
        "postgres://u:12?34@db/x",
        "postgres://u:12#34@db/x",
        "postgres://u:pa/ss@db/x",
        "mysql://u:p@db/x",
        "db/x",
        "",
        "postgres:x",
        "postgres://db/x?pasword=hunter2",
        "postgres://db/x?sslmode=verify",
        "postgres://db/x?port=a",
    ] {
        assert!(DatabaseUrl::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn only_weak_tls_to_another_host_is_reported() {
    let weak = |text| DatabaseUrl::parse(text).unwrap().weak_tls();
    assert_eq!(weak("postgres://db/x"), Some("prefer"));
    assert_eq!(weak("postgres://db/x?sslmode=verify-ca"), Some("verify-ca"));
    assert_eq!(weak("postgres:///x?host=db&sslmode=REQUIRE"), Some("require"));
    for fine in [
        "postgres://db/x?sslmode=verify-full",
        "postgres://localhost/x",
        "postgres://127.0.0.1/x",
        "postgres://[::1]/x",
        "postgres:///x",
        "postgres:///x?host=/run/postgresql",
        "postgres://%2Frun%2Fpostgresql/x",
        "postgres://db/x?host=/run/postgresql",
    ] {
        assert_eq!(weak(fine), None, "{fine}");
    }
}

proptest! {
    #[test]
    fn passwords_are_never_shown(
        secret in "[A-Z0-9/?#@:%&=+ é]{5,24}", encoded in any::<bool>()
    ) {
        // Capitals and digits, so that a piece of it cannot be a piece of the rest by chance.
        let written = if encoded {
            secret.bytes().flat_map(|b| format!("%{b:02X}").into_bytes()).map(char::from).collect()
        } else {
            secret.clone()
        };
        let texts = [
            format!("postgres://user:{written}@host/name"),
            format!("postgres://host/name?password={written}"),
            format!("http://user:{written}@host:3128"),
        ];
        for text in texts {
            let shown = match (DatabaseUrl::parse(&text), proxy(&text)) {
                (Ok(url), _) => format!("{url:?}"),
                (_, Ok(proxy)) => format!("{proxy:?} {}", proxy_shown(&proxy)),
                (Err(invalid), Err(_)) => format!("{invalid:?}"),
            };
            prop_assert!(!shown.contains(&secret) && !shown.contains(&written), "{}", shown);
            let parts = secret.split(|c: char| !c.is_alphanumeric());
            for part in parts.filter(|part| part.len() > 3) {
                prop_assert!(!shown.contains(part), "{} shows {}", shown, part);
            }
        }
    }
}
