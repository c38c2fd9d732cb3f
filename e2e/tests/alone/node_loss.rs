//! A node of the cluster is cut off while events flow.
//! Rule: everything on it goes on running and reaches nobody, which is harder than a crash; and nothing is lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kubectl::kubectl;
use e2e::page::prices_of;
use e2e::space::is_ready;
use e2e::stall::Stall;
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use operator::crd::StockPipeline;
use serde_json::json;
use tokio::process::Command;

const PIPELINE: &str = "loss";
const COMPANIES: [&str; 1] = ["MSFT"];
/// Port of a liveview's figures.
const LIVEVIEW_PORT: u16 = 3000;
/// What a loss may cost on a machine that also builds; the figures are in docs/benchmarks.md.
const FLOWS_AGAIN: Duration = Duration::from_secs(30);
/// Losses until one costs no more. Where one of two name servers is lost, each question of a program has an even chance of no answer, so a single loss proves
/// nothing: what is broken would cost too much each time.
const LOSSES: usize = 3;
/// For what ends by itself at the latest when Kubernetes gives the node up, after 40 to 60 s.
const PATIENCE: Duration = Duration::from_secs(180);
/// Without a window for so long the loss has reached the page; otherwise there are ten per second.
const STANDS: Duration = Duration::from_secs(3);
/// Windows that show that events flow, when nothing stood still at all.
const STEADY: f64 = 50.0;
/// Windows that show that events flow again. Few: MongoDB's remaining secondary may go on reporting to the lost primary for up to half a minute, and
/// until then, it seems, the new one learns only from heartbeats what a majority has, so that each insert takes a second or two.
const AGAIN: f64 = 5.0;

#[tokio::test]
async fn events_flow_again_soon_after_a_node_is_cut_off_and_no_event_is_lost() -> Result<()> {
    with_namespace("node-loss", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["consumer"] = json!({"batchSize": 20, "flushAfter": "2s", "replicas": 3});
        for part in ["broker", "database", "liveview"] {
            pipeline["spec"][part]["replicas"] = 3.into();
        }
        space.apply_until_ready(&pipeline).await?;
        prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;
        for loss in 1.. {
            let stood = lose_a_node(space).await?;
            if stood < FLOWS_AGAIN {
                break;
            }
            ensure!(loss < LOSSES, "each of {LOSSES} losses cost more than {} s", FLOWS_AGAIN.as_secs());
        }
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("{} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

/// Cuts a node off and mends it when windows arrive again: for how long there was none.
async fn lose_a_node(space: &Space) -> Result<Duration> {
    every_replica_votes(space).await?;
    let lost = node_to_lose(space).await?;
    let liveviews = space.pods(PIPELINE, "liveview").await?;
    let survivor = liveviews.iter().find(|pod| node_of(pod) != Some(&lost)).context("no liveview is elsewhere")?;
    let stall = Stall::watch(space, &survivor.name_any(), LIVEVIEW_PORT, "stock_liveview_changes_total").await?;
    let off = cut(&lost, true).await;
    let flows = flows_again(&stall, &lost).await;
    // A test that fails leaves the node to the others.
    cut(&lost, false).await?;
    off.and(flows)?;
    let stood = stall.longest().await?;
    println!("{lost} was cut off: no window for {:.1} s", stood.as_secs_f64());
    space.ready(PIPELINE).await?;
    Ok(stood)
}

/// Waits until windows arrive, after a standstill if there is one.
async fn flows_again(stall: &Stall, lost: &str) -> Result<()> {
    let before = stall.counter();
    let mut stood_at = None;
    wait_until("windows arrive again", PATIENCE, async || {
        let counter = stall.counter();
        if stall.standing() > STANDS {
            stood_at = Some(counter);
        }
        let (windows, enough) = stood_at.map_or((counter - before, STEADY), |at| (counter - at, AGAIN));
        ensure!(windows >= enough, "{windows} windows of {enough} since {lost} was cut off or the last standstill");
        Ok(())
    })
    .await
}

/// A replica that was given to the queue just now has no vote until it has caught up, and until then one loss more leaves no majority.
async fn every_replica_votes(space: &Space) -> Result<()> {
    let pod = format!("{PIPELINE}-broker-0");
    let status = ["rabbitmq-queues", "--quiet", "quorum_status", COMPANIES[0]];
    let command: Vec<&str> = ["exec", "--namespace", &space.namespace, &pod, "--"].into_iter().chain(status).collect();
    wait_until("all three replicas of the queue vote", Duration::from_secs(60), async || {
        let status = kubectl(&command).await?;
        ensure!(status.matches("voter").count() == 3, "{status}");
        Ok(())
    })
    .await
}

/// The node of the database's primary: the worst to lose, and more so where one of the cluster's own name servers runs on it, as on two of three here.
/// The one publisher moves away from it: both come back elsewhere only when Kubernetes gives the node up, after a minute.
async fn node_to_lose(space: &Space) -> Result<String> {
    let status = space.api::<StockPipeline>().get(PIPELINE).await?.status.context("there is no status")?;
    let primary = status.database_primary.context("the status names no primary")?;
    let members = space.pods(PIPELINE, "database").await?;
    let primary = members.iter().find(|pod| primary.starts_with(&format!("{}.", pod.name_any())));
    let lost = primary.and_then(node_of).context("the primary has no node")?;
    let name_servers = Api::<Pod>::namespaced(space.client.clone(), "kube-system");
    let name_servers = name_servers.list(&ListParams::default().labels("k8s-app=kube-dns")).await?.items;
    let here = name_servers.iter().filter(|server| node_of(server) == Some(lost)).count();
    println!("{lost} has the primary and {here} of the {} name servers", name_servers.len());

    kubectl(&["cordon", lost]).await?;
    let moved = move_publisher(space, lost).await;
    kubectl(&["uncordon", lost]).await?;
    moved.map(|()| lost.clone())
}

async fn move_publisher(space: &Space, away_from: &String) -> Result<()> {
    for pod in space.pods(PIPELINE, "publisher").await?.iter().filter(|pod| node_of(pod) == Some(away_from)) {
        space.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await?;
    }
    wait_until("the publisher runs elsewhere", Duration::from_secs(60), async || {
        let publishers = space.pods(PIPELINE, "publisher").await?;
        let here = publishers.iter().filter(|pod| node_of(pod) == Some(away_from)).count();
        ensure!(here == 0 && publishers.iter().any(is_ready), "{here} are still here");
        Ok(())
    })
    .await
}

fn node_of(pod: &Pod) -> Option<&String> {
    pod.spec.as_ref()?.node_name.as_ref()
}

/// Pulls the node's cable, or puts it back, with the command that knows the cluster.
async fn cut(node: &str, off: bool) -> Result<()> {
    let variable = if off { "STOCK_CUT_NODE" } else { "STOCK_MEND_NODE" };
    let command = std::env::var(variable).with_context(|| format!("{variable} is not set: run e2e/end-to-end"))?;
    let status = Command::new(&command).arg(node).status().await.with_context(|| format!("run {command}"))?;
    ensure!(status.success(), "{command} {node} failed");
    Ok(())
}
