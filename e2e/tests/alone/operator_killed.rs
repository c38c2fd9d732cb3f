//! The operator dies in the middle of its work.
//! Rule: the moments are states of the pipeline, so the test hits the same ones on any machine.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::page::prices_of;
use e2e::{Space, fixtures, operator_pod, wait_until, with_namespace};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

const PIPELINE: &str = "orphan";

#[tokio::test]
async fn an_operator_killed_during_creation_finishes_it_with_the_same_credentials() -> Result<()> {
    with_namespace("operator-killed", async |space| {
        space.apply(&fixtures::light(PIPELINE, &["MSFT"])).await?;

        wait_until("the first Secret exists", Duration::from_secs(30), async || {
            Ok(space.api::<Secret>().get("orphan-broker-credentials").await?)
        })
        .await?;
        let first = operator_pod::kill(&space.client).await?;
        operator_pod::back(&space.client, &first).await?;

        let credentials =
            wait_until("both Secrets exist", Duration::from_secs(60), async || credentials(space).await).await?;
        wait_until("the database's pod runs", Duration::from_secs(90), async || running(space, "database").await)
            .await?;
        let second = operator_pod::kill(&space.client).await?;
        operator_pod::back(&space.client, &second).await?;

        wait_until("the broker's pod runs", Duration::from_secs(90), async || running(space, "broker").await).await?;
        let third = operator_pod::kill(&space.client).await?;
        operator_pod::back(&space.client, &third).await?;

        space.ready(PIPELINE).await?;
        ensure!(
            self::credentials(space).await? == credentials,
            "the credentials changed while the operator came and went"
        );
        prices_of(space, PIPELINE, &["MSFT"], Duration::from_secs(60)).await?;
        Ok(())
    })
    .await
}

/// The content of the Secrets by name. It never appears in a message.
#[derive(PartialEq)]
struct Credentials(BTreeMap<&'static str, Option<BTreeMap<String, ByteString>>>);

async fn credentials(space: &Space) -> Result<Credentials> {
    let mut content = BTreeMap::new();
    for name in ["orphan-broker-credentials", "orphan-database-credentials"] {
        content.insert(name, space.api::<Secret>().get(name).await?.data);
    }
    Ok(Credentials(content))
}

async fn running(space: &Space, part: &str) -> Result<()> {
    let pods = space.pods(PIPELINE, part).await?;
    let phase = pods.first().and_then(|pod| pod.status.as_ref()?.phase.clone()).context("there is no pod")?;
    ensure!(phase == "Running", "it is {phase}");
    Ok(())
}
