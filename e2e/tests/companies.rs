//! Companies come and go; the others do not notice.
//! Rule: "not restarted" means the very same pods.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::children::children;
use e2e::page::prices_of;
use e2e::{Space, fixtures, wait_until, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use operator::names;

const PIPELINE: &str = "exchanges";
/// 64 characters, the most a symbol has.
const LONG: &str = "A234567890123456789012345678901234567890123456789012345678901234";
const SYMBOLS: [&str; 5] = ["BRK.B", "BRK-B", "^GSPC", "0700.HK", LONG];

#[tokio::test]
async fn companies_come_and_go_and_the_others_do_not_notice() -> Result<()> {
    with_namespace("companies", async |space| {
        let mut pipeline = fixtures::light(PIPELINE, &SYMBOLS);
        space.apply_until_ready(&pipeline).await?;
        // Symbols that look alike, in signs no object name may have, side by side.
        prices_of(space, PIPELINE, &SYMBOLS, Duration::from_secs(60)).await?;
        let before = pods(space).await?;
        let children_before = children(space, PIPELINE).await?;

        let mut with_one_more = SYMBOLS.to_vec();
        with_one_more.push("MSFT");
        pipeline["spec"]["companies"] = fixtures::companies(&with_one_more);
        space.apply(&pipeline).await?;
        space.ready(PIPELINE).await?;
        prices_of(space, PIPELINE, &with_one_more, Duration::from_secs(60)).await?;
        let with_more = pods(space).await?;
        for (uid, pod) in &before {
            ensure!(with_more.contains_key(uid), "{pod} was replaced when MSFT came");
        }
        ensure!(
            with_more.len() == before.len() + 2,
            "MSFT brought other pods than a publisher and a consumer: {with_more:?}"
        );

        let slug = names::slug("BRK-B");
        pipeline["spec"]["companies"] = fixtures::companies(&["BRK.B", "^GSPC", "0700.HK", LONG, "MSFT"]);
        space.apply(&pipeline).await?;
        space.ready(PIPELINE).await?;
        let of_company = format!("{}={slug}", names::COMPANY);
        space.no_pod("the pods of BRK-B are gone", &of_company, Duration::from_secs(90)).await?;
        let after = pods(space).await?;
        for (uid, pod) in &with_more {
            let goes = pod.ends_with(&format!(" of {slug}"));
            ensure!(
                after.contains_key(uid) != goes,
                "{pod} {}",
                if goes { "stays" } else { "was replaced when BRK-B went" }
            );
        }
        // The consumers' Deployment goes last, after the drained queue.
        wait_until("nothing but BRK-B's children is gone", Duration::from_secs(60), async || {
            let children_after = children(space, PIPELINE).await?;
            for name in children_before.keys() {
                let goes = name.ends_with(&slug);
                ensure!(
                    children_after.contains_key(name) != goes,
                    "{name} {} when BRK-B went",
                    if goes { "stays" } else { "was pruned" }
                );
            }
            Ok(())
        })
        .await?;
        Ok(())
    })
    .await
}

/// The pods of the pipeline by uid: their names, and the companies they are of.
async fn pods(space: &Space) -> Result<BTreeMap<String, String>> {
    let pods = space.list::<Pod>(&format!("{}={PIPELINE}", names::INSTANCE)).await?;
    let running = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(running
        .filter_map(|pod| {
            let company = pod.labels().get(names::COMPANY).cloned().unwrap_or_default();
            Some((pod.uid()?, format!("{} of {company}", pod.name_any())))
        })
        .collect())
}
