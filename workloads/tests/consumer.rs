//! The consumer against a real broker and a real database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy knows tests, not their helpers")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use support::{
    Broker, Database, Running, close_connections, company, eventually, mongodb, rabbitmq, relay, socket, take_out,
};
use tokio_util::sync::CancellationToken;
use wire::Symbol;
use wire::queue::dead_letters;
use workloads::consumer::store::{self, Stored};
use workloads::consumer::{self, Args, Settings, verify};
use workloads::database::DatabaseArgs;

fn args(company: &Symbol, database: &Database, batch_size: u32) -> Args {
    Args {
        queue_name: Some(company.to_string()),
        rabbitmq_url: Some(rabbitmq()),
        database: DatabaseArgs {
            mongodb_url: Some(mongodb()),
            mongodb_db: Some(database.name.clone()),
            ..DatabaseArgs::default()
        },
        batch_size: Some(batch_size.to_string()),
        pod_name: Some("consumer-under-test".into()),
        ..Args::default()
    }
}

async fn start(company: &Symbol, database: &Database, batch_size: u32) -> Running {
    start_with(args(company, database, batch_size)).await
}

async fn start_with(args: Args) -> Running {
    let settings = Settings::parse(&args).await.unwrap();
    let listener = socket().await;
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let task = tokio::spawn(consumer::run(settings, listener, stop.clone()));
    Running { stop, task, url }
}

/// What a company with dead letters leaves behind.
async fn remove(broker: &Broker, database: Database, company: &Symbol) {
    broker.delete(company.as_str()).await;
    broker.delete(&dead_letters(company)).await;
    database.drop().await;
}

fn prices(count: usize) -> Vec<f64> {
    (0..count).map(|index| (5000 + (index * 7919) % 50_000) as f64 / 100.0).collect()
}

#[tokio::test]
async fn a_backlog_of_22_000_drains_to_22_windows_with_the_right_averages() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("BACKLOG"));
    broker.declare(company.as_str()).await;
    let prices = prices(22_000);
    broker.publish_prices(&company, &prices).await;
    let running = start(&company, &database, 1000).await;
    let windows = database.wait_for(&company, 22).await;
    for (number, (window, prices)) in windows.iter().zip(prices.chunks(1000)).enumerate() {
        let cents: i64 = prices.iter().map(|price| (price * 100.0).round() as i64).sum();
        assert_eq!(window.get_f64("avgPrice").unwrap(), ((cents * 2 + 1000) / 2000) as f64 / 100.0);
        assert_eq!(window.get_i64("window").unwrap(), number as i64);
        assert_eq!((window.get_i64("count").unwrap(), window.get_i64("unsequenced").unwrap()), (1000, 1000));
        assert_eq!((window.get_f64("open").unwrap(), window.get_f64("close").unwrap()), (prices[0], prices[999]));
        assert!(window.get_str("writer").unwrap().starts_with("consumer-under-test/"));
    }
    eventually("the metric", async || (running.metric("stock_consumer_windows_total").await == 22.0).then_some(()))
        .await;
    assert_eq!(running.metric("stock_consumer_events_stored_total").await, 22_000.0);
    running.end().await;
    assert_eq!(database.of(&company).await.len(), 22);
    assert_eq!(broker.count(company.as_str()).await, Some(0));
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn a_consumer_that_dies_at_any_moment_counts_each_event_once() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("KILLED"));
    broker.declare(company.as_str()).await;
    // With windows of one event, each document is one event.
    let prices: Vec<f64> = (1..=400).map(f64::from).collect();
    broker.publish_numbered(&company, "source", &prices).await;
    for round in 1..=6 {
        let running = start(&company, &database, 1).await;
        // The insert is seen before its acknowledgement is sent, so most of these deaths fall between the two.
        database.wait_for(&company, round * 40).await;
        running.task.abort();
    }
    let running = start(&company, &database, 1).await;
    let windows = database.wait_for(&company, 400).await;
    eventually("an empty queue", async || (broker.count(company.as_str()).await == Some(0)).then_some(())).await;
    running.end().await;
    assert_eq!(database.of(&company).await.len(), 400, "none is there twice");
    let stored: BTreeSet<i64> = windows.iter().map(|window| window.get_f64("avgPrice").unwrap() as i64).collect();
    assert_eq!(stored, (1..=400).collect());
    let numbers: Vec<i64> = windows.iter().map(|window| window.get_i64("window").unwrap()).collect();
    assert_eq!(numbers, (0..400).collect::<Vec<_>>(), "the order of _id is the order of windows");
    let report = verify::verify(&database.windows, &[]).await.unwrap();
    assert_eq!((report.ok, report.companies[0].events, report.companies[0].unsequenced), (true, 400, 0));
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn an_event_that_its_publisher_sent_twice_is_counted_once_and_leaves_the_queue() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("TWICE"));
    broker.declare(company.as_str()).await;
    broker.publish_numbered(&company, "source", &[1.0, 2.0, 3.0]).await;
    broker.publish_numbered(&company, "source", &[1.0, 2.0, 3.0, 4.0, 5.0]).await;
    let running = start(&company, &database, 4).await;
    assert_eq!(database.wait_for(&company, 1).await[0].get_f64("avgPrice").unwrap(), 2.5);
    eventually("the fifth is held", async || {
        (running.metric("stock_consumer_window_events").await == 1.0).then_some(())
    })
    .await;
    assert_eq!(running.metric("stock_consumer_events_skipped_total").await, 3.0);
    running.end().await;
    eventually("only the fifth is left", async || (broker.count(company.as_str()).await == Some(1)).then_some(()))
        .await;
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn of_several_consumers_one_works_and_another_takes_over_when_it_stops_or_dies() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("STANDBY"));
    broker.declare(company.as_str()).await;
    let mut running = BTreeMap::new();
    for pod in ["a", "b", "c"] {
        let consumer = start_with(Args { pod_name: Some(pod.into()), ..args(&company, &database, 1) }).await;
        consumer.ready().await;
        running.insert(pod.to_owned(), consumer);
    }
    for number in 1..=3 {
        eventually("exactly one works", async || {
            let mut active = 0.0;
            for consumer in running.values() {
                active += consumer.metric("stock_consumer_active").await;
            }
            (active == 1.0).then_some(())
        })
        .await;
        broker.publish_prices(&company, &[f64::from(number)]).await;
        let windows = database.wait_for(&company, number as usize).await;
        // Whoever stored it is taken away: the first goes in order, the second without a word.
        let newest = windows.iter().max_by_key(|window| window.get_i64("window").unwrap()).unwrap();
        let writer = newest.get_str("writer").unwrap().split_once('/').unwrap().0;
        let consumer = running.remove(writer).expect("who has ended stores nothing");
        if number == 2 { consumer.task.abort() } else { consumer.end().await }
    }
    assert_eq!(database.of(&company).await.len(), 3);
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn a_short_window_is_closed_when_its_time_is_over_and_an_empty_one_is_not() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("SLOW"));
    let running = start_with(Args { flush_after: Some("200".into()), ..args(&company, &database, 1000) }).await;
    running.ready().await;
    for (prices, stored) in [([1.0, 2.0], 2.0), ([5.0, 6.0], 4.0)] {
        broker.publish_prices(&company, &prices).await;
        eventually("all of them are stored", async || {
            (running.metric("stock_consumer_events_stored_total").await == stored).then_some(())
        })
        .await;
    }
    let windows = database.of(&company).await;
    let count = |window: &Document| window.get_i64("count").unwrap();
    let sum: f64 = windows.iter().map(|window| window.get_f64("avgPrice").unwrap() * count(window) as f64).sum();
    // On a busy machine two events may fall into two windows; none is empty.
    assert!(sum == 14.0 && windows.iter().all(|window| (1..=2).contains(&count(window))), "{windows:?}");
    running.end().await;
    assert_eq!(broker.count(company.as_str()).await, Some(0));
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn verify_finds_a_window_that_was_taken_out_and_one_that_was_put_in() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("AUDIT"));
    broker.declare(company.as_str()).await;
    broker.publish_numbered(&company, "source", &[1.0; 30]).await;
    let running = start(&company, &database, 10).await;
    let windows = database.wait_for(&company, 3).await;
    running.end().await;
    let found = async || {
        let report = verify::verify(&database.windows, std::slice::from_ref(&company)).await.unwrap();
        (report.ok, report.companies[0].gaps, report.companies[0].duplicates)
    };
    assert_eq!(found().await, (true, 0, 0));
    database.windows.delete_one(doc! {"window": 1_i64}).await.unwrap();
    assert_eq!(found().await, (false, 10, 0));
    let mut again = windows[1].clone();
    database.windows.insert_one(&again).await.unwrap();
    again.insert("_id", mongodb::bson::oid::ObjectId::new());
    again.insert("window", 3_i64);
    database.windows.insert_one(again).await.unwrap();
    assert_eq!(found().await, (false, 0, 10));
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn nothing_is_acknowledged_while_the_database_refuses_to_store() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("REFUSED"));
    let mongo = database.windows.client().database(&database.name);
    let nothing_passes = doc! {"create": database.windows.name(), "validator": {"impossible": true}};
    mongo.run_command(nothing_passes).await.unwrap();
    let running = start(&company, &database, 2).await;
    running.ready().await;
    broker.publish_prices(&company, &[1.0, 2.0]).await;
    eventually("two refusals", async || (running.metric("stock_consumer_reconnects_total").await >= 2.0).then_some(()))
        .await;
    let all_pass = doc! {"collMod": database.windows.name(), "validator": {}};
    mongo.run_command(all_pass).await.unwrap();
    assert_eq!(database.wait_for(&company, 1).await[0].get_f64("avgPrice").unwrap(), 1.5);
    running.end().await;
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn what_is_not_an_event_goes_to_the_dead_letters_with_its_reason_and_the_consumer_lives_on() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("DEAD"));
    broker.declare(company.as_str()).await;
    let mut headers = FieldTable::default();
    headers.insert("mine".into(), AMQPValue::LongInt(7));
    let properties = BasicProperties::default().with_headers(headers).with_message_id("original".into());
    broker.publish_with(company.as_str(), "hello", properties).await;
    broker.publish_prices(&company, &[1.0]).await;
    broker.publish(company.as_str(), r#"{"company":"OTHER","eventType":"buy","price":1}"#).await;
    broker.publish(company.as_str(), r#"{"price":"cheap"}"#).await;
    broker.publish_prices(&company, &[3.0]).await;
    let running = start(&company, &database, 2).await;
    let windows = database.wait_for(&company, 1).await;
    assert_eq!(windows[0].get_f64("avgPrice").unwrap(), 2.0);
    let queue = dead_letters(&company);
    eventually("three dead letters", async || (broker.count(&queue).await == Some(3)).then_some(())).await;
    let letters = broker.drain(&queue).await;
    let seen: BTreeSet<(String, String)> = letters
        .iter()
        .map(|letter| {
            let headers = letter.properties.headers().as_ref().unwrap().inner();
            let text = |name: &str| match &headers[name] {
                AMQPValue::LongString(text) => text.to_string(),
                other => panic!("{other:?}"),
            };
            assert_eq!(text("x-queue"), company.as_str());
            (text("x-reason"), String::from_utf8(letter.data.clone()).unwrap())
        })
        .collect();
    let expected = [
        ("not_json", "hello"),
        ("wrong_company", r#"{"company":"OTHER","eventType":"buy","price":1}"#),
        ("not_an_event", r#"{"price":"cheap"}"#),
    ];
    assert_eq!(seen, expected.map(|(reason, body)| (reason.to_owned(), body.to_owned())).into());
    let original = letters.iter().find(|letter| letter.data == b"hello").unwrap();
    assert_eq!(original.properties.message_id().as_ref().unwrap().as_str(), "original");
    assert_eq!(original.properties.headers().as_ref().unwrap().inner()["mine"], AMQPValue::LongInt(7));
    for reason in ["not_json", "wrong_company", "not_an_event"] {
        assert_eq!(running.metric(&format!("stock_consumer_dead_lettered_total{{reason=\"{reason}\"}}")).await, 1.0);
    }
    running.end().await;
    assert_eq!(broker.count(company.as_str()).await, Some(0), "all of it is acknowledged");
    remove(&broker, database, &company).await;
}

#[tokio::test]
async fn a_queue_of_nothing_but_nonsense_is_emptied_although_no_window_ever_fills() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("NONSENSE"));
    broker.declare(company.as_str()).await;
    for _ in 0..50 {
        broker.publish(company.as_str(), "nonsense").await;
    }
    // The prefetch is 40 here: without acknowledgements the last ten would never be seen.
    let running = start(&company, &database, 2).await;
    eventually("fifty dead letters", async || (broker.count(&dead_letters(&company)).await == Some(50)).then_some(()))
        .await;
    running.end().await;
    assert_eq!(broker.count(company.as_str()).await, Some(0));
    remove(&broker, database, &company).await;
}

#[tokio::test]
async fn a_dead_letter_goes_to_its_queue_alone_and_stays_there_whatever_its_sender_asked_for() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("ASTRAY"));
    broker.declare(company.as_str()).await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    // A copy with this header would come back to the queue it was taken from, and so would the copy of that one.
    let queues = AMQPValue::FieldArray(vec![text(company.as_str())].into());
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), queues.clone());
    let user = broker.connection.status().username();
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_user_id(user.as_str().into())
        .with_expiration("60000".into())
        .with_reply_to("answers".into());
    broker.publish_with(company.as_str(), "hello", properties).await;
    broker.publish_prices(&company, &[1.0]).await;
    let running = start(&company, &database, 1).await;
    database.wait_for(&company, 1).await;
    let queue = dead_letters(&company);
    eventually("the dead letter", async || (broker.count(&queue).await? > 0).then_some(())).await;
    // What came back would lie before it.
    broker.publish_prices(&company, &[2.0]).await;
    database.wait_for(&company, 2).await;
    assert_eq!(running.metric("stock_consumer_dead_lettered_total{reason=\"not_json\"}").await, 1.0);
    assert_eq!(running.metric("stock_consumer_reconnects_total").await, 0.0);
    running.end().await;
    assert_eq!(broker.count(company.as_str()).await, Some(0));
    let letters = broker.drain(&queue).await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let properties = &letter.properties;
    assert_eq!((properties.user_id(), properties.expiration(), properties.reply_to()), (&None, &None, &None));
    let headers = properties.headers().as_ref().unwrap().inner();
    let expected = [
        ("x-original-cc", queues),
        ("x-original-user-id", text(&user)),
        ("x-original-expiration", text("60000")),
        ("x-original-reply-to", text("answers")),
    ];
    for (name, value) in expected {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(!headers.contains_key("CC"));
    remove(&broker, database, &company).await;
}

#[tokio::test]
async fn properties_as_large_as_the_broker_takes_them_are_read_and_buried() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("LARGE"));
    broker.declare(company.as_str()).await;
    let long = AMQPValue::LongString(vec![b'x'; 100_000].into());
    let mut headers = FieldTable::default();
    headers.insert("mine".into(), long.clone());
    let properties = BasicProperties::default().with_headers(headers);
    let event = format!(r#"{{"company":"{company}","eventType":"buy","price":1}}"#);
    broker.publish_with(company.as_str(), &event, properties.clone()).await;
    broker.publish_with(company.as_str(), "hello", properties).await;
    broker.publish_prices(&company, &[3.0]).await;
    let running = start(&company, &database, 2).await;
    assert_eq!(database.wait_for(&company, 1).await[0].get_f64("avgPrice").unwrap(), 2.0);
    let queue = dead_letters(&company);
    eventually("the dead letter", async || (broker.count(&queue).await == Some(1)).then_some(())).await;
    assert_eq!(running.metric("stock_consumer_reconnects_total").await, 0.0);
    running.end().await;
    let letters = broker.drain(&queue).await;
    assert_eq!(letters[0].properties.headers().as_ref().unwrap().inner()["mine"], long);
    remove(&broker, database, &company).await;
}

#[tokio::test]
async fn large_messages_are_buried_in_portions_and_larger_ones_are_refused_by_the_broker() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("PORTIONS"));
    broker.declare(company.as_str()).await;
    // What `max_message_size` allows (e2e/servers); all of it is taken at once, and goes in four portions.
    let largest = "x".repeat(16 * 1024);
    for _ in 0..200 {
        broker.publish(company.as_str(), &largest).await;
    }
    let running = start(&company, &database, 1000).await;
    let queue = dead_letters(&company);
    eventually("all of them", async || (broker.count(&queue).await == Some(200)).then_some(())).await;
    running.end().await;
    assert_eq!(broker.count(company.as_str()).await, Some(0));

    let channel = broker.connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = BasicPublishOptions::default();
    let (larger, properties) = (format!("{largest}x"), BasicProperties::default());
    let publishing = channel.basic_publish("".into(), company.as_str().into(), options, larger.as_bytes(), properties);
    let refused = async { publishing.await?.await }.await.unwrap_err().to_string();
    assert!(refused.contains("message size 16385 is larger than configured max size 16384"), "{refused}");
    remove(&broker, database, &company).await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_told_and_as_soon_as_it_is_taken_out_the_consumer_goes_on() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("UNREADABLE"));
    broker.declare(company.as_str()).await;
    let foreign = Broker::at(&relay(b"unreadable", &[0xff; 10]).await).await;
    let properties = BasicProperties::default().with_content_type("unreadable".into());
    foreign.publish_with(company.as_str(), "hello", properties).await;
    eventually("the first message", async || (broker.count(company.as_str()).await == Some(1)).then_some(())).await;
    broker.publish_prices(&company, &[1.0, 2.0]).await;
    let running = start(&company, &database, 2).await;
    let sentence = format!("a message at or near the head of queue {company} cannot be read");
    eventually("it is told", async || {
        let answer = reqwest::get(format!("{}/readyz", running.url)).await.ok()?;
        answer.text().await.ok()?.contains(&sentence).then_some(())
    })
    .await;
    assert!(running.metric("stock_consumer_unreadable_total").await >= 1.0);
    assert!(database.of(&company).await.is_empty());
    // While a connection of the consumer stands it has all of them.
    eventually("it is taken out", async || take_out(company.as_str()).await.then_some(())).await;
    assert_eq!(database.wait_for(&company, 1).await[0].get_f64("avgPrice").unwrap(), 1.5);
    running.ready().await;
    running.end().await;
    assert_eq!(broker.count(company.as_str()).await, Some(0));
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn a_queue_that_a_foreign_program_made_is_used_as_it_is() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("FOREIGN"));
    broker
        .channel
        .queue_declare(company.as_str().into(), QueueDeclareOptions::default(), FieldTable::default())
        .await
        .unwrap();
    broker.publish_prices(&company, &[1.0, 2.0]).await;
    let running = start(&company, &database, 2).await;
    assert_eq!(database.wait_for(&company, 1).await[0].get_f64("avgPrice").unwrap(), 1.5);
    assert_eq!(running.metric("stock_consumer_reconnects_total").await, 0.0);
    running.end().await;
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn a_connection_closed_by_an_administrator_is_made_anew_and_no_event_is_lost() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("CLOSED"));
    broker.declare(company.as_str()).await;
    let running = start(&company, &database, 3).await;
    running.ready().await;
    broker.publish_prices(&company, &[1.0, 2.0]).await;
    eventually("two events taken", async || {
        (running.metric("stock_consumer_window_events").await == 2.0).then_some(())
    })
    .await;
    close_connections(&format!("stock-consumer {company}")).await;
    broker.publish_prices(&company, &[6.0]).await;
    assert_eq!(database.wait_for(&company, 1).await[0].get_f64("avgPrice").unwrap(), 3.0);
    assert!(running.metric("stock_consumer_reconnects_total").await >= 1.0);
    running.end().await;
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn a_queue_deleted_under_the_consumer_is_made_again() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("DELETED"));
    let running = start(&company, &database, 1).await;
    running.ready().await;
    broker.delete(company.as_str()).await;
    eventually("the queue is back", async || broker.count(company.as_str()).await).await;
    broker.publish_prices(&company, &[4.0]).await;
    database.wait_for(&company, 1).await;
    running.end().await;
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn a_consumer_whose_window_was_stored_by_another_one_reads_anew_and_goes_on() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("ZOMBIE"));
    let running = start(&company, &database, 2).await;
    running.ready().await;
    broker.publish_prices(&company, &[1.0]).await;
    eventually("one event taken", async || (running.metric("stock_consumer_window_events").await == 1.0).then_some(()))
        .await;
    database.windows.insert_one(doc! {"company": company.as_str(), "avgPrice": 9.0, "window": 0_i64}).await.unwrap();
    broker.publish_prices(&company, &[3.0]).await;
    let windows = database.wait_for(&company, 2).await;
    let seen: Vec<(i64, f64)> =
        windows.iter().map(|window| (window.get_i64("window").unwrap(), window.get_f64("avgPrice").unwrap())).collect();
    assert_eq!(seen, [(0, 9.0), (1, 2.0)]);
    running.end().await;
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn windows_of_which_some_are_stored_already_are_stored_once_and_none_behind_one_that_another_consumer_stored() {
    let (database, company) = (Database::new().await, company("GROUP"));
    let windows = &database.windows;
    store::make_indexes(windows).await.unwrap();
    let document = |number: i64| doc! {"_id": ObjectId::new(), "company": company.as_str(), "window": number};
    let ours: Vec<Document> = (0..5).map(document).collect();
    assert_eq!(store::insert(windows, &ours[..1]).await.unwrap(), Stored::Told);
    windows.insert_one(&ours[1]).await.unwrap();
    assert_eq!(store::insert(windows, &ours).await.unwrap(), Stored::Settled, "an earlier attempt got so far");
    assert_eq!(database.of(&company).await, ours);
    assert_eq!(store::insert(windows, &ours).await.unwrap(), Stored::Settled, "all of them");

    let more: Vec<Document> = (5..8).map(document).collect();
    let theirs = document(6);
    windows.insert_one(&theirs).await.unwrap();
    let overtaken = store::insert(windows, &more).await.unwrap_err().to_string();
    assert!(overtaken.starts_with("another consumer of this company stored this window first"), "{overtaken}");
    let stored: BTreeSet<i64> =
        database.of(&company).await.iter().map(|window| window.get_i64("window").unwrap()).collect();
    assert_eq!(stored, (0..=6).collect(), "6 is theirs, and 7 is behind it");
    database.drop().await;
}

#[tokio::test]
async fn documents_of_a_foreign_consumer_stand_beside_ours() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("BESIDE"));
    let foreign = doc! {"company": company.as_str(), "avgPrice": 9.0};
    database.windows.insert_many([foreign.clone(), foreign.clone()]).await.unwrap();
    let running = start(&company, &database, 1).await;
    running.ready().await;
    database.windows.insert_one(foreign).await.unwrap();
    broker.publish_prices(&company, &[4.0]).await;
    let windows = database.wait_for(&company, 4).await;
    let numbers: Vec<i64> = windows.iter().filter_map(|window| window.get_i64("window").ok()).collect();
    assert_eq!(numbers, [0], "three have no number, ours is the first");
    // `_id` goes on after what was there at the start; a foreign one of the same second may fall on either side.
    let ours = windows.iter().position(|window| window.contains_key("window")).unwrap();
    assert!(ours >= 2, "ours is newer than what was there before it");
    running.end().await;
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn what_is_not_a_full_window_goes_back_to_the_queue_at_the_end() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("PARTIAL"));
    let running = start(&company, &database, 3).await;
    running.ready().await;
    broker.publish_prices(&company, &[1.0, 2.0, 3.0, 4.0]).await;
    database.wait_for(&company, 1).await;
    eventually("one event held", async || (running.metric("stock_consumer_window_events").await == 1.0).then_some(()))
        .await;
    running.end().await;
    eventually("one event back", async || (broker.count(company.as_str()).await == Some(1)).then_some(())).await;
    broker.delete(company.as_str()).await;
    database.drop().await;
}

#[tokio::test]
async fn a_company_that_is_drained_has_its_last_window_stored_short_and_full_ones_again_afterwards() {
    let (broker, database, company) = (Broker::connect().await, Database::new().await, company("DRAINED"));
    broker.declare(company.as_str()).await;
    broker.publish_numbered(&company, "source", &prices(25)).await;
    let running = start(&company, &database, 10).await;
    database.wait_for(&company, 2).await;
    let leases = database.windows.client().database(&database.name);
    let leases = leases.collection::<Document>(&wire::window::leases(database.windows.name()));
    let held = async |messages: i64| {
        eventually("the lease says what is held", async || {
            let lease = leases.find_one(doc! {"_id": company.as_str()}).await.unwrap()?;
            (lease.get_i64("held").ok() == Some(messages)).then_some(())
        })
        .await;
    };
    held(5).await;
    let drain = async |until: Document| {
        leases.update_one(doc! {"_id": company.as_str()}, vec![doc! {"$set": until}]).await.unwrap();
    };
    // As the operator says it, by the database's clock.
    drain(doc! {"drainUntil": {"$add": ["$$NOW", 60_000]}}).await;
    let windows = database.wait_for(&company, 3).await;
    assert_eq!(windows.iter().map(|window| window.get_i64("count").unwrap()).collect::<Vec<_>>(), [10, 10, 5]);
    eventually("an empty queue", async || (broker.count(company.as_str()).await == Some(0)).then_some(())).await;
    held(0).await;
    // Before the end of a time that was once named: what is over is over.
    drain(doc! {"drainUntil": "$$NOW"}).await;
    eventually("it is told", async || {
        let lease = leases.find_one(doc! {"_id": company.as_str()}).await.unwrap().unwrap();
        let (until, drained) = (lease.get_datetime("until").unwrap(), lease.get_datetime("drainUntil").unwrap());
        (until.timestamp_millis() - drained.timestamp_millis() > 5000).then_some(())
    })
    .await;
    broker.publish_numbered(&company, "another", &prices(15)).await;
    let windows = database.wait_for(&company, 4).await;
    assert_eq!(windows[3].get_i64("count").unwrap(), 10);
    eventually("the rest is held", async || {
        (running.metric("stock_consumer_window_events").await == 5.0).then_some(())
    })
    .await;
    held(5).await;
    running.end().await;
    let report = verify::verify(&database.windows, &[]).await.unwrap();
    assert!(report.ok, "{report:?}");
    broker.delete(company.as_str()).await;
    database.drop().await;
}
