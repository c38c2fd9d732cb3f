//! Brings a pipeline to rest, so that its events can be counted.
//! Rule: a queue is empty when the status says so after it has shown the load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use operator::crd::StockPipeline;
use serde_json::Value;

use crate::space::labels;
use crate::{Space, wait_until};

/// The queues hold little, but the figures of the status are read every 30 s only.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// Stops the publishers and waits until the queues are empty, what is taken and not yet stored included.
///
/// # Errors
/// Publishers or events are left.
pub async fn drain(space: &Space, pipeline: &mut Value) -> Result<()> {
    let name = pipeline["metadata"]["name"].as_str().context("the pipeline has no name")?.to_owned();
    let companies = pipeline["spec"]["companies"].as_array().context("the pipeline has no companies")?.len();
    // A broker that has just started counts 0 at first. Once a look has seen the load, a 0 after it is news.
    wait_until("the status shows events that consumers hold", DRAINED_WITHIN, async || {
        let held = in_queues(space, &name, companies).await?;
        ensure!(held.iter().all(|(_, _, unacked)| unacked.is_some_and(|unacked| unacked > 0)), "{held:?}");
        Ok(())
    })
    .await?;
    pipeline["spec"]["publisher"]["enabled"] = false.into();
    space.apply(pipeline).await?;
    space.no_pod("no publisher runs", &labels(&name, "publisher"), Duration::from_secs(60)).await?;
    wait_until("the status shows empty queues", DRAINED_WITHIN, async || {
        let held = in_queues(space, &name, companies).await?;
        ensure!(held.iter().all(|(_, queued, unacked)| (*queued, *unacked) == (Some(0), Some(0))), "{held:?}");
        Ok(())
    })
    .await
}

/// Per company what waits in its queue, and what its consumer holds.
async fn in_queues(space: &Space, pipeline: &str, wanted: usize) -> Result<Vec<(String, Option<i64>, Option<i64>)>> {
    let status = space.api::<StockPipeline>().get(pipeline).await?.status.context("there is no status")?;
    let companies = status.companies.into_iter().map(|company| (company.symbol, company.queued, company.unacked));
    let companies: Vec<_> = companies.collect();
    ensure!(companies.len() == wanted, "the status speaks of {companies:?}");
    Ok(companies)
}
