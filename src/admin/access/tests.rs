use std::collections::BTreeMap;

use super::*;
use crate::admin::tests::{SOON, get_with, healthy, post, serving};
use crate::admin::{AdminState, serve};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const HTML: &str = "Host: localhost\r\nAccept: text/html";

fn protected() -> AdminState {
    AdminState { token: Some(TOKEN.into()), ..healthy() }
}

fn bearer(token: &str) -> String {
    format!("Host: localhost\r\nAuthorization: Bearer {token}")
}

#[tokio::test]
async fn only_probes_and_styles_need_no_token() {
    serving(protected(), async |address| {
        for path in ["/livez", "/readyz", "/assets/style.css"] {
            assert_eq!(get_with(address, path, "Host: localhost").await.code, 200, "{path}");
        }
        for path in ["/", "/metrics", "/api/status", "/api/history", "/map", "/elsewhere"] {
            let response = get_with(address, path, "Host: localhost").await;
            assert_eq!(response.code, 401, "{path}");
            assert!(response.head.contains("www-authenticate: bearer"), "{}", response.head);
            assert!(!response.body.contains("acme"), "{}", response.body);
        }
        assert_eq!(get_with(address, "/metrics", &bearer(TOKEN)).await.code, 200);
        let foreign = bearer(TOKEN).replace("localhost", "rebound.example");
        assert_eq!(get_with(address, "/metrics", &foreign).await.code, 403);
    })
    .await;
}

#[tokio::test]
async fn form_sets_a_cookie_without_the_token() {
    serving(protected(), async |address| {
        let form = get_with(address, "/", HTML).await;
        assert!(form.code == 401 && form.body.contains("action=\"sign-in\""), "{}", form.body);
        let response = post(address, "/sign-in", &format!("token={TOKEN}")).await;
        assert_eq!(response.code, 303);
        let cookie = response.head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        let cookie = cookie.expect("a cookie");
        assert!(cookie.contains("httponly") && cookie.contains("samesite=strict"), "{cookie}");
        assert!(!cookie.contains("path="), "{cookie}");
        assert!(!response.head.contains(TOKEN) && !response.body.contains(TOKEN));
        let pair = cookie.split(';').next().expect("a pair");
        let with = |pair: &str| format!("{HTML}\r\nCookie: other=1; {pair}");
        let page = get_with(address, "/", &with(pair)).await;
        assert!(page.code == 200 && page.body.contains("verdict"), "{}", page.body);
        let changed = pair.replace('=', "=0");
        assert_eq!(get_with(address, "/", &with(&changed)).await.code, 401);
    })
    .await;
}

/// Signs in, and keeps the cookie as a browser does, by name and not by port.
async fn signed_in(address: SocketAddr, jar: &mut BTreeMap<String, String>) {
    let response = post(address, "/sign-in", &format!("token={TOKEN}")).await;
    let cookie = response.head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
    let pair = cookie.and_then(|cookie| cookie.split(';').next()).expect("a pair");
    let (name, value) = pair.split_once('=').expect("a name");
    jar.insert(name.to_owned(), value.to_owned());
}

#[tokio::test]
async fn sign_in_on_one_port_keeps_another() {
    serving(protected(), async |first| {
        serving(protected(), async |second| {
            let mut jar = BTreeMap::new();
            signed_in(first, &mut jar).await;
            signed_in(second, &mut jar).await;
            let pairs: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let headers = format!("{HTML}\r\nCookie: {}", pairs.join("; "));
            for address in [first, second] {
                assert_eq!(get_with(address, "/", &headers).await.code, 200, "{pairs:?}");
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn wrong_tokens_are_slowed_and_limited() {
    serving(protected(), async |address| {
        let wrong = bearer("wrong");
        let guesses = (0..MOST_REFUSALS * 3).map(|_| get_with(address, "/metrics", &wrong));
        let guesses = futures_all(guesses.collect());
        // The correct token is not held up by them.
        let correct = bearer(TOKEN);
        let (codes, correct) = tokio::join!(guesses, get_with(address, "/metrics", &correct));
        assert_eq!(correct.code, 200);
        let refused = codes.iter().filter(|code| **code == 401).count();
        let limited = codes.iter().filter(|code| **code == 429).count();
        assert!(refused >= MOST_REFUSALS && limited > 0, "{codes:?}");
        assert_eq!(refused + limited, codes.len());
        assert_eq!(post(address, "/sign-in", "token=wrong").await.code, 401);
    })
    .await;
}

#[tokio::test]
async fn open_listener_serves_pages_to_this_host() {
    let listener = crate::admin::bind("0.0.0.0:0".parse().expect("an address")).await;
    let listener = listener.expect("a port");
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().expect("one").port()));
    let client = async {
        for path in ["/", "/api/status", "/metrics", "/readyz"] {
            assert_eq!(get_with(address, path, "Host: 127.0.0.1").await.code, 200, "{path}");
        }
        // As a page of another name that resolves to this host.
        for path in ["/", "/api/status", "/map"] {
            let response = get_with(address, path, "Host: bridge.example").await;
            assert_eq!(response.code, 403, "{path}");
            assert!(response.body.contains("admin.token_file"), "{}", response.body);
        }
        for path in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(get_with(address, path, "Host: bridge.example").await.code, 200, "{path}");
        }
    };
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::select! {
        () = Box::pin(serve(listener, healthy(), stop)) => panic!("the endpoint ended"),
        () = async { tokio::time::timeout(SOON, client).await.expect("in time") } => {}
    }
}

/// Runs requests at the same time, and returns their codes.
async fn futures_all<F>(requests: Vec<F>) -> Vec<u16>
where
    F: Future<Output = crate::admin::tests::HttpResponse>,
{
    let mut pinned: Vec<_> = requests.into_iter().map(Box::pin).collect();
    let mut codes = vec![None; pinned.len()];
    std::future::poll_fn(|context| {
        for (at, request) in pinned.iter_mut().enumerate() {
            if codes[at].is_none()
                && let std::task::Poll::Ready(response) = request.as_mut().poll(context)
            {
                codes[at] = Some(response.code);
            }
        }
        if codes.contains(&None) { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    codes.into_iter().flatten().collect()
}
