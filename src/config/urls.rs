//! The URL of the proxy, which may contain a password. The URL shown is built from the parts without
//! secrets, never by cutting the password out of the text.

use secrecy::SecretString;
use url::Url;

use super::error::InvalidValue;
use super::model::ProxyConfig;
use super::values::ParseResult;

/// Text shown in place of a secret.
pub(super) const REDACTED: &str = "***";

/// Parses a URL of the form `http://[user:password@]host:port`.
pub(super) fn proxy(text: &str) -> ParseResult<ProxyConfig> {
    let invalid = || {
        let hint = "write for example http://proxy.example.com:3128; percent-encode / ? # @ : % in a password";
        InvalidValue::new("http://host:port or http://user:password@host:port", hint)
    };
    let url = Url::parse(text).map_err(|_| invalid())?;
    let extra =
        !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some();
    if url.scheme() != "http" || extra {
        return Err(invalid());
    }
    // `Url` drops :80, the default of the scheme. A URL without any port is refused, because proxies
    // have no default port.
    let written_80 = || text.trim_end_matches('/').ends_with(":80").then_some(80);
    let port = url.port().or_else(written_80).ok_or_else(invalid)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let decoded = |part| percent_decoded(part).ok_or_else(invalid);
    let credentials = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => {
            Some((decoded(user)?, SecretString::from(decoded(password.unwrap_or_default())?)))
        }
    };
    Ok(ProxyConfig { host, port, credentials })
}

/// Returns the URL of a proxy without its credentials.
pub(super) fn proxy_shown(proxy: &ProxyConfig) -> String {
    // A user name alone may be a token, so both are redacted.
    let user =
        if proxy.credentials.is_some() { format!("{REDACTED}:{REDACTED}@") } else { String::new() };
    if proxy.host.contains(':') {
        format!("http://{user}[{}]:{}", proxy.host, proxy.port)
    } else {
        format!("http://{user}{}:{}", proxy.host, proxy.port)
    }
}

/// Decodes percent-encoding. Returns `None` where a percent sign is not followed by two hexadecimal
/// digits, or the result is not UTF-8.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn proxies_are_shown_without_credentials() {
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
    fn proxies_of_another_form_are_refused() {
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
}
