//! Style sheets, scripts and icons of the pages. They are part of the program, and a browser keeps
//! them until their content changes.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// A file that pages load from `assets/NAME`.
struct AssetFile {
    name: &'static str,
    media_type: &'static str,
    content: &'static [u8],
}

macro_rules! asset {
    ($name:literal, $media_type:expr) => {
        AssetFile { name: $name, media_type: $media_type, content: include_bytes!($name) }
    };
}

const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const FILES: [AssetFile; 10] = [
    asset!("style.css", CSS),
    asset!("status.js", SCRIPT),
    asset!("map.css", CSS),
    asset!("map.js", SCRIPT),
    asset!("map-state.js", SCRIPT),
    asset!("map-view.js", SCRIPT),
    asset!("map-shapes.js", SCRIPT),
    asset!("icon-good.svg", SVG),
    asset!("icon-warn.svg", SVG),
    asset!("icon-bad.svg", SVG),
];

/// Entity tags of [`FILES`], in their order.
static TAGS: LazyLock<[HeaderValue; FILES.len()]> = LazyLock::new(|| {
    FILES.map(|file| {
        let digest = Sha256::digest(file.content);
        // Unwrap safety: 16 of 32 bytes, and hexadecimal digits in quotes.
        let tag = Uuid::from_slice(&digest[..16]).expect("16 bytes").simple();
        HeaderValue::from_str(&format!("\"{tag}\"")).expect("a header")
    })
});

/// Answers `GET /assets/{name}`. A browser that has the content receives no body.
pub(super) async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(at) = FILES.iter().position(|file| file.name == name) else {
        return (StatusCode::NOT_FOUND, super::HEADERS, "There is no such file.\n").into_response();
    };
    let (file, tag) = (&FILES[at], TAGS[at].clone());
    // Without an age a browser checks the tag each time, so that an update of the program shows.
    let cached = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, tag.clone()),
        (header::CONTENT_TYPE, HeaderValue::from_static(file.media_type)),
    ];
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut known = known.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    if known.any(|known| known.trim().trim_start_matches("W/").as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, super::HEADERS, cached).into_response();
    }
    (super::HEADERS, cached, file.content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(name: &str, known: Option<&HeaderValue>) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(tag) = known {
            headers.insert(header::IF_NONE_MATCH, tag.clone());
        }
        serve(Path(name.to_owned()), headers).await
    }

    #[tokio::test]
    async fn known_content_is_not_sent_again() {
        for file in FILES {
            let first = answer(file.name, None).await;
            assert_eq!(first.status(), StatusCode::OK);
            assert_eq!(first.headers()[header::CACHE_CONTROL], "no-cache");
            let tag = first.headers()[header::ETAG].clone();
            assert_eq!(answer(file.name, Some(&tag)).await.status(), StatusCode::NOT_MODIFIED);
            let other = HeaderValue::from_static("\"other\"");
            assert_eq!(answer(file.name, Some(&other)).await.status(), StatusCode::OK);
        }
        assert_eq!(answer("mod.rs", None).await.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn no_asset_loads_another_server() {
        for file in FILES {
            let text = std::str::from_utf8(file.content).expect("text").to_owned();
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("//www") && !text.contains("://"), "{}", file.name);
        }
    }
}
