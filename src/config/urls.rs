//! The two URLs that may hold a password: the proxy's and `PostgreSQL`'s. What is shown of them is
//! made from the parts known to be harmless, never by cutting the password out of the text.

use secrecy::SecretString;
use url::Url;

use super::model::Proxy;
use super::problem::Complaint;
use super::values::{Parsed, is_loopback};

/// Stands for a secret wherever one is shown.
pub(super) const REDACTED: &str = "***";

/// Reads `http://[user:password@]host:port`.
pub(super) fn proxy(text: &str) -> Parsed<Proxy> {
    let complaint = || {
        let cure =
            "write http://proxy.example.com:3128, say; percent-encode / ? # @ : % in a password";
        Complaint::new("http://host:port or http://user:password@host:port", cure)
    };
    let url = Url::parse(text).map_err(|_| complaint())?;
    let extra =
        !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some();
    if url.scheme() != "http" || extra {
        return Err(complaint());
    }
    // `Url` drops :80 as the scheme's own; a port that is not written at all is refused, because
    // proxies have no agreed one.
    let written_80 = || text.trim_end_matches('/').ends_with(":80").then_some(80);
    let port = url.port().or_else(written_80).ok_or_else(complaint)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(complaint)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let decoded = |part| percent_decoded(part).ok_or_else(complaint);
    let credentials = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => {
            Some((decoded(user)?, SecretString::from(decoded(password.unwrap_or_default())?)))
        }
    };
    Ok(Proxy { host, port, credentials })
}

/// A proxy as it may be shown.
pub(super) fn proxy_shown(proxy: &Proxy) -> String {
    // A user name alone may be a token, so both are left out.
    let user =
        if proxy.credentials.is_some() { format!("{REDACTED}:{REDACTED}@") } else { String::new() };
    if proxy.host.contains(':') {
        format!("http://{user}[{}]:{}", proxy.host, proxy.port)
    } else {
        format!("http://{user}{}:{}", proxy.host, proxy.port)
    }
}

/// `None` where a percent sign is not followed by two hexadecimal digits or the text is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(decoded).ok()
}

/// The parameters `sqlx` takes that hold nothing secret. Others are refused: `sqlx` ignores them,
/// and logs their values while doing so.
const SHOWN_PARAMETERS: [&str; 16] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "application_name",
    "statement-cache-capacity",
];
/// The parameters `sqlx` takes that may hold something secret.
const HIDDEN_PARAMETERS: [&str; 2] = ["password", "options"];
/// Ways to use TLS, weakest first.
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
/// What `sqlx` does when the URL does not say.
const DEFAULT_SSL_MODE: &str = "prefer";

/// A `PostgreSQL` URL that was looked through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DatabaseUrl {
    /// What may be shown.
    pub shown: String,
    /// The TLS mode, if the host is elsewhere and the mode does not prove which host answers.
    pub weak_tls: Option<String>,
}

/// Looks through a `PostgreSQL` URL. The text itself is what `sqlx` is given.
pub(super) fn database(text: &str) -> Parsed<DatabaseUrl> {
    let url = Url::parse(text).map_err(|_| database_complaint())?;
    if !matches!(url.scheme(), "postgres" | "postgresql") || url.cannot_be_a_base() {
        return Err(database_complaint());
    }
    // A password with a bare / ? or # ends the host part early and leaves its rest, up to the @,
    // where it would be taken for a database name, and shown.
    let tail = [url.path(), url.query().unwrap_or_default()];
    if url.fragment().is_some() || tail.iter().any(|part| part.contains('@')) {
        return Err(database_complaint());
    }
    check_parameters(&url)?;
    Ok(DatabaseUrl { shown: database_shown(&url), weak_tls: weak_tls(&url) })
}

fn database_complaint() -> Complaint {
    Complaint::new(
        "postgres://user:password@host:port/name or postgres:///name?host=/run/postgresql",
        "percent-encode / ? # @ : % in the password (@ is %40, / is %2F, # is %23, ? is %3F)",
    )
}

fn check_parameters(url: &Url) -> Parsed<()> {
    for (name, value) in url.query_pairs() {
        let complaint =
            |expected: String| Err(Complaint::new(expected, "correct what follows the ?"));
        let known = SHOWN_PARAMETERS.contains(&&*name) || HIDDEN_PARAMETERS.contains(&&*name);
        if !known && !name.starts_with("options[") {
            return complaint(format!(
                "only the parameters {}, password, options",
                SHOWN_PARAMETERS.join(", ")
            ));
        }
        match &*name {
            "sslmode" | "ssl-mode" if !SSL_MODES.contains(&&*value.to_ascii_lowercase()) => {
                return complaint(format!("an sslmode of {}", SSL_MODES.join(", ")));
            }
            "port" if value.parse::<u16>().is_err() => {
                return complaint("a port from 0 to 65535".to_owned());
            }
            "hostaddr" if value.parse::<std::net::IpAddr>().is_err() => {
                return complaint("an IP address as hostaddr".to_owned());
            }
            "statement-cache-capacity" if value.parse::<u32>().is_err() => {
                return complaint("a whole number as statement-cache-capacity".to_owned());
            }
            _ => {}
        }
    }
    Ok(())
}

fn database_shown(url: &Url) -> String {
    let mut shown = format!("{}://", url.scheme());
    shown.push_str(url.username());
    if url.password().is_some() {
        shown.push(':');
        shown.push_str(REDACTED);
    }
    if !url.username().is_empty() || url.password().is_some() {
        shown.push('@');
    }
    shown.push_str(url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        shown.push(':');
        shown += &port.to_string();
    }
    shown += url.path();
    let mut separator = '?';
    for (name, value) in url.query_pairs() {
        let harmless = SHOWN_PARAMETERS.contains(&&*name);
        shown.push(separator);
        shown += &name;
        shown.push('=');
        shown += if harmless { &value } else { REDACTED };
        separator = '&';
    }
    shown
}

fn weak_tls(url: &Url) -> Option<String> {
    let last = |names: &[&str]| {
        url.query_pairs()
            .filter(|(name, _)| names.contains(&&**name))
            .last()
            .map(|(_, value)| value)
    };
    let authority = url.host_str().filter(|host| !host.is_empty()).and_then(percent_decoded);
    let host = last(&["host", "hostaddr"]).map(std::borrow::Cow::into_owned).or(authority);
    // Without a host the library looks for a socket, then for localhost.
    let here = host.is_none_or(|host| host.starts_with('/') || is_loopback(&host));
    let mode = last(&["sslmode", "ssl-mode"])
        .map_or_else(|| DEFAULT_SSL_MODE.to_owned(), |mode| mode.to_ascii_lowercase());
    (!here && mode != "verify-full").then_some(mode)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_proxy_is_taken_apart_and_shown_without_its_credentials() {
        let plain = proxy("http://proxy.example.com:3128").unwrap();
        assert_eq!((plain.host.as_str(), plain.port), ("proxy.example.com", 3128));
        assert!(plain.credentials.is_none());
        assert_eq!(proxy_shown(&plain), "http://proxy.example.com:3128");
        let full = proxy("http://us%40er:hun%2Fter@[::1]:80/").unwrap();
        let (user, password) = full.credentials.as_ref().unwrap();
        assert_eq!((full.host.as_str(), full.port), ("::1", 80));
        assert_eq!((user.as_str(), password.expose_secret()), ("us@er", "hun/ter"));
        assert_eq!(proxy_shown(&full), "http://***:***@[::1]:80");
        assert!(!format!("{full:?}").contains("hun"));
    }

    #[test]
    fn a_proxy_of_any_other_shape_is_refused() {
        for bad in [
            "",
            "proxy:3128",
            "https://p:1",
            "http://p",
            "http://p:1/x",
            "http://p:1?x",
            "socks5://p:1",
            "http://:1",
            "http://u:%zz@p:1",
            "http://p:99999",
        ] {
            assert!(proxy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_database_url_is_shown_without_its_password() {
        let shown = |text| database(text).unwrap().shown;
        assert_eq!(shown("postgres://u:p%40ss@db:5433/x"), "postgres://u:***@db:5433/x");
        assert_eq!(
            shown("postgres:///x?host=/run/postgresql"),
            "postgres:///x?host=/run/postgresql"
        );
        assert_eq!(
            shown("postgresql://db/x?user=u&password=hunter2&options=-cfoo=hunter2"),
            "postgresql://db/x?user=u&password=***&options=***"
        );
    }

    #[test]
    fn a_password_that_is_not_encoded_is_refused_rather_than_shown() {
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
            assert!(database(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_weak_tls_to_another_host_is_reported() {
        let weak = |text| database(text).unwrap().weak_tls;
        assert_eq!(weak("postgres://db/x").as_deref(), Some("prefer"));
        assert_eq!(weak("postgres://db/x?sslmode=verify-ca").as_deref(), Some("verify-ca"));
        assert_eq!(weak("postgres:///x?host=db&sslmode=REQUIRE").as_deref(), Some("require"));
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
        fn whatever_the_password_it_is_never_shown(
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
                let shown = match (database(&text), proxy(&text)) {
                    (Ok(url), _) => format!("{url:?}"),
                    (_, Ok(proxy)) => format!("{proxy:?} {}", proxy_shown(&proxy)),
                    (Err(_), Err(_)) => continue,
                };
                prop_assert!(!shown.contains(&secret) && !shown.contains(&written), "{}", shown);
                let parts = secret.split(|c: char| !c.is_alphanumeric());
                for part in parts.filter(|part| part.len() > 3) {
                    prop_assert!(!shown.contains(part), "{} shows {}", shown, part);
                }
            }
        }
    }
}
