//! What the tests with real servers share: addresses, names of their own, and waiting for conditions.
//! Rule: each test has its own queues and its own database, so all of them run at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy knows tests, not their helpers")]
#![allow(dead_code, reason = "each test file uses its part")]

pub mod process;

use std::time::Duration;

use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use wire::Symbol;
use wire::event::{SEQUENCE_HEADER, SOURCE_HEADER};

/// Longest wait for a condition; on a busy machine things take their time.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn address(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`, which starts the servers, or `e2e/servers up` and source .local/servers/env"))
}

pub fn rabbitmq() -> String {
    address("STOCK_TEST_RABBITMQ_URL")
}

pub fn mongodb() -> String {
    address("STOCK_TEST_MONGODB_URL")
}

/// A symbol no other test has.
pub fn company(name: &str) -> Symbol {
    format!("{name}.{:08x}", rand::random::<u32>()).parse().unwrap()
}

/// Waits until `condition` gives a value.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub async fn socket() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

/// A program that runs inside the test.
pub struct Running {
    pub stop: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
    pub url: String,
}

impl Running {
    /// Stops in order, as SIGTERM does.
    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.expect("ends within 10 s").unwrap().unwrap();
    }

    pub async fn ready(&self) {
        eventually("ready", async || (status(&format!("{}/readyz", self.url)).await == 200).then_some(())).await;
    }

    pub async fn metrics(&self) -> String {
        reqwest::get(format!("{}/metrics", self.url)).await.unwrap().text().await.unwrap()
    }

    /// The value of a metric line that starts with `name`.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

pub async fn status(url: &str) -> u16 {
    reqwest::get(url).await.map_or(0, |answer| answer.status().as_u16())
}

// --- broker ---

/// The test's own connection.
pub struct Broker {
    pub connection: Connection,
    pub channel: Channel,
}

impl Broker {
    pub async fn connect() -> Self {
        Self::at(&rabbitmq()).await
    }

    pub async fn at(address: &str) -> Self {
        let connection = Connection::connect(address, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { connection, channel }
    }

    /// Declares as our programs do.
    pub async fn declare(&self, queue: &str) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        self.channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    }

    pub async fn publish(&self, queue: &str, body: &str) {
        self.publish_with(queue, body, BasicProperties::default()).await;
    }

    pub async fn publish_with(&self, queue: &str, body: &str, properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        drop(self.channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await.unwrap());
    }

    /// Publishes events of these prices as a foreign program does: body only.
    pub async fn publish_prices(&self, company: &Symbol, prices: &[f64]) {
        for block in prices.chunks(500) {
            futures::future::join_all(block.iter().map(|price| async move {
                let body = format!(r#"{{"company":"{company}","eventType":"buy","price":{price}}}"#);
                self.publish(company.as_str(), &body).await;
            }))
            .await;
        }
    }

    /// Publishes events of these prices, numbered 0, 1, 2, … by `source` in headers.
    pub async fn publish_numbered(&self, company: &Symbol, source: &str, prices: &[f64]) {
        for (number, price) in prices.iter().enumerate() {
            let mut headers = FieldTable::default();
            headers.insert(SOURCE_HEADER.into(), AMQPValue::LongString(source.into()));
            headers.insert(SEQUENCE_HEADER.into(), AMQPValue::LongLongInt(number as i64));
            let body = format!(r#"{{"company":"{company}","eventType":"buy","price":{price}}}"#);
            self.publish_with(company.as_str(), &body, BasicProperties::default().with_headers(headers)).await;
        }
    }

    /// Messages that are ready; `None` when there is no such queue.
    pub async fn count(&self, queue: &str) -> Option<u32> {
        let channel = self.connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions::default().passive();
        channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .ok()
            .map(|queue| queue.message_count())
    }

    /// Takes everything that lies in the queue. Nobody may be publishing to it.
    pub async fn drain(&self, queue: &str) -> Vec<lapin::message::Delivery> {
        use futures::StreamExt;
        let count = self.count(queue).await.unwrap() as usize;
        // A connection of its own: lapin 4.12 ends the whole connection when a consumer is dropped before its channel.
        let connection = Connection::connect(&rabbitmq(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let messages = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
        let taken = messages.take(count).map(Result::unwrap).collect();
        tokio::time::timeout(PATIENCE, taken).await.expect("everything arrives")
    }

    pub async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }
}

/// Closes the connections with this name, as an administrator may; waits until there was one.
pub async fn close_connections(name: &str) {
    let management = address("STOCK_TEST_MANAGEMENT_URL");
    let client = reqwest::Client::new();
    eventually(&format!("a connection named {name}"), async || {
        let list = client.get(format!("{management}/api/connections")).send().await.ok()?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list.text().await.ok()?).ok()?;
        let ours: Vec<_> = list.iter().filter(|one| one["user_provided_name"] == name).collect();
        for one in &ours {
            let id = one["name"].as_str()?.replace(' ', "%20").replace('>', "%3E");
            client.delete(format!("{management}/api/connections/{id}")).send().await.ok()?;
        }
        (!ours.is_empty()).then_some(())
    })
    .await;
}

/// Takes the message at the head of a queue out of it, as an administrator may; whether there was one.
pub async fn take_out(queue: &str) -> bool {
    let url = format!("{}/api/queues/%2F/{queue}/get", address("STOCK_TEST_MANAGEMENT_URL"));
    let wish = r#"{"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}"#;
    let client = reqwest::Client::new();
    let answer = client.post(url).header("content-type", "application/json").body(wish).send().await.unwrap();
    // Where the properties cannot be shown either the answer is an error, and the message is gone all the same.
    answer.text().await.unwrap() != "[]"
}

/// The address of a relay to the broker, for one connection, that puts some bytes in the place of others: what no client would send.
pub async fn relay(others: &'static [u8], some: &'static [u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    assert_eq!(others.len(), some.len(), "frames say how long they are");
    let url = rabbitmq();
    let (before, rest) = url.split_once('@').unwrap();
    let (host, after) = rest.split_once('/').unwrap();
    let (listener, host) = (socket().await, host.to_owned());
    let address = format!("{before}@{}/{after}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut from_client, mut client) = listener.accept().await.unwrap().0.into_split();
        let (mut from_broker, mut broker) = TcpStream::connect(host).await.unwrap().into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_broker, &mut client).await });
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            let bytes = &mut buffer[..length];
            while let Some(place) = bytes.windows(others.len()).position(|found| found == others) {
                bytes[place..place + some.len()].copy_from_slice(some);
            }
            broker.write_all(bytes).await.unwrap();
        }
    });
    address
}

// --- database ---

/// A database of the test's own.
pub struct Database {
    pub name: String,
    pub windows: Collection<Document>,
}

impl Database {
    pub async fn new() -> Self {
        Self::at(&mongodb()).await
    }

    pub async fn at(address: &str) -> Self {
        let name = format!("test_{:016x}", rand::random::<u64>());
        let client = Client::with_uri_str(address).await.unwrap();
        let windows = client.database(&name).collection(wire::env::default::MONGODB_COLLECTION);
        Self { name, windows }
    }

    /// All documents of a company in the order of their `_id`.
    pub async fn of(&self, company: &Symbol) -> Vec<Document> {
        use futures::TryStreamExt;
        let found = self.windows.find(doc! {"company": company.as_str()}).sort(doc! {"_id": 1}).await.unwrap();
        found.try_collect().await.unwrap()
    }

    /// Waits for this many documents of a company.
    pub async fn wait_for(&self, company: &Symbol, count: usize) -> Vec<Document> {
        eventually(&format!("{count} windows of {company}"), async || {
            let documents = self.of(company).await;
            (documents.len() >= count).then_some(documents)
        })
        .await
    }

    pub async fn drop(self) {
        self.windows.client().database(&self.name).drop().await.unwrap();
    }
}
