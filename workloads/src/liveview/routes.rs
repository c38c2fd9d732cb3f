//! The routes: page, socket, server-sent events and JSON.
//! Rule: answers come from memory; only the history of one company asks the database, with a bound.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::{Stream, StreamExt, stream};
use mongodb::Collection;
use mongodb::bson::Document;
use serde_json::json;
use tokio::time::timeout;
use wire::Symbol;

use super::metrics::Transport;
use super::page;
use super::socket::Sockets;
use super::windows;
use crate::database::explain;

const DEFAULT_LIMIT: i64 = 60;
const LARGEST_LIMIT: i64 = 500;
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the routes need.
#[derive(Clone)]
pub struct Service {
    /// Frames and sockets.
    pub sockets: Sockets,
    /// Where the windows are.
    pub windows: Collection<Document>,
}

/// All routes but health and metrics.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/ws", get(socket))
        .route("/page.js", get(async || page::script()))
        .route("/page.css", get(async || page::style()))
        .route("/favicon.ico", get(async || page::icon()))
        .route("/events", get(events))
        .route("/api/prices", get(prices))
        .route("/api/companies/{symbol}/windows", get(company))
        .with_state(service)
        .layer(map_response(protect))
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// The original page opens its socket at its own address, so `/` answers both.
async fn root(State(service): State<Service>, headers: HeaderMap, upgrade: Upgrade) -> Response {
    // A client may offer other upgrades, `h2c` for one; who does not know them answers as if there were none (RFC 9110, 7.8).
    let wants_socket =
        headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if wants_socket { socket(State(service), upgrade).await } else { page::index() }
}

async fn socket(State(service): State<Service>, upgrade: Upgrade) -> Response {
    match upgrade {
        Ok(upgrade) => service.sockets.accept(upgrade),
        Err(rejection) => rejection.into_response(),
    }
}

async fn events(State(service): State<Service>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let Sockets { mut frames, closing, metrics, .. } = service.sockets;
    frames.mark_changed();
    let client = metrics.client(Transport::Events);
    let events = stream::unfold((frames, client), async |(mut frames, client)| {
        loop {
            frames.changed().await.ok()?;
            let text = frames.borrow_and_update().clone();
            if let Some(text) = text {
                client.frame();
                return Some((Ok(Event::default().data(text.as_str())), (frames, client)));
            }
        }
    });
    Sse::new(events.take_until(closing.cancelled_owned())).keep_alive(KeepAlive::default())
}

async fn prices(State(service): State<Service>) -> Response {
    match service.sockets.frames.borrow().clone() {
        Some(text) => ([(header::CONTENT_TYPE, "application/json")], text.as_str().to_owned()).into_response(),
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "the database was not read yet; try again"),
    }
}

async fn company(State(service): State<Service>, Path(symbol): Path<String>, RawQuery(query): RawQuery) -> Response {
    let symbol: Symbol = match symbol.parse() {
        Ok(symbol) => symbol,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("{error}")),
    };
    let limit = match limit(query.as_deref()) {
        Ok(limit) => limit,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    match timeout(QUERY_TIMEOUT, windows::of_company(&service.windows, &symbol, limit)).await {
        Ok(Ok(windows)) => Json(json!({"company": symbol, "windows": windows})).into_response(),
        Ok(Err(error)) => {
            tracing::warn!("cannot read the windows of {symbol}: {}", explain(&error));
            refuse(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer; try again")
        }
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer; try again"),
    }
}

fn limit(query: Option<&str>) -> Result<i64, String> {
    let given = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("limit="));
    let Some(text) = given else { return Ok(DEFAULT_LIMIT) };
    match text.parse::<i64>() {
        Ok(limit) if limit > 0 => Ok(limit.min(LARGEST_LIMIT)),
        _ => Err(format!("limit must be a whole number from 1 to {LARGEST_LIMIT}")),
    }
}

fn refuse(status: StatusCode, sentence: &str) -> Response {
    (status, Json(json!({"error": sentence}))).into_response()
}

/// The page needs nothing from elsewhere, and says so to the browser.
async fn protect(mut response: Response) -> Response {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_capped_and_nonsense_is_refused() {
        assert_eq!(limit(None), Ok(60));
        assert_eq!(limit(Some("x=1&limit=7")), Ok(7));
        assert_eq!(limit(Some("limit=1000000")), Ok(500));
        for text in ["limit=0", "limit=-1", "limit=", "limit=x"] {
            assert!(limit(Some(text)).is_err(), "{text}");
        }
    }
}
