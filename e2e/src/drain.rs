//! Brings a pipeline to rest, so that its events can be counted.
//! Rule: a queue is empty when the status says so after it has shown the load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use operator::crd::StockPipeline;
use serde_json::Value;

use crate::{Space, wait_until};

/// The queues hold little, but the figures of the status are read every 30 s only.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// Stops the publishers and waits until the queues are empty, what is taken and not yet stored included.
///
/// # Errors
/// Publishers or events are left.
pub async fn drain(space: &Space, pipeline: &mut Value) -> Result<()> {
    let name = pipeline["metadata"]["name"].as_str().context("the pipeline has no name")?.to_owned();
    // A broker that has just started counts 0 at first. Once a look has seen the load, a 0 after it is news.
    wait_until("the status shows events that consumers hold", DRAINED_WITHIN, async || {
        let held = in_queues(space, &name).await?;
        ensure!(held.iter().all(|(_, _, unacked)| unacked.is_some_and(|unacked| unacked > 0)), "{held:?}");
        Ok(())
    })
    .await?;
    pipeline["spec"]["publisher"]["enabled"] = false.into();
    space.apply(pipeline).await?;
    wait_until("no publisher runs", Duration::from_secs(60), async || {
        let left = space.pods(&name, "publisher").await?;
        ensure!(
            left.is_empty(),
            "there still are {}",
            left.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(", ")
        );
        Ok(())
    })
    .await?;
    wait_until("the status shows empty queues", DRAINED_WITHIN, async || {
        let held = in_queues(space, &name).await?;
        ensure!(held.iter().all(|(_, queued, unacked)| (*queued, *unacked) == (Some(0), Some(0))), "{held:?}");
        Ok(())
    })
    .await
}

/// Per company what waits in its queue, and what its consumer holds.
async fn in_queues(space: &Space, pipeline: &str) -> Result<Vec<(String, Option<i64>, Option<i64>)>> {
    let status = space.api::<StockPipeline>().get(pipeline).await?.status.context("there is no status")?;
    let companies = status.companies.into_iter().map(|company| (company.symbol, company.queued, company.unacked));
    let companies: Vec<_> = companies.collect();
    ensure!(!companies.is_empty(), "the status speaks of no company");
    Ok(companies)
}
