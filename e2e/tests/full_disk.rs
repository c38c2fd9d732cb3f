//! A disk is full, and gets larger.
//! Rule: the status names the pod and the remedy, the remedy works without another hand on the pods, and `verify` says that nothing is lost.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::kubectl::kubectl;
use e2e::page::{newer_prices_of, prices_of};
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use serde_json::{Value, json};

const PIPELINE: &str = "full";
const COMPANIES: [&str; 1] = ["MSFT"];

/// A disk that is filled, and what its user reads then.
struct Disk {
    part: &'static str,
    folder: &'static str,
    /// Writes until the disk is full; nothing if it is.
    filling: &'static str,
    condition: &'static str,
    says: [&'static str; 3],
    mended_within: Duration,
}

#[tokio::test]
async fn a_full_disk_of_the_broker_is_told_with_the_remedy_and_mended_by_it() -> Result<()> {
    let disk = Disk {
        part: "broker",
        folder: "/var/lib/rabbitmq",
        // RabbitMQ takes no events while less than its `disk_free_limit` is free, 50 MB at least.
        filling: "free=$(df -P -m . | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4); [ $free -le 20 ] || head -c $((free - 20))M /dev/zero",
        condition: "BrokerReady",
        says: ["full-broker-0", "short of disk", "enlarge its volume"],
        mended_within: Duration::from_secs(120),
    };
    let pipeline = fixtures::light(PIPELINE, &COMPANIES);
    with_namespace("full-disk", async |space| fills_and_is_mended(space, &disk, pipeline).await).await
}

#[tokio::test]
async fn a_database_that_ends_for_its_full_disk_is_told_with_the_remedy_and_mended_by_it() -> Result<()> {
    let disk = Disk {
        part: "database",
        folder: "/data/db",
        // To the last byte.
        filling: "! cat /dev/zero",
        condition: "DatabaseReady",
        says: ["full-database-0", "its disk is full", "raise database.storage.size"],
        // Kubernetes waits longer before each start of a program that keeps ending, five minutes at most.
        mended_within: Duration::from_secs(300),
    };
    // What lies on such a volume counts as the pod's memory.
    let resources = json!({"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}});
    let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
    pipeline["spec"]["database"]["template"] = json!({"resources": resources});
    with_namespace("full-database", async |space| fills_and_is_mended(space, &disk, pipeline).await).await
}

async fn fills_and_is_mended(space: &Space, disk: &Disk, mut pipeline: Value) -> Result<()> {
    let part = disk.part;
    pipeline["spec"]["consumer"] = json!({"batchSize": 20, "flushAfter": "2s"});
    // A file system of exactly this size.
    pipeline["spec"][part]["storage"] = json!({"size": "1Gi", "class": "memory"});
    space.apply_until_ready(&pipeline).await?;
    let seen = prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;

    is_filled_until_told(space, disk).await?;

    pipeline["spec"][part]["storage"]["size"] = "2Gi".into();
    space.apply(&pipeline).await?;
    newer_prices_of(space, PIPELINE, &COMPANIES, &seen, disk.mended_within).await?;
    space.ready(PIPELINE).await?;
    let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
    println!("the {part}'s disk was full and grew: {} events, each exactly once", verified[0].events);
    Ok(())
}

async fn fill(space: &Space, disk: &Disk) -> Result<()> {
    let command = format!("cd {} && {{ {}; }} >>somebody-elses", disk.folder, disk.filling);
    let pod = format!("{PIPELINE}-{}-0", disk.part);
    kubectl(&["exec", "--namespace", &space.namespace, &pod, "--", "sh", "-c", &command]).await.map(drop)
}

/// Somebody writes on whenever the part serves: a mongod that starts removes the journals it had made ahead, 300 MB, and may live in their room.
async fn is_filled_until_told(space: &Space, disk: &Disk) -> Result<()> {
    let condition = disk.condition;
    wait_until(&format!("{condition} names the disk and the remedy"), disk.mended_within, async || {
        let found = space.condition(PIPELINE, condition).await?;
        if found.status == "True" {
            // It may end while it is written to.
            let filled = fill(space, disk).await;
            bail!("it is {}: {}; its disk was filled: {filled:?}", found.status, found.message);
        }
        ensure!(disk.says.iter().all(|word| found.message.contains(word)), "it says: {}", found.message);
        println!("{condition}: {}", found.message);
        Ok(())
    })
    .await
}
