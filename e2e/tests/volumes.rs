//! Volumes of broker and database grow while events flow.
//! Rule: the same pods run before and after, the pipeline never says that it is not ready, and `verify` says that nothing is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::page::prices_of;
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use operator::crd::StockPipeline;
use serde_json::json;

const PIPELINE: &str = "grow";
const COMPANIES: [&str; 1] = ["MSFT"];
const PARTS: [&str; 2] = ["broker", "database"];
const GROWN_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn volumes_grow_under_load_and_no_pod_notices() -> Result<()> {
    with_namespace("grow", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        // The rest of the queue is counted too, or it never runs empty.
        pipeline["spec"]["consumer"] = json!({"batchSize": 20, "flushAfter": "2s"});
        space.apply_until_ready(&pipeline).await?;
        prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;
        let (pods, ready) = (pods(space).await?, ready_since(space).await?);

        for part in PARTS {
            pipeline["spec"][part]["storage"] = json!({"size": "2Gi"});
        }
        space.apply(&pipeline).await?;
        for part in PARTS {
            wait_until(&format!("the volume of the {part} has grown"), GROWN_WITHIN, async || {
                let name = format!("data-{PIPELINE}-{part}-0");
                let claim = space.api::<PersistentVolumeClaim>().get(&name).await?;
                let capacity = claim.status.and_then(|status| status.capacity).context("no capacity")?;
                ensure!(capacity["storage"].0 == "2Gi", "it has {}", capacity["storage"].0);
                Ok(())
            })
            .await?;
            wait_until(&format!("the {part}'s set is made anew and has its pod"), GROWN_WITHIN, async || {
                let set = space.api::<StatefulSet>().get(&format!("{PIPELINE}-{part}")).await?;
                let spec = serde_json::to_value(&set.spec)?;
                let size = &spec["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"];
                ensure!(size == "2Gi", "new volumes would have {size}");
                let status = set.status.context("no status")?;
                ensure!(status.ready_replicas == Some(1) && status.updated_replicas == Some(1), "{status:?}");
                Ok(())
            })
            .await?;
        }
        space.ready(PIPELINE).await?;
        ensure!(self::pods(space).await? == pods, "pods were replaced or have restarted: {pods:?}");
        ensure!(ready_since(space).await? == ready, "the pipeline was not ready in between");
        let verified = nothing_is_lost(space, &mut pipeline, &COMPANIES).await?;
        println!("volumes grew under load: {} events, each exactly once", verified[0].events);
        Ok(())
    })
    .await
}

/// Uid and restarts of each pod of broker and database.
async fn pods(space: &Space) -> Result<BTreeMap<String, (Option<String>, i32)>> {
    let mut all = BTreeMap::new();
    for part in PARTS {
        for pod in space.pods(PIPELINE, part).await? {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let restarts = statuses.map(|container| container.restart_count).sum();
            all.insert(pod.name_any(), (pod.uid(), restarts));
        }
    }
    Ok(all)
}

async fn ready_since(space: &Space) -> Result<Time> {
    let status = space.api::<StockPipeline>().get(PIPELINE).await?.status.context("there is no status")?;
    let ready =
        status.conditions.into_iter().find(|condition| condition.type_ == "Ready" && condition.status == "True");
    Ok(ready.context("it is not ready")?.last_transition_time)
}
