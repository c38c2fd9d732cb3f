//! What AMQP alone tells of the queues of a broker without a known management interface, and how those go that are to go.
//! Rule: a passive declaration changes nothing; a queue that did not answer is unknown, and neither empty nor absent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, stream};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::{AMQPErrorKind::Soft, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Connection, ErrorKind};
use tokio::time::{sleep, timeout};

use super::DeleteQueue;
use super::decision::Step;
use super::management::Queue;

/// Looks under way at once, each on a channel of its own: the broker closes it when there is no such queue.
const TOGETHER: usize = 16;
/// Longest time for all of them.
const LOOK: Duration = Duration::from_secs(3);

/// What was found; a queue in neither is unknown.
#[derive(Default)]
pub(super) struct Found {
    /// By name. Messages that a consumer holds AMQP tells nobody of: without a consumer there are none, else they are unknown.
    pub queues: BTreeMap<String, Queue>,
    /// Those that are not there.
    pub absent: BTreeSet<String>,
}

/// Looks at queues.
pub(super) async fn look(connection: &Connection, names: Vec<String>) -> Found {
    let looks = stream::iter(names).map(|name| async move { (look_at(connection, &name).await, name) });
    let mut looks = std::pin::pin!(looks.buffer_unordered(TOGETHER).take_until(sleep(LOOK)));
    let mut found = Found::default();
    while let Some((look, name)) = looks.next().await {
        match look {
            Some(Some(queue)) => drop(found.queues.insert(name, queue)),
            Some(None) => drop(found.absent.insert(name)),
            None => {}
        }
    }
    found
}

/// One queue; the inner `None`: there is no such queue, the outer one: it did not answer.
async fn look_at(connection: &Connection, name: &str) -> Option<Option<Queue>> {
    let channel = connection.create_channel().await.ok()?;
    let passive = QueueDeclareOptions::default().passive();
    let declared = match channel.queue_declare(name.into(), passive, FieldTable::default()).await {
        Ok(declared) => declared,
        Err(error) => {
            let is_absent = matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == Soft(AMQPSoftError::NOTFOUND));
            return is_absent.then_some(None);
        }
    };
    // Whether it closes well is nobody's concern.
    drop(channel.close(200, "looked".into()).await);
    let consumers = i64::from(declared.consumer_count());
    Some(Some(Queue {
        name: name.to_owned(),
        messages_ready: Some(i64::from(declared.message_count())),
        messages_unacknowledged: (consumers == 0).then_some(0),
        consumers: Some(consumers),
        // Its leader counted.
        state: Some("running".into()),
        ..Queue::default()
    }))
}

/// Takes queues away. A quorum queue has no deletion on the condition that it is empty (RabbitMQ, `rabbit_quorum_queue:delete/4`), so it is looked
/// at once more before.
pub(super) async fn delete(connection: &Connection, steps: impl Iterator<Item = Step>) {
    for step in steps {
        let Step::DeleteQueue { queue, how } = step else { continue };
        let now = match how {
            DeleteQueue::WithContent => true,
            DeleteQueue::WhenEmpty => look_at(connection, &queue)
                .await
                .flatten()
                .is_some_and(|now| (now.messages_ready, now.messages_unacknowledged) == (Some(0), Some(0))),
        };
        let deletion = async {
            let channel = connection.create_channel().await?;
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
            channel.close(200, "deleted".into()).await
        };
        if now && !matches!(timeout(LOOK, deletion).await, Ok(Ok(()))) {
            tracing::warn!(queue, "queue not deleted, to be tried again");
        }
    }
}
