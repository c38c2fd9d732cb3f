//! How one page is told the news, over whichever transport: its place among the others, what it gets next, when it must go.
//! Rule: a slow reader skips what is old; a reader that is told to go is told at a moment of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::beat::BEAT;
use super::cursor::Cursor;
use super::metrics::{Client, Metrics, Transport};
use super::news::Latest;
use super::text::Text;

/// When somebody who was refused may come again.
const RETRY_AFTER_SECONDS: &str = "5";
/// Readers of changes get a frame at least this often, so that they can tell silence from a dead connection.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// What all readers share.
#[derive(Clone)]
pub struct Readers {
    /// The news.
    pub latest: Latest,
    /// Those of them that readers of whole frames get.
    pub wholes: Latest,
    /// Whether a change is known that the whole frames do not tell yet.
    pub behind: Arc<AtomicBool>,
    /// Places that are free.
    pub places: Arc<Semaphore>,
    /// Cancelled when the readers must go to another pod.
    pub closing: CancellationToken,
    /// Within how long after that each of them goes.
    pub spread: Duration,
    /// Readers that are there, so that the process can wait for their goodbye.
    pub open: TaskTracker,
    /// Figures.
    pub metrics: Metrics,
}

/// Which frames a reader understands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wants {
    /// Whole frames alone: the contract with clients that exist.
    Whole,
    /// What changed since its position; everything first if it has none.
    Changes(Option<Cursor>),
}

/// One reader.
pub struct Reader {
    latest: Latest,
    wants: Wants,
    /// When the first frame goes out if no news come earlier; `None` for at once, and after it.
    first: Option<Instant>,
    closing: CancellationToken,
    spread: Duration,
    heard: Instant,
    client: Client,
    _place: OwnedSemaphorePermit,
    _open: tokio_util::task::task_tracker::TaskTrackerToken,
}

impl Readers {
    /// A place for one more reader.
    ///
    /// # Errors
    /// The answer to give when there is none.
    pub fn admit(&self, transport: Transport, wants: Wants) -> Result<Reader, Box<Response>> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.refused.inc();
            return Err(Box::new(full()));
        };
        let mut latest = if wants == Wants::Whole { self.wholes.clone() } else { self.latest.clone() };
        latest.mark_changed();
        // It may come from another pod, whose beat is another, and must not be shown less than it saw there. One that tells where it stands cannot.
        let waits = wants == Wants::Whole && self.behind.load(Ordering::Relaxed);
        if waits {
            latest.mark_unchanged();
        }
        Ok(Reader {
            latest,
            wants,
            first: waits.then(|| Instant::now() + BEAT),
            closing: self.closing.clone(),
            spread: self.spread,
            heard: Instant::now(),
            client: self.metrics.client(transport),
            _place: place,
            _open: self.open.token(),
        })
    }
}

impl Reader {
    /// The next frame; `None` when there will be none. Safe to be dropped while it waits.
    pub async fn next(&mut self) -> Option<Text> {
        loop {
            let beat = match self.wants {
                Wants::Whole => self.first,
                Wants::Changes(_) => Some(self.heard + HEARTBEAT),
            };
            tokio::select! {
                changed = self.latest.changed() => changed.ok()?,
                () = at(beat) => {}
            }
            let Some(news) = self.latest.borrow_and_update().clone() else {
                // Nothing is known yet, which is not worth a heartbeat.
                (self.heard, self.first) = (Instant::now(), None);
                continue;
            };
            let text = match &mut self.wants {
                Wants::Whole => news.whole(),
                Wants::Changes(cursor) => {
                    let (text, now) = news.since(*cursor);
                    *cursor = Some(now);
                    text
                }
            };
            (self.heard, self.first) = (Instant::now(), None);
            self.client.frame();
            return Some(text);
        }
    }

    /// Where it stands after the frame it got last.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        match self.wants {
            Wants::Whole => None,
            Wants::Changes(cursor) => cursor,
        }
    }

    /// Waits until this reader must go; `random` is uniform in 0..1 and chooses its moment.
    pub fn dismissed(&self, random: f64) -> impl Future<Output = ()> + Send + use<> {
        let (closing, pause) = (self.closing.clone(), self.spread.mul_f64(random.clamp(0.0, 1.0)));
        async move {
            closing.cancelled().await;
            sleep(pause).await;
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn full() -> Response {
    let headers = [
        (header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS)),
        // The connection would wait for an upgrade that does not come.
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    let sentence = "this pod has as many readers as it takes (MAX_READERS); try again, another pod may have room";
    (headers, super::api::refuse(StatusCode::SERVICE_UNAVAILABLE, sentence)).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::super::board::Board;
    use super::super::news::{News, Troubles};
    use super::*;

    fn news(window: u32) -> Option<Arc<News>> {
        let window = serde_json::json!({"_id": format!("{window:024x}"), "company": "A", "avgPrice": 1.0});
        let mut board = Board::default();
        board.replace(vec![serde_json::from_value(window).unwrap()], 1);
        Some(Arc::new(News::new(board, 0, None, Troubles::default())))
    }

    #[tokio::test]
    async fn who_comes_between_a_change_and_its_frame_is_not_shown_the_frame_before() {
        let (sender, latest) = watch::channel(news(1));
        let behind = Arc::new(AtomicBool::new(true));
        let readers = Readers {
            latest: latest.clone(),
            wholes: latest,
            behind: behind.clone(),
            places: Arc::new(Semaphore::new(4)),
            closing: CancellationToken::new(),
            spread: Duration::ZERO,
            open: TaskTracker::new(),
            metrics: Metrics::default(),
        };
        let come = |wants| readers.admit(Transport::Websocket, wants).unwrap();
        let mut waiting = come(Wants::Whole);
        assert!(timeout(BEAT / 10, waiting.next()).await.is_err());
        let mut page = come(Wants::Changes(None));
        assert!(timeout(BEAT / 2, page.next()).await.is_ok(), "one that has seen nothing is shown what there is");
        sender.send_replace(news(2));
        assert!(timeout(BEAT / 2, waiting.next()).await.unwrap().unwrap().as_str().contains(&format!("{:024x}", 2)));
        // A database that fell silent must not keep anybody waiting for news.
        assert!(timeout(BEAT * 4, come(Wants::Whole).next()).await.is_ok());
        behind.store(false, Ordering::Relaxed);
        assert!(timeout(BEAT / 2, come(Wants::Whole).next()).await.is_ok());
    }
}
