//! Data that is to outlive its pipeline.
//! Rule: the proof is the count: the next pipeline goes on where the last one was deleted, and no event is missing.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::page::prices_of;
use e2e::space::labels;
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::DeleteParams;
use operator::crd::StockPipeline;
use operator::names;

const PIPELINE: &str = "retain";
const COMPANIES: [&str; 1] = ["MSFT"];

#[tokio::test]
async fn retained_volumes_stay_when_members_leave_and_serve_the_next_pipeline_of_that_name_without_a_lost_event()
-> Result<()> {
    with_namespace("retain", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["deletionPolicy"] = "Retain".into();
        pipeline["spec"]["consumer"]["flushAfter"] = "2s".into();
        pipeline["spec"]["database"]["replicas"] = 3.into();
        space.apply_until_ready(&pipeline).await?;
        prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;

        pipeline["spec"]["database"]["replicas"] = 1.into();
        space.apply_until_ready(&pipeline).await?;
        wait_until("the volumes of two members are kept", Duration::from_secs(90), async || {
            let claims = space.list::<PersistentVolumeClaim>(&labels(PIPELINE, "database")).await?;
            let kept = claims.iter().filter(|claim| claim.annotations().contains_key(names::KEPT)).count();
            ensure!((claims.len(), kept) == (3, 2), "{kept} of {} claims are", claims.len());
            Ok(())
        })
        .await?;
        pipeline["spec"]["database"]["replicas"] = 3.into();
        space.apply(&pipeline).await?;
        wait_until("no new member starts with old data", Duration::from_secs(30), async || {
            let message = message(space).await?;
            ensure!(message.contains("claim data-retain-database-1 holds the data of a member that left"), "{message}");
            Ok(())
        })
        .await?;
        pipeline["spec"]["database"]["replicas"] = 1.into();
        space.apply_until_ready(&pipeline).await?;

        let pipelines = space.api::<StockPipeline>();
        pipelines.delete(PIPELINE, &DeleteParams::default()).await?;
        wait_until("the pipeline is gone", Duration::from_secs(60), async || {
            ensure!(pipelines.get_opt(PIPELINE).await?.is_none(), "it is still there");
            Ok(())
        })
        .await?;
        space.no_pod("its pods are gone", "", Duration::from_secs(60)).await?;
        space.apply_until_ready(&pipeline).await?;
        prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        let (events, lives) = (verified[0].events, verified[0].sources.len());
        // Without the first pipeline's volumes there would be the second's alone.
        ensure!(lives >= 2, "the windows are of {lives} publisher");
        println!("{events} events of {lives} publishers, each exactly once");
        Ok(())
    })
    .await
}

async fn message(space: &Space) -> Result<String> {
    let conditions = space.api::<StockPipeline>().get(PIPELINE).await?.status.unwrap_or_default().conditions;
    Ok(conditions.into_iter().map(|condition| condition.message).collect::<Vec<_>>().join("; "))
}
