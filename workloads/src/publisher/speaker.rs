//! Speaks for one company over one channel: makes events at their pace, sends them in blocks, hears the confirms.
//! Rule: the outbox decides what is unconfirmed; at most [`WINDOW`] events are, and a new channel starts with all of them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use futures::FutureExt;
use futures::future::{MaybeDone, maybe_done};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use rand::RngExt;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use wire::event::{CONTENT_TYPE, SOURCE_LENGTH, Sequence};
use wire::queue::QueueType;
use wire::{PriceEvent, Symbol};

use super::metrics::CompanyMetrics;
use super::outbox::{Outbox, Pending};
use super::pacer::Pacer;
use super::patience::{self, Patience};
use super::prices::Prices;
use super::settings::Settings;
use crate::backoff::Backoff;
use crate::broker::{self, Declared};

/// Most events without a confirm.
pub const WINDOW: usize = 1000;
/// Events written to the socket together: awaiting each one costs three times the processor time.
const BLOCK: usize = 500;
/// How long SIGTERM waits for confirms.
const LAST_CONFIRMS: Duration = Duration::from_secs(5);
/// A pace faster than this wakes up at this rhythm and sends what is due; counting from the start keeps the rate exact.
const SHORTEST_SLEEP: Duration = Duration::from_millis(2);
const PERSISTENT: u8 = 2;

/// One company's voice; it outlives connections.
pub struct Speaker {
    company: Symbol,
    prices: Prices,
    interval: f64,
    queue_type: QueueType,
    outbox: Outbox,
    metrics: CompanyMetrics,
    told: bool,
    /// Events still to be made; `None`: without end.
    left: Option<u64>,
    began: Option<Instant>,
    confirmed: u64,
    patience_ended: patience::Ended,
    confirms: VecDeque<(u64, MaybeDone<PublisherConfirm>)>,
}

impl Speaker {
    /// A new source for this company.
    #[must_use]
    pub fn new(company: &Symbol, settings: &Settings, metrics: CompanyMetrics) -> Self {
        let source: String =
            rand::rng().sample_iter(rand::distr::Alphanumeric).take(SOURCE_LENGTH).map(char::from).collect();
        tracing::info!(%company, source, "a new source");
        Self {
            company: company.clone(),
            prices: Prices::new(settings.seed, company, settings.range),
            interval: settings.interval,
            queue_type: settings.queue_type,
            outbox: Outbox::new(source, WINDOW),
            metrics,
            told: false,
            left: settings.count,
            began: None,
            confirmed: 0,
            patience_ended: patience::Ended::default(),
            confirms: VecDeque::new(),
        }
    }

    /// Opens the channel. Separate from [`Self::speak`], so that readiness means that every queue is there.
    ///
    /// # Errors
    /// When the broker refuses or the connection is lost.
    pub async fn open(&mut self, connection: &Connection) -> anyhow::Result<Channel> {
        let queue = wire::queue::name(&self.company);
        let (channel, declared) = broker::open_for_publishing(connection, queue, self.queue_type).await?;
        if declared == Declared::AsFound && !std::mem::replace(&mut self.told, true) {
            tracing::info!(queue, "another program made the queue with other properties; it is used as it is");
        }
        Ok(channel)
    }

    /// Publishes until `stop` or the last event, then waits a bounded time for the last confirms.
    ///
    /// # Errors
    /// When the channel is lost; the outbox keeps what was not confirmed.
    pub async fn speak(
        &mut self,
        connection: &Connection,
        mut channel: Channel,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        // Confirms of an earlier channel never come; their events are all still in the outbox.
        self.confirms.clear();
        let unconfirmed = self.outbox.take_all();
        let mut patience = Patience::new(&self.patience_ended);
        patience.with(connection, self.send_again(&channel, unconfirmed)).await?;
        let mut backoff = Backoff::default();
        let start = Instant::now();
        let mut pacer = Pacer::new(self.interval);
        while !stop.is_cancelled() {
            if self.hear()? {
                patience.heard();
            } else if self.outbox.is_empty() {
                patience.begin();
            }
            if self.is_done() {
                break;
            }
            if self.outbox.has_refused() {
                // Only when nothing is under way can an old confirm not be taken for the new sending.
                self.hear_all(Instant::now() + LAST_CONFIRMS).await?;
                tokio::select! {
                    () = sleep(backoff.next(rand::random())) => {}
                    () = stop.cancelled() => {}
                }
                channel = self.open(connection).await?;
                let refused = self.outbox.take_refused();
                // What was refused before the pause could not be confirmed in it.
                patience.begin();
                patience.with(connection, self.send_again(&channel, refused)).await?;
                continue;
            }
            let room =
                self.outbox.room().min(BLOCK).min(self.left.map_or(BLOCK, |left| left.min(BLOCK as u64) as usize));
            let due = if self.may_send() { pacer.take(start.elapsed(), room) } else { 0 };
            if due > 0 {
                backoff.reset();
                patience.with(connection, self.send_new(&channel, due)).await?;
                // Sending may never really wait; the others of this thread must get their turn.
                tokio::task::yield_now().await;
                continue;
            }
            let wake = pacer
                .next()
                .filter(|_| self.may_send() && self.left != Some(0))
                .map(|next| (start + next).max(Instant::now() + SHORTEST_SLEEP));
            tokio::select! {
                () = stop.cancelled() => {}
                () = async { match wake { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
                () = Self::next_confirm(&mut self.confirms, self.interval == 0.0) => {}
                error = patience.end(connection), if !self.outbox.is_empty() => return Err(error),
            }
        }
        self.finish(connection).await?;
        if let (true, Some(began)) = (self.is_done(), self.began) {
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(company = %self.company, confirmed = self.confirmed, seconds, "confirmed");
        }
        Ok(())
    }

    /// Whether all events that were asked for are confirmed.
    fn is_done(&self) -> bool {
        self.left == Some(0) && self.outbox.is_empty()
    }

    /// The last confirms; what the broker refuses even now goes out again, for a hole in the middle of a source never closes.
    async fn finish(&mut self, connection: &Connection) -> anyhow::Result<()> {
        let deadline = Instant::now() + LAST_CONFIRMS;
        self.hear_all(deadline).await?;
        while self.outbox.has_refused() && Instant::now() < deadline {
            let Ok(opened) = timeout_at(deadline, self.open(connection)).await else { break };
            let refused = self.outbox.take_refused();
            self.send_again(&opened?, refused).await?;
            self.hear_all(deadline).await?;
        }
        Ok(())
    }

    /// How many events the broker has not confirmed.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        self.outbox.len()
    }

    /// Says what became of the source, for whoever audits the windows later.
    pub fn report(&self) {
        let (published, source) = (self.outbox.published(), self.outbox.source());
        tracing::info!(company = %self.company, source, published, confirmed = self.confirmed, "stopped");
    }

    /// Without a pace, sending waits for room for a whole block: small blocks cost more than they bring.
    fn may_send(&self) -> bool {
        self.outbox.room() >= if self.interval == 0.0 { BLOCK.min(WINDOW) } else { 1 }
    }

    /// Waits for a confirm, and leaves it to [`Self::hear`]. With many under way, waiting for one in the middle
    /// wakes up once for a block instead of once for each.
    async fn next_confirm(confirms: &mut VecDeque<(u64, MaybeDone<PublisherConfirm>)>, in_blocks: bool) {
        let index = if in_blocks { confirms.len().saturating_sub(WINDOW - BLOCK + 1) } else { 0 };
        match confirms.get_mut(index) {
            Some((_, confirm)) => confirm.await,
            None => std::future::pending().await,
        }
    }

    /// Takes the confirms that are there, without waiting; whether there were any.
    fn hear(&mut self) -> anyhow::Result<bool> {
        let before = self.confirms.len();
        while let Some((sequence, confirm)) = self.confirms.front_mut() {
            if confirm.now_or_never().is_none() {
                break;
            }
            let heard = (*sequence, Pin::new(confirm).take_output());
            self.confirms.pop_front();
            self.judge(heard)?;
        }
        self.metrics.unconfirmed.set(self.outbox.len() as i64);
        Ok(self.confirms.len() < before)
    }

    /// Takes every confirm that is under way.
    async fn hear_all(&mut self, deadline: Instant) -> anyhow::Result<()> {
        while let Some((sequence, confirm)) = self.confirms.front_mut() {
            if timeout_at(deadline, &mut *confirm).await.is_err() {
                return Err(anyhow!("the broker confirmed nothing for {LAST_CONFIRMS:?}"));
            }
            let heard = (*sequence, Pin::new(confirm).take_output());
            self.confirms.pop_front();
            self.judge(heard)?;
        }
        self.metrics.unconfirmed.set(self.outbox.len() as i64);
        Ok(())
    }

    fn judge(&mut self, (sequence, heard): (u64, Option<lapin::Result<Confirmation>>)) -> anyhow::Result<()> {
        let confirmation = heard.transpose().context("the channel was lost before its confirms came")?;
        let (acked, returned) = match confirmation {
            Some(Confirmation::Ack(returned)) => (true, returned),
            Some(Confirmation::Nack(returned)) => (false, returned),
            Some(Confirmation::NotRequested) | None => return Err(anyhow!("the channel confirms nothing")),
        };
        // lapin hands a returned message to whichever confirm comes next, so the message itself must say which it is.
        if let Some(message) = returned {
            let number =
                sequence_of(&message.delivery.properties).context("the broker returned a message that is not ours")?;
            let at = message.delivery.properties.timestamp().unwrap_or_default();
            self.metrics.returned.inc();
            self.refuse(Pending { sequence: number, body: message.delivery.data, at });
        }
        if acked {
            if self.outbox.confirm(sequence) {
                self.confirmed += 1;
                self.metrics.confirmed.inc();
            }
        } else if let Some(pending) = self.outbox.get(sequence).cloned() {
            self.metrics.nacked.inc();
            self.refuse(pending);
        }
        Ok(())
    }

    fn refuse(&mut self, pending: Pending) {
        if !self.outbox.has_refused() {
            tracing::warn!(company = %self.company, sequence = pending.sequence, "the broker refused an event, sending it again");
        }
        self.outbox.refuse(pending);
    }

    async fn send_new(&mut self, channel: &Channel, count: usize) -> anyhow::Result<()> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut block = Vec::with_capacity(count);
        for (event_type, price) in self.prices.by_ref().take(count) {
            let event = PriceEvent { company: self.company.as_str().into(), event_type, price };
            block.push(self.outbox.add(serde_json::to_vec(&event)?, at));
        }
        self.began.get_or_insert_with(Instant::now);
        self.left = self.left.map(|left| left.saturating_sub(count as u64));
        self.metrics.published.inc_by(count as u64);
        self.send(channel, &block).await
    }

    async fn send_again(&mut self, channel: &Channel, pending: Vec<Pending>) -> anyhow::Result<()> {
        if !pending.is_empty() {
            tracing::info!(company = %self.company, "sending {} unconfirmed events again", pending.len());
            self.metrics.resent.inc_by(pending.len() as u64);
        }
        for block in pending.chunks(BLOCK) {
            self.send(channel, block).await?;
        }
        Ok(())
    }

    async fn send(&mut self, channel: &Channel, block: &[Pending]) -> anyhow::Result<()> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let queue = wire::queue::name(&self.company);
        let source = self.outbox.source();
        let mut sending: Vec<_> = block
            .iter()
            .map(|pending| {
                let properties = properties(source, pending);
                Box::pin(channel.basic_publish("".into(), queue.into(), options, &pending.body, properties))
            })
            .map(maybe_done)
            .collect();
        // The first look hands the frames over, in order; then only the last one is waited for. Waiting for each would wake this
        // thread up for each, which costs more than the publish (measured: three times the context switches).
        for sent in &mut sending {
            let _ = Pin::new(sent).now_or_never();
        }
        if let Some(last) = sending.last_mut() {
            last.await;
        }
        for (pending, mut sent) in block.iter().zip(sending) {
            Pin::new(&mut sent).await;
            let confirm = Pin::new(&mut sent).take_output().context("a publish gave no outcome")?;
            self.confirms.push_back((pending.sequence, maybe_done(confirm.context("cannot publish")?)));
        }
        Ok(())
    }
}

fn properties(source: &str, pending: &Pending) -> BasicProperties {
    BasicProperties::default()
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(Sequence { source, number: pending.sequence }.to_string().into())
        .with_timestamp(pending.at)
}

fn sequence_of(properties: &BasicProperties) -> Option<u64> {
    Some(Sequence::of_message_id(properties.message_id().as_ref()?.as_str())?.number)
}
