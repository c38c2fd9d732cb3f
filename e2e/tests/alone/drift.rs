//! What somebody deletes or changes by hand comes back; what nobody touched is not written.
//! Rule: both are judged by the objects themselves, not by what the operator says it did.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::children::{children, differences};
use e2e::operator_pod::Metrics;
use e2e::page::prices_of;
use e2e::{Kind, Space, fixtures, wait_until, with_namespace};
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, WatchEvent, WatchParams};
use operator::crd::StockPipeline;
use serde_json::json;

const PIPELINE: &str = "drift";
/// A watch wakes the operator; it needs no time but that of its writes.
const BACK_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_is_deleted_or_changed_by_hand_comes_back_and_nothing_else_is_written() -> Result<()> {
    with_namespace("drift", async |space| {
        space.apply_until_ready(&fixtures::light(PIPELINE, &["MSFT"])).await?;
        prices_of(space, PIPELINE, &["MSFT"], Duration::from_secs(30)).await?;
        nothing_is_written_while_nothing_changes(space).await?;

        a_changed_replica_count_goes_back(space).await?;
        for name in ["drift-broker-credentials", "drift-database-credentials"] {
            let before = space.api::<Secret>().get(name).await?.data;
            comes_back::<Secret>(space, name).await?;
            // First comes what was generated, then what is derived from it.
            wait_until(&format!("Secret {name} has its old content"), BACK_WITHIN, async || {
                ensure!(space.api::<Secret>().get(name).await?.data == before, "it has another");
                Ok(())
            })
            .await?;
        }
        comes_back::<ConfigMap>(space, "drift-broker").await?;
        comes_back::<ConfigMap>(space, "drift-edge").await?;
        for name in ["drift-broker", "drift-broker-nodes", "drift-database", "drift-liveview", "drift-edge"] {
            comes_back::<Service>(space, name).await?;
        }
        for name in ["drift-broker", "drift-database", "drift-edge"] {
            comes_back::<PodDisruptionBudget>(space, name).await?;
        }
        for name in ["drift-publisher-msft", "drift-consumer-msft", "drift-liveview", "drift-edge"] {
            comes_back::<Deployment>(space, name).await?;
        }
        let volumes = volumes(space).await?;
        for name in ["drift-broker", "drift-database"] {
            comes_back::<StatefulSet>(space, name).await?;
        }
        space.ready(PIPELINE).await?;
        prices_of(space, PIPELINE, &["MSFT"], Duration::from_secs(60)).await?;
        ensure!(
            self::volumes(space).await? == volumes,
            "a StatefulSet that came back has other volumes: its data is gone"
        );
        Ok(())
    })
    .await
}

/// Name and uid of each volume claim.
async fn volumes(space: &Space) -> Result<Vec<(String, Option<String>)>> {
    let claims = space.list::<PersistentVolumeClaim>("app.kubernetes.io/instance=drift").await?;
    ensure!(!claims.is_empty(), "no volume claim carries the pipeline's label");
    Ok(claims.iter().map(|claim| (claim.name_any(), claim.uid())).collect())
}

/// Deletes an object; a new one of that name must appear.
async fn comes_back<K: Kind>(space: &Space, name: &str) -> Result<()> {
    let (api, kind) = (space.api::<K>(), K::kind(&()));
    let before = api.get_metadata(name).await.with_context(|| format!("{kind} {name}"))?.uid();
    api.delete(name, &DeleteParams::background()).await?;
    wait_until(&format!("{kind} {name}, deleted by hand, is back"), BACK_WITHIN, async || {
        let now = api.get_metadata(name).await?;
        ensure!(now.uid() != before, "the old one is still there");
        Ok(())
    })
    .await
}

async fn a_changed_replica_count_goes_back(space: &Space) -> Result<()> {
    let deployments = space.api::<Deployment>();
    let by_hand = Patch::Merge(json!({"spec": {"replicas": 3}}));
    deployments.patch("drift-liveview", &PatchParams::default(), &by_hand).await?;
    wait_until("the replica count of drift-liveview, changed by hand, is 1 again", BACK_WITHIN, async || {
        let replicas = deployments.get("drift-liveview").await?.spec.and_then(|spec| spec.replicas);
        ensure!(replicas == Some(1), "it is {replicas:?}");
        Ok(())
    })
    .await
}

/// Several passes, each woken by a touched child, leave every object and the status as they are.
async fn nothing_is_written_while_nothing_changes(space: &Space) -> Result<()> {
    const TOUCHES: u32 = 3;
    let pipelines = space.api::<StockPipeline>();
    let start = Instant::now();
    let own = WatchParams::default().fields(&format!("metadata.name={PIPELINE}")).timeout(120);
    let version = pipelines.get(PIPELINE).await?.resource_version().unwrap_or_default();
    let mut changes = std::pin::pin!(pipelines.watch(&own, &version).await?);

    let config_maps = space.api::<ConfigMap>();
    for touch in 0..TOUCHES {
        let before = passes().await?;
        let mut seen = children(space, PIPELINE).await?;
        let touch = Patch::Merge(json!({"metadata": {"annotations": {"example.com/touched": touch.to_string()}}}));
        let touched = config_maps.patch("drift-edge", &PatchParams::default(), &touch).await?;
        seen.insert("ConfigMap/drift-edge".into(), touched.metadata);
        // Two: the first may have begun before the touch.
        wait_until("two passes of the operator follow a touched child", BACK_WITHIN, async || {
            let now = passes().await?;
            ensure!(now >= before + 2.0, "{} so far", now - before);
            Ok(())
        })
        .await?;
        let written = differences(&seen, &children(space, PIPELINE).await?);
        ensure!(written.is_empty(), "a pass over an unchanged pipeline wrote: {}", written.join("; "));
    }

    let mut status_writes = 0;
    // What the watch has to tell until now; a moment of silence ends it.
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(1), changes.try_next()).await {
        match event? {
            Some(WatchEvent::Modified(_)) => status_writes += 1,
            Some(_) => {}
            None => break,
        }
    }
    let allowed = 1 + start.elapsed().as_secs() / 30;
    ensure!(
        status_writes <= allowed,
        "the status was written {status_writes} times in {} s; its figures may be every 30 s",
        start.elapsed().as_secs()
    );
    Ok(())
}

async fn passes() -> Result<f64> {
    Ok(Metrics::read().await?.sum("stockpipeline_operator_reconciliations_total", ""))
}
