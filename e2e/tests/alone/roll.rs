//! A changed template of broker or database replaces its pods while events flow.
//! Rule: the programs' own counters say how long they stood still, and `verify` whether something is lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::page::prices_of;
use e2e::space::is_ready;
use e2e::stall::Stall;
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use operator::crd::StockPipeline;
use serde_json::{Value, json};

const PIPELINE: &str = "roll";
const COMPANIES: [&str; 1] = ["MSFT"];
/// Three pods, each of which has to be away and back.
const ROLLED_WITHIN: Duration = Duration::from_secs(300);
/// Port of the programs' figures.
const METRICS_PORT: u16 = 9090;
/// What a roll may cost; a machine that also builds is slower, so the test fails at twice that and prints what it measured.
const WRITE_GAP: Duration = Duration::from_secs(3);
const PUBLISH_STALL: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_roll_of_broker_and_database_replaces_one_pod_at_a_time_and_programs_ride_through() -> Result<()> {
    with_namespace("roll", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["consumer"] = json!({"batchSize": 20, "flushAfter": "2s"});
        pipeline["spec"]["broker"]["replicas"] = 3.into();
        pipeline["spec"]["database"]["replicas"] = 3.into();
        space.apply_until_ready(&pipeline).await?;
        prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;

        let publishing = roll(space, &mut pipeline, "broker", "publisher", "stock_publisher_events_confirmed_total").await?;
        let before = primary(space).await?;
        let writing = roll(space, &mut pipeline, "database", "consumer", "stock_consumer_windows_total").await?;
        ensure!(primary(space).await? != before, "the primary {before} was replaced and is the primary still");
        println!(
            "roll of three brokers: publisher stood still for {:.1} s at most; roll of three database members: consumer wrote nothing for {:.1} s at most",
            publishing.as_secs_f64(),
            writing.as_secs_f64()
        );
        ensure!(publishing < 2 * PUBLISH_STALL && writing < 2 * WRITE_GAP);

        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("{} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

/// Changes the template of a part and waits until all its pods are other ones; gives how long the counter of another part's pod stood.
async fn roll(
    space: &Space,
    pipeline: &mut Value,
    part: &str,
    watched: &str,
    counter: &'static str,
) -> Result<Duration> {
    let before = space.uids(PIPELINE, part).await?;
    let of_watched = space.uids(PIPELINE, watched).await?;
    let watched = of_watched.keys().next().with_context(|| format!("there is no {watched}"))?;
    let stall = Stall::watch(space, watched, METRICS_PORT, counter).await?;
    pipeline["spec"][part]["template"] = json!({"annotations": {"example.com/roll": "1"}});
    space.apply(pipeline).await?;
    let mut fewest = before.len();
    wait_until(&format!("the {part}'s pods are other ones"), ROLLED_WITHIN, async || {
        let now = space.pods(PIPELINE, part).await?;
        fewest = fewest.min(now.iter().filter(|pod| is_ready(pod)).count());
        let kept = |pod: &&Pod| before.values().any(|uid| Some(uid) == pod.uid().as_ref());
        let left: Vec<String> = now.iter().filter(kept).map(ResourceExt::name_any).collect();
        ensure!(left.is_empty() && now.len() == before.len(), "these are to be replaced: {left:?}");
        Ok(())
    })
    .await?;
    ensure!(fewest + 1 >= before.len(), "only {fewest} pods of the {part} were ready at a moment");
    space.ready(PIPELINE).await?;
    stall.longest().await
}

/// The member that the status names as primary.
async fn primary(space: &Space) -> Result<String> {
    let status = space.api::<StockPipeline>().get(PIPELINE).await?.status.context("there is no status")?;
    status.database_primary.context("the status names no primary")
}
