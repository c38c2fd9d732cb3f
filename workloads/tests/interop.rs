//! Our programs next to foreign ones: publishers, consumers, page servers and WebSocket clients of `e2e/interop`.
//! Rule: foreign programs speak the old contract and nothing else; each test mixes both kinds on one queue or one collection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy knows tests, not their helpers")]

mod support;

use std::process::Command;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document};
use serde_json::Value;
use support::process::{CONSUMER, LIVEVIEW, PUBLISHER, Process, command, free_port};
use support::{Broker, Database, address, company, eventually, mongodb, rabbitmq, status};
use wire::Symbol;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Every consumer's window.
const BATCH: usize = 1000;

// --- the programs ---

#[derive(Clone, Copy, Debug, PartialEq)]
enum Language {
    Rust,
    Python,
    Node,
}

use Language::{Node, Python, Rust};

/// A foreign program by its name without the ending.
fn foreign(language: Language, program: &str, variables: &[(&str, &str)]) -> Command {
    let (interpreter, file) = match language {
        Python => (format!("{REPOSITORY}/.local/interop-python/bin/python"), format!("python/{program}.py")),
        Node => ("node".into(), format!("node/{program}.js")),
        Rust => panic!("ours are not foreign"),
    };
    let mut command = command(&interpreter, variables.iter().copied());
    command.arg(format!("{REPOSITORY}/e2e/interop/{file}"));
    command
}

/// Ends by itself after `count` events.
fn publisher(language: Language, company: &Symbol, count: usize) -> Process {
    let (url, count, company) = (rabbitmq(), count.to_string(), company.as_str());
    let variables = [("RABBITMQ_URL", url.as_str()), ("COMPANY", company), ("COUNT", &count)];
    let command = match language {
        Rust => command(PUBLISHER, variables.into_iter().chain([("TICKER_INTERVAL", "0"), ("METRICS_PORT", "0")])),
        _ => foreign(language, "publisher", &variables),
    };
    Process::start(format!("{language:?} publisher of {company}"), command)
}

/// Returns when the consumer has declared its queue and listens.
async fn consumer(language: Language, company: &Symbol, database: &Database) -> Process {
    let (broker, mongodb, port) = (rabbitmq(), mongodb(), free_port());
    let text = port.to_string();
    let variables = [
        ("RABBITMQ_URL", broker.as_str()),
        ("QUEUE_NAME", company.as_str()),
        ("MONGODB_URL", &mongodb),
        ("MONGODB_DB", &database.name),
    ];
    let name = format!("{language:?} consumer of {company}");
    if language == Rust {
        let mut process =
            Process::start(name, command(CONSUMER, variables.into_iter().chain([("METRICS_PORT", text.as_str())])));
        ready(&mut process, port).await;
        process
    } else {
        let mut process = Process::start(name, foreign(language, "consumer", &variables));
        process.says("consuming").await;
        process
    }
}

async fn ready(process: &mut Process, port: u16) {
    let url = format!("http://127.0.0.1:{port}/readyz");
    eventually(&format!("{} is ready", process.name), async || {
        process.still_runs();
        (status(&url).await == 200).then_some(())
    })
    .await;
}

/// Our liveview, and the URL of the page's socket: the page's own.
async fn our_page(database: &Database) -> (Process, String) {
    let (mongodb, port) = (mongodb(), free_port());
    let text = port.to_string();
    let variables = [("MONGODB_URL", mongodb.as_str()), ("MONGODB_DB", &database.name), ("PORT", &text)];
    let mut process = Process::start("our liveview", command(LIVEVIEW, variables));
    ready(&mut process, port).await;
    (process, format!("ws://127.0.0.1:{port}/"))
}

async fn foreign_page(database: &Database) -> (Process, String) {
    let mongodb = mongodb();
    let variables = [("MONGODB_URL", mongodb.as_str()), ("MONGODB_DB", &database.name), ("PORT", "0")];
    let mut process = Process::start("Node page server", foreign(Node, "page_server", &variables));
    let port = process.says("port ").await;
    (process, format!("ws://127.0.0.1:{port}/"))
}

/// What a client in this language gets first from a page: company, average and `_id` of each line.
async fn first_frame(language: Language, page: &str) -> Vec<(String, f64, String)> {
    let client = foreign(language, "socket_client", &[("PAGE_URL", page), ("COUNT", "1")]);
    let printed = Process::start(format!("{language:?} client of {page}"), client).ends_well().await;
    let frame: Value = serde_json::from_str(&printed[0]).unwrap_or_else(|error| panic!("{error}: {printed:?}"));
    assert_eq!(frame["type"], "prices", "{frame}");
    let of = |price: &Value| {
        let text = |field: &str| price[field].as_str().unwrap_or_else(|| panic!("{field} in {frame}")).to_owned();
        (text("company"), price["avgPrice"].as_f64().unwrap(), text("_id"))
    };
    frame["prices"].as_array().unwrap().iter().map(of).collect()
}

/// Reads both pages with both clients, and expects of each the newest average of each company, sorted.
async fn every_page_shows_the_newest_averages(database: &Database, companies: &[&Symbol]) {
    let (ours, our_url) = our_page(database).await;
    let (mut theirs, their_url) = foreign_page(database).await;
    let mut expected = Vec::new();
    for company in companies {
        let newest = database.of(company).await.pop().unwrap();
        let (id, average) = (newest.get_object_id("_id").unwrap(), number(&newest, "avgPrice"));
        expected.push((company.to_string(), average, id.to_hex()));
    }
    expected.sort_by(|left, right| left.0.cmp(&right.0));
    for url in [&our_url, &their_url] {
        for language in [Python, Node] {
            let shown = first_frame(language, url).await;
            assert_eq!(shown, expected, "{language:?} client of {url}");
            assert!(shown.iter().all(|(.., id)| id.len() == 24 && ObjectId::parse_str(id).is_ok()), "{shown:?}");
        }
    }
    ours.terminate().await;
    theirs.still_runs();
}

/// `quorum` or `classic`, as the broker says it.
async fn type_of(queue: &Symbol) -> String {
    let url = format!("{}/api/queues/%2F/{queue}", address("STOCK_TEST_MANAGEMENT_URL"));
    let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    answer["type"].as_str().unwrap().to_owned()
}

/// Node writes 303.00 as a whole number.
fn number(document: &Document, field: &str) -> f64 {
    match document.get(field) {
        Some(Bson::Double(number)) => *number,
        Some(Bson::Int32(number)) => f64::from(*number),
        Some(Bson::Int64(number)) => *number as f64,
        other => panic!("{field} is {other:?}"),
    }
}

/// Events in windows of ours, and in those that foreign consumers said they stored.
fn counted(documents: &[Document]) -> (usize, usize) {
    let (ours, theirs): (Vec<_>, Vec<_>) = documents.iter().partition(|document| document.contains_key("window"));
    let count = ours.iter().map(|document| number(document, "count") as usize).sum();
    (count, theirs.len() * BATCH)
}

// --- the promises ---

#[tokio::test]
async fn events_of_foreign_publishers_become_windows_that_every_page_shows() {
    let (broker, database) = (Broker::connect().await, Database::new().await);
    let (first, second) = (company("FROM-PYTHON"), company("FROM-NODE"));
    // One queue is made by our consumer, one by a foreign publisher.
    let ours = consumer(Rust, &first, &database).await;
    publisher(Python, &first, 2 * BATCH).ends_well().await;
    publisher(Node, &second, 2 * BATCH).ends_well().await;
    let also_ours = consumer(Rust, &second, &database).await;
    for company in [&first, &second] {
        let windows = database.wait_for(company, 2).await;
        assert_eq!(counted(&windows), (2 * BATCH, 0), "{windows:?}");
    }
    every_page_shows_the_newest_averages(&database, &[&first, &second]).await;
    ours.terminate().await;
    also_ours.terminate().await;
    for company in [first, second] {
        assert_eq!(broker.count(company.as_str()).await, Some(0));
        broker.delete(company.as_str()).await;
    }
    database.drop().await;
}

#[tokio::test]
async fn averages_of_foreign_consumers_show_on_every_page() {
    let (broker, database) = (Broker::connect().await, Database::new().await);
    let (first, second) = (company("TO-PYTHON"), company("TO-NODE"));
    // One queue is made by a foreign consumer, one by our publisher.
    let theirs = consumer(Python, &first, &database).await;
    publisher(Rust, &first, 2 * BATCH).ends_well().await;
    publisher(Rust, &second, 2 * BATCH).ends_well().await;
    let also_theirs = consumer(Node, &second, &database).await;
    for company in [&first, &second] {
        database.wait_for(company, 2).await;
    }
    every_page_shows_the_newest_averages(&database, &[&first, &second]).await;
    for (company, process) in [(first, theirs), (second, also_theirs)] {
        let stored = process.terminate().await.iter().filter(|line| line.starts_with("stored ")).count();
        assert_eq!(stored, 2);
        assert_eq!(broker.count(company.as_str()).await, Some(0));
        broker.delete(company.as_str()).await;
    }
    database.drop().await;
}

/// Publishers and consumers of all kinds on one queue at once; the first kind named makes it.
async fn every_event_is_counted_on_exactly_one_side(first: Language, queue_type: &str) {
    const EACH: usize = 7000;
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("MIXED"));
    let mut consumers = vec![consumer(first, &company, &database).await];
    assert_eq!(type_of(&company).await, queue_type);
    for language in [Rust, Python, Node] {
        if language != first {
            consumers.push(consumer(language, &company, &database).await);
        }
    }
    let publishers = [Rust, Python, Node].map(|language| publisher(language, &company, EACH));
    for process in publishers {
        process.ends_well().await;
    }
    let published = 3 * EACH;
    // Each consumer may keep less than a window back.
    let at_least = published - 3 * (BATCH - 1);
    eventually("all but the open windows are stored", async || {
        consumers.iter_mut().for_each(Process::still_runs);
        let (ours, theirs) = counted(&database.of(&company).await);
        (ours + theirs >= at_least).then_some(())
    })
    .await;
    let mut said = 0;
    for process in consumers {
        said += process.terminate().await.iter().filter(|line| line.starts_with("stored ")).count() * BATCH;
    }
    let (ours, theirs) = counted(&database.of(&company).await);
    assert_eq!(theirs, said);
    assert!(ours > 0 && theirs > 0, "both kinds worked: {ours} {theirs}");
    let name = company.as_str();
    eventually(&format!("{ours} + {theirs} + what is left = {published}"), async || {
        let left = broker.count(name).await? as usize;
        (ours + theirs + left == published).then_some(())
    })
    .await;
    assert_eq!(broker.count(&wire::queue::dead_letters(&company)).await.unwrap_or(0), 0);
    broker.delete(name).await;
    database.drop().await;
}

#[tokio::test]
async fn on_a_queue_of_ours_every_event_is_counted_on_exactly_one_side() {
    every_event_is_counted_on_exactly_one_side(Rust, "quorum").await;
}

#[tokio::test]
async fn on_a_queue_of_a_python_program_every_event_is_counted_on_exactly_one_side() {
    every_event_is_counted_on_exactly_one_side(Python, "classic").await;
}

#[tokio::test]
async fn on_a_queue_of_a_node_program_every_event_is_counted_on_exactly_one_side() {
    every_event_is_counted_on_exactly_one_side(Node, "classic").await;
}

#[tokio::test]
async fn what_a_killed_foreign_consumer_held_is_counted_by_ours() {
    let (broker, database) = (Broker::connect().await, Database::new().await);
    for language in [Python, Node] {
        let company = company("KILLED");
        let ours = consumer(Rust, &company, &database).await;
        let mut theirs = consumer(language, &company, &database).await;
        publisher(Python, &company, 1800).ends_well().await;
        eventually("everything is delivered", async || (broker.count(company.as_str()).await? == 0).then_some(()))
            .await;
        assert_eq!(database.of(&company).await.len(), 0, "the two share the events, none has a window full");
        theirs.kill();
        let windows = database.wait_for(&company, 1).await;
        assert_eq!(counted(&windows), (BATCH, 0));
        ours.terminate().await;
        eventually("the rest comes back", async || (broker.count(company.as_str()).await? == 800).then_some(())).await;
        broker.delete(company.as_str()).await;
    }
    database.drop().await;
}
