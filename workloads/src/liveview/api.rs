//! The JSON API: what the page shows, the history of a company, sparklines, and the document that describes all of it.
//! Rule: prices come from memory; what asks the database walks an index, has a bound, and waits its turn.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::Collection;
use mongodb::bson::Document;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wire::Symbol;

use super::news::Latest;
use super::windows::{self, History, Sparkline};
use crate::database::explain;

const DEFAULT_LIMIT: i64 = 60;
const LARGEST_LIMIT: i64 = 500;
/// Points of a sparkline.
const SPARKLINE: i64 = 60;
/// Sparklines of one request.
const MOST_SPARKLINES: usize = 60;
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Queries at a time; however many pages ask, the database has this much to do for them.
const QUERIES: usize = 16;

/// Reads histories for the pages.
#[derive(Clone)]
pub struct Library {
    windows: Collection<Document>,
    turns: Arc<Semaphore>,
}

impl Library {
    /// Reads from `windows`.
    #[must_use]
    pub fn new(windows: Collection<Document>) -> Self {
        Self { windows, turns: Arc::new(Semaphore::new(QUERIES)) }
    }

    async fn ask<T>(&self, query: impl Future<Output = mongodb::error::Result<T>>) -> Result<T, Box<Response>> {
        let turn = async {
            // It is never closed.
            let _turn = self.turns.acquire().await;
            query.await
        };
        match timeout(QUERY_TIMEOUT, turn).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => tracing::warn!("cannot read windows for a page: {}", explain(&error)),
            Err(_) => {}
        }
        Err(Box::new(refuse(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer; try again")))
    }
}

/// `/api/prices`: the frame every page starts with.
pub async fn prices(State(latest): State<Latest>) -> Response {
    match latest.borrow().clone() {
        Some(news) => ([(header::CONTENT_TYPE, "application/json")], news.whole().body()).into_response(),
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "the database was not read yet; try again"),
    }
}

/// A page of a company's windows.
#[derive(Debug, Default, Deserialize)]
pub struct Page {
    limit: Option<String>,
    before: Option<String>,
}

/// `/api/companies/{symbol}/windows?limit&before`: newest first; `next` is the `before` of the following page.
pub async fn history(
    State(library): State<Library>,
    Asked(Path(symbol)): Asked<Path<String>>,
    Asked(Query(page)): Asked<Query<Page>>,
) -> Response {
    let (symbol, limit) = match (symbol.parse::<Symbol>(), limit(page.limit.as_deref())) {
        (Ok(symbol), Ok(limit)) => (symbol, limit),
        (Err(error), _) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        (_, Err(error)) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    let before = page.before.as_deref().filter(|before| !before.is_empty());
    match library.ask(windows::of_company(&library.windows, &symbol, before, limit)).await {
        Ok(History { windows, next }) => {
            Json(json!({"company": symbol, "windows": windows, "next": next})).into_response()
        }
        Err(refusal) => *refusal,
    }
}

/// Companies, separated by commas.
#[derive(Debug, Deserialize)]
pub struct Companies {
    companies: String,
}

/// `/api/sparklines?companies=A,B`: the newest averages of several companies at once.
pub async fn sparklines(State(library): State<Library>, Asked(Query(query)): Asked<Query<Companies>>) -> Response {
    // Windows of another program may be of a company with a name of its own, which has no line and shall not cost the others theirs.
    let (symbols, others): (Vec<_>, Vec<_>) =
        query.companies.split(',').map(str::parse::<Symbol>).partition(Result::is_ok);
    if symbols.len() + others.len() > MOST_SPARKLINES {
        return refuse(StatusCode::BAD_REQUEST, &format!("ask for at most {MOST_SPARKLINES} companies"));
    }
    if let (true, Some(Err(error))) = (symbols.is_empty(), others.first()) {
        return refuse(StatusCode::BAD_REQUEST, &error.to_string());
    }
    let symbols: Vec<Symbol> = symbols.into_iter().flatten().collect();
    let lines = stream::iter(symbols)
        .map(|symbol| {
            let library = &library;
            async move {
                let line = library.ask(windows::sparkline(&library.windows, &symbol, SPARKLINE)).await?;
                Ok((symbol.to_string(), line))
            }
        })
        .buffer_unordered(4)
        .try_collect::<std::collections::BTreeMap<String, Sparkline>>()
        .await;
    match lines {
        Ok(lines) => Json(json!({"sparklines": lines})).into_response(),
        Err::<_, Box<Response>>(refusal) => *refusal,
    }
}

/// `/api/openapi.json`.
pub async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

fn limit(given: Option<&str>) -> Result<i64, String> {
    let Some(text) = given else { return Ok(DEFAULT_LIMIT) };
    match text.parse::<i64>() {
        Ok(limit) if limit > 0 => Ok(limit.min(LARGEST_LIMIT)),
        _ => Err(format!("limit must be a whole number from 1 to {LARGEST_LIMIT}")),
    }
}

/// A part of a request. One that cannot be read is refused in the words of the API, not in axum's.
pub struct Asked<T>(T);

impl<S: Sync, T: FromRequestParts<S, Rejection: ToString>> FromRequestParts<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let asked = T::from_request_parts(parts, state).await;
        asked.map(Self).map_err(|error| refuse(StatusCode::BAD_REQUEST, &error.to_string()))
    }
}

/// An error as all of the API gives it.
pub fn refuse(status: StatusCode, sentence: &str) -> Response {
    (status, Json(json!({"error": sentence}))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_capped_and_nonsense_is_refused() {
        assert_eq!(limit(None), Ok(60));
        assert_eq!(limit(Some("7")), Ok(7));
        assert_eq!(limit(Some("1000000")), Ok(500));
        for text in ["0", "-1", "", "x"] {
            assert!(limit(Some(text)).is_err(), "{text}");
        }
    }
}
