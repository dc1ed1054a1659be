//! Decides who may read the endpoint. With `admin.token_file` every path but the probes needs the token:
//! in a header, or in a cookie that the sign-in page sets. Without it, a listener that is not on loopback
//! serves pages and `/api` to this host alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::listen::ConnectionFacts;
use super::shell::{Glance, PageShell};
use super::{HEADERS, host};

/// Path of the sign-in form.
const SIGN_IN: &str = "/sign-in";
/// Name of the cookie, before the port. Browsers do not separate cookies by port, so that services on
/// one host would otherwise sign each other out.
const COOKIE: &str = "centiloc_bridge_session_";
/// Lifetime of the cookie, seconds: a shift.
const COOKIE_SECONDS: u32 = 43_200;
/// Wait before a wrong token is answered.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);
/// Wrong tokens that wait for their answer at a time. More are refused at once, so that guesses are
/// limited to this number each second.
const MOST_REFUSALS: usize = 8;
/// Largest body of the form, bytes.
const MOST_FORM_BYTES: usize = 4_096;

const NO_TOKEN: &str = "The admin endpoint listens on an address that others can reach, and \
    admin.token_file is not set: pages and /api answer this host only. Set admin.token_file to a file \
    with a token, or admin.listen to 127.0.0.1:9464. /livez, /readyz and /metrics answer.\n";
const WRONG: &str =
    "This needs the token of admin.token_file: send Authorization: Bearer with it.\n";

const TOO_MANY: &str = "Too many wrong tokens: try again in a few seconds.\n";

type SecretDigest = [u8; 32];

/// The token as a digest under a key of this process. Digests are compared, so that the duration of a
/// comparison shows nothing about the token.
#[derive(Debug)]
struct TokenDigests {
    key: [u8; 32],
    token: SecretDigest,
    cookie: String,
}

impl TokenDigests {
    fn new(token: &SecretString) -> Self {
        let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
        let mut key = [0; 32];
        key[..16].copy_from_slice(a.as_bytes());
        key[16..].copy_from_slice(b.as_bytes());
        let text = token.expose_secret();
        let cookie = hex(&digest(&key, "cookie", text));
        Self { token: digest(&key, "token", text), cookie, key }
    }

    fn accepts_token(&self, text: &str) -> bool {
        digest(&self.key, "token", text) == self.token
    }

    fn accepts_cookie(&self, text: &str) -> bool {
        digest(&self.key, "compare", text) == digest(&self.key, "compare", &self.cookie)
    }
}

fn digest(key: &[u8; 32], purpose: &str, text: &str) -> SecretDigest {
    Sha256::new()
        .chain_update(key)
        .chain_update(purpose)
        .chain_update([0])
        .chain_update(text)
        .finalize()
        .into()
}

fn hex(digest: &SecretDigest) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::new(), |mut text, byte| {
        // Unwrap safety: writing to a String does not fail.
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

/// The guard in front of all paths.
#[derive(Debug)]
pub(super) struct AccessGuard {
    digests: Option<TokenDigests>,
    cookie_name: String,
    is_loopback: bool,
    refusals: Semaphore,
}

impl AccessGuard {
    /// Returns the guard of a listener on this address.
    pub fn new(token: Option<&SecretString>, listener: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            digests: token.map(TokenDigests::new),
            cookie_name: format!("{COOKIE}{}", listener.map_or(0, |address| address.port())),
            is_loopback: listener.is_some_and(host::is_checked_on),
            refusals: Semaphore::new(MOST_REFUSALS),
        })
    }

    /// Answers a wrong token, late.
    async fn refuse(&self, response: impl IntoResponse) -> Response {
        let Ok(_permit) = self.refusals.try_acquire() else {
            let retry = [(header::RETRY_AFTER, HeaderValue::from_static("5"))];
            return (StatusCode::TOO_MANY_REQUESTS, HEADERS, retry, TOO_MANY).into_response();
        };
        tokio::time::sleep(REFUSAL_DELAY).await;
        response.into_response()
    }
}

/// Passes a request on that may read its path.
pub(super) async fn check(
    State(guard): State<Arc<AccessGuard>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_open = matches!(path, "/livez" | "/readyz") || path.starts_with("/assets/");
    let Some(digests) = guard.digests.as_ref().filter(|_| !is_open) else {
        let is_public = is_open || path == "/metrics";
        if guard.is_loopback || is_public || is_from_this_host(&request) {
            return next.run(request).await;
        }
        return (StatusCode::FORBIDDEN, HEADERS, NO_TOKEN).into_response();
    };
    if path == SIGN_IN {
        return sign_in(&guard, digests, request).await;
    }
    match presented(request.headers(), &guard.cookie_name) {
        Presented::Token(token) if digests.accepts_token(token) => next.run(request).await,
        Presented::Cookie(cookie) if digests.accepts_cookie(cookie) => next.run(request).await,
        Presented::Token(_) => guard.refuse(unauthorized()).await,
        // An old cookie is no guess: the process was restarted.
        Presented::Cookie(_) | Presented::Nothing if wants_page(&request) => form(None),
        Presented::Cookie(_) | Presented::Nothing => unauthorized(),
    }
}

/// Credentials of a request.
enum Presented<'r> {
    Token(&'r str),
    Cookie(&'r str),
    Nothing,
}

fn presented<'r>(headers: &'r HeaderMap, cookie_name: &str) -> Presented<'r> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.split_once(' '));
    if let Some((scheme, token)) = bearer
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return Presented::Token(token.trim());
    }
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|c| c.split_once('='));
    let ours = pairs.find(|(name, _)| name.trim() == cookie_name);
    ours.map_or(Presented::Nothing, |(_, value)| Presented::Cookie(value.trim()))
}

fn wants_page(request: &Request) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    request.method() == Method::GET && accept.is_some_and(|accept| accept.contains("text/html"))
}

fn is_from_this_host(request: &Request) -> bool {
    let peer = request.extensions().get::<ConnectInfo<ConnectionFacts>>();
    let is_local = |ip: IpAddr| ip.to_canonical().is_loopback();
    peer.is_some_and(|ConnectInfo(ConnectionFacts { peer, .. })| is_local(peer.ip()))
        && host::is_addressed_to_loopback(request)
}

fn unauthorized() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
    (StatusCode::UNAUTHORIZED, HEADERS, challenge, WRONG).into_response()
}

/// Shows the form, or accepts it.
async fn sign_in(guard: &AccessGuard, digests: &TokenDigests, request: Request) -> Response {
    if request.method() != Method::POST {
        return form(None);
    }
    let is_secure = request.headers().get(HeaderName::from_static("x-forwarded-proto"));
    let is_secure = is_secure.is_some_and(|value| value == "https");
    let Ok(body) = axum::body::to_bytes(request.into_body(), MOST_FORM_BYTES).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, HEADERS, "The form is too large.\n")
            .into_response();
    };
    let mut fields = url::form_urlencoded::parse(&body);
    let token = fields.find(|(name, _)| name == "token").map(|(_, value)| value);
    if !token.is_some_and(|token| digests.accepts_token(token.trim())) {
        return guard.refuse(form(Some("That is not the token of admin.token_file."))).await;
    }
    // Without a path it is for the folder of the form, as the browser sees it behind a proxy.
    let cookie = format!(
        "{}={}; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Strict{}",
        guard.cookie_name,
        digests.cookie,
        if is_secure { "; Secure" } else { "" }
    );
    // Unwrap safety: a name, hexadecimal digits and constants.
    let cookie = HeaderValue::from_str(&cookie).expect("a header");
    let headers =
        [(header::SET_COOKIE, cookie), (header::LOCATION, HeaderValue::from_static("./"))];
    (StatusCode::SEE_OTHER, HEADERS, headers).into_response()
}

fn form(problem: Option<&str>) -> Response {
    let shell = PageShell {
        title: "Sign in",
        current: None,
        tenant: "",
        glance: Glance::Idle,
        styles: &[],
        scripts: &[],
        reload_seconds: None,
    };
    let page = shell.render(&maud::html! {
        div .card .sign-in {
            h1 { "Sign in" }
            @if let Some(problem) = problem { p .note role="alert" { (problem) } }
            form method="post" action="sign-in" {
                label {
                    "Token of admin.token_file"
                    input type="password" name="token" autocomplete="current-password" required
                        autofocus;
                }
                button { "Sign in" }
            }
        }
    });
    (StatusCode::UNAUTHORIZED, HEADERS, Html(page.into_string())).into_response()
}

#[cfg(test)]
mod tests;
