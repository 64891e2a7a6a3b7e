//! The page at `/`: the mesh as it is, search, datasets.
//!
//! Invariants: nothing on it comes from elsewhere; the one script that may run is the one that was
//! built in, by its hash, so that no file's name, no text and no message can run, whatever is in
//! it; everything that the script shows it shows as text.

use std::sync::LazyLock;

use brahman_card::wire::base64;
use brahman_storage::digest::sha256;
use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap};

use crate::answer::{self, Answer};

const SCRIPT: &str = include_str!("page/page.js");
const STYLE: &str = include_str!("page/page.css");
const BODY: &str = include_str!("page/page.html");

/// The page, and what a browser may load and run for it.
struct PageText {
    html: String,
    policy: String,
}

static PAGE: LazyLock<PageText> = LazyLock::new(|| {
    let hash = |text: &str| base64::encode(&sha256(text.as_bytes()));
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Brahman</title>\n<style>{STYLE}</style>\n</head>\n{BODY}<script>{SCRIPT}</script>\n</html>\n"
    );
    let policy = format!(
        "default-src 'none'; connect-src 'self'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    PageText { html, policy }
});

/// `GET /`: the page for a browser, a word for whoever asks whether somebody is there.
pub(crate) fn page(headers: &HeaderMap) -> Answer {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accept.contains("text/html") {
        return answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", "Brahman is running\n");
    }
    let mut answer = answer::bytes(StatusCode::OK, "text/html; charset=utf-8", PAGE.html.as_str());
    answer::set(&mut answer, "content-security-policy", &PAGE.policy);
    answer::set(&mut answer, "referrer-policy", "no-referrer");
    answer::set(&mut answer, "cache-control", "no-cache");
    answer
}
