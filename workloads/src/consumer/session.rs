//! One connection's worth of consuming: deliveries in, inserts and dead letters out, acknowledgements back.
//! Rule: the pipeline decides, this file only carries out; any failure ends the session, and the broker delivers again.

use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use futures::future::{BoxFuture, Fuse, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use mongodb::Collection;
use mongodb::bson::Document;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::dead_letters::{DeadLetters, Report};
use super::identity::Identities;
use super::intake;
use super::metrics::Metrics;
use super::pipeline::Pipeline;
use super::settings::Settings;
use super::store;
use crate::broker::{self, Declared};

/// How long SIGTERM waits for the insert under way and its acknowledgement.
const LAST_INSERT: Duration = Duration::from_secs(7);

/// A consumer that has everything it needs and may begin.
pub struct Session<'a> {
    settings: &'a Settings,
    windows: &'a Collection<Document>,
    metrics: &'a Metrics,
    connection: Connection,
    channel: Channel,
    deliveries: Consumer,
    pipeline: Pipeline,
    identities: Identities,
    insert: Fuse<BoxFuture<'a, anyhow::Result<()>>>,
    burials: FuturesUnordered<BoxFuture<'static, anyhow::Result<u64>>>,
    dead_letters: Option<DeadLetters>,
    report: Report,
}

impl<'a> Session<'a> {
    /// Connects to both servers, reads where the company stands and asks for deliveries.
    ///
    /// # Errors
    /// When a server does not answer or refuses.
    pub async fn open(
        settings: &'a Settings,
        windows: &'a Collection<Document>,
        metrics: &'a Metrics,
    ) -> anyhow::Result<Self> {
        let queue = wire::queue::name(&settings.company);
        let connection = broker::connect(&settings.broker, &format!("stock-consumer {queue}")).await?;
        let (channel, declared) = broker::open(&connection, queue, settings.queue_type).await?;
        if declared == Declared::AsFound {
            tracing::info!(queue, "another program made the queue with other properties; it is used as it is");
        }
        let newest = store::newest(windows, &settings.company).await?;
        channel
            .basic_qos(prefetch(settings.batch_size), BasicQosOptions::default())
            .await
            .context("cannot set the prefetch")?;
        let deliveries = channel
            .basic_consume(
                queue.into(),
                settings.writer.as_str().into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .with_context(|| format!("cannot consume queue {queue}"))?;
        tracing::info!(queue, window = newest.next_number, "consuming");
        Ok(Self {
            settings,
            windows,
            metrics,
            connection,
            channel,
            deliveries,
            pipeline: Pipeline::new(settings.batch_size, newest.next_number),
            identities: Identities::after(newest.id, rand::random()),
            insert: Fuse::terminated(),
            burials: FuturesUnordered::new(),
            dead_letters: None,
            report: Report::default(),
        })
    }

    /// Consumes until `stop`, then finishes what is under way and leaves the rest to the next consumer.
    ///
    /// # Errors
    /// When a connection is lost, the queue is gone or a window was stored by someone else.
    pub async fn consume(mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        loop {
            self.advance().await?;
            tokio::select! {
                () = stop.cancelled() => break,
                stored = &mut self.insert => self.stored(stored)?,
                Some(buried) = self.burials.next() => self.pipeline.diverted(buried?),
                delivery = self.deliveries.next() => self.take(delivered(delivery)?).await?,
            }
        }
        if timeout(LAST_INSERT, self.finish()).await.is_err() {
            tracing::warn!(
                "the last window was not stored within {LAST_INSERT:?}; the next consumer takes its events again"
            );
        }
        // Closing waits until the broker has read the last acknowledgement.
        if let Ok(Err(error)) = timeout(Duration::from_secs(1), self.connection.close(200, "stopped".into())).await {
            tracing::debug!("closing the connection: {error}");
        }
        Ok(())
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        loop {
            while let Some(ack) = self.pipeline.next_ack() {
                self.channel.basic_ack(ack.tag, BasicAckOptions { multiple: ack.multiple }).await?;
            }
            if self.pipeline.is_settled() {
                return Ok(());
            }
            tokio::select! {
                stored = &mut self.insert => self.stored(stored)?,
                Some(buried) = self.burials.next() => self.pipeline.diverted(buried?),
            }
        }
    }

    /// Sends the acknowledgements that are due and starts the insert that is due.
    async fn advance(&mut self) -> anyhow::Result<()> {
        while let Some(ack) = self.pipeline.next_ack() {
            let options = BasicAckOptions { multiple: ack.multiple };
            self.channel.basic_ack(ack.tag, options).await.context("cannot acknowledge")?;
        }
        if let Some(filled) = self.pipeline.next_insert() {
            let id = self.identities.next(u32::try_from(now_ms() / 1000).unwrap_or(u32::MAX));
            let document = store::document(id, &self.settings.company, &self.settings.writer, &filled);
            let (windows, histogram, started) = (self.windows, &self.metrics.insert_seconds, Instant::now());
            let insert = async move {
                store::insert(windows, document).await?;
                histogram.observe(started.elapsed().as_secs_f64());
                Ok(())
            };
            self.insert = insert.boxed().fuse();
        }
        Ok(())
    }

    fn stored(&mut self, stored: anyhow::Result<()>) -> anyhow::Result<()> {
        stored?;
        self.metrics.windows.inc();
        self.metrics.stored.inc_by(u64::from(self.settings.batch_size.get()));
        self.pipeline.inserted();
        Ok(())
    }

    /// Takes a delivery and those that have arrived with it: one turn of the loop for each would cost more than the event.
    async fn take(&mut self, first: Delivery) -> anyhow::Result<()> {
        let now = now_ms();
        let mut next = Some(first);
        let mut left = self.settings.batch_size.get();
        while let Some(delivery) = next.take() {
            match intake::read(&self.settings.company, &delivery.data, &delivery.properties, now) {
                Ok(reading) => {
                    self.metrics.events.inc();
                    self.pipeline.take(delivery.delivery_tag, &reading);
                }
                Err(reason) => self.divert(delivery, reason).await?,
            }
            left -= 1;
            // A bounded round, so that inserts and acknowledgements get their turn under any load.
            if left > 0 {
                next = self.deliveries.next().now_or_never().map(delivered).transpose()?;
            }
        }
        self.metrics.pending.set(i64::from(self.pipeline.pending()));
        Ok(())
    }

    async fn divert(&mut self, delivery: Delivery, reason: wire::queue::Reason) -> anyhow::Result<()> {
        let dead_letters = match &self.dead_letters {
            Some(dead_letters) => dead_letters.clone(),
            None => self
                .dead_letters
                .insert(DeadLetters::open(&self.settings.broker, &self.settings.company).await?)
                .clone(),
        };
        self.metrics.dead_lettered(reason);
        if let Some(count) = self.report.count(Instant::now()) {
            tracing::warn!(%reason, "{count} messages are no events of this company and go to its dead-letter queue");
        }
        self.pipeline.divert(delivery.delivery_tag);
        self.burials.push(dead_letters.bury(delivery, reason).boxed());
        Ok(())
    }
}

/// A delivery, or why there are no more: the broker cancels a subscription when the queue is deleted or its leader moves.
fn delivered(delivery: Option<lapin::Result<Delivery>>) -> anyhow::Result<Delivery> {
    match delivery {
        Some(delivery) => delivery.context("the broker's channel is lost"),
        None => Err(anyhow!("the broker ended the subscription: the queue was deleted or has moved")),
    }
}

/// Two windows: one fills while the other is being stored.
fn prefetch(batch_size: NonZeroU32) -> u16 {
    u16::try_from(batch_size.get() * 2).unwrap_or(u16::MAX)
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
