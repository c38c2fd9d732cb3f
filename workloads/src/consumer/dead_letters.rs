//! Takes what is no event out of the way without losing it: `<symbol>/dead-letters`, with the reason in a header.
//! Rule: body and properties stay as they came; the original is acknowledged only after the broker has confirmed the copy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use lapin::types::AMQPValue;
use lapin::{Channel, Confirmation, Connection};
use tokio::time::timeout;
use wire::Symbol;
use wire::queue::{QUEUE_HEADER, QueueType, REASON_HEADER, Reason};

use crate::broker::{self, Address};

/// Seconds between two log lines about dead letters.
const QUIET: Duration = Duration::from_secs(10);
/// A dead letter that is not taken for so long ends the session: it holds up the acknowledgement of the windows around it.
const TAKEN: Duration = Duration::from_secs(20);
const PERSISTENT: u8 = 2;

/// The dead-letter queue of one company, opened for publishing.
#[derive(Clone)]
pub struct DeadLetters {
    // The broker blocks connections that publish when it is short of memory or disk; acknowledgements, which relieve it,
    // must not wait behind a dead letter, so this is a connection of its own.
    connection: Arc<Connection>,
    channel: Channel,
    queue: String,
    origin: String,
}

impl DeadLetters {
    /// Declares the queue; it is always a quorum queue, for what lies in it waits for a person.
    ///
    /// # Errors
    /// When the broker refuses or the connection is lost.
    pub async fn open(address: &Address, company: &Symbol) -> anyhow::Result<Self> {
        let queue = wire::queue::dead_letters(company);
        let opening = async {
            let connection = broker::connect(address, &format!("stock-consumer {queue}")).await?;
            let (channel, _) = broker::open_for_publishing(&connection, &queue, QueueType::Quorum).await?;
            anyhow::Ok((Arc::new(connection), channel))
        };
        let (connection, channel) = timeout(TAKEN, opening).await.map_err(|_| silent(&queue))??;
        Ok(Self { connection, channel, queue, origin: wire::queue::name(company).to_owned() })
    }

    /// Publishes a message with its reason and waits until the broker has it; gives the delivery tag back.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn bury(self, delivery: Delivery, reason: Reason) -> anyhow::Result<u64> {
        let mut headers = delivery.properties.headers().clone().unwrap_or_default();
        headers.insert(REASON_HEADER.into(), AMQPValue::LongString(reason.as_str().into()));
        headers.insert(QUEUE_HEADER.into(), AMQPValue::LongString(self.origin.as_str().into()));
        let properties = delivery.properties.with_headers(headers).with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = async {
            let queue = self.queue.as_str().into();
            self.channel.basic_publish("".into(), queue, options, &delivery.data, properties).await?.await
        };
        let confirmation = timeout(TAKEN, publishing).await.map_err(|_| silent(&self.queue))?;
        let taken = match confirmation.with_context(|| format!("cannot publish to {}", self.queue))? {
            Confirmation::Ack(None) => Ok(delivery.delivery_tag),
            _ => bail!("queue {} did not take a dead letter", self.queue),
        };
        // Kept until here: a connection that is dropped closes.
        drop(self.connection);
        taken
    }
}

fn silent(queue: &str) -> anyhow::Error {
    anyhow!(
        "queue {queue} did not take a dead letter within {TAKEN:?}: has it a majority, is the broker short of memory or disk"
    )
}

/// Says at most every [`QUIET`] seconds how many dead letters there were since the last time.
#[derive(Debug, Default)]
pub struct Report {
    told: Option<Instant>,
    count: u64,
}

impl Report {
    /// Counts one; gives the number to tell, when it is time to.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < QUIET) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_dead_letters_is_told_once_in_ten_seconds() {
        let (mut report, start) = (Report::default(), Instant::now());
        assert_eq!(report.count(start), Some(1));
        for _ in 0..999 {
            assert_eq!(report.count(start + Duration::from_secs(9)), None);
        }
        assert_eq!(report.count(start + QUIET), Some(1000));
    }
}
