//! The same news as server-sent events, for programs that want no socket: the whole frame, then what changed.
//! Rule: each event's id is its position; a reader that comes back with it (`Last-Event-ID`) goes on from there, on any pod.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde::Deserialize;

use super::cursor::Cursor;
use super::metrics::Transport;
use super::reader::{Readers, Wants};

/// A browser comes back after so long, unless told.
const RETRY: Duration = Duration::from_millis(500);
const LAST_EVENT_ID: &str = "last-event-id";

/// What a reader may say of where it stands.
#[derive(Debug, Default, Deserialize)]
pub struct Position {
    /// The `at` of the last frame; given but empty: everything first, then changes.
    pub since: Option<String>,
}

impl Position {
    /// The cursor; one that nobody can read is as good as none.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        self.since.as_deref().and_then(|since| since.parse().ok())
    }
}

/// Answers with the stream.
pub async fn events(
    State(readers): State<Readers>,
    position: Result<Query<Position>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    // A position that nobody can read is as good as none.
    let position = position.map(|Query(position)| position).unwrap_or_default();
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let reader = match readers.admit(Transport::Events, Wants::Changes(last.or(position.cursor()))) {
        Ok(reader) => reader,
        Err(refusal) => return *refusal,
    };
    let dismissed = reader.dismissed(rand::random());
    let frames = stream::unfold((reader, true), async |(mut reader, first)| {
        let (text, cursor) = (reader.next().await?, reader.cursor());
        let mut event = Event::default().data(text.as_str());
        if let Some(cursor) = cursor {
            event = event.id(cursor.to_string());
        }
        if first {
            event = event.retry(RETRY);
        }
        Some((Ok::<_, Infallible>(event), (reader, false)))
    });
    // A stream that is open for hours must not be collected by a proxy that buffers.
    let unbuffered = [("x-accel-buffering", HeaderValue::from_static("no"))];
    (unbuffered, Sse::new(frames.take_until(dismissed))).into_response()
}
