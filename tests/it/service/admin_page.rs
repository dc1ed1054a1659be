//! The status page in a browser. `SCREENSHOTS=FOLDER` keeps pictures of it.

use std::path::PathBuf;

use serde_json::json;

use crate::support::bridge::{Bridge, command, finish};
use crate::support::browser::Browser;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::postgres::Postgres;
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until, until_eq};

/// Rows as an earlier process left them: a day of figures, connections, a gap and dead letters.
const EARLIER: &str = "
    insert into centiloc.service_figures (client_id, at, events_per_second, lag_seconds, unacked)
    select 'acme-bridge', now() - n * interval '5 min',
           40 + 30 * sin(n / 40.0) + 8 * sin(n * 1.7), 0.8 + 0.3 * cos(n / 25.0),
           (20 + 15 * sin(n / 7.0))::bigint
      from generate_series(1, 280) n where n not between 100 and 112;
    insert into centiloc.connection (client_id, instance, connected_at, session_present, filters,
                                     last_seen_at, disconnected_at, reason)
    select 'acme-bridge', gen_random_uuid(), now() - n * interval '7 h', n < 4, '{}',
           now() - n * interval '7 h' + interval '6 h', now() - n * interval '7 h' + interval '6 h',
           case when n % 2 = 0 then 'connection lost' else 'renewed' end
      from generate_series(4, 1, -1) n;
    insert into centiloc.gap (client_id, started_at, ended_at, cause, detail, acknowledged_at, note)
    values ('acme-bridge', now() - interval '21 h', now() - interval '20 h', 'session_lost',
            'the broker had no session', now() - interval '19 h', 'nothing missing');
    insert into centiloc.dead_letter (received_at, last_seen_at, topic, payload, digest, reason,
                                      detail, seen)
    select now() - n * interval '3 h', now() - n * interval '3 h', 'acme/data/user/json/items',
           'secret payload', sha256(n::text::bytea), 'malformed', 'secret detail', n
      from generate_series(1, 3) n";

fn origin(bridge: &Bridge) -> String {
    format!("http://127.0.0.1:{}/", bridge.admin_port())
}

/// Keeps a picture where `SCREENSHOTS` names a folder.
async fn keep_picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        browser.screenshot(&PathBuf::from(folder).join(name), true).await;
    }
}

/// A bridge with an eventful day behind it.
async fn eventful(rig: &Rig) -> Bridge {
    let mut bridge = Bridge::ready(&rig.config()).await;
    // Its own connection is the first, or the earlier ones would make it a lost session.
    rig.until_rows("connection", 1).await;
    rig.database.execute(EARLIER).await;
    assert_eq!(bridge.terminate().await, 0);
    bridge.start_again();
    bridge.until_ready().await;
    rig.platform().await.publish_json(&ItemEvent::series(TENANT, 200)).await;
    rig.until_rows("item_event", 200).await;
    bridge
}

#[tokio::test(flavor = "multi_thread")]
async fn page_is_clean_in_a_browser() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let browser = Browser::start().await;
    browser.open(&origin(&bridge)).await;
    assert_eq!(browser.evaluate("document.title").await, "Well · centiloc-bridge");
    browser.until("document.querySelector('#verdict h1').innerText.startsWith('Well:')").await;
    assert_eq!(browser.evaluate("getComputedStyle(document.body).margin").await, "0px");
    // The script has refreshed the page.
    until_eq("a refresh", SOON, true, || async {
        browser.requests().iter().filter(|url| **url == origin(&bridge)).count() > 2
    })
    .await;
    browser.assert_clean(&origin(&bridge));
    // The check must be able to fail.
    let add = "document.body.append(Object.assign(document.createElement('script'), {text: '0'}))";
    browser.evaluate(add).await;
    until_eq("a violation", SOON, true, || async { !browser.errors().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_rows_without_payloads() {
    let rig = Rig::new().await;
    let bridge = eventful(&rig).await;
    let browser = Browser::start().await;
    browser.allow_scripts(false).await;
    browser.open(&origin(&bridge)).await;
    let rows = |caption: &str| {
        format!(
            "[...document.querySelectorAll('#rows table')].find(table => table.caption.innerText \
             === '{caption}').tBodies[0].rows.length"
        )
    };
    for (caption, number) in [("Last gaps", 1), ("Last dead letters", 3), ("Last connections", 6)] {
        assert_eq!(browser.evaluate(&rows(caption)).await, number, "{caption}");
    }
    // A message that is received again is the newest, whatever its ID.
    let first = rows("Last dead letters").replace(".length", "[0].cells[0].innerText");
    assert_eq!(browser.evaluate(&first).await, "1");
    let text = browser.text().await;
    assert!(text.contains("session lost") && text.contains("malformed"), "{text}");
    let source = browser.evaluate("document.documentElement.outerHTML").await;
    assert!(!source.as_str().unwrap().contains("secret"), "{source}");
    // The day of the earlier process is in the charts: two pieces around the missing hour.
    let curves =
        "document.querySelectorAll('.series-1 .chart')[1].querySelectorAll('.curve').length";
    assert_eq!(browser.evaluate(curves).await, 2);
    let exact = "document.querySelectorAll('time:not([title])').length";
    assert_eq!(browser.evaluate(exact).await, 0);
    assert!(browser.evaluate("document.querySelectorAll('time').length").await.as_u64() > Some(10));
    browser.assert_clean(&origin(&bridge));
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_shows_on_the_open_page() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let bridge = eventful(&rig).await;
    let browser = Browser::start().await;
    browser.open(&origin(&bridge)).await;
    postgres.stop().await;
    let h1 = "document.querySelector('#verdict h1').innerText";
    browser.until(&format!("{h1}.includes('cannot be stored in PostgreSQL')")).await;
    browser.until("document.querySelector('#rows .note').innerText.includes('its rows of')").await;
    assert_eq!(browser.evaluate("document.querySelectorAll('#rows table').length").await, 3);
    let icon = "document.querySelector('link[rel=icon]').getAttribute('href')";
    assert_ne!(browser.evaluate(icon).await, "assets/icon-good.svg");
    keep_picture(&browser, "outage.png").await;
    postgres.start().await;
    browser.until(&format!("!{h1}.includes('PostgreSQL')")).await;
    browser.until("document.querySelector('#rows .note') === null").await;
    browser.assert_clean(&origin(&bridge));
}

#[tokio::test(flavor = "multi_thread")]
async fn focused_table_is_refreshed() {
    let rig = Rig::new().await;
    let bridge = eventful(&rig).await;
    let browser = Browser::start().await;
    browser.open(&origin(&bridge)).await;
    let focus = "window.before = document.querySelector('#rows');
                 document.querySelector('#rows [aria-label=\"Last connections\"]').focus()";
    browser.evaluate(focus).await;
    let refreshed = "document.querySelector('#rows') !== window.before
                     && document.activeElement.getAttribute('aria-label') === 'Last connections'";
    browser.until(refreshed).await;
    let announced = browser.evaluate("document.querySelector('#announcement').innerText").await;
    assert_eq!(announced, "", "nothing but times changed");
    browser.assert_clean(&origin(&bridge));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_login_needs_an_operator() {
    let postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let bridge = eventful(&rig).await;
    let browser = Browser::start().await;
    browser.open(&origin(&bridge)).await;
    rig.database.execute("alter role bridge nologin").await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'bridge'";
    rig.database.execute(end).await;
    let verdict = "document.querySelector('#verdict').innerText";
    browser.until(&format!("{verdict}.startsWith('Needs you:')")).await;
    assert_eq!(
        browser.evaluate(&format!("{verdict}.includes('not permitted to log in')")).await,
        true
    );
    let announced = "document.querySelector('#announcement').textContent.startsWith('Needs you:')";
    browser.until(announced).await;
    keep_picture(&browser, "needs-you.png").await;
    rig.database.execute("alter role bridge login").await;
    browser.until(&format!("{verdict}.startsWith('Well:')")).await;
    browser.assert_clean(&origin(&bridge));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_fits_every_width() {
    let rig = Rig::new().await;
    let bridge = eventful(&rig).await;
    let browser = Browser::start().await;
    for (width, height) in [(360, 740), (400, 800), (768, 1024), (1280, 900), (3840, 2160)] {
        for scheme in ["light", "dark"] {
            browser.resize(width, height, 1.0).await;
            browser.prefer(&[("prefers-color-scheme", scheme)]).await;
            browser.open(&origin(&bridge)).await;
            let overflow = "document.documentElement.scrollWidth - innerWidth";
            assert_eq!(browser.evaluate(overflow).await, 0, "{width} {scheme}");
            assert_eq!(browser.evaluate(LOW_CONTRAST).await, json!([]), "{width} {scheme}");
            keep_picture(&browser, &format!("status-{width}-{scheme}.png")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_opens_page_and_status() {
    const TOKEN: &str = "0123456789abcdef-token";
    let rig = Rig::new().await;
    let config = rig.config();
    let file = config.file("token", format!("{TOKEN}\n"));
    let config = config.set("admin.token_file", file.to_str().unwrap());
    let bridge = Bridge::ready(&config).await;
    let browser = Browser::start().await;
    browser.open(&origin(&bridge)).await;
    browser.until("document.activeElement.name === 'token'").await;
    keep_picture(&browser, "sign-in.png").await;
    browser.type_text("a wrong token").await;
    browser.press("Enter").await;
    browser.until("document.querySelector('.note').innerText.includes('not the token')").await;
    browser.until("document.activeElement.name === 'token'").await;
    browser.type_text(TOKEN).await;
    browser.press("Enter").await;
    browser.until("document.querySelector('#verdict h1').innerText.startsWith('Well:')").await;
    assert_eq!(browser.evaluate("document.cookie").await, "", "no script reads it");
    browser.assert_only(&origin(&bridge));
    assert!(browser.requests().iter().all(|url| !url.contains(TOKEN)));
    // Another one on the same host, which stands by.
    let other = rig.config().set("admin.token_file", file.to_str().unwrap());
    let other = Bridge::start(&other);
    until("the other page", SOON, || other.get("/livez")).await;
    browser.open(&origin(&other)).await;
    browser.until("document.activeElement.name === 'token'").await;
    browser.type_text(TOKEN).await;
    browser.press("Enter").await;
    browser.until("document.querySelector('#verdict h1')").await;
    browser.open(&origin(&bridge)).await;
    browser.until("document.querySelector('#verdict h1').innerText.startsWith('Well:')").await;
    assert!(!bridge.log().lines().iter().any(|line| line.contains(TOKEN)));
    let file = config.write();
    let output = finish(command(["status".as_ref(), "-c".as_ref(), file.as_os_str()])).await;
    assert!(output.status.success(), "{output:?}");
    let url = origin(&bridge);
    let output = finish(command(["status", "--url", &url])).await;
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("admin.token_file") && errors.contains("--token-file"), "{errors}");
}

/// Lists the texts whose contrast with their background is below 4.5:1.
const LOW_CONTRAST: &str = "(() => {
    const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
    const background = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const colour = parse(getComputedStyle(e).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const low = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || !element.checkVisibility()) continue;
        const style = getComputedStyle(element);
        const colour = element instanceof SVGElement ? style.fill : style.color;
        const [a, b] = [parse(colour), background(element)].map(luminance).sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) low.push(`${ratio.toFixed(1)} ${element.textContent.trim()}`);
    }
    return low;
})()";
