//! Keeps the board up to date and makes the frames: a change stream where there is one, polling where there is none.
//! Rule: one reader for all pages; after any failure the board is read anew, which costs one step per company.

use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::extract::ws::Utf8Bytes;
use mongodb::Collection;
use mongodb::bson::Document;
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::{ChangeStreamEvent, OperationType};
use mongodb::error::ErrorKind;
use mongodb::options::FullDocumentType;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use wire::Window;

use super::beat::{BEAT, Beat};
use super::board::Board;
use super::metrics::Metrics;
use super::windows;
use crate::backoff::Backoff;
use crate::database::{explain, make_newest_index};
use crate::health::Readiness;

/// The database answers an idle change stream about each second; silence for so long is a lost server.
const SILENCE: Duration = Duration::from_secs(5);
/// An index is made when a majority of the members has it; a set that has none must not keep the page from its prices.
const INDEX_PATIENCE: Duration = Duration::from_secs(5);
/// So long the pages live on what is in memory before this pod takes itself out of service: an election must not empty the page.
const PATIENCE: Duration = Duration::from_secs(20);
/// "The $changeStream stage is only supported on replica sets".
const NOT_A_REPLICA_SET: i32 = 40_573;

/// The frame every page gets; `None` until the database was read once.
pub type Frames = watch::Receiver<Option<Utf8Bytes>>;

/// The one reader of the database.
pub struct Feed {
    /// Where the windows are.
    pub windows: Collection<Document>,
    /// Name of this pod, for the frames.
    pub pod: Option<String>,
    /// Ready when the board is filled and the database answers.
    pub readiness: Readiness,
    /// Figures.
    pub metrics: Metrics,
    /// Where frames go.
    pub frames: watch::Sender<Option<Utf8Bytes>>,
}

impl Feed {
    /// Feeds for ever.
    pub async fn run(self) {
        let (mut board, mut beat, mut backoff) = (Board::default(), Beat::default(), Backoff::default());
        let mut followed = None;
        loop {
            let Err(error) = self.follow(&mut board, &mut beat, &mut followed).await;
            let worked = followed.take();
            backoff.reset_after(worked.map_or(Duration::ZERO, |since: Instant| since.elapsed()));
            let pause = backoff.next(rand::random());
            tracing::warn!("{error:#}; trying again in {pause:.1?}");
            self.metrics.reconnects.inc();
            self.lose_patience(&error, pause).await;
        }
    }

    /// Waits; a failure that lasts makes the pod not ready.
    async fn lose_patience(&self, error: &anyhow::Error, pause: Duration) {
        let age = self.metrics.since_contact();
        if age.is_none_or(|age| age > PATIENCE) {
            self.readiness.not_ready(format!("{error:#}"));
        }
        sleep(pause).await;
    }

    async fn follow(
        &self,
        board: &mut Board,
        beat: &mut Beat,
        followed: &mut Option<Instant>,
    ) -> anyhow::Result<std::convert::Infallible> {
        // A reader may have no right to, or the set may not answer; then the consumers' index serves, or reading is slow but right.
        match timeout(INDEX_PATIENCE, make_newest_index(&self.windows)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!("the index was not made here: {}", explain(&error)),
            Err(_) => tracing::info!("the index was not made here within {INDEX_PATIENCE:?}"),
        }
        // The stream is opened before the board is read, so that nothing falls between the two.
        let changes = answered(self.open()).await?;
        let all = self.newest().await?;
        board.replace(all);
        self.send(board, beat);
        self.contact();
        *followed = Some(Instant::now());
        match changes {
            Some(changes) => self.stream(changes, board, beat).await,
            None => self.poll(board, beat).await,
        }
    }

    async fn open(&self) -> anyhow::Result<Option<ChangeStream<ChangeStreamEvent<Document>>>> {
        let lean = windows::without_bookkeeping("fullDocument");
        match self.windows.watch().pipeline([lean]).full_document(FullDocumentType::UpdateLookup).await {
            Ok(changes) => {
                tracing::info!("following the database's change stream");
                Ok(Some(changes))
            }
            Err(error) if matches!(&*error.kind, ErrorKind::Command(command) if command.code == NOT_A_REPLICA_SET) => {
                tracing::info!("the database is no replica set and has no change stream; reading it each {BEAT:?}");
                Ok(None)
            }
            Err(error) => Err(in_words(error)).context("cannot open the change stream"),
        }
    }

    async fn stream(
        &self,
        mut changes: ChangeStream<ChangeStreamEvent<Document>>,
        board: &mut Board,
        beat: &mut Beat,
    ) -> anyhow::Result<std::convert::Infallible> {
        loop {
            let due = beat.due();
            tokio::select! {
                change = timeout(SILENCE, changes.next_if_any()) => {
                    let change = change.map_err(|_| silent())?.map_err(in_words).context("the change stream is lost")?;
                    self.contact();
                    let Some(change) = change else {
                        if changes.is_alive() { continue }
                        return Err(anyhow!("the change stream has ended: the collection was dropped or renamed"));
                    };
                    self.metrics.changes.inc();
                    if self.apply(change, board).await? {
                        beat.changed(Instant::now());
                    }
                }
                () = async { match due { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                    self.send(board, beat);
                }
            }
        }
    }

    /// Applies a change; whether the pages must hear of it.
    async fn apply(&self, change: ChangeStreamEvent<Document>, board: &mut Board) -> anyhow::Result<bool> {
        if change.operation_type == OperationType::Delete {
            let id = change.document_key.as_ref().and_then(|key| key.get("_id")).map(windows::identity);
            if !id.is_some_and(|id| board.shows(&id)) {
                return Ok(false);
            }
            return Ok(board.replace(self.newest().await?));
        }
        Ok(change.full_document.as_ref().and_then(windows::window).is_some_and(|window| board.offer(window)))
    }

    async fn poll(&self, board: &mut Board, beat: &mut Beat) -> anyhow::Result<std::convert::Infallible> {
        loop {
            sleep(BEAT).await;
            let all = self.newest().await?;
            self.contact();
            if board.replace(all) {
                self.send(board, beat);
            }
        }
    }

    async fn newest(&self) -> anyhow::Result<Vec<Window>> {
        let newest = async { windows::newest(&self.windows).await.map_err(in_words) };
        answered(newest).await.context("cannot read the newest windows")
    }

    fn send(&self, board: &Board, beat: &mut Beat) {
        self.metrics.companies.set(i64::try_from(board.len()).unwrap_or(i64::MAX));
        match serde_json::to_string(&board.frame(self.pod.as_deref())) {
            Ok(text) => drop(self.frames.send_replace(Some(text.into()))),
            Err(error) => tracing::error!("cannot write a frame: {error}"),
        }
        beat.sent(Instant::now());
    }

    fn contact(&self) {
        self.metrics.contact();
        self.readiness.ready();
    }
}

/// The driver itself would wait for ever on a server that vanished without a word.
async fn answered<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(SILENCE, command).await.map_err(|_| silent())?
}

fn silent() -> anyhow::Error {
    anyhow!("the database was silent for {SILENCE:?}")
}

fn in_words(error: mongodb::error::Error) -> anyhow::Error {
    anyhow!(explain(&error))
}
