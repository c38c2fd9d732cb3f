//! New users and passwords for broker and database while everything flows, twice in a row, and over TLS.
//! Rule: the programs' own figures say what failed, from the first of their pods to the last; the servers say which users they have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::broker::managed;
use e2e::forward::Forward;
use e2e::page::prices_of;
use e2e::space::is_ready;
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use operator::crd::StockPipeline;
use operator::names;
use serde_json::json;
use tokio::sync::watch::channel;
use tokio::task::JoinHandle;

const COMPANIES: [&str; 2] = ["MSFT", "TSLA"];
/// Three kinds of programs, one pod after the other.
const ROTATED_WITHIN: Duration = Duration::from_secs(90);
/// Port of the programs' figures.
const METRICS_PORT: u16 = 9090;
/// Each of these is a publish or an insert that did not succeed at once.
const FAILURES: [&str; 6] = [
    "stock_publisher_events_nacked_total",
    "stock_publisher_events_returned_total",
    "stock_publisher_events_resent_total",
    "stock_publisher_reconnects_total",
    "stock_consumer_reconnects_total",
    "stock_consumer_settled_total",
];

#[tokio::test]
async fn credentials_are_rotated_under_load_and_nothing_fails() -> Result<()> {
    with_namespace("rotation", async |space| {
        rotates(space, "plain", false, 2).await?;
        // The longer way: each address names an authority too.
        rotates(space, "sealed", true, 1).await
    })
    .await
}

/// Rotates so often.
async fn rotates(space: &Space, name: &str, tls: bool, generations: u32) -> Result<()> {
    let mut pipeline = fixtures::light(name, &COMPANIES);
    pipeline["spec"]["consumer"] = json!({"batchSize": 20, "flushAfter": "2s"});
    pipeline["spec"]["liveview"]["replicas"] = 2.into();
    pipeline["spec"]["tls"]["enabled"] = tls.into();
    space.apply_until_ready(&pipeline).await?;
    prices_of(space, name, &COMPANIES, Duration::from_secs(60)).await?;
    let servers = servers(space, name).await?;
    let figures = Figures::watch(space, name).await?;
    let page = Page::visit(space, name).await?;

    for generation in 1..=generations {
        let began = Instant::now();
        rotate(space, name, generation).await?;
        println!("{name}: generation {generation} alone in use after {:.1} s", began.elapsed().as_secs_f64());
        let users = broker_users(space, name).await?;
        let ours: Vec<String> = ["application", "stockpipeline"].map(|user| format!("{user}-{generation}")).into();
        ensure!(users == ours, "the broker has the users {users:?}");
    }
    ensure!(servers == self::servers(space, name).await?, "a pod of broker or database was replaced");
    let (visits, failed) = page.end().await?;
    ensure!(visits > 50 * u64::from(generations) && failed == 0, "{failed} of {visits} requests of the page failed");
    let (pods, failures) = figures.end().await?;
    ensure!(failures.is_empty(), "of {pods} pods: {failures:?}");
    let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
    let events = verified[0].events;
    println!("{name}: {visits} requests of the page, {pods} pods of programs, {events} events: nothing failed");
    // Room for the next.
    space.api::<StockPipeline>().delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// Asks for new credentials and waits until the users before are gone.
async fn rotate(space: &Space, name: &str, generation: u32) -> Result<()> {
    let pipelines: Api<StockPipeline> = space.api();
    let wish = json!({"metadata": {"annotations": {names::ROTATE_CREDENTIALS: format!("wish {generation}")}}});
    pipelines.patch(name, &PatchParams::default(), &Patch::Merge(&wish)).await?;
    wait_until("the newest users are alone", ROTATED_WITHIN, async || {
        let condition = space.condition(name, "CredentialsRotated").await?;
        let done = format!(
            "generation {generation} of the broker's users is in use, generation {generation} of the database's"
        );
        ensure!(condition.status == "True" && condition.message.starts_with(&done), "{}", condition.message);
        Ok(())
    })
    .await
}

async fn servers(space: &Space, name: &str) -> Result<BTreeMap<String, String>> {
    let mut servers = space.pods(name, "broker").await?;
    servers.extend(space.pods(name, "database").await?);
    Ok(servers.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect())
}

/// As the management interface lists them to the administrator of the Secret.
async fn broker_users(space: &Space, name: &str) -> Result<Vec<String>> {
    managed(space, name, async |management| {
        let listed = management.users().await.map_err(|failure| anyhow!("{failure:?}"))?;
        let mut names: Vec<String> = listed.into_iter().map(|user| user.name).collect();
        names.sort();
        Ok(names)
    })
    .await
}

/// What the programs count as failed, of every pod as long as it serves.
struct Figures {
    stop: Arc<AtomicBool>,
    watch: JoinHandle<Result<(usize, BTreeMap<String, f64>)>>,
}

impl Figures {
    async fn watch(space: &Space, pipeline: &str) -> Result<Self> {
        let pipeline = pipeline.to_owned();
        let space = Space { client: space.client.clone(), namespace: space.namespace.clone() };
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        let (sender, mut begun) = channel(false);
        let watch = tokio::spawn(async move {
            let (mut forwards, mut failures) = (BTreeMap::<String, Forward>::new(), BTreeMap::new());
            // A program that starts before the broker serves counts its attempts: of the first pods only what is added counts.
            let (mut first, mut seen) = (BTreeMap::<String, f64>::new(), BTreeSet::new());
            let mut initial = true;
            while !ends.load(Ordering::Relaxed) {
                let mut pods: Vec<Pod> = space.pods(&pipeline, "publisher").await?;
                pods.extend(space.pods(&pipeline, "consumer").await?);
                for pod in pods.iter().filter(|pod| is_ready(pod)) {
                    let name = pod.name_any();
                    if !forwards.contains_key(&name) {
                        // One that ends in this moment shows nothing more.
                        let target = format!("pod/{name}");
                        let Ok(forward) = Forward::open(&space.namespace, &target, METRICS_PORT).await else {
                            continue;
                        };
                        forwards.insert(name.clone(), forward);
                    }
                    let Some(forward) = forwards.get(&name) else { continue };
                    let Ok(answer) = reqwest::get(format!("{}/metrics", forward.url())).await else { continue };
                    let Ok(text) = answer.text().await else { continue };
                    seen.insert(name.clone());
                    let name_of = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
                    for line in text.lines().filter(|line| FAILURES.contains(&name_of(line).as_str())) {
                        let (counter, count) = line.rsplit_once(' ').context("a figure without a value")?;
                        let (counter, count) = (format!("{name} {counter}"), count.parse::<f64>()?);
                        if initial {
                            first.insert(counter.clone(), count);
                        }
                        if count > first.get(&counter).copied().unwrap_or(0.0) {
                            failures.insert(counter, count);
                        }
                    }
                }
                if std::mem::take(&mut initial) {
                    sender.send_replace(true);
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Ok((seen.len(), failures))
        });
        begun.wait_for(|begun| *begun).await.context("no figure could be read")?;
        Ok(Self { stop, watch })
    }

    async fn end(self) -> Result<(usize, BTreeMap<String, f64>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.watch.await?
    }
}

/// Somebody who asks for the prices again and again, through the edge.
struct Page {
    visits: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    visitor: JoinHandle<()>,
    _forward: Forward,
}

impl Page {
    async fn visit(space: &Space, pipeline: &str) -> Result<Self> {
        let forward = Forward::open(&space.namespace, &format!("service/{pipeline}-edge"), 80).await?;
        let url = format!("{}/api/prices", forward.url());
        let (visits, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (all, bad) = (visits.clone(), failed.clone());
        let visitor = tokio::spawn(async move {
            let http = reqwest::Client::new();
            loop {
                let answer = http.get(&url).timeout(Duration::from_secs(5)).send().await;
                let served = answer.and_then(reqwest::Response::error_for_status);
                if let Err(error) = served {
                    eprintln!("a request of the page failed: {error}");
                    bad.fetch_add(1, Ordering::Relaxed);
                }
                all.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Ok(Self { visits, failed, visitor, _forward: forward })
    }

    async fn end(self) -> Result<(u64, u64)> {
        ensure!(!self.visitor.is_finished(), "the visitor gave up");
        self.visitor.abort();
        Ok((self.visits.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed)))
    }
}
