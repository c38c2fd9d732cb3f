//! Every event counts exactly once, whatever dies, and through a pause.
//! Rule: the judge is `stock-consumer verify` in a Job, as a user runs it, and nothing in here counts by itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::broker;
use e2e::forward::Forward;
use e2e::kubectl::kubectl;
use e2e::page::{newer_prices_of, prices_of};
use e2e::space::{READY_WITHIN, is_ready};
use e2e::verify::{Verdict, nothing_is_lost};
use e2e::{Space, fixtures, wait_until, with_namespace};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use operator::crd::StockPipeline;
use operator::names;
use serde_json::Value;

const PIPELINE: &str = "exact";
const COMPANIES: [&str; 2] = ["MSFT", "TSLA"];
/// Port of a consumer's figures.
const METRICS_PORT: u16 = 9090;
/// A killed broker of one node is back after some 20 s; its volume has to be attached again, and two cores are busy.
const PROGRESS_WITHIN: Duration = Duration::from_secs(120);
/// Publishers end, consumers store what they have, and two looks 10 s apart agree; the broker may be of one that has just started.
const PAUSED_WITHIN: Duration = Duration::from_secs(90);
/// Events that somebody else's program holds.
const HELD: u16 = 7;
/// A standby looks at the lease each second, and the lease of a killed holder lasts 4 s; the rest is the looking from here.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30);

/// What a fault kills.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Consumer,
    Publisher,
    Broker,
    Primary,
}

#[tokio::test]
async fn every_event_counts_exactly_once_whatever_dies() -> Result<()> {
    with_namespace("exactly-once", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["publisher"]["rate"] = 500.into();
        pipeline["spec"]["consumer"]["replicas"] = 2.into();
        pipeline["spec"]["consumer"]["flushAfter"] = "2s".into();
        // A primary that dies needs others that elect a new one.
        pipeline["spec"]["database"]["replicas"] = 3.into();
        space.apply_until_ready(&pipeline).await?;
        prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;

        for victim in [Victim::Consumer, Victim::Publisher, Victim::Broker, Victim::Primary] {
            survives(space, victim).await?;
        }

        pauses(space, &mut pipeline).await?;
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        for company in &verified {
            println!(
                "{}: {} events in {} windows of {} sources, each exactly once",
                company.company,
                company.events,
                company.windows,
                company.sources.len()
            );
        }
        let msft = verified.iter().find(|company| company.company == "MSFT").context("nothing of MSFT")?;
        ensure!(msft.sources.len() > 1, "a publisher was killed: {:?}", msft.sources);
        Ok(())
    })
    .await
}

/// Kills one pod without grace and waits until both companies go on and another pod has taken its place.
///
/// One fault at a time: a publisher that dies while the broker is away takes events along that nobody confirmed, and a later one of its
/// may be stored. The number that is missing then is no loss, and looks like one.
async fn survives(space: &Space, victim: Victim) -> Result<()> {
    let (part, name) = match victim {
        Victim::Consumer => ("consumer", active_consumer(space, None).await?),
        Victim::Publisher => ("publisher", the_pod(space, "publisher", "msft").await?),
        Victim::Broker => ("broker", format!("{PIPELINE}-broker-0")),
        Victim::Primary => ("database", primary(space).await?),
    };
    let before = space.pods(PIPELINE, part).await?;
    let uid = before.iter().find(|pod| pod.name_any() == name).with_context(|| format!("there is no {name}"))?.uid();
    let start = Instant::now();
    let without_grace = DeleteParams::default().grace_period(0);
    space.api::<Pod>().delete(&name, &without_grace).await.with_context(|| format!("kill {name}"))?;
    let killed = format!("{name} was killed;");
    if let Victim::Consumer = victim {
        let successor = active_consumer(space, Some(&name)).await?;
        println!("{killed} {successor} works {:.1} s later", start.elapsed().as_secs_f64());
    }
    // Twice: the first new window may have been under way already.
    let at_first = prices_of(space, PIPELINE, &COMPANIES, PROGRESS_WITHIN).await?;
    let first = newer_prices_of(space, PIPELINE, &COMPANIES, &at_first, PROGRESS_WITHIN).await?;
    newer_prices_of(space, PIPELINE, &COMPANIES, &first, PROGRESS_WITHIN).await?;
    println!("{killed} both companies have two new windows {:.1} s later", start.elapsed().as_secs_f64());
    wait_until(&format!("another pod has taken the place of {name}"), READY_WITHIN, async || {
        let now = space.pods(PIPELINE, part).await?;
        let ready = now.iter().filter(|pod| pod.uid() != uid && is_ready(pod)).count();
        ensure!(ready == before.len(), "{ready} of {} are ready", before.len());
        Ok(())
    })
    .await?;
    space.ready(PIPELINE).await?;
    Ok(())
}

/// Pauses under load while somebody else's program holds events of MSFT: the status says to the event what is left, as broker and database have
/// it, and says that nothing is only when those events came back and are stored.
async fn pauses(space: &Space, pipeline: &mut Value) -> Result<()> {
    let holder = Holder::take(space, "MSFT").await?;
    let start = Instant::now();
    pipeline["spec"]["paused"] = true.into();
    space.apply(pipeline).await?;
    let held = i64::from(HELD);
    paused(space, false, &format!("1 of 2 companies are drained; MSFT: {held} events left")).await?;
    println!("paused; what is left is known {:.1} s later", start.elapsed().as_secs_f64());
    let left = BTreeMap::from([("MSFT", (held, 0, held)), ("TSLA", (0, 0, 0))]);
    says(space, &left).await?;
    // Seconds pass between two counts of the broker's, so what is gone in this time would be missed.
    says(space, &left).await?;
    ensure!(space.pods(PIPELINE, "publisher").await?.is_empty(), "a publisher runs");

    holder.connection.close(200, "enough".into()).await?;
    paused(space, true, "every event is in a stored window").await?;
    println!("every event is stored {:.1} s later", start.elapsed().as_secs_f64());
    let nothing = COMPANIES.map(|company| (company, (0, 0, 0))).into();
    let windows = says(space, &nothing).await?;
    // The short way of the README.
    let in_a_consumer = ["exec", "--namespace", &space.namespace, "deploy/exact-consumer-msft", "--"];
    let verified = kubectl(&[&in_a_consumer[..], &["/stock-consumer", "verify", "--output", "json"]].concat()).await?;
    let verdict: Verdict = serde_json::from_str(&verified).with_context(|| format!("verify said: {verified}"))?;
    let stored: BTreeMap<String, i64> =
        verdict.companies.iter().map(|company| (company.company.clone(), company.windows as i64)).collect();
    ensure!(verdict.ok && stored == windows, "the status says {windows:?} windows: {verdict:#?}");

    let before = prices_of(space, PIPELINE, &COMPANIES, PROGRESS_WITHIN).await?;
    pipeline["spec"]["paused"] = false.into();
    space.apply(pipeline).await?;
    newer_prices_of(space, PIPELINE, &COMPANIES, &before, PROGRESS_WITHIN).await?;
    println!("prices again {:.1} s after the pause began", start.elapsed().as_secs_f64());
    Ok(())
}

async fn paused(space: &Space, holds: bool, words: &str) -> Result<()> {
    wait_until(&format!("Paused is {holds}: {words}"), PAUSED_WITHIN, async || {
        let paused = space.condition(PIPELINE, "Paused").await?;
        let value = if holds { "True" } else { "False" };
        ensure!(paused.status == value && paused.message.contains(words), "{} {}", paused.status, paused.message);
        Ok(())
    })
    .await
}

/// Waits until status and broker both say of each company what is left, what waits and what is held; gives the windows that the status tells.
async fn says(space: &Space, left: &BTreeMap<&str, (i64, i64, i64)>) -> Result<BTreeMap<String, i64>> {
    wait_until(&format!("status and broker say {left:?}"), PAUSED_WITHIN, async || {
        let queues = broker::queues(space, PIPELINE).await?;
        let status = space.api::<StockPipeline>().get(PIPELINE).await?.status.context("there is no status")?;
        let mut windows = BTreeMap::new();
        for company in status.companies {
            let wanted = left.get(company.symbol.as_str()).with_context(|| format!("what of {}", company.symbol))?;
            let said = (company.left, company.queued, company.unacked);
            ensure!(said == (Some(wanted.0), Some(wanted.1), Some(wanted.2)), "the status says {said:?}");
            let counted = queues.get(&company.symbol).with_context(|| format!("no queue {}", company.symbol))?;
            ensure!(*counted == (wanted.1, wanted.2), "the broker counts {counted:?} of {}", company.symbol);
            windows.insert(company.symbol.clone(), company.windows.with_context(|| "no windows are told")?);
        }
        Ok(windows)
    })
    .await
}

/// A program of somebody else's that has taken events and neither stores nor returns them.
struct Holder {
    connection: lapin::Connection,
    _consumer: lapin::Consumer,
    _forward: Forward,
}

impl Holder {
    async fn take(space: &Space, company: &str) -> Result<Self> {
        let url = broker::secret(space, &format!("{PIPELINE}-broker-credentials"), "url").await?;
        let forward = Forward::open(&space.namespace, &format!("service/{PIPELINE}-broker"), 5672).await?;
        let (login, _) = url.split_once('@').context("the address has no login")?;
        let url = format!("{login}@127.0.0.1:{}/%2f", forward.port);
        let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(HELD, Default::default()).await?;
        let mut consumer =
            channel.basic_consume(company.into(), "holder".into(), Default::default(), Default::default()).await?;
        for _ in 0..HELD {
            consumer.next().await.context("the broker ended the subscription")??;
        }
        Ok(Self { connection, _consumer: consumer, _forward: forward })
    }
}

/// The consumer of MSFT that works; another one than `killed`.
async fn active_consumer(space: &Space, killed: Option<&str>) -> Result<String> {
    wait_until("one consumer of MSFT works and the others stand by", TAKEN_OVER_WITHIN, async || {
        let mut active = Vec::new();
        for pod in pods(space, "consumer", "msft").await? {
            if killed != Some(pod.as_str()) && works(space, &pod).await.unwrap_or(false) {
                active.push(pod);
            }
        }
        match active.as_slice() {
            [one] => Ok(one.clone()),
            _ => bail!("these work: {active:?}"),
        }
    })
    .await
}

/// What a consumer says of itself.
async fn works(space: &Space, pod: &str) -> Result<bool> {
    let forward = Forward::open(&space.namespace, &format!("pod/{pod}"), METRICS_PORT).await?;
    let text = reqwest::get(format!("{}/metrics", forward.url())).await?.text().await?;
    let value = text.lines().find_map(|line| line.strip_prefix("stock_consumer_active "));
    Ok(value.with_context(|| format!("{pod} has no metric stock_consumer_active"))? == "1")
}

async fn pods(space: &Space, part: &str, company: &str) -> Result<Vec<String>> {
    let of_company = format!("{}={part},{}={company}", names::COMPONENT, names::COMPANY);
    let pods = space.list::<Pod>(&of_company).await?;
    Ok(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(ResourceExt::name_any).collect())
}

async fn the_pod(space: &Space, part: &str, company: &str) -> Result<String> {
    pods(space, part, company).await?.pop().with_context(|| format!("{company} has no {part}"))
}

/// The pod of the database's primary; the status names it as `host:port`.
async fn primary(space: &Space) -> Result<String> {
    let status = space.api::<StockPipeline>().get(PIPELINE).await?.status.context("there is no status")?;
    let host = status.database_primary.context("the status names no primary")?;
    Ok(host.split('.').next().unwrap_or_default().to_owned())
}
