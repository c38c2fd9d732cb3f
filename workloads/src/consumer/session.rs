//! One connection's worth of consuming: stands by for the lease, then deliveries in, inserts and dead letters out, acknowledgements back.
//! Rule: the pipeline decides, this file only carries out; any failure ends the session, and the broker delivers again.

use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt, ready, try_join_all};
use futures::stream::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use mongodb::Collection;
use mongodb::bson::Document;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use wire::queue::Reason;

use super::dead_letters::{self, DeadLetters, Report};
use super::identity::Identities;
use super::intake;
use super::lease::Lease;
use super::metrics::Metrics;
use super::pipeline::{Filled, Pipeline, TOGETHER, Taken};
use super::settings::Settings;
use super::store::{self, Stored};
use crate::broker::{self, Declared};
use crate::health::Readiness;

/// How long SIGTERM waits for the insert under way and its acknowledgement.
const LAST_INSERT: Duration = Duration::from_secs(7);
/// `flushAfter` of a company that is being drained: its publisher is gone, so a window that is short after so long stays short.
const DRAIN_AFTER: Duration = Duration::from_secs(2);
/// Events that are taken ahead at most when windows are short; as many as with the default batch.
const AHEAD: u32 = 2000;
/// Bound of closing a connection; a lost one is not even told.
const CLOSE: Duration = Duration::from_secs(1);

/// What every session of a consumer has in common.
pub struct Surroundings<'a> {
    /// What the consumer was told.
    pub settings: &'a Settings,
    /// Where the windows go.
    pub windows: &'a Collection<Document>,
    /// Who of the company's consumers works.
    pub lease: &'a Lease,
    /// The figures.
    pub metrics: &'a Metrics,
    /// Whether the consumer works or stands by; both are ready.
    pub readiness: &'a Readiness,
}

/// Connects, waits for the lease and consumes until `stop`.
///
/// # Errors
/// When a server does not answer or refuses, a connection is lost, the queue is gone, the lease was taken over or a window was
/// stored by someone else.
pub async fn run(surroundings: &Surroundings<'_>, stop: &CancellationToken) -> anyhow::Result<()> {
    let begun = tokio::select! {
        begun = begin(surroundings) => begun.map(Some),
        () = stop.cancelled() => Ok(None),
    };
    let ended = match begun {
        Ok(Some(mut session)) => {
            surroundings.metrics.active.set(1);
            let ended = session.consume(stop).await;
            session.close().await;
            ended
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    surroundings.metrics.active.set(0);
    surroundings.metrics.window_events.set(0);
    // With the connection all of it went back to the queue.
    surroundings.lease.holds(0);
    // Only now, so that whoever takes over finds the events that were held in their old order.
    surroundings.lease.release().await;
    ended
}

async fn begin<'a>(surroundings: &'a Surroundings<'a>) -> anyhow::Result<Session<'a>> {
    let Surroundings { settings, windows, lease, readiness, .. } = surroundings;
    let queue = wire::queue::name(&settings.company);
    let connection = broker::connect(&settings.broker, &format!("stock-consumer {queue}")).await?;
    let (channel, declared) = broker::open(&connection, queue, settings.queue_type).await?;
    // From here on: a refused declare is an error of the connection's too, and no loss of it.
    let lost = broker::lost(&connection);
    if declared == Declared::AsFound {
        tracing::info!(queue, "another program made the queue with other properties; it is used as it is");
    }
    let preparing = async {
        store::make_indexes(windows).await?;
        readiness.ready();
        lease.acquire().await
    };
    tokio::select! {
        prepared = preparing => prepared?,
        error = lost => return Err(error),
    }
    Session::begin(surroundings, connection, channel).await
}

/// A consumer that has everything it needs and works.
struct Session<'a> {
    surroundings: &'a Surroundings<'a>,
    connection: Connection,
    channel: Channel,
    deliveries: Consumer,
    pipeline: Pipeline,
    identities: Identities,
    insert: Fuse<BoxFuture<'a, anyhow::Result<Inserted>>>,
    dead_letters: Option<DeadLetters>,
    waiting: Vec<(Delivery, Reason)>,
    burial: Fuse<BoxFuture<'a, anyhow::Result<Buried>>>,
    report: Report,
}

impl<'a> Session<'a> {
    /// Reads where the company stands and asks for deliveries.
    async fn begin(
        surroundings: &'a Surroundings<'a>,
        connection: Connection,
        channel: Channel,
    ) -> anyhow::Result<Self> {
        let Surroundings { settings, windows, .. } = *surroundings;
        let queue = wire::queue::name(&settings.company);
        let newest = store::newest(windows, &settings.company).await?;
        let prefetch = prefetch(settings.batch_size);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.context("cannot set the prefetch")?;
        let deliveries = channel
            .basic_consume(
                queue.into(),
                consumer_tag(settings).into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .with_context(|| format!("cannot consume queue {queue}"))?;
        tracing::info!(queue, window = newest.next_number, "consuming");
        Ok(Self {
            surroundings,
            connection,
            channel,
            deliveries,
            pipeline: Pipeline::new(settings.batch_size, prefetch, newest.next_number, newest.marks),
            identities: Identities::after(newest.id, rand::random()),
            insert: Fuse::terminated(),
            dead_letters: None,
            waiting: Vec::new(),
            burial: Fuse::terminated(),
            report: Report::default(),
        })
    }

    /// Consumes until `stop`, then finishes what is under way and leaves the rest to the next consumer.
    ///
    /// # Errors
    /// As [`run`].
    async fn consume(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let lease_lost = self.surroundings.lease.keep();
        tokio::pin!(lease_lost);
        let mut draining = self.surroundings.lease.draining();
        loop {
            self.advance().await?;
            self.surroundings.lease.holds(self.pipeline.held());
            let flush_in = self.flush_in(now_ms(), *draining.borrow());
            tokio::select! {
                () = stop.cancelled() => break,
                lost = &mut lease_lost => return Err(lost),
                Ok(()) = draining.changed() => tracing::info!(draining = *draining.borrow(), "the operator's wish"),
                () = sleep(flush_in.unwrap_or_default()), if flush_in.is_some() => self.pipeline.flush(now_ms()),
                stored = &mut self.insert => self.stored(stored)?,
                buried = &mut self.burial => self.buried(buried)?,
                delivery = self.deliveries.next() => self.take(self.delivered(delivery)?).await?,
            }
        }
        match timeout(LAST_INSERT, self.finish()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("{error:#}; the next consumer takes its events again"),
            Err(_) => tracing::warn!(
                "the last window was not stored within {LAST_INSERT:?}; the next consumer takes its events again"
            ),
        }
        Ok(())
    }

    /// Closing waits until the broker has read the last acknowledgement and given back the rest.
    async fn close(self) {
        if let Ok(Err(error)) = timeout(CLOSE, self.connection.close(200, "stopped".into())).await {
            tracing::debug!("closing the connection: {error}");
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        loop {
            self.advance().await?;
            if self.pipeline.is_settled() {
                return Ok(());
            }
            tokio::select! {
                stored = &mut self.insert => self.stored(stored)?,
                buried = &mut self.burial => self.buried(buried)?,
            }
        }
    }

    /// Sends the acknowledgements that are due, and starts the insert and the burial that are due.
    async fn advance(&mut self) -> anyhow::Result<()> {
        let Surroundings { settings, windows, metrics, .. } = *self.surroundings;
        while let Some(ack) = self.pipeline.next_ack() {
            let options = BasicAckOptions { multiple: ack.multiple };
            if let Err(error) = self.channel.basic_ack(ack.tag, options).await {
                return Err(self.cause(error).await);
            }
        }
        if self.burial.is_terminated() && !self.waiting.is_empty() {
            let together =
                dead_letters::together(self.waiting.iter().map(|(delivery, _)| dead_letters::size(delivery)));
            let (open, letters) = (self.dead_letters.take(), self.waiting.drain(..together).collect());
            self.burial = bury(settings, open, letters).boxed().fuse();
        }
        let filled = self.pipeline.next_insert();
        if !filled.is_empty() {
            let document = |filled| {
                let id = self.identities.next(u32::try_from(now_ms() / 1000).unwrap_or(u32::MAX));
                store::document(id, &settings.company, &settings.writer, filled)
            };
            let documents: Vec<Document> = filled.iter().map(document).collect();
            let started = Instant::now();
            let insert = async move {
                if store::insert(windows, &documents).await? == Stored::Settled {
                    metrics.settled.inc();
                }
                metrics.insert_duration.observe(started.elapsed().as_secs_f64());
                for Filled { summary, .. } in &filled {
                    metrics.window_duration.observe((summary.last_at - summary.first_at) as f64 / 1000.0);
                }
                let events = filled.iter().map(|filled| u64::from(filled.summary.count)).sum();
                Ok(Inserted { windows: filled.len() as u64, events })
            };
            self.insert = insert.boxed().fuse();
        }
        Ok(())
    }

    fn stored(&mut self, inserted: anyhow::Result<Inserted>) -> anyhow::Result<()> {
        let Inserted { windows, events } = inserted?;
        let metrics = self.surroundings.metrics;
        metrics.windows.inc_by(windows);
        metrics.stored.inc_by(events);
        metrics.marks_sources.set(self.pipeline.marks().sources() as i64);
        metrics.marks_ranges.set(self.pipeline.marks().ranges() as i64);
        self.pipeline.inserted();
        Ok(())
    }

    fn buried(&mut self, buried: anyhow::Result<Buried>) -> anyhow::Result<()> {
        let Buried { dead_letters, letters } = buried?;
        self.dead_letters = Some(dead_letters);
        for (tag, reason) in letters {
            self.surroundings.metrics.dead_lettered(reason);
            self.pipeline.diverted(tag);
        }
        Ok(())
    }

    /// How long the window that is being filled may still wait for events; `None` when it may for ever.
    fn flush_in(&self, now: i64, draining: bool) -> Option<Duration> {
        let (after, since) =
            (flush_after(self.surroundings.settings.flush_after, draining)?, self.pipeline.pending_since()?);
        Some(after.saturating_sub(Duration::from_millis(u64::try_from(now - since).unwrap_or(0))))
    }

    /// Takes a delivery and those that have arrived with it: one turn of the loop for each would cost more than the event.
    async fn take(&mut self, first: Delivery) -> anyhow::Result<()> {
        let Surroundings { settings, metrics, .. } = *self.surroundings;
        let now = now_ms();
        let mut next = Some(first);
        let mut left = settings.batch_size.get();
        let (mut received, mut counted, mut skipped, mut newest) = (0, 0, 0, None);
        while let Some(delivery) = next.take() {
            match intake::read(&settings.company, &delivery.data, &delivery.properties, now) {
                Ok(reading) => {
                    newest = Some(reading.at);
                    match self.pipeline.take(delivery.delivery_tag, &reading, now) {
                        Taken::Counted => counted += 1,
                        Taken::Skipped => skipped += 1,
                    }
                }
                Err(reason) => self.divert(delivery, reason),
            }
            received += 1;
            left -= 1;
            // A bounded round, so that inserts and acknowledgements get their turn under any load.
            if left > 0 {
                let arrived = self.deliveries.next().now_or_never();
                next = arrived.map(|delivery| self.delivered(delivery)).transpose()?;
            }
        }
        // Once a round: shared counters cost as much as an event's own work.
        metrics.received.inc_by(received);
        metrics.counted.inc_by(counted);
        metrics.skipped.inc_by(skipped);
        metrics.window_events.set(i64::from(self.pipeline.pending()));
        if let Some(at) = newest {
            metrics.lag.set((now - at) as f64 / 1000.0);
        }
        Ok(())
    }

    /// A delivery, or why there are no more: the broker cancels a subscription when the queue is deleted or its leader moves.
    fn delivered(&self, delivery: Option<lapin::Result<Delivery>>) -> anyhow::Result<Delivery> {
        match delivery {
            Some(delivery) => delivery.map_err(|error| self.lost(error)),
            None => Err(anyhow!("the broker ended the subscription: the queue was deleted or has moved")),
        }
    }

    /// Why an acknowledgement fails: the deliveries end with the reason, while it may only know that the channel is no longer there.
    async fn cause(&mut self, error: lapin::Error) -> anyhow::Error {
        let mut ends = self.deliveries.by_ref().filter_map(|delivery| ready(delivery.err()));
        match timeout(CLOSE, ends.next()).await {
            Ok(Some(cause)) => self.lost(cause),
            _ => anyhow!(error).context("cannot acknowledge"),
        }
    }

    fn lost(&self, error: lapin::Error) -> anyhow::Error {
        if broker::is_unreadable(&error) {
            self.surroundings.metrics.unreadable.inc();
            anyhow!(error).context(unreadable(wire::queue::name(&self.surroundings.settings.company)))
        } else {
            anyhow!(error).context("the broker's channel is lost")
        }
    }

    fn divert(&mut self, delivery: Delivery, reason: Reason) {
        if let Some(count) = self.report.count(Instant::now()) {
            tracing::warn!(%reason, "{count} messages are no events of this company and go to its dead-letter queue");
        }
        self.pipeline.divert(delivery.delivery_tag);
        self.waiting.push((delivery, reason));
    }
}

/// What an insert has stored.
struct Inserted {
    windows: u64,
    events: u64,
}

/// Dead letters that the broker has.
struct Buried {
    dead_letters: DeadLetters,
    letters: Vec<(u64, Reason)>,
}

/// Publishes dead letters together, and answers for all of them or for none: a message that the broker returns may come back
/// with the confirm of another one (lapin), so no confirm counts before all are there.
async fn bury(
    settings: &Settings,
    open: Option<DeadLetters>,
    letters: Vec<(Delivery, Reason)>,
) -> anyhow::Result<Buried> {
    let dead_letters = match open {
        Some(dead_letters) => dead_letters,
        None => DeadLetters::open(&settings.broker, &settings.company).await?,
    };
    let buried = letters.into_iter().map(|(delivery, reason)| {
        let dead_letters = dead_letters.clone();
        async move { anyhow::Ok((dead_letters.bury(delivery, reason).await?, reason)) }
    });
    let letters = try_join_all(buried).await?;
    Ok(Buried { dead_letters, letters })
}

/// Where the company stands still for good, and what a person does about it.
fn unreadable(queue: &str) -> String {
    format!(
        "a message at or near the head of queue {queue} cannot be read, because its properties are not valid UTF-8 or too large, \
         and nothing behind it is counted: take it out with \"Get messages\" of the management page and \"Automatic ack\", \
         or with `rabbitmqadmin get queue={queue} ackmode=ack_requeue_false`"
    )
}

/// How long a window that is short waits for more events.
fn flush_after(setting: Option<Duration>, draining: bool) -> Option<Duration> {
    let drain = draining.then_some(DRAIN_AFTER);
    setting.into_iter().chain(drain).min()
}

/// Two windows: one fills while the other is being stored. Of short windows more: an insert that takes long is followed by one of all that filled
/// meanwhile.
fn prefetch(batch_size: NonZeroU32) -> u16 {
    let two = batch_size.get().saturating_mul(2);
    let short = batch_size.get().saturating_mul(TOGETHER).min(AHEAD);
    u16::try_from(two.max(short)).unwrap_or(u16::MAX)
}

/// The writer as the broker's management page shows it; AMQP allows 255 bytes.
fn consumer_tag(settings: &Settings) -> String {
    settings.writer.chars().take(60).collect()
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
