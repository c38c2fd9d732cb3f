//! Each node of the cluster is drained in turn, as for an upgrade of its system, while events flow.
//! Rule: `kubectl drain` as an administrator runs it: it waits when it must, it ends, and nothing is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kubectl::kubectl;
use e2e::page::{newer_prices_of, prices_of};
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, with_namespace};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

const PIPELINE: &str = "drained";
const COMPANIES: [&str; 2] = ["MSFT", "TSLA"];

#[tokio::test]
async fn all_nodes_are_drained_one_after_the_other_under_load_and_no_event_is_lost() -> Result<()> {
    with_namespace("node-drain", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["consumer"]["flushAfter"] = "2s".into();
        pipeline["spec"]["consumer"]["replicas"] = 2.into();
        for part in ["broker", "database"] {
            pipeline["spec"][part]["replicas"] = 3.into();
        }
        for part in ["liveview", "edge"] {
            pipeline["spec"][part]["replicas"] = 2.into();
        }
        space.apply_until_ready(&pipeline).await?;
        let mut seen = prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;
        let nodes = nodes(space).await?;
        ensure!(nodes.len() > 1, "pods of {nodes:?} have nowhere to go");
        for node in nodes {
            let start = Instant::now();
            let drained =
                kubectl(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s"]).await;
            // A test that fails leaves the node to the others.
            kubectl(&["uncordon", &node]).await?;
            drained.with_context(|| format!("drain {node}"))?;
            println!("{node} was drained in {:.1} s", start.elapsed().as_secs_f64());
            // At once, not when all is well again: the next drain has to wait for that by itself.
            seen = newer_prices_of(space, PIPELINE, &COMPANIES, &seen, Duration::from_secs(60)).await?;
        }
        space.ready(PIPELINE).await?;
        for company in nothing_is_lost(space, &mut pipeline, &COMPANIES).await? {
            println!("{}: {} events, each exactly once", company.company, company.events);
        }
        Ok(())
    })
    .await
}

async fn nodes(space: &Space) -> Result<Vec<String>> {
    let nodes = Api::<Node>::all(space.client.clone()).list(&ListParams::default()).await?.items;
    Ok(nodes
        .iter()
        .filter(|node| !node.labels().contains_key("node-role.kubernetes.io/control-plane"))
        .map(ResourceExt::name_any)
        .collect())
}
