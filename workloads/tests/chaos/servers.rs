//! The broker and the replica set that this test kills: no other test uses them.
//! Rule: started on demand and ended with the test; `e2e/servers` knows how.

use std::process::Command;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria};
use mongodb::{Client, Collection};

use crate::support::{address, eventually};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/servers");
pub const BROKER: &str = "chaos-rabbitmq";
const REPLICAS: [&str; 3] = ["replica-1", "replica-2", "replica-3"];

pub struct Servers {
    pub broker: String,
    pub database: String,
    client: Client,
}

impl Servers {
    pub async fn start() -> Self {
        tokio::join!(act("start", BROKER), act("start", "replica-set"));
        let database = address("STOCK_TEST_REPLICA_SET_URL");
        let mut options = ClientOptions::parse(&database).await.unwrap();
        // Who looks must not wait for an election.
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Nearest { options: None }));
        options.server_selection_timeout = Some(Duration::from_secs(2));
        let client = Client::with_options(options).unwrap();
        Self { broker: address("STOCK_TEST_CHAOS_RABBITMQ_URL"), database, client }
    }

    pub fn windows(&self, database: &str) -> Collection<Document> {
        self.client.database(database).collection(wire::env::default::MONGODB_COLLECTION)
    }

    pub fn broker_ports(&self) -> Vec<u16> {
        ports(&self.broker)
    }

    pub fn database_ports(&self) -> Vec<u16> {
        ports(&self.database)
    }

    /// `kill -9`.
    pub async fn kill(&self, name: &str) {
        act("kill", name).await;
    }

    /// SIGSTOP.
    pub async fn pause(&self, name: &str) {
        act("pause", name).await;
    }

    /// SIGCONT.
    pub async fn resume(&self, name: &str) {
        act("resume", name).await;
    }

    /// Returns when it serves.
    pub async fn restart(&self, name: &str) {
        act("start", name).await;
    }

    /// Name of the member that is the primary, once there is one.
    pub async fn primary(&self) -> &'static str {
        eventually("the replica set has a primary", async || {
            let hello = self.client.database("admin").run_command(doc! {"hello": 1}).await.ok()?;
            let primary = hello.get_str("primary").ok()?;
            let position = self.database_ports().iter().position(|port| primary.ends_with(&port.to_string()))?;
            Some(REPLICAS[position])
        })
        .await
    }

    /// Waits until every member is a primary or a secondary.
    pub async fn whole(&self) {
        eventually("every member of the replica set serves", async || {
            let status = self.client.database("admin").run_command(doc! {"replSetGetStatus": 1}).await.ok()?;
            let states = status.get_array("members").ok()?.iter().filter_map(Bson::as_document);
            let states: Vec<i32> = states.filter_map(|member| member.get_i32("state").ok()).collect();
            (states.len() == 3 && states.iter().all(|state| [1, 2].contains(state))).then_some(())
        })
        .await;
    }

    /// Messages that are ready in a queue.
    pub async fn ready(&self, queue: &str) -> Option<u32> {
        let connection = Connection::connect(&self.broker, ConnectionProperties::default()).await.ok()?;
        let channel = connection.create_channel().await.ok()?;
        let declared =
            channel.queue_declare(queue.into(), QueueDeclareOptions::default().passive(), FieldTable::default()).await;
        let count = declared.ok().map(|queue| queue.message_count());
        drop(connection.close(200, "done".into()).await);
        count
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for name in [BROKER, "chaos-epmd"].iter().chain(&REPLICAS) {
            drop(Command::new(SCRIPT).args(["kill", name]).status());
        }
    }
}

async fn act(verb: &'static str, name: &str) {
    let (name, mut command) = (name.to_owned(), Command::new(SCRIPT));
    command.args([verb, &name]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{verb} {name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The ports in a URL of one or several servers.
fn ports(url: &str) -> Vec<u16> {
    let hosts = url.rsplit('@').next().unwrap().trim_start_matches("mongodb://").split('/').next().unwrap();
    hosts.split(',').map(|host| host.rsplit(':').next().unwrap().parse().unwrap()).collect()
}
