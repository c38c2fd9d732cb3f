//! A disk is full, and gets larger.
//! Rule: the status names the pod and the remedy, the remedy works without another hand on the pods, and `verify` says that nothing is lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::kubectl::kubectl;
use e2e::page::{newer_prices_of, prices_of};
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use serde_json::json;

const PIPELINE: &str = "full";
const COMPANIES: [&str; 1] = ["MSFT"];
/// Kubernetes waits longer before each start of a program that keeps ending, five minutes at most.
const MENDED_WITHIN: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_full_disk_of_the_broker_is_told_with_the_remedy_and_mended_by_it() -> Result<()> {
    with_namespace("full-disk", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["consumer"] = json!({"batchSize": 20, "flushAfter": "2s"});
        // A file system of exactly this size.
        pipeline["spec"]["broker"]["storage"] = json!({"size": "1Gi", "class": "memory"});
        space.apply_until_ready(&pipeline).await?;
        let seen = prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;

        // RabbitMQ takes no events while less than its `disk_free_limit` is free, 50 MB at least.
        let left = "$(($(df -P -m . | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4) - 20))M";
        fill(space, "full-broker-0", "/var/lib/rabbitmq", &format!("head -c {left} /dev/zero")).await?;
        says(space, "BrokerReady", &["full-broker-0", "short of disk", "enlarge its volume"]).await?;

        pipeline["spec"]["broker"]["storage"]["size"] = "2Gi".into();
        space.apply(&pipeline).await?;
        newer_prices_of(space, PIPELINE, &COMPANIES, &seen, MENDED_WITHIN).await?;
        space.ready(PIPELINE).await?;
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("the broker's disk was full and grew: {} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_database_that_ends_for_its_full_disk_is_told_with_the_remedy_and_mended_by_it() -> Result<()> {
    with_namespace("full-database", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["consumer"] = json!({"batchSize": 20, "flushAfter": "2s"});
        pipeline["spec"]["database"]["storage"] = json!({"size": "1Gi", "class": "memory"});
        // What lies on such a volume counts as the pod's memory.
        let resources = json!({"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}});
        pipeline["spec"]["database"]["template"] = json!({"resources": resources});
        space.apply_until_ready(&pipeline).await?;
        let seen = prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;

        // To the last byte.
        fill(space, "full-database-0", "/data/db", "! cat /dev/zero").await?;
        says(space, "DatabaseReady", &["full-database-0", "its disk is full", "raise database.storage.size"]).await?;

        pipeline["spec"]["database"]["storage"]["size"] = "2Gi".into();
        space.apply(&pipeline).await?;
        newer_prices_of(space, PIPELINE, &COMPANIES, &seen, MENDED_WITHIN).await?;
        space.ready(PIPELINE).await?;
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("the database's disk was full and grew: {} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

/// Writes what a command says into a file on a pod's volume.
async fn fill(space: &Space, pod: &str, folder: &str, command: &str) -> Result<()> {
    let command = format!("cd {folder} && {command} >somebody-elses");
    kubectl(&["exec", "--namespace", &space.namespace, pod, "--", "sh", "-c", &command]).await.map(drop)
}

async fn says(space: &Space, condition: &str, words: &[&str]) -> Result<()> {
    wait_until(&format!("{condition} names the disk and the remedy"), MENDED_WITHIN, async || {
        let found = space.condition(PIPELINE, condition).await?;
        ensure!(found.status == "False", "it is {}: {}", found.status, found.message);
        ensure!(words.iter().all(|word| found.message.contains(word)), "it says: {}", found.message);
        println!("{condition}: {}", found.message);
        Ok(())
    })
    .await
}
