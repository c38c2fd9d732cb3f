//! The page's files, inside the program.
//! Rule: nothing is loaded from elsewhere; a new release shows at the next load, for browsers ask each time.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}

/// The page.
pub fn index() -> Response {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

/// Its script.
pub fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

/// Its style.
pub fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

/// Browsers ask for it by themselves; the page has its icon inline.
pub fn icon() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
