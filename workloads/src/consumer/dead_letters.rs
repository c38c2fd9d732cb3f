//! Takes what is no event out of the way without losing it: `<symbol>/dead-letters`, with the reason in a header.
//! Rule: the body stays as it came, and of the properties nothing is lost, but the copy has none that the broker would act by: it would go astray, or the
//! broker would refuse it as often as it is sent. The original is acknowledged only after the broker has confirmed the copy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use lapin::protocol::basic::gen_properties;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::time::timeout;
use wire::Symbol;
use wire::queue::{LEFT_OUT_HEADER, ORIGINAL_PREFIX, QUEUE_HEADER, QueueType, REASON_HEADER, Reason};

use crate::broker::{self, Address};

/// Seconds between two log lines about dead letters.
const QUIET: Duration = Duration::from_secs(10);
/// A dead letter that is not taken for so long ends the session: it holds up the acknowledgement of the windows around it.
const TAKEN: Duration = Duration::from_secs(20);
const PERSISTENT: u8 = 2;
/// Headers that RabbitMQ acts by: a copy goes to every queue that `CC` and `BCC` name too, the company's among them, and `x-death` is how it knows a
/// message that goes in circles, which it drops (3.13 takes it from clients).
const ACTED_BY: [&str; 3] = ["CC", "BCC", "x-death"];
/// Bytes of a frame of properties besides them: type, channel, length and end of the frame; class, weight and length of the body.
const AROUND_PROPERTIES: usize = 8 + 12;
/// Bytes of dead letters under way at a time. Each of them is there twice, and by default a broker accepts 16 MiB in one message.
const UNDER_WAY: usize = 1024 * 1024;

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
        let frame_max = usize::try_from(self.connection.configuration().frame_max()).unwrap_or(usize::MAX);
        let properties = copied(&delivery.properties, reason, &self.origin, frame_max);
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

/// The properties of a dead letter: those that RabbitMQ only hands on, and in headers what it would act by. It checks `user-id` against who publishes,
/// `expiration` would end the letter, and a `reply-to` may name a consumer of the publisher's own connection.
fn copied(original: &BasicProperties, reason: Reason, origin: &str, frame_max: usize) -> BasicProperties {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut ours = FieldTable::default();
    ours.insert(REASON_HEADER.into(), text(reason.as_str()));
    ours.insert(QUEUE_HEADER.into(), text(origin));

    let moved = |name: &str| format!("{ORIGINAL_PREFIX}{}", name.to_lowercase()).into();
    let mut headers = FieldTable::default();
    for (name, value) in original.headers().iter().flatten() {
        let name = if ACTED_BY.contains(&name.as_str()) { moved(name.as_str()) } else { name.clone() };
        headers.insert(name, value.clone());
    }
    let properties = [
        ("user-id", original.user_id()),
        ("expiration", original.expiration()),
        ("reply-to", original.reply_to()),
        ("cluster-id", original.cluster_id()),
    ];
    for (name, value) in properties {
        if let Some(value) = value {
            headers.insert(moved(name), text(value.as_str()));
        }
    }
    for (name, value) in &ours {
        headers.insert(name.clone(), value.clone());
    }

    let copy = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let copy = original.content_type().iter().cloned().fold(copy, BasicProperties::with_content_type);
    let copy = original.content_encoding().iter().cloned().fold(copy, BasicProperties::with_content_encoding);
    let copy = original.priority().iter().copied().fold(copy, BasicProperties::with_priority);
    let copy = original.correlation_id().iter().cloned().fold(copy, BasicProperties::with_correlation_id);
    let copy = original.message_id().iter().cloned().fold(copy, BasicProperties::with_message_id);
    let copy = original.timestamp().iter().copied().fold(copy, BasicProperties::with_timestamp);
    let copy = original.kind().iter().cloned().fold(copy, BasicProperties::with_type);
    let copy = original.app_id().iter().cloned().fold(copy, BasicProperties::with_app_id);

    let whole = copy.clone().with_headers(headers);
    if length(&whole).saturating_add(AROUND_PROPERTIES) <= frame_max {
        return whole;
    }
    // The broker would close the connection. The message was within a few bytes of the limit, which no program comes to by chance.
    let bytes = i64::try_from(length(original)).unwrap_or(i64::MAX);
    ours.insert(LEFT_OUT_HEADER.into(), AMQPValue::LongLongInt(bytes));
    copy.with_headers(ours)
}

/// Bytes of properties as they travel.
fn length(properties: &BasicProperties) -> usize {
    gen_properties(properties)(Vec::new().into()).map_or(usize::MAX, |written| written.write.len())
}

/// Bytes that a message takes.
#[must_use]
pub fn size(delivery: &Delivery) -> usize {
    delivery.data.len().saturating_add(length(&delivery.properties))
}

/// How many of the dead letters of these sizes go together, from the first on: what fits into [`UNDER_WAY`], and at least one.
#[must_use]
pub fn together(sizes: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = 0_usize;
    let fits = |size: &usize| {
        bytes = bytes.saturating_add(*size);
        bytes <= UNDER_WAY
    };
    sizes.into_iter().take_while(fits).count().max(1)
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

    const FRAME: usize = 128 * 1024;

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert(name.into(), value);
        }
        table
    }

    #[test]
    fn a_copy_has_nothing_that_the_broker_acts_by_and_nothing_is_lost() {
        let queues = AMQPValue::FieldArray(vec![text("MSFT")].into());
        let kept = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_content_encoding("gzip".into())
            .with_priority(3)
            .with_correlation_id("correlation".into())
            .with_message_id("message".into())
            .with_timestamp(7)
            .with_type("type".into())
            .with_app_id("app".into());
        let original = kept
            .clone()
            .with_delivery_mode(1)
            .with_user_id("another".into())
            .with_expiration("1000".into())
            .with_reply_to("amq.rabbitmq.reply-to".into())
            .with_cluster_id("cluster".into())
            .with_headers(table([
                ("CC", queues.clone()),
                ("BCC", text("not even a list")),
                ("x-death", queues.clone()),
                ("mine", AMQPValue::LongInt(7)),
                ("x-reason", text("of an earlier time")),
            ]));
        let headers = table([
            ("x-original-cc", queues.clone()),
            ("x-original-bcc", text("not even a list")),
            ("x-original-x-death", queues),
            ("x-original-user-id", text("another")),
            ("x-original-expiration", text("1000")),
            ("x-original-reply-to", text("amq.rabbitmq.reply-to")),
            ("x-original-cluster-id", text("cluster")),
            ("mine", AMQPValue::LongInt(7)),
            ("x-reason", text("not_json")),
            ("x-queue", text("MSFT")),
        ]);
        let expected = kept.with_delivery_mode(2).with_headers(headers);
        assert_eq!(copied(&original, Reason::NotJson, "MSFT", FRAME), expected);
    }

    #[test]
    fn a_copy_of_nothing_is_persistent_and_has_its_reason() {
        let headers = table([("x-reason", text("not_an_event")), ("x-queue", text("MSFT"))]);
        let expected = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        assert_eq!(copied(&BasicProperties::default(), Reason::NotAnEvent, "MSFT", FRAME), expected);
    }

    #[test]
    fn headers_that_leave_no_room_for_ours_are_left_out_and_their_size_is_said() {
        let with = |bytes: usize| {
            let long = AMQPValue::LongString(vec![b'x'; bytes].into());
            BasicProperties::default().with_message_id("id".into()).with_headers(table([("mine", long)]))
        };
        // All of both is one header longer than none, so the first that does not fit is known.
        let room = FRAME - AROUND_PROPERTIES - length(&copied(&with(0), Reason::NotJson, "MSFT", FRAME));
        let copy = |bytes| copied(&with(bytes), Reason::NotJson, "MSFT", FRAME);
        assert_eq!(length(&copy(room)) + AROUND_PROPERTIES, FRAME);
        assert!(copy(room).headers().as_ref().unwrap().contains_key("mine"));
        let bytes = AMQPValue::LongLongInt(length(&with(room + 1)) as i64);
        let ours = [("x-reason", text("not_json")), ("x-queue", text("MSFT")), ("x-headers-left-out", bytes)];
        let expected = BasicProperties::default().with_message_id("id".into()).with_delivery_mode(2);
        assert_eq!(copy(room + 1), expected.with_headers(table(ours)));
    }

    #[test]
    fn dead_letters_go_together_up_to_a_mebibyte_and_a_larger_one_alone() {
        assert_eq!(together([200; 2000]), 2000);
        assert_eq!(together([UNDER_WAY / 2, UNDER_WAY / 2, 1]), 2);
        assert_eq!(together([UNDER_WAY + 1, 1]), 1);
        assert_eq!(together([usize::MAX, usize::MAX]), 1);
    }

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
