//! Keeps the board up to date and makes the frames: a change stream where there is one, polling where there is none.
//! Rule: one reader for all pages; after any failure the board is read anew, which costs one step per company.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use mongodb::Collection;
use mongodb::bson::{DateTime, Document, Timestamp, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::{ChangeStreamEvent, OperationType};
use mongodb::error::ErrorKind;
use mongodb::options::FullDocumentType;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use wire::Window;

use super::attendance::Unattended;
use super::beat::{BEAT, Beat, step};
use super::board::Board;
use super::metrics::Metrics;
use super::news::{News, Troubles};
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
    /// Companies without a consumer that works.
    pub unattended: watch::Receiver<Unattended>,
    /// Where the news go, for readers of changes.
    pub news: watch::Sender<Option<Arc<News>>>,
    /// Where some of the news go, for readers of whole frames.
    pub wholes: watch::Sender<Option<Arc<News>>>,
    /// Whether a change is known that the whole frames do not tell yet.
    pub behind: Arc<AtomicBool>,
    /// Readers: with many of them the news are fewer.
    pub readers: TaskTracker,
}

/// What is known of the database, and what of it the pages have heard.
#[derive(Default)]
struct Knowledge {
    board: Board,
    news: Beat,
    wholes: Beat,
    /// See [`super::cursor::Cursor`].
    source: u32,
    /// Since when the database has been answering without an end; `None` while it does not.
    followed: Option<Instant>,
    silent_since: Option<String>,
}

impl Knowledge {
    /// There is something to tell to so many readers.
    fn changed(&mut self, readers: usize) {
        let now = Instant::now();
        self.news.changed(now, step(readers));
        self.wholes.changed(now, BEAT);
    }

    /// When the next frame is due.
    fn due(&self) -> Option<Instant> {
        self.news.due().into_iter().chain(self.wholes.due()).min()
    }
}

impl Feed {
    /// Feeds for ever.
    pub async fn run(mut self) {
        let (mut known, mut backoff) = (Knowledge::default(), Backoff::default());
        loop {
            let Err(error) = self.follow(&mut known).await;
            let worked = known.followed.take();
            backoff.reset_after(worked.map_or(Duration::ZERO, |since: Instant| since.elapsed()));
            let pause = backoff.next(rand::random());
            tracing::warn!("{error:#}; trying again in {pause:.1?}");
            self.metrics.reconnects.inc();
            self.lose_patience(&error, &mut known);
            sleep(pause).await;
        }
    }

    /// A failure that outlasts an election is told to the pages, and one that lasts makes the pod not ready.
    fn lose_patience(&mut self, error: &anyhow::Error, known: &mut Knowledge) {
        let age = self.metrics.since_contact();
        if age.is_none_or(|age| age > PATIENCE) {
            self.readiness.not_ready(format!("{error:#}"));
        }
        if let Some(age) = age.filter(|age| *age >= SILENCE && known.silent_since.is_none()) {
            known.silent_since = SystemTime::now()
                .checked_sub(age)
                .and_then(|then| DateTime::from_system_time(then).try_to_rfc3339_string().ok());
            self.send(known);
        }
    }

    async fn follow(&mut self, known: &mut Knowledge) -> anyhow::Result<std::convert::Infallible> {
        // A reader may have no right to, or the set may not answer; then the consumers' index serves, or reading is slow but right.
        match timeout(INDEX_PATIENCE, make_newest_index(&self.windows)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!("the index was not made here: {}", explain(&error)),
            Err(_) => tracing::info!("the index was not made here within {INDEX_PATIENCE:?}"),
        }
        // The stream is opened before the board is read, so that nothing falls between the two.
        let changes = answered(self.open()).await?;
        let at = match &changes {
            Some(_) => answered(self.cluster_time()).await?,
            None => known.board.at() + 1,
        };
        // The cluster time is one for all pods; what this pod counts itself is its own.
        let source = match (&changes, known.source) {
            (Some(_), _) => 0,
            (None, 0) => rand::random::<u32>().max(1),
            (None, source) => source,
        };
        let newest = self.newest().await?;
        if std::mem::replace(&mut known.source, source) != source {
            // Positions of another source say nothing of this one's.
            known.board = Board::default();
        }
        known.board.replace(newest, at);
        known.silent_since = None;
        self.send(known);
        self.contact();
        known.followed = Some(Instant::now());
        match changes {
            Some(changes) => self.stream(changes, known).await,
            None => self.poll(known).await,
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

    /// A position that whatever is read after this has reached.
    async fn cluster_time(&self) -> anyhow::Result<u64> {
        let database = self.windows.client().database(&self.windows.namespace().db);
        let answer =
            database.run_command(doc! {"ping": 1}).await.map_err(in_words).context("cannot ask for the time")?;
        answer.get_timestamp("operationTime").map(position).context("the database does not say its time")
    }

    async fn stream(
        &mut self,
        mut changes: ChangeStream<ChangeStreamEvent<Document>>,
        known: &mut Knowledge,
    ) -> anyhow::Result<std::convert::Infallible> {
        loop {
            let due = known.due();
            tokio::select! {
                change = timeout(SILENCE, changes.next_if_any()) => {
                    let change = change.map_err(|_| silent())?.map_err(in_words).context("the change stream is lost")?;
                    self.contact();
                    let Some(change) = change else {
                        if changes.is_alive() { continue }
                        return Err(anyhow!("the change stream has ended: the collection was dropped or renamed"));
                    };
                    self.metrics.changes.inc();
                    if self.apply(change, &mut known.board).await? {
                        known.changed(self.readers.len());
                        self.behind.store(true, Ordering::Relaxed);
                    }
                }
                () = changed(&mut self.unattended) => known.changed(self.readers.len()),
                () = async { match due { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                    self.send_due(known);
                }
            }
        }
    }

    /// Applies a change; whether the pages must hear of it.
    async fn apply(&self, change: ChangeStreamEvent<Document>, board: &mut Board) -> anyhow::Result<bool> {
        let at = change.cluster_time.map_or(board.at(), position);
        if change.operation_type == OperationType::Delete {
            let id = change.document_key.as_ref().and_then(|key| key.get("_id")).map(windows::identity);
            if !id.is_some_and(|id| board.shows(&id)) {
                return Ok(false);
            }
            return Ok(board.replace(self.newest().await?, at));
        }
        Ok(change.full_document.as_ref().and_then(windows::window).is_some_and(|window| board.offer(window, at)))
    }

    async fn poll(&mut self, known: &mut Knowledge) -> anyhow::Result<std::convert::Infallible> {
        loop {
            sleep(BEAT).await;
            let all = self.newest().await?;
            self.contact();
            let attendance = self.unattended.has_changed().unwrap_or(false);
            if known.board.replace(all, known.board.at() + 1) || attendance {
                self.send(known);
            }
        }
    }

    async fn newest(&self) -> anyhow::Result<Vec<Window>> {
        let newest = async { windows::newest(&self.windows).await.map_err(in_words) };
        answered(newest).await.context("cannot read the newest windows")
    }

    /// Everything to everybody, now.
    fn send(&mut self, known: &mut Knowledge) {
        self.send_news(known);
        self.send_wholes(known);
    }

    fn send_due(&mut self, known: &mut Knowledge) {
        let now = Instant::now();
        let is_due = |beat: Beat| beat.due().is_some_and(|due| due <= now);
        let wholes = is_due(known.wholes);
        // Whole frames tell all that is known, and what the ones are told is not kept back from the others.
        if is_due(known.news) || wholes && known.news.due().is_some() {
            self.send_news(known);
        }
        if wholes {
            self.send_wholes(known);
        }
    }

    fn send_wholes(&mut self, known: &mut Knowledge) {
        self.wholes.send_replace(self.news.borrow().clone());
        known.wholes.sent(Instant::now());
        self.behind.store(false, Ordering::Relaxed);
    }

    fn send_news(&mut self, known: &mut Knowledge) {
        self.metrics.companies.set(i64::try_from(known.board.len()).unwrap_or(i64::MAX));
        let troubles = Troubles {
            unattended: self.unattended.borrow_and_update().clone(),
            database_silent_since: known.silent_since.clone(),
        };
        let news = News::new(known.board.clone(), known.source, self.pod.clone(), troubles);
        self.news.send_replace(Some(Arc::new(news)));
        known.news.sent(Instant::now());
    }

    fn contact(&self) {
        self.metrics.contact();
        self.readiness.ready();
    }
}

/// Whoever looks after the consumers may have ended; then nothing changes any more.
async fn changed(unattended: &mut watch::Receiver<Unattended>) {
    if unattended.changed().await.is_err() {
        std::future::pending().await
    }
}

/// A cluster time as a number that orders like it.
fn position(time: Timestamp) -> u64 {
    u64::from(time.time) << 32 | u64::from(time.increment)
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
