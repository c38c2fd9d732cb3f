//! What a user gets wrong is refused with a sentence that says how to get it right.
//! Rule: the sentences are part of the promise.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::forward::Forward;
use e2e::page::{newer_prices_of, prices_of};
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use operator::crd::StockPipeline;
use serde_json::{Value, json};

#[tokio::test]
async fn the_api_server_refuses_what_cannot_work_and_says_what_would() -> Result<()> {
    with_namespace("bad-input", async |space| {
        let long = "A".repeat(65);
        let cases = [
            ("/spec/companies", json!([]), "name at least one company, for example companies: [{symbol: MSFT}]"),
            ("/spec/companies", json!([{"symbol": "MSFT"}, {"symbol": "MSFT"}]), "duplicate entries for key [symbol=\"MSFT\"]"),
            ("/spec/companies", json!([{"symbol": "MS FT"}]), "a symbol is 1 to 64 letters, digits or . ^ = _ - and starts with a letter, a digit or ^, for example BRK.B"),
            ("/spec/companies", json!([{"symbol": ""}]), "a symbol is 1 to 64 letters"),
            ("/spec/companies", json!([{"symbol": "../etc"}]), "a symbol is 1 to 64 letters"),
            ("/spec/companies", json!([{"symbol": long}]), "spec.companies[0].symbol: Too long: may not be more than 64"),
            ("/spec/companies", json!([{"symbol": "MSFT", "price": {"min": 10, "max": 10}}]), "price needs 0 <= min < max <= 1000000000"),
            ("/spec/companies", json!([{"symbol": "MSFT", "price": {"min": 600}}]), "price needs 0 <= min < max <= 1000000000"),
            ("/spec/companies", json!([{"symbol": "MSFT", "rate": 0}]), "spec.companies[0].rate in body should be greater than or equal to 1"),
            ("/spec/database/replicas", json!(0), "database.replicas must be 1, 3, 5 or 7"),
            ("/spec/database/replicas", json!(2), "database.replicas must be 1, 3, 5 or 7: an even number of voters survives no more failures than one less"),
            ("/spec/database/replicas", json!(-1), "database.replicas must be 1, 3, 5 or 7"),
            ("/spec/broker/replicas", json!(2), "broker.replicas must be 1, 3 or 5: an even number of nodes survives no more failures than one less"),
            ("/spec/liveview/replicas", json!(-1), "spec.liveview.replicas in body should be greater than or equal to 0"),
            ("/spec/edge/replicas", json!(-2), "spec.edge.replicas in body should be greater than or equal to 0"),
            ("/spec/broker/storage/size", json!("ten gigabytes"), "storage.size must be a quantity above 0, for example 10Gi"),
            ("/spec/database/storage/size", json!("0"), "storage.size must be a quantity above 0, for example 10Gi"),
            ("/spec/database/storage/size", json!("-1Gi"), "storage.size must be a quantity above 0, for example 10Gi"),
            ("/spec/consumer/batchSize", json!(0), "batchSize must be at least 1: a window of no events has no average"),
            ("/spec/consumer/batchSize", json!(-5), "batchSize must be at least 1"),
            ("/spec/edge/service", json!({"type": "ClusterIP", "nodePort": 30080}), "service.nodePort needs service.type NodePort or LoadBalancer"),
            ("/spec/liveview/template", json!({"labels": {"app.kubernetes.io/name": "mine"}}), "template.labels must not use the prefixes"),
            ("/spec/liveview/template", json!({"pullPolicy": "Sometimes"}), "pullPolicy must be Always, IfNotPresent or Never"),
            ("/metadata/name", json!("p".repeat(41)), "metadata.name must be 1 to 40 lower-case letters, digits or -"),
            ("/metadata/name", json!("1st"), "metadata.name must be 1 to 40 lower-case letters"),
        ];
        let mut wrong = Vec::new();
        for (path, value, sentence) in &cases {
            if let Err(answer) = is_refused(space, &with(fixtures::light("refused", &["MSFT"]), path, value)?, sentence).await {
                wrong.push(format!("{path}: {value}: {answer}"));
            }
        }
        ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));

        let left = space.list::<StockPipeline>("").await?;
        ensure!(left.is_empty(), "a refused resource exists: {}", left[0].name_any());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_cannot_change_yet_is_refused_and_bad_messages_go_to_the_dead_letters() -> Result<()> {
    with_namespace("bad-message", async |space| {
        let pipeline = fixtures::light("strict", &["BRK.B"]);
        space.apply_until_ready(&pipeline).await?;
        for (path, value, sentence) in [
            (
                "/spec/broker/queueType",
                json!("Classic"),
                "broker.queueType cannot be changed: a queue keeps the type it was made with",
            ),
            (
                "/spec/broker/storage/size",
                json!("512Mi"),
                "broker.storage.size cannot be less than it was: a volume only grows",
            ),
            (
                "/spec/database/storage/class",
                json!("another"),
                "storage.class cannot be changed: a volume stays in the class it was made of",
            ),
        ] {
            is_refused(space, &with(pipeline.clone(), path, &value)?, sentence)
                .await
                .with_context(|| format!("{path}: {value}"))?;
        }
        bad_messages_go_to_the_dead_letters_and_the_consumer_lives_on(space, "strict", "BRK.B").await
    })
    .await
}

/// The resource with another value at a place.
fn with(mut pipeline: Value, path: &str, value: &Value) -> Result<Value> {
    let (parent, field) = path.rsplit_once('/').context("a path has a slash")?;
    pipeline.pointer_mut(parent).with_context(|| format!("the fixture has no {parent}"))?[field] = value.clone();
    Ok(pipeline)
}

async fn is_refused(space: &Space, pipeline: &Value, sentence: &str) -> Result<()> {
    match space.apply(pipeline).await {
        Ok(_) => anyhow::bail!("was accepted"),
        Err(refusal) => {
            let words = format!("{refusal:#}");
            ensure!(words.contains(sentence), "was refused with the words: {words}");
            Ok(())
        }
    }
}

async fn bad_messages_go_to_the_dead_letters_and_the_consumer_lives_on(
    space: &Space,
    pipeline: &str,
    symbol: &str,
) -> Result<()> {
    let consumers = space.pods(pipeline, "consumer").await?;
    let broker = Broker::open(space, pipeline).await?;
    let bad = ["not json at all", "{\"price\": 12}", "{\"company\":\"TSLA\",\"eventType\":\"buy\",\"price\":1.5}"];
    for body in bad {
        broker.publish(symbol, body).await?;
    }
    let dead = format!("{symbol}/dead-letters");
    wait_until(&format!("{} messages are in {dead}", bad.len()), Duration::from_secs(30), async || {
        let messages = broker.messages(&dead).await?;
        ensure!(messages == Some(bad.len() as u64), "it has {messages:?}");
        Ok(())
    })
    .await?;
    let seen = prices_of(space, pipeline, &[symbol], Duration::from_secs(30)).await?;
    newer_prices_of(space, pipeline, &[symbol], &seen, Duration::from_secs(30)).await?;
    let after = space.pods(pipeline, "consumer").await?;
    ensure!(
        restarts(&after) == restarts(&consumers),
        "the consumer was restarted by a bad message: {:?} became {:?}",
        restarts(&consumers),
        restarts(&after)
    );
    Ok(())
}

fn restarts(pods: &[Pod]) -> Vec<(String, i32)> {
    let count =
        |pod: &Pod| pod.status.as_ref()?.container_statuses.as_ref()?.first().map(|container| container.restart_count);
    pods.iter().map(|pod| (pod.name_any(), count(pod).unwrap_or(-1))).collect()
}

/// The broker's management interface, with the pipeline's own credentials.
struct Broker {
    http: reqwest::Client,
    forward: Forward,
    user: String,
    password: String,
}

impl Broker {
    async fn open(space: &Space, pipeline: &str) -> Result<Self> {
        let secret = space.api::<Secret>().get(&format!("{pipeline}-broker-credentials")).await?;
        let value = |key: &str| {
            let bytes = secret
                .data
                .as_ref()
                .and_then(|data| data.get(key))
                .with_context(|| format!("the Secret has no {key}"))?;
            anyhow::Ok(String::from_utf8(bytes.0.clone())?)
        };
        let forward = Forward::open(&space.namespace, &format!("service/{pipeline}-broker"), 15672).await?;
        Ok(Self { http: reqwest::Client::new(), forward, user: value("username")?, password: value("password")? })
    }

    async fn publish(&self, queue: &str, body: &str) -> Result<()> {
        let message = json!({"properties": {}, "routing_key": queue, "payload": body, "payload_encoding": "string"});
        let url = format!("{}/api/exchanges/%2F/amq.default/publish", self.forward.url());
        let request = self.http.post(url).basic_auth(&self.user, Some(&self.password)).json(&message);
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        ensure!(answer["routed"] == true, "no queue {queue} took the message: {answer}");
        Ok(())
    }

    /// Messages in a queue; none when there is no such queue or its figures are not known yet.
    async fn messages(&self, queue: &str) -> Result<Option<u64>> {
        let url = format!("{}/api/queues/%2F/{}", self.forward.url(), queue.replace('/', "%2F"));
        let answer: Value =
            self.http.get(url).basic_auth(&self.user, Some(&self.password)).send().await?.json().await?;
        Ok(answer["messages"].as_u64())
    }
}
