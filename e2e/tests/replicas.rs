//! The stateless parts follow their replica counts.
//! Rule: prices go on through every change.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::page::{newer_prices_of, prices_of};
use e2e::{Space, fixtures, wait_until, with_namespace};

const PIPELINE: &str = "replicas";

#[tokio::test]
async fn liveview_and_edge_follow_their_replica_counts_and_prices_go_on() -> Result<()> {
    with_namespace("replicas", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &["MSFT"]);
        pipeline["spec"]["liveview"]["replicas"] = 2.into();
        pipeline["spec"]["edge"]["replicas"] = 2.into();
        space.apply_until_ready(&pipeline).await?;
        let mut seen = prices_of(space, PIPELINE, &["MSFT"], Duration::from_secs(30)).await?;
        for (part, replicas) in [("liveview", 3), ("liveview", 1), ("edge", 1)] {
            pipeline["spec"][part]["replicas"] = replicas.into();
            space.apply(&pipeline).await?;
            // Prices first: they must not wait for the change to be over.
            seen = newer_prices_of(space, PIPELINE, &["MSFT"], &seen, Duration::from_secs(20)).await?;
            there_are(space, part, replicas).await?;
            seen = newer_prices_of(space, PIPELINE, &["MSFT"], &seen, Duration::from_secs(20)).await?;
        }
        space.ready(PIPELINE).await?;
        Ok(())
    })
    .await
}

async fn there_are(space: &Space, part: &str, wanted: usize) -> Result<()> {
    wait_until(&format!("{part} has {wanted} pods"), Duration::from_secs(60), async || {
        let pods = space.pods(PIPELINE, part).await?;
        ensure!(pods.len() == wanted, "it has {}", pods.len());
        Ok(())
    })
    .await
}
