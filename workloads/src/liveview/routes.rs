//! The routes: page, socket, server-sent events and JSON.
//! Rule: every answer carries the headers that keep the page to itself; there are no cookies and nothing to log in to.

use axum::Router;
use axum::extract::{FromRef, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;

use super::api::{self, Library};
use super::events::{self, Position};
use super::news::Latest;
use super::page;
use super::reader::{Readers, Wants};
use super::socket;
use super::upgrade::{Upgrade, wants_socket};
use crate::health::Readiness;

/// What the routes need.
#[derive(Clone, FromRef)]
pub struct Service {
    /// Whoever listens.
    pub readers: Readers,
    /// The news.
    pub latest: Latest,
    /// Histories.
    pub library: Library,
}

/// All routes but health and metrics.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/ws", get(upgrade))
        .route("/page/{*name}", get(page::file))
        // Browsers ask for it by themselves; the page has its icon inline.
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .route("/api/events", get(events::events))
        // Its name in the first release.
        .route("/events", get(events::events))
        .route("/api/prices", get(api::prices))
        .route("/api/sparklines", get(api::sparklines))
        .route("/api/companies/{symbol}/windows", get(api::history))
        .route("/api/openapi.json", get(api::description))
        .with_state(service)
        .layer(map_response(protect))
}

type Wanted = Result<Upgrade, Response>;

/// The original page opens its socket at its own address, so `/` answers both.
async fn root(state: State<Readers>, position: Query<Position>, headers: HeaderMap, wanted: Wanted) -> Response {
    // A client may offer other upgrades, `h2c` for one; who does not know them answers as if there were none (RFC 9110, 7.8).
    if wants_socket(&headers) { upgrade(state, position, wanted).await } else { page::answer("index.html", &headers) }
}

async fn upgrade(State(readers): State<Readers>, Query(position): Query<Position>, wanted: Wanted) -> Response {
    // Who says where it stands understands changes; all others get whole frames.
    let wants = if position.since.is_some() { Wants::Changes(position.cursor()) } else { Wants::Whole };
    match wanted {
        Ok(upgrade) => socket::accept(&readers, upgrade, wants),
        Err(refusal) => refusal,
    }
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

/// Whoever keeps a connection for more requests hears that it ends before it does: a request that met its end would be lost, and one that a balancer
/// tries again on kept connections to pods that stop together would be lost each time (RFC 9112, 9.6).
pub async fn last_answers(State(readiness): State<Readiness>, mut response: Response) -> Response {
    if readiness.is_stopping() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
