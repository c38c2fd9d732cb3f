//! Deleting leaves nothing.
//! Rule: it is looked for by kind in the whole namespace, not by our labels.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::space::GONE_WITHIN;
use e2e::{Kind, Space, fixtures, operator_pod, wait_until, with_namespace};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use operator::crd::StockPipeline;

const PIPELINE: &str = "leaving";
/// Nobody serves it.
const NO_IMAGE: &str = "localhost/stockpipeline-none:1";

#[tokio::test]
async fn a_deleted_pipeline_takes_all_its_children_and_volumes_with_it() -> Result<()> {
    with_namespace("delete", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &["MSFT"]);
        pipeline["spec"]["tls"]["enabled"] = true.into();
        space.apply_until_ready(&pipeline).await?;
        space.api::<StockPipeline>().delete(PIPELINE, &DeleteParams::default()).await?;
        nothing_is_left(space).await?;
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

/// Deletion is asked of Kubernetes and of nobody else, so nothing that is broken can hold it up.
#[tokio::test]
async fn a_pipeline_with_every_image_missing_and_one_without_volumes_are_gone_within_a_minute() -> Result<()> {
    with_namespace("delete-broken", async |space| {
        let mut no_image = fixtures::light("no-image", &["MSFT"]);
        for part in ["publisher", "consumer", "broker", "database", "liveview", "edge"] {
            no_image["spec"][part]["template"]["image"] = NO_IMAGE.into();
        }
        let mut no_volume = fixtures::light("no-volume", &["MSFT"]);
        for part in ["broker", "database"] {
            no_volume["spec"][part]["storage"]["class"] = "nobody-makes-it".into();
        }
        space.apply(&no_image).await?;
        space.apply(&no_volume).await?;
        wait_until("the images are missed", Duration::from_secs(60), async || {
            let pods = space.list::<Pod>("app.kubernetes.io/instance=no-image").await?;
            let waiting = pods.iter().filter(|pod| waits_for_its_image(pod)).count();
            ensure!(waiting >= 6, "{waiting} pods wait for their image");
            Ok(())
        })
        .await?;
        wait_until("the volumes are missed", Duration::from_secs(60), async || {
            let claims = space.list::<PersistentVolumeClaim>("app.kubernetes.io/instance=no-volume").await?;
            let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.clone());
            let pending = claims.iter().filter(|claim| phase(claim).as_deref() == Some("Pending")).count();
            ensure!(pending == 2, "{pending} claims are pending");
            Ok(())
        })
        .await?;
        let began = Instant::now();
        for name in ["no-image", "no-volume"] {
            space.api::<StockPipeline>().delete(name, &DeleteParams::default()).await?;
        }
        nothing_is_left(space).await?;
        println!("gone after {:.0?}", began.elapsed());
        Ok(())
    })
    .await
}

/// Two of three members each are taken away for good, the operator is gone too, and then the namespace is deleted.
#[tokio::test]
async fn a_namespace_whose_broker_and_database_lost_their_majority_ends_within_a_minute_without_an_operator()
-> Result<()> {
    with_namespace("delete-namespace", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &["MSFT"]);
        for part in ["broker", "database"] {
            pipeline["spec"][part]["replicas"] = 3.into();
        }
        space.apply_until_ready(&pipeline).await?;
        operator_pod::without(&space.client, async {
            for part in ["broker", "database"] {
                let set = format!("{PIPELINE}-{part}");
                // With neither of the two, nobody makes the pods anew.
                space.api::<StatefulSet>().delete(&set, &DeleteParams::orphan()).await?;
                for ordinal in [1, 2] {
                    let at_once = DeleteParams::default().grace_period(0);
                    space.api::<Pod>().delete(&format!("{set}-{ordinal}"), &at_once).await?;
                }
            }
            wait_until("the majorities are gone", Duration::from_secs(60), async || {
                for part in ["broker", "database"] {
                    let left = space.pods(PIPELINE, part).await?.len();
                    ensure!(left == 1, "{left} pods of the {part} are left");
                }
                Ok(())
            })
            .await?;
            let began = Instant::now();
            space.remove().await?;
            println!("gone after {:.0?}", began.elapsed());
            Ok(())
        })
        .await
    })
    .await
}

fn waits_for_its_image(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let containers = status
        .into_iter()
        .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten());
    containers
        .filter_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.as_deref())
        .any(|reason| matches!(reason, "ErrImagePull" | "ImagePullBackOff"))
}

async fn nothing_is_left(space: &Space) -> Result<()> {
    wait_until("nothing is left", GONE_WITHIN, async || {
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
    .await
}

async fn remaining<K: Kind>(space: &Space, left: &mut Vec<String>) -> Result<()> {
    let objects = space.api::<K>().list_metadata(&ListParams::default()).await?.items;
    // The cluster puts this one into every namespace.
    let ours = objects.iter().filter(|object| object.name_any() != "kube-root-ca.crt");
    left.extend(ours.map(|object| format!("{} {}", K::kind(&()), object.name_any())));
    Ok(())
}
