//! The page's files, inside the program, compressed when it was built (`build.rs`).
//! Rule: nothing is loaded from elsewhere; a browser asks each time whether its copy is still right, and mostly it is.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A file in the forms browsers take it.
struct File {
    name: &'static str,
    kind: &'static str,
    /// Of the plain bytes, quoted; the forms differ by a suffix.
    tag: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
    brotli: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// `/page/{name}`.
pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    answer(&name, &headers)
}

/// A file, smaller when the browser knows how, or nothing when it has it.
pub fn answer(name: &str, headers: &HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        return (StatusCode::NOT_FOUND, "there is no such file\n").into_response();
    };
    let (bytes, encoding) = file.form(headers.get(header::ACCEPT_ENCODING));
    let tag = format!("\"{}{}\"", file.tag, encoding.map(|name| format!("-{name}")).unwrap_or_default());
    let mut response = if has(headers.get(header::IF_NONE_MATCH), &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, file.kind)], bytes).into_response()
    };
    let answer = response.headers_mut();
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    answer.extend(HeaderValue::from_str(&tag).ok().map(|tag| (header::ETAG, tag)));
    answer.extend(encoding.map(|name| (header::CONTENT_ENCODING, HeaderValue::from_static(name))));
    response
}

impl File {
    fn form(&self, accepted: Option<&HeaderValue>) -> (&'static [u8], Option<&'static str>) {
        match encoding(accepted.and_then(|value| value.to_str().ok()).unwrap_or_default()) {
            // A file that compression does not make smaller stays as it is.
            Some("br") if self.brotli.len() < self.plain.len() => (self.brotli, Some("br")),
            Some("gzip") if self.gzip.len() < self.plain.len() => (self.gzip, Some("gzip")),
            _ => (self.plain, None),
        }
    }
}

/// The smallest form that is accepted (RFC 9110, 12.5.3); a weight of 0 is a refusal, other weights decide nothing here.
fn encoding(accepted: &str) -> Option<&'static str> {
    let weight = |parameters: Option<&str>| {
        parameters
            .and_then(|text| text.trim().strip_prefix("q="))
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(1.0)
    };
    let accepts = |name: &str| {
        let mut choices = accepted.split(',').map(|choice| {
            let (name, parameters) = choice.split_once(';').map_or((choice, None), |(name, rest)| (name, Some(rest)));
            (name.trim(), weight(parameters))
        });
        choices.any(|(choice, weight)| choice.eq_ignore_ascii_case(name) && weight > 0.0)
    };
    ["br", "gzip"].into_iter().find(|name| accepts(name))
}

/// Whether the browser's copy is this one; a proxy that compressed it on the way may have made its tag a weak one.
fn has(copies: Option<&HeaderValue>, tag: &str) -> bool {
    let copies = copies.and_then(|value| value.to_str().ok()).unwrap_or_default();
    copies.split(',').map(|copy| copy.trim().trim_start_matches("W/")).any(|copy| copy == tag || copy == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_form_a_browser_accepts_is_chosen() {
        for (accepted, expected) in [
            ("gzip, deflate, br, zstd", Some("br")),
            ("gzip", Some("gzip")),
            ("br;q=0, GZIP;q=0.5", Some("gzip")),
            ("identity", None),
            ("", None),
        ] {
            assert_eq!(encoding(accepted), expected, "{accepted}");
        }
    }

    #[test]
    fn the_first_view_takes_at_most_100_kilobytes_and_the_chart_is_not_in_it() {
        let first: usize =
            FILES.iter().filter(|file| !file.name.starts_with("vendor/")).map(|file| file.brotli.len()).sum();
        assert!(first < 100_000, "{first} bytes");
        assert!(FILES.iter().any(|file| file.name == "vendor/uPlot.iife.min.js"));
    }
}
