//! The operator of the previous release is replaced by this one while events flow, and put back again.
//! Rule: neither replaces a pod, and nothing is lost; `e2e/upgrade` says which releases and how.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::operator_pod::Metrics;
use e2e::page::{newer_prices_of, prices_of};
use e2e::verify::nothing_is_lost;
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::process::Command;

const PIPELINE: &str = "upgrade";
const COMPANIES: [&str; 2] = ["MSFT", "BRK.B"];
const PASSES: &str = "stockpipeline_operator_reconciliations_total";

#[tokio::test]
#[ignore = "needs the previous release: make upgrade"]
async fn an_upgrade_and_a_downgrade_of_the_operator_alone_replace_no_pod_and_lose_no_event() -> Result<()> {
    with_namespace("upgrade", async |space| {
        install("previous").await?;
        let mut pipeline = fixtures::light(PIPELINE, &COMPANIES);
        pipeline["spec"]["broker"]["replicas"] = 3.into();
        pipeline["spec"]["database"]["replicas"] = 3.into();
        pipeline["spec"]["consumer"]["flushAfter"] = "2s".into();
        space.apply_until_ready(&pipeline).await?;
        let mut seen = prices_of(space, PIPELINE, &COMPANIES, Duration::from_secs(60)).await?;
        let before = pods(space).await?;
        for release in ["this", "previous", "this"] {
            install(release).await?;
            wait_until("the new operator has looked at everything twice", Duration::from_secs(120), async || {
                let passes = Metrics::read().await?.sum(PASSES, "\"ok\"");
                ensure!(passes >= 2.0, "it has made {passes} passes");
                Ok(())
            })
            .await?;
            space.ready(PIPELINE).await?;
            let after = pods(space).await?;
            ensure!(after == before, "{release}: the pods were {before:#?} and are {after:#?}");
            seen = newer_prices_of(space, PIPELINE, &COMPANIES, &seen, Duration::from_secs(60)).await?;
            println!("{release}: the same {} pods", after.len());
        }
        for company in nothing_is_lost(space, &mut pipeline, &COMPANIES).await? {
            println!("{}: {} events, each exactly once", company.company, company.events);
        }
        Ok(())
    })
    .await
}

/// Each pod's uid and the restarts of its containers.
async fn pods(space: &Space) -> Result<BTreeMap<String, (Option<String>, i32)>> {
    let restarts = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        statuses.map(|container| container.restart_count).sum()
    };
    let pods = space.list::<Pod>(&format!("app.kubernetes.io/instance={PIPELINE}")).await?;
    Ok(pods.iter().map(|pod| (pod.name_any(), (pod.uid(), restarts(pod)))).collect())
}

/// Installs a release over the one that is there.
async fn install(release: &str) -> Result<()> {
    let script = std::env::var("STOCK_INSTALL").context("STOCK_INSTALL is not set: run `make upgrade`")?;
    let status = Command::new(&script).args(["install", release]).status().await.with_context(|| script.clone())?;
    ensure!(status.success(), "{script} install {release} failed");
    Ok(())
}
