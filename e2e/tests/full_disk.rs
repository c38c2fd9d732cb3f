//! The disks of broker and database are full, and get larger.
//! Rule: the status names the part and the remedy, the remedy works without another hand on the pods, and `verify` says that nothing is lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kubectl::kubectl;
use e2e::page::{newer_prices_of, prices_of};
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use operator::crd::StockPipeline;
use serde_json::json;

const PIPELINE: &str = "full";
const COMPANIES: [&str; 1] = ["MSFT"];
const MENDED_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn full_disks_are_told_with_the_remedy_and_mended_by_it() -> Result<()> {
    with_namespace("full-disk", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["consumer"] = json!({"batchSize": 20, "flushAfter": "2s"});
        for part in ["broker", "database"] {
            // Each in a file system of exactly this size.
            pipeline["spec"][part]["storage"] = json!({"size": "1Gi", "class": "memory"});
        }
        space.apply_until_ready(&pipeline).await?;
        let seen = prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;

        fill(space, "full-broker-0", "/var/lib/rabbitmq").await?;
        says(space, "BrokerReady", &["short of disk", "enlarge"]).await?;
        fill(space, "full-database-0", "/data/db").await?;
        says(space, "DatabaseReady", &["disk", "spec.database.storage.size"]).await?;

        for part in ["broker", "database"] {
            pipeline["spec"][part]["storage"]["size"] = "2Gi".into();
        }
        space.apply(&pipeline).await?;
        newer_prices_of(space, PIPELINE, &COMPANIES, &seen, MENDED_WITHIN).await?;
        space.ready(PIPELINE).await?;
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("both disks were full and grew: {} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

/// Fills a pod's volume with a file of somebody else's, to the last byte.
async fn fill(space: &Space, pod: &str, folder: &str) -> Result<()> {
    let command = format!("cat /dev/zero >{folder}/somebody-elses 2>/dev/null; df {folder} | tail -n 1");
    let said = kubectl(&["exec", "--namespace", &space.namespace, pod, "--", "sh", "-c", &command]).await?;
    ensure!(said.contains("100%"), "{pod}: the disk is not full: {said}");
    Ok(())
}

async fn says(space: &Space, condition: &str, words: &[&str]) -> Result<()> {
    wait_until(&format!("{condition} names the disk and the remedy"), MENDED_WITHIN, async || {
        let status = space.api::<StockPipeline>().get(PIPELINE).await?.status.context("there is no status")?;
        let found = status.conditions.iter().find(|found| found.type_ == condition).context("it is not there")?;
        ensure!(found.status == "False", "it is {}: {}", found.status, found.message);
        ensure!(words.iter().all(|word| found.message.contains(word)), "it says: {}", found.message);
        println!("{condition}: {}", found.message);
        Ok(())
    })
    .await
}
