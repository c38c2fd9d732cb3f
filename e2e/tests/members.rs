//! Members of the database and nodes of the broker join and leave while events flow.
//! Rule: nothing is lost on the way, and nothing of a member that has left stays behind.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::page::{Prices, newer_prices_of, prices_of};
use e2e::space::{is_ready, labels};
use e2e::verify::nothing_is_lost;
use e2e::{Kind, Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::Value;

const PIPELINE: &str = "members";
const COMPANIES: [&str; 1] = ["MSFT"];

#[tokio::test]
async fn the_database_grows_from_one_member_to_three_and_back_under_load_and_no_event_is_lost() -> Result<()> {
    with_namespace("database-members", async |space| {
        let (mut pipeline, mut seen) = under_load(space).await?;
        for members in [3, 1] {
            resize(space, &mut pipeline, "database", members, &mut seen).await?;
        }
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("{} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_broker_grows_to_three_nodes_bears_the_loss_of_a_volume_and_shrinks_to_one_and_no_event_is_lost()
-> Result<()> {
    with_namespace("broker-nodes", async |space| {
        let (mut pipeline, mut seen) = under_load(space).await?;
        resize(space, &mut pipeline, "broker", 3, &mut seen).await?;
        // The first node: alone it would make a new cluster of its own.
        comes_back(space, &lose_volume(space, "broker", 0).await?).await?;
        space.ready(PIPELINE).await?;
        seen = newer_prices_of(space, PIPELINE, &COMPANIES, &seen, Duration::from_secs(60)).await?;
        // The node that is to stay loses its volume, and is the only one that its files name when it comes back.
        lose_volume(space, "broker", 0).await?;
        resize(space, &mut pipeline, "broker", 1, &mut seen).await?;
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("{} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_broker_that_is_to_grow_and_at_once_to_shrink_again_and_again_arrives_at_the_last_wish() -> Result<()> {
    with_namespace("broker-changes", async |space| {
        let (mut pipeline, mut seen) = under_load(space).await?;
        // Each change comes in the middle of the one before: while nodes join, while one leaves, at once.
        for (nodes, pods) in [(3, 3..=3), (1, 1..=2), (3, 3..=3), (1, 1..=3)] {
            pipeline["spec"]["broker"]["replicas"] = nodes.into();
            space.apply(&pipeline).await?;
            wait_until(
                &format!("{nodes} nodes are wanted and some pods follow"),
                Duration::from_secs(90),
                async || {
                    let there = names::<Pod>(space, "broker").await?;
                    ensure!(pods.contains(&there.len()), "there are {there:?}");
                    Ok(())
                },
            )
            .await?;
        }
        resize(space, &mut pipeline, "broker", 3, &mut seen).await?;
        resize(space, &mut pipeline, "broker", 1, &mut seen).await?;
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("{} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "a quarter of an hour: make soak"]
async fn broker_and_database_grow_to_their_most_members_and_back_to_one_and_no_event_is_lost() -> Result<()> {
    with_namespace("most-members", async |space| {
        let (mut pipeline, mut seen) = under_load(space).await?;
        let sizes = [
            ("broker", 3),
            ("database", 3),
            ("broker", 5),
            ("database", 5),
            ("database", 7),
            ("broker", 3),
            ("database", 3),
            ("broker", 1),
            ("database", 1),
        ];
        for (part, members) in sizes {
            resize(space, &mut pipeline, part, members, &mut seen).await?;
            println!("{part}: {members}");
        }
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("{} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

/// A pipeline whose prices move.
async fn under_load(space: &Space) -> Result<(Value, Prices)> {
    let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
    pipeline["spec"]["consumer"]["flushAfter"] = "2s".into();
    space.apply_until_ready(&pipeline).await?;
    let seen = prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;
    Ok((pipeline, seen))
}

/// Changes the number of a part's members and waits until there are as many, no more volumes than that, and newer prices.
async fn resize(space: &Space, pipeline: &mut Value, part: &str, members: usize, seen: &mut Prices) -> Result<()> {
    pipeline["spec"][part]["replicas"] = members.into();
    space.apply(pipeline).await?;
    space.ready(PIPELINE).await?;
    wait_until(&format!("the {part} has {members} pods and volumes"), Duration::from_secs(90), async || {
        let pods = names::<Pod>(space, part).await?;
        let claims = names::<PersistentVolumeClaim>(space, part).await?;
        ensure!(pods.len() == members && claims.len() == members, "it has {pods:?} and {claims:?}");
        Ok(())
    })
    .await?;
    *seen = newer_prices_of(space, PIPELINE, &COMPANIES, seen, Duration::from_secs(60)).await?;
    Ok(())
}

/// A pod and its volume, as they were.
struct Lost {
    pod: String,
    claim: String,
    uids: [Option<String>; 2],
}

/// Takes a member's volume away, and its pod, which holds it.
async fn lose_volume(space: &Space, part: &str, ordinal: usize) -> Result<Lost> {
    let (pods, claims) = (space.api::<Pod>(), space.api::<PersistentVolumeClaim>());
    let pod = format!("{PIPELINE}-{part}-{ordinal}");
    let claim = format!("data-{pod}");
    let uids = [claims.get(&claim).await?.uid(), pods.get(&pod).await?.uid()];
    claims.delete(&claim, &DeleteParams::default()).await?;
    pods.delete(&pod, &DeleteParams::default().grace_period(0)).await?;
    Ok(Lost { pod, claim, uids })
}

/// The status may still say Ready of the time before.
async fn comes_back(space: &Space, lost: &Lost) -> Result<()> {
    wait_until(&format!("{} serves on a new volume", lost.pod), Duration::from_secs(150), async || {
        let claim = space.api::<PersistentVolumeClaim>().get(&lost.claim).await?;
        let pod = space.api::<Pod>().get(&lost.pod).await?;
        let new = claim.uid() != lost.uids[0] && pod.uid() != lost.uids[1];
        ensure!(new && is_ready(&pod), "it does not serve yet");
        Ok(())
    })
    .await
}

/// The names of a part's objects of a kind.
async fn names<K: Kind>(space: &Space, part: &str) -> Result<Vec<String>> {
    Ok(space.list::<K>(&labels(PIPELINE, part)).await?.iter().map(ResourceExt::name_any).collect())
}
