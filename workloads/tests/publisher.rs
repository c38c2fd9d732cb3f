//! The publisher against a real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy knows tests, not their helpers")]

mod support;

use std::collections::BTreeSet;

use lapin::message::Delivery;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use support::{Broker, Running, close_connections, company, eventually, rabbitmq, socket};
use tokio_util::sync::CancellationToken;
use wire::event::Sequence;
use wire::{PriceEvent, Symbol};
use workloads::publisher::prices::{Prices, Range};
use workloads::publisher::{self, Args, Settings};

async fn start(companies: &[&Symbol], interval: &str) -> Running {
    let names: Vec<&str> = companies.iter().map(|company| company.as_str()).collect();
    let args = Args {
        companies: Some(names.join(",")),
        rabbitmq_url: Some(rabbitmq()),
        ticker_interval: Some(interval.into()),
        seed: Some("7".into()),
        ..Args::default()
    };
    let settings = Settings::parse(&args).unwrap();
    let listener = socket().await;
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let task = tokio::spawn(publisher::run(settings, listener, stop.clone()));
    Running { stop, task, url }
}

fn named(message: &Delivery) -> Sequence<'_> {
    Sequence::of_message_id(message.properties.message_id().as_ref().unwrap().as_str()).unwrap()
}

fn sequence(message: &Delivery) -> u64 {
    named(message).number
}

fn source(message: &Delivery) -> &str {
    named(message).source
}

async fn confirmed(running: &Running, company: &Symbol) -> f64 {
    running.metric(&format!("stock_publisher_events_confirmed_total{{company=\"{company}\"}}")).await
}

#[tokio::test]
async fn after_a_stop_the_queue_holds_exactly_what_was_confirmed_numbered_without_a_gap() {
    let (broker, company) = (Broker::connect().await, company("EXACT"));
    let running = start(&[&company], "0").await;
    eventually("3000 confirms", async || (confirmed(&running, &company).await > 3000.0).then_some(())).await;
    let url = format!("{}/metrics", running.url);
    running.end().await;
    assert!(reqwest::get(url).await.is_err(), "the process has ended");
    let messages = broker.drain(company.as_str()).await;
    let numbers: Vec<u64> = messages.iter().map(sequence).collect();
    assert_eq!(numbers, (0..messages.len() as u64).collect::<Vec<_>>());
    assert_eq!(messages.iter().map(source).collect::<BTreeSet<_>>().len(), 1);
    let expected = Prices::new(7, &company, Range::new(50.0, 550.0).unwrap());
    for (message, (event_type, price)) in messages.iter().zip(expected) {
        let event: PriceEvent<'_> = serde_json::from_slice(&message.data).unwrap();
        assert_eq!((event.company.as_ref(), event.event_type, event.price), (company.as_str(), event_type, price));
    }
    let properties = &messages[0].properties;
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.delivery_mode(), &Some(2));
    assert!(properties.timestamp().unwrap() > 1_700_000_000_000, "milliseconds");
    broker.delete(company.as_str()).await;
}

#[tokio::test]
async fn two_lives_with_the_same_seed_say_the_same_prices_as_two_sources() {
    let (broker, company) = (Broker::connect().await, company("SEED"));
    let mut lives = Vec::new();
    for _ in 0..2 {
        let running = start(&[&company], "1").await;
        eventually("100 confirms", async || (confirmed(&running, &company).await >= 100.0).then_some(())).await;
        running.end().await;
        lives.push(broker.drain(company.as_str()).await);
    }
    let bodies = |life: &[Delivery]| life.iter().take(100).map(|message| message.data.clone()).collect::<Vec<_>>();
    assert_eq!(bodies(&lives[0]), bodies(&lives[1]));
    assert_ne!(source(&lives[0][0]), source(&lives[1][0]));
    broker.delete(company.as_str()).await;
}

#[tokio::test]
async fn a_connection_closed_by_an_administrator_costs_no_event() {
    let (broker, company) = (Broker::connect().await, company("CUT"));
    let running = start(&[&company], "0.2").await;
    for round in 1..=3 {
        eventually("more confirms", async || {
            (confirmed(&running, &company).await > f64::from(round) * 500.0).then_some(())
        })
        .await;
        close_connections(&format!("stock-publisher {company}")).await;
    }
    let before = confirmed(&running, &company).await;
    eventually("confirms go on", async || (confirmed(&running, &company).await > before + 500.0).then_some(())).await;
    assert!(running.metric("stock_publisher_reconnects_total").await >= 1.0);
    running.end().await;
    let numbers: BTreeSet<u64> = broker.drain(company.as_str()).await.iter().map(sequence).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect(), "every number is there");
    broker.delete(company.as_str()).await;
}

#[tokio::test]
async fn events_returned_because_the_queue_was_deleted_are_sent_again() {
    let (broker, company) = (Broker::connect().await, company("RETURNED"));
    // Slow enough that nothing is under way: RabbitMQ 4.0 answers the deletion of a queue with open confirms by closing the connection.
    let running = start(&[&company], "50").await;
    eventually("some confirms", async || (confirmed(&running, &company).await > 5.0).then_some(())).await;
    broker.delete(company.as_str()).await;
    eventually("the queue is back", async || broker.count(company.as_str()).await.filter(|count| *count > 5)).await;
    let resent = running.metric(&format!("stock_publisher_events_resent_total{{company=\"{company}\"}}")).await;
    assert!(resent >= 1.0, "{resent}");
    running.end().await;
    let numbers: BTreeSet<u64> = broker.drain(company.as_str()).await.iter().map(sequence).collect();
    // What lay in the queue when it was deleted is gone with it; what was returned afterwards is not.
    let (first, last) = (*numbers.first().unwrap(), *numbers.last().unwrap());
    assert!(first > 0);
    assert_eq!(numbers, (first..=last).collect());
    broker.delete(company.as_str()).await;
}

#[tokio::test]
async fn a_queue_that_a_foreign_program_made_is_used_as_it_is() {
    let (broker, company) = (Broker::connect().await, company("FOREIGN"));
    broker
        .channel
        .queue_declare(company.as_str().into(), QueueDeclareOptions::default(), FieldTable::default())
        .await
        .unwrap();
    let running = start(&[&company], "1").await;
    eventually("confirms", async || (confirmed(&running, &company).await > 10.0).then_some(())).await;
    assert_eq!(running.metric("stock_publisher_reconnects_total").await, 0.0);
    running.end().await;
    broker.delete(company.as_str()).await;
}

#[tokio::test]
async fn one_process_speaks_for_several_companies_at_its_pace() {
    let (broker, first, second) = (Broker::connect().await, company("BRK.B"), company("^GSPC"));
    let running = start(&[&first, &second], "1").await;
    running.ready().await;
    eventually("three seconds of events", async || (confirmed(&running, &first).await >= 3000.0).then_some(())).await;
    running.end().await;
    for company in [&first, &second] {
        let times: Vec<i64> = broker
            .drain(company.as_str())
            .await
            .iter()
            .map(|message| message.properties.timestamp().unwrap() as i64)
            .collect();
        // One event each millisecond: never early, and late only by what the machine was busy with, which is made good.
        let late: Vec<i64> = times.iter().zip(0..).map(|(at, number)| at - times[0] - number).collect();
        assert!(times.len() > 2500 && *late.iter().min().unwrap() > -200, "{:?}", late.iter().min());
        assert!(late.iter().rev().take(500).min().unwrap() < &100, "{late:?}");
    }
    broker.delete(first.as_str()).await;
    broker.delete(second.as_str()).await;
}
