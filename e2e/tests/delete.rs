//! Deleting leaves nothing.
//! Rule: it is looked for by kind in the whole namespace, not by our labels.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Kind, Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use operator::crd::StockPipeline;

const PIPELINE: &str = "leaving";

#[tokio::test]
async fn a_deleted_pipeline_takes_all_its_children_and_volumes_with_it() -> Result<()> {
    with_namespace("delete", async |space| {
        space.apply_until_ready(&fixtures::light(PIPELINE, &["MSFT"])).await?;
        space.api::<StockPipeline>().delete(PIPELINE, &DeleteParams::default()).await?;
        wait_until("nothing of the pipeline is left", Duration::from_secs(90), async || {
            let mut left = Vec::new();
            remaining::<StockPipeline>(space, &mut left).await?;
            remaining::<StatefulSet>(space, &mut left).await?;
            remaining::<Deployment>(space, &mut left).await?;
            remaining::<Pod>(space, &mut left).await?;
            remaining::<PersistentVolumeClaim>(space, &mut left).await?;
            remaining::<Service>(space, &mut left).await?;
            remaining::<Secret>(space, &mut left).await?;
            remaining::<ConfigMap>(space, &mut left).await?;
            remaining::<PodDisruptionBudget>(space, &mut left).await?;
            ensure!(left.is_empty(), "there still are {}", left.join(", "));
            Ok(())
        })
        .await?;
        wait_until("its volumes are gone", Duration::from_secs(60), async || {
            let volumes: Api<PersistentVolume> = Api::all(space.client.clone());
            let all = volumes.list(&ListParams::default()).await?.items;
            let ours = all.iter().filter(|volume| {
                let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                claim.and_then(|claim| claim.namespace.as_ref()) == Some(&space.namespace)
            });
            let left: Vec<String> = ours.map(ResourceExt::name_any).collect();
            ensure!(left.is_empty(), "there still are {}", left.join(", "));
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_namespace_with_a_pipeline_in_it_ends_within_a_minute() -> Result<()> {
    with_namespace("delete-namespace", async |space| {
        // Not ready on purpose: nothing may hang on what is half made.
        space.apply(&fixtures::light(PIPELINE, &["MSFT"])).await?;
        wait_until("its pods are being started", Duration::from_secs(60), async || {
            let pods = space.list::<Pod>("").await?;
            ensure!(pods.len() >= 6, "there are {} pods", pods.len());
            Ok(())
        })
        .await?;
        space.remove().await
    })
    .await
}

async fn remaining<K: Kind>(space: &Space, left: &mut Vec<String>) -> Result<()> {
    let objects = space.api::<K>().list_metadata(&ListParams::default()).await?.items;
    // The cluster puts this one into every namespace.
    let ours = objects.iter().filter(|object| object.name_any() != "kube-root-ca.crt");
    left.extend(ours.map(|object| format!("{} {}", K::kind(&()), object.name_any())));
    Ok(())
}
