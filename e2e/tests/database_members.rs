//! The database's members join and leave while events flow.
//! Rule: nothing is lost on the way, and nothing of a member that has left stays behind.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::drain::drain;
use e2e::page::{newer_prices_of, prices_of};
use e2e::verify::exactly_once;
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

const PIPELINE: &str = "members";
const COMPANIES: [&str; 1] = ["MSFT"];

#[tokio::test]
async fn the_database_grows_from_one_member_to_three_and_back_under_load_and_no_event_is_lost() -> Result<()> {
    with_namespace("database-members", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["consumer"]["flushAfter"] = "2s".into();
        space.apply_until_ready(&pipeline).await?;
        let mut seen = prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;
        for members in [3, 1] {
            pipeline["spec"]["database"]["replicas"] = members.into();
            space.apply(&pipeline).await?;
            space.ready(PIPELINE).await?;
            only(space, members).await?;
            seen = newer_prices_of(space, PIPELINE, &COMPANIES, &seen, Duration::from_secs(60)).await?;
        }
        drain(space, &mut pipeline).await?;
        let image = space.image(PIPELINE, "consumer").await?;
        let verified = exactly_once(space, PIPELINE, &COMPANIES, &image).await?;
        println!("{} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

/// As many pods and volumes as members.
async fn only(space: &Space, members: usize) -> Result<()> {
    wait_until(&format!("the database has {members} pods and volumes"), Duration::from_secs(90), async || {
        let pods = space.pods(PIPELINE, "database").await?;
        let of_database = format!("{}=database", operator::names::COMPONENT);
        let claims: Vec<String> =
            space.list::<PersistentVolumeClaim>(&of_database).await?.iter().map(ResourceExt::name_any).collect();
        ensure!(pods.len() == members && claims.len() == members, "it has {} pods and {claims:?}", pods.len());
        Ok(())
    })
    .await
}
