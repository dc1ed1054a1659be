//! The map in a browser.

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::bridge::Bridge;
use crate::support::browser::Browser;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::postgres::Postgres;
use crate::support::rig::Rig;

/// Place at which an item is drawn, as its distance from the corner of the map.
const DRAWN: &str = "(() => { const c = document.getElementById('map-canvas');
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    const s = getComputedStyle(document.documentElement).getPropertyValue('--series-1').trim();
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(s.slice(at, at + 2), 16));
    let [n, x, y] = [0, 0, 0];
    for (let at = 0; at < d.length; at += 4) {
        if (Math.abs(d[at] - r) + Math.abs(d[at + 1] - g) + Math.abs(d[at + 2] - b) < 90) {
            n += 1; x += (at / 4) % c.width; y += Math.floor(at / 4 / c.width);
        }
    }
    return n > 20 ? `${Math.round(x / n)} ${Math.round(y / n)}` : '';
})()";

fn arrives(uid: &str, x: i32, y: i32) -> ItemEvent {
    let event = ItemEvent::new(TENANT, uid, "BOARD-1", OffsetDateTime::now_utc());
    ItemEvent { pos_mm: vec![x, y], ..event }
}

#[tokio::test(flavor = "multi_thread")]
async fn item_appears_and_moves_without_reload() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let origin = format!("http://127.0.0.1:{}/", bridge.admin_port());
    let browser = Browser::start().await;
    browser.open(&format!("{origin}map")).await;
    browser.until("!document.getElementById('map-empty').hidden").await;
    browser.evaluate("window.loadedOnce = true").await;
    let platform = rig.platform().await;
    platform.publish_json(&[arrives("E0040150AAAA0001", 100, 100)]).await;
    let first = browser.until(DRAWN).await;
    platform.publish_json(&[arrives("E0040150AAAA0001", 300, 200)]).await;
    browser.until(&format!("{DRAWN} && {DRAWN} !== {first}")).await;
    browser.until("document.getElementById('map-live').textContent === 'Live'").await;
    assert_eq!(browser.evaluate("window.loadedOnce").await, true, "it was not loaded again");
    browser.assert_clean(&origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn search_selects_item_with_its_history() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let origin = format!("http://127.0.0.1:{}/", bridge.admin_port());
    let platform = rig.platform().await;
    platform
        .publish_json(&[arrives("E0040150AAAA0001", 1, 1), arrives("E0040150BBBB0002", 9, 9)])
        .await;
    rig.until_rows("item_stay", 2).await;
    let browser = Browser::start().await;
    browser.open(&format!("{origin}map")).await;
    browser.until("document.getElementById('map-empty').hidden && document.getElementById('map-live').textContent === 'Live'").await;
    browser.evaluate("document.getElementById('map-q').focus()").await;
    browser.type_text("bbbb0002").await;
    browser.press("Enter").await;
    browser.until("document.getElementById('map-found').textContent === '1 item on 1 board'").await;
    browser
        .until(
            "document.querySelector('#map-selection h2').textContent.includes('E0040150BBBB0002')",
        )
        .await;
    browser.until("document.querySelectorAll('#map-history li').length === 2").await;
    browser.until("location.hash.includes('item=E0040150BBBB0002')").await;
    browser.until("document.querySelectorAll('#map-items tbody tr').length === 1").await;
    browser.assert_clean(&origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn table_without_scripts_equals_board_content() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let events: Vec<_> = (0..60).map(|n| arrives(&format!("U{n:02}"), n, 2 * n)).collect();
    rig.platform().await.publish_json(&events).await;
    rig.until_rows("item_stay", events.len()).await;
    let browser = Browser::start().await;
    browser.allow_scripts(false).await;
    let mut rows = Vec::new();
    for page in 1..=2 {
        browser.open(&format!("http://127.0.0.1:{}/map?page={page}", bridge.admin_port())).await;
        let shown = "[...document.querySelectorAll('#map-items tbody tr')].map((row) =>
            [0, 3, 5].map((at) => row.children[at].textContent).join(' '))";
        let Value::Array(shown) = browser.evaluate(shown).await else { panic!("no table") };
        rows.extend(shown);
    }
    let sql = "select uid || ' ' || board_sn || ' ' || x_mm || ', ' || y_mm
                 from centiloc.board_content order by uid";
    assert_eq!(json!(rows), json!(rig.database.column::<String>(sql).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_is_shown_on_map() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let bridge = Bridge::ready(&rig.config()).await;
    rig.platform().await.publish_json(&[arrives("U", 1, 1)]).await;
    rig.until_rows("item_stay", 1).await;
    let browser = Browser::start().await;
    browser.open(&format!("http://127.0.0.1:{}/map", bridge.admin_port())).await;
    browser.until("document.getElementById('map-live').textContent === 'Live'").await;
    postgres.stop().await;
    browser
        .until(
            "document.getElementById('map-banner').textContent.includes('database cannot be read')",
        )
        .await;
    browser.until("document.querySelector('#map-stage.stale') !== null").await;
    postgres.start().await;
    browser.until("document.getElementById('map-banner').hidden").await;
}
