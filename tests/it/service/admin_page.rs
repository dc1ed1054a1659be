//! The status page in a browser.

use crate::support::bridge::Bridge;
use crate::support::browser::Browser;
use crate::support::rig::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn page_is_clean_in_a_browser() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let origin = format!("http://127.0.0.1:{}/", bridge.admin_port());
    let browser = Browser::start().await;
    browser.open(&origin).await;
    let title = browser.evaluate("document.title").await;
    assert!(title.as_str().unwrap().contains("centiloc-bridge"), "{title}");
    assert_eq!(browser.evaluate("getComputedStyle(document.body).margin").await, "0px");
    browser.assert_clean(&origin);
    // The check must be able to fail.
    browser
        .evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: '0'}))",
        )
        .await;
    browser.until("true").await;
    assert!(!browser.errors().is_empty(), "an inline script is a violation");
}
